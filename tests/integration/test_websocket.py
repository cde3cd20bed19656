"""WebSockets: handshakes, messages, closes, departures, and who waits for whom."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.integration.apps import sockets
from tests.integration.conformance.wire import TEXT, Wire, frame
from tests.support.cluster import Cluster
from tests.support.control import until
from tests.support.processes import memory, ongoing, settled, the_proxy, the_replica
from tests.support.record import Record

MiB = 1024 * 1024


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    return Record(tmp_path_factory.mktemp("sockets") / "record")


@pytest.fixture(scope="module")
def serving_sockets(cluster: Cluster, record: Record) -> Iterator[Cluster]:
    with cluster.running(sockets.Sockets.bind(record)):
        yield cluster


@pytest.fixture
def served(serving_sockets: Cluster, record: Record) -> Cluster:
    record.path.unlink(missing_ok=True)
    return serving_sockets


def opened(cluster: Cluster, path: str, **kwargs: Any) -> ClientConnection:
    url = cluster.url(path, scheme="ws")
    connection: ClientConnection = connect(url, proxy=None, max_size=64 * MiB, **kwargs)
    return connection


def handshaken(cluster: Cluster, path: str) -> Wire:
    wire = cluster.wire()
    wire.send(wire.handshake(path))
    assert wire.read_head()[0] == 101
    return wire


# Messages.


def test_messages_come_back_as_they_went(served: Cluster) -> None:
    messages: list[str | bytes] = ["text", "", "grüße", b"bytes", b"", b"\x00\xff"]
    with opened(served, "/echo") as websocket:
        for message in messages:
            websocket.send(message)
        assert [websocket.recv(timeout=10) for _ in messages] == messages


@pytest.mark.parametrize("message", ["ä" * (MiB // 2), bytes(MiB), bytes(5 * MiB)], ids=len)
def test_large_message_comes_back_whole(served: Cluster, message: str | bytes) -> None:
    with opened(served, "/echo", compression=None) as websocket:
        websocket.send(message)
        assert websocket.recv(timeout=10) == message


def test_message_in_fragments_arrives_as_one(served: Cluster) -> None:
    with opened(served, "/echo") as websocket:
        websocket.send(["one ", "and ", "two"])
        assert websocket.recv(timeout=10) == "one and two"


def test_plain_asgi_application_speaks(cluster: Cluster) -> None:
    with (
        cluster.running(sockets.Plain.bind(), "/plain"),
        opened(cluster, "/plain/any", subprotocols=["a", "b"]) as websocket,
    ):
        assert websocket.subprotocol == "a"
        for message in ("text", b"bytes"):
            websocket.send(message)
            assert websocket.recv(timeout=10) == message


# Handshakes.


def test_handshake_carries_path_query_headers_and_subprotocols(served: Cluster) -> None:
    headers = {"x-mine": "yes"}
    with opened(
        served, "/handshake/me?q=1%202", subprotocols=["a", "b"], additional_headers=headers
    ) as websocket:
        told = json.loads(websocket.recv(timeout=10))

    assert told == {"name": "me", "q": "1 2", "path": "/handshake/me", "x": "yes"}
    assert websocket.subprotocol == "b"
    assert websocket.response is not None
    assert websocket.response.headers.get_all("x-own") == ["1", "2"]
    assert websocket.response.headers["x-request-id"]


def test_websocket_is_one_line_of_the_log_under_its_clients_id(served: Cluster) -> None:
    headers = {"x-request-id": "socket-7"}
    with opened(served, "/echo", additional_headers=headers) as websocket:
        assert websocket.response is not None
        assert websocket.response.headers.get_all("x-request-id") == ["socket-7"]

    served.logged(r" -- root / WS /echo 101 \d+\.\dms socket-7$")
    assert len(re.findall("socket-7$", served.log(), re.MULTILINE)) == 1


@pytest.mark.parametrize(("how", "status"), [("close", 403), ("exception", 403), ("error", 500)])
def test_refusal_before_accept_is_an_http_status(served: Cluster, how: str, status: int) -> None:
    with pytest.raises(InvalidStatus) as refusal:
        opened(served, f"/refused/{how}")

    assert refusal.value.response.status_code == status
    until(lambda: ongoing(the_replica()) == 0)


@pytest.mark.parametrize("path", ["/nowhere", "/sent"])
def test_path_without_websocket_is_refused(served: Cluster, path: str) -> None:
    with pytest.raises(InvalidStatus) as refusal:
        opened(served, path)

    assert refusal.value.response.status_code in (403, 404)


def test_websocket_to_no_application_is_refused(cluster: Cluster) -> None:
    with (
        cluster.running(sockets.Plain.bind(), "/plain"),
        pytest.raises(InvalidStatus) as refusal,
    ):
        opened(cluster, "/plainer")

    assert refusal.value.response.status_code in (403, 404)


# Closes.


@pytest.mark.alone
@pytest.mark.parametrize(
    ("code", "reason"), [(1000, ""), (1001, "away"), (3999, "ä" * 60), (4000, "own")]
)
def test_clients_close_reaches_the_handler(
    served: Cluster, record: Record, code: int, reason: str
) -> None:
    with opened(served, "/echo") as websocket:
        websocket.close(code, reason)

    record.wait_for("left", code, reason, within_s=2)
    assert websocket.close_code == code


def test_handlers_close_reaches_the_client(served: Cluster) -> None:
    headers = {"x-mine": "yes"}
    path = "/handshake/me?q=1"
    with opened(served, path, subprotocols=["a"], additional_headers=headers) as websocket:
        websocket.recv(timeout=10)
        with pytest.raises(ConnectionClosedError) as closed:
            websocket.recv(timeout=10)

    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (3001, "told")


def test_failing_handler_closes_with_1011_behind_its_messages(served: Cluster) -> None:
    with opened(served, "/fails") as websocket:
        assert websocket.recv(timeout=10) == "last words"
        with pytest.raises(ConnectionClosedError) as closed:
            websocket.recv(timeout=10)

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1011
    assert "after accept" not in closed.value.rcvd.reason
    served.logged("ValueError: after accept")


def test_killed_replica_closes_with_1011(cluster: Cluster, tmp_path: Path) -> None:
    record = Record(tmp_path / "own")
    with (
        cluster.running(sockets.Sockets.bind(record), "/killed"),
        opened(cluster, "/killed/waits") as websocket,
    ):
        record.wait_for("accepted")
        the_replica("killed").kill()
        with pytest.raises(ConnectionClosedError) as closed:
            websocket.recv(timeout=10)

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1011


# Departures.


@pytest.mark.alone
@pytest.mark.parametrize("path", ["/echo", "/waits", "/notices", "/flood"])
@pytest.mark.parametrize("how", ["end", "reset"])
def test_handler_hears_of_a_client_that_is_gone(
    served: Cluster, record: Record, path: str, how: str
) -> None:
    wire = handshaken(served, path)
    if how == "end":
        wire.socket.close()
    else:
        wire.reset()

    until(lambda: record.count("left") == 1, within_s=1)
    until(lambda: ongoing(the_replica()) == 0, within_s=1)


@pytest.mark.alone
def test_two_hundred_clients_cut_in_mid_frame_are_missed(served: Cluster, record: Record) -> None:
    wires = [handshaken(served, "/echo") for _ in range(200)]
    until(lambda: ongoing(the_replica()) == 200)
    for wire in wires:
        wire.send(frame(TEXT, b"x" * 1000)[:500])
    for wire in wires:
        wire.reset()

    until(lambda: record.count("left") == 200, within_s=2)
    until(lambda: ongoing(the_replica()) == 0, within_s=1)


# Many, fast and slow.


async def test_two_hundred_talk_at_once(served: Cluster) -> None:
    async def talk(number: int) -> None:
        async with connect_async(served.url("/echo", scheme="ws"), proxy=None) as websocket:
            for turn in range(10):
                await websocket.send(f"{number} {turn}")
                assert await websocket.recv() == f"{number} {turn}"

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for number in range(200):
            group.create_task(talk(number))


@pytest.mark.alone
def test_reader_that_reads_nothing_holds_back_its_handler_alone(
    served: Cluster, record: Record
) -> None:
    before_sent = served.get("/sent").json()
    processes = the_proxy(), the_replica()
    before = memory(*processes)

    with handshaken(served, "/flood"):
        sent = settled(lambda: served.get("/sent").json()) - before_sent
        with opened(served, "/echo") as websocket:
            for number in range(100):
                websocket.send(str(number))
                assert websocket.recv(timeout=10) == str(number)
        grown = memory(*processes) - before
        assert served.get("/sent").json() - before_sent == sent

    until(lambda: "left 1006 " in record.notes(), within_s=1)
    assert sent <= 8 * MiB
    assert grown < 16 * MiB


def test_handler_that_reads_nothing_holds_back_its_client(served: Cluster) -> None:
    processes = the_proxy(), the_replica()
    before = memory(*processes)

    with handshaken(served, "/deaf") as wire:
        sent = send_until_held_back(wire, frame(TEXT, b"x" * 64 * 1024), up_to=100 * MiB)
        grown = memory(*processes) - before
        assert served.get("/release").status_code == 200

    assert sent < 16 * MiB
    assert grown < 16 * MiB


def send_until_held_back(wire: Wire, message: bytes, *, up_to: int) -> int:
    """Sends it again and again until the peer reads no more; returns the bytes that went."""
    wire.socket.settimeout(0.5)
    sent = 0
    try:
        while sent < up_to:
            sent += wire.socket.send(message)
    except TimeoutError:
        pass
    return sent
