"""Plain callables: what they take and what they may return."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import serving
from tests.integration.apps import basic
from tests.support.cluster import Cluster

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
BINARY = "application/octet-stream"


@pytest.fixture(scope="module")
def returns(cluster: Cluster) -> Iterator[Cluster]:
    with cluster.running(basic.returns.bind(), "/returns"):
        yield cluster


@pytest.mark.parametrize(
    ("application", "expected"),
    [
        pytest.param(basic.sync_function.bind(), "sync function of me", id="sync-function"),
        pytest.param(basic.async_function.bind(), "async function of body", id="async-function"),
        pytest.param(basic.sync_function_alone.bind(), "sync function", id="sync-function-alone"),
        pytest.param(
            basic.async_function_alone.bind(), "async function", id="async-function-alone"
        ),
        pytest.param(basic.SyncClass.bind("hi", mark="!"), "hi! me", id="sync-class"),
        pytest.param(basic.AsyncClass.bind(), "async class of body", id="async-class"),
        pytest.param(basic.SyncClassAlone.bind(), "sync class", id="sync-class-alone"),
        pytest.param(basic.AsyncClassAlone.bind(), "async class", id="async-class-alone"),
    ],
)
def test_callable_is_called_with_the_request_if_it_takes_one(
    cluster: Cluster, application: serving.Application, expected: str
) -> None:
    with cluster.running(application):
        response = cluster.post("/any/path?who=me", data=b"body")

    assert (response.status_code, response.text) == (200, expected)


@pytest.mark.parametrize(
    "application",
    [
        pytest.param(basic.sync_generator.bind(), id="sync"),
        pytest.param(basic.AsyncGenerator.bind(), id="async"),
    ],
)
def test_generator_is_streamed(cluster: Cluster, application: serving.Application) -> None:
    with cluster.running(application):
        response = cluster.get("/?count=3")

    assert response.text == "0;1;2;"
    assert response.headers["transfer-encoding"] == "chunked"


@pytest.mark.parametrize(
    ("value", "content_type", "body"),
    [
        pytest.param("str", TEXT, "grüße".encode(), id="str"),
        pytest.param("empty_str", TEXT, b"", id="empty-str"),
        pytest.param("bytes", BINARY, b"\x00\xff", id="bytes"),
        pytest.param("none", None, b"", id="none"),
        pytest.param("dict", JSON, '{"a":[1,2.5,null,true],"ü":{}}'.encode(), id="dict"),
        pytest.param("list", JSON, b'[1,"two"]', id="list"),
        pytest.param("tuple", JSON, b"[1,2]", id="tuple"),
        pytest.param("int", JSON, b"7", id="int"),
        pytest.param("float", JSON, b"0.5", id="float"),
        pytest.param("bool", JSON, b"false", id="bool"),
        pytest.param("model", JSON, b'{"x":1,"name":"p"}', id="model"),
        pytest.param(
            "models", JSON, b'{"points":[{"x":1,"name":"p"},{"x":2,"name":"p"}]}', id="models"
        ),
        pytest.param("dataclass", JSON, b'{"left":1,"right":["red"]}', id="dataclass"),
        pytest.param("enum", JSON, b'"red"', id="enum"),
        pytest.param("int_enum", JSON, b"3", id="int-enum"),
        pytest.param("set", JSON, b"[7]", id="set"),
        pytest.param("datetime", JSON, b'"2024-02-29T12:00:00+00:00"', id="datetime"),
        pytest.param("date", JSON, b'"2024-02-29"', id="date"),
        pytest.param("timedelta", JSON, b"60.0", id="timedelta"),
        pytest.param("uuid", JSON, b'"00000000-0000-0000-0000-000000000001"', id="uuid"),
        pytest.param("decimal", JSON, b"1.5", id="decimal"),
        pytest.param("path", JSON, b'"/a/b"', id="path"),
        pytest.param("query_params", JSON, b'{"a":"b","c":"d"}', id="query-params"),
    ],
)
def test_value_is_answered_in_its_form(
    returns: Cluster, value: str, content_type: str | None, body: bytes
) -> None:
    response = returns.get(f"/returns/{value}")

    assert response.status_code == 200
    assert response.headers.get("content-type") == content_type
    assert response.content == body
    assert response.headers["content-length"] == str(len(body))


@pytest.mark.parametrize(
    ("value", "status", "headers", "body"),
    [
        pytest.param("text_response", 418, {"content-type": TEXT}, b"teapot", id="text"),
        pytest.param("json_response", 202, {"content-type": JSON}, b'{"a":1}', id="json"),
        pytest.param(
            "html_response", 200, {"content-type": "text/html; charset=utf-8"}, b"<p>", id="html"
        ),
        pytest.param("redirect", 303, {"location": "/elsewhere"}, b"", id="redirect"),
        pytest.param("no_content", 204, {"content-length": None}, b"", id="no-content"),
        pytest.param("not_modified", 304, {"etag": '"1"'}, b"", id="not-modified"),
        pytest.param(
            "streaming",
            206,
            {"content-type": "text/csv; charset=utf-8", "content-length": None},
            b"ab",
            id="streaming",
        ),
    ],
)
def test_starlette_response_is_sent_as_it_is(
    returns: Cluster, value: str, status: int, headers: dict[str, Any], body: bytes
) -> None:
    response = returns.get(f"/returns/{value}", allow_redirects=False)

    assert (response.status_code, response.content) == (status, body)
    assert {name: response.headers.get(name) for name in headers} == headers


def test_every_cookie_of_a_response_arrives(returns: Cluster) -> None:
    response = returns.get("/returns/cookies")

    assert response.status_code == 201
    assert response.headers["x-own"] == "1"
    assert response.raw.headers.getlist("set-cookie") == [
        "first=1; Path=/; SameSite=lax",
        "second=2; Path=/; SameSite=lax",
    ]


def test_head_has_the_headers_and_no_body(returns: Cluster) -> None:
    with returns.wire() as wire:
        wire.send(wire.request("HEAD /returns/str"))
        status, headers = wire.read_head()

        assert (status, headers[b"content-length"]) == (200, b"7")
        assert wire.is_usable()  # so no byte of a body came
