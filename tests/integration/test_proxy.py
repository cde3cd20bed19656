"""What the proxy adds to an application: ids, its log, its own paths; and what it withstands."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator

import pytest

from tests.integration.apps.proxied import Proxied
from tests.support.cluster import Cluster
from tests.support.gate import Gate
from tests.support.processes import memory, the_proxy

MADE = re.compile("[0-9a-f]{32}")


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Gate:
    gate = Gate(tmp_path_factory.mktemp("gate") / "gate")
    gate.path.touch()
    return gate


@pytest.fixture(scope="module")
def app(cluster: Cluster, gate: Gate) -> Iterator[Cluster]:
    with cluster.running(Proxied.bind(gate), "/app"):
        yield cluster


@pytest.fixture
def unharmed(app: Cluster) -> Iterator[Cluster]:
    """The proxy lives on: the same process, serving."""
    proxy = the_proxy().pid
    yield app
    assert app.get("/app/headers").status_code == 200
    assert the_proxy().pid == proxy


# Request ids


def test_request_id_of_the_client_reaches_handler_client_and_log(app: Cluster) -> None:
    response = app.get("/app/headers", headers={"X-Request-ID": "client-7"})

    assert response.json()["x-request-id"] == "client-7"
    assert response.headers["x-request-id"] == "client-7"
    assert app.logged(r"GET /app/headers 200 \S+ client-7$")


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="none"),
        pytest.param({"X-Request-ID": ""}, id="empty"),
        pytest.param({"X-Request-ID": "x" * 129}, id="too-long"),
        pytest.param({"X-Request-ID": "one two"}, id="with-space"),
        pytest.param({"X-Request-ID": "\u00e4".encode("latin-1")}, id="not-ascii"),
    ],
)
def test_request_id_is_made_where_the_client_sent_none_that_is_fit(
    app: Cluster, headers: dict[str, str]
) -> None:
    first, second = (app.get("/app/status?of=200", headers=headers) for _ in range(2))

    assert MADE.fullmatch(first.headers["x-request-id"])
    assert first.headers["x-request-id"] != second.headers["x-request-id"]


@pytest.mark.parametrize(
    ("path", "status"),
    [("/app/raises", 500), ("/nowhere", 404), ("/app/status?of=204", 204)],
)
def test_every_answer_has_a_request_id(app: Cluster, path: str, status: int) -> None:
    response = app.get(path)

    assert response.status_code == status
    assert MADE.fullmatch(response.headers["x-request-id"])
    assert app.logged(response.headers["x-request-id"])


# The access log


@pytest.mark.parametrize(
    ("method", "path", "line"),
    [
        pytest.param("GET", "/app/headers", "app /app GET /app/headers 200", id="ok"),
        pytest.param("PUT", "/app/status?of=201", "app /app PUT /app/status 201", id="put"),
        pytest.param("GET", "/app/raises", "app /app GET /app/raises 500", id="error"),
        pytest.param("GET", "/no/%20where", "- - GET /no/%20where 404", id="no-route"),
    ],
)
def test_request_is_one_line_of_the_log(app: Cluster, method: str, path: str, line: str) -> None:
    request_id = f"line-{os.urandom(8).hex()}"
    app.request(method, path, headers={"X-Request-ID": request_id})

    app.logged(
        r"^INFO \d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} proxy-0 -- "
        rf"{line} \d+\.\dms {request_id}$"
    )
    assert len(re.findall(f"{request_id}$", app.log(), re.MULTILINE)) == 1


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_client_that_left_is_logged_as_499(app: Cluster, gate: Gate, method: str) -> None:
    with gate.closed():
        with app.wire() as wire:
            wire.send(wire.request(f"{method} /app/waits", f"x-request-id: left-{method}"))
            assert app.get("/-/healthz").status_code == 200

        app.logged(rf"{method} /app/waits 499 \S+ left-{method}$")


def test_proxys_own_paths_are_not_logged(app: Cluster) -> None:
    app.get("/-/healthz", headers={"X-Request-ID": "probe"})
    app.get("/app/headers", headers={"X-Request-ID": "after-the-probe"})

    app.logged("after-the-probe")
    assert "probe" not in app.log().replace("after-the-probe", "")


# Its own paths


def test_health_and_routes(app: Cluster) -> None:
    assert (app.get("/-/healthz").status_code, app.get("/-/healthz").text) == (200, "success")
    assert app.get("/-/routes").json() == {"/app": "app"}
    assert app.get("/-/other").status_code == 404


# Connections


def test_connection_is_kept_between_requests(app: Cluster) -> None:
    with app.wire() as wire:
        for _ in range(3):
            wire.send(wire.request("POST /app/length", body=b"x" * 10))
            assert wire.read_response() == 200
        assert not wire.ended


def test_pipelined_requests_are_answered_in_order(app: Cluster) -> None:
    with app.wire() as wire:
        wire.send(b"".join(wire.request(f"GET /app/status?of={status}") for status in (201, 404)))

        assert [wire.read_response(), wire.read_response()] == [201, 404]


@pytest.mark.parametrize("head", ["GET /app/headers", "POST /app/length"])
def test_large_pipelined_body_is_not_taken_for_a_head(app: Cluster, head: str) -> None:
    """The beginning of the next head comes in the same read as the end of a large body."""
    with app.wire() as wire:
        upload = wire.request("POST /app/length", body=b"x" * 400_000)
        following = wire.request(head, body=b"xyz")
        wire.send(upload + following[:20])
        assert wire.read_response() == 200
        wire.send(following[20:])

        assert wire.read_response() == 200


# What it withstands

REQUEST = b"GET /app/headers HTTP/1.1\r\nhost: test\r\n"
CHUNKED = b"POST /app/length HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(REQUEST + b"content-length: 3\r\n\r\nabcdef\r\n\r\n", id="more-than-length"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(99), id="tls"),
        pytest.param(b"NONSENSE\r\n\r\n", id="no-request"),
        pytest.param(b"GET /app/headers HTTP/9.9\r\nhost: test\r\n\r\n", id="version"),
        pytest.param(b"G\x00T /app/headers HTTP/1.1\r\nhost: test\r\n\r\n", id="method"),
        pytest.param(b"GET /\x1b[2J HTTP/1.1\r\nhost: test\r\n\r\n", id="control-in-path"),
        pytest.param(REQUEST + b"no colon\r\n\r\n", id="header-without-colon"),
        pytest.param(REQUEST + b"a b: c\r\n\r\n", id="header-name-with-space"),
        pytest.param(REQUEST + b"a: \x00\r\n\r\n", id="nul-in-header"),
        pytest.param(REQUEST + b"content-length: -1\r\n\r\n", id="negative-length"),
        pytest.param(REQUEST + b"content-length: 1e3\r\n\r\n", id="length-no-number"),
        pytest.param(REQUEST + b"content-length: 1\r\ncontent-length: 2\r\n\r\n", id="two-lengths"),
        pytest.param(
            REQUEST + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            id="length-and-chunked",
        ),
        pytest.param(CHUNKED + b"xyz\r\n", id="chunk-size"),
        pytest.param(CHUNKED + b"3\r\nabcdef\r\n0\r\n\r\n", id="chunk-longer-than-its-size"),
        pytest.param(
            b"GET /app/headers HTTP/1.1\r\n" + b"x-header: 1\r\n" * 100_000, id="header-flood"
        ),
        pytest.param(b"GET /app/headers HTTP/1.1\r\nx: " + b"y" * (2 << 20), id="endless-header"),
        pytest.param(b"GET /" + b"y" * (2 << 20), id="endless-path"),
        pytest.param(CHUNKED + b"0\r\nx: " + b"y" * (2 << 20), id="endless-trailer"),
        pytest.param(CHUNKED + b"0\r\n" + b"x: 1\r\n" * 500_000, id="trailer-flood"),
    ],
)
def test_malformed_request_is_answered_with_400(unharmed: Cluster, data: bytes) -> None:
    with unharmed.wire() as wire:
        wire.send(data)
        assert wire.read_response() == 400
        wire.read_to_end()


def test_body_longer_than_declared_is_answered_with_400(unharmed: Cluster) -> None:
    with unharmed.wire() as wire:
        wire.send(REQUEST + b"content-length: 3\r\n\r\nabc")
        assert wire.read_response() == 200
        wire.send(b"def\r\n\r\n")
        assert wire.read_response() == 400
        wire.read_to_end()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(
            b"POST /app/length HTTP/1.1\r\nhost: test\r\ncontent-length: 9\r\n\r\nabc", id="length"
        ),
        pytest.param(CHUNKED + b"5\r\nabc", id="chunk"),
        pytest.param(CHUNKED + b"3\r\nabc\r\n", id="chunks"),
    ],
)
def test_body_shorter_than_declared_is_answered_with_400(unharmed: Cluster, data: bytes) -> None:
    with unharmed.wire() as wire:
        wire.send(data)
        wire.close_half()
        assert wire.read_response() == 400
        wire.read_to_end()


def test_many_trailers_take_no_memory(unharmed: Cluster) -> None:
    proxy = the_proxy()
    before = memory(proxy)
    with unharmed.wire() as wire:
        wire.send(CHUNKED + b"0\r\n")
        for _ in range(400):
            wire.send(b"x-trailer: 1\r\n" * 5_000)

        assert memory(proxy) - before < 20 << 20
        wire.read_to_end()


def test_half_a_request_is_dropped_when_its_client_leaves(unharmed: Cluster) -> None:
    with unharmed.wire() as wire:
        wire.send(REQUEST)
        wire.close_half()
        wire.read_to_end()

        assert not wire.received


def test_connections_that_say_nothing_do_no_harm(unharmed: Cluster) -> None:
    silent = [socket.create_connection(unharmed.address) for _ in range(200)]
    assert unharmed.get("/app/headers").status_code == 200
    for connection in silent:
        connection.close()
