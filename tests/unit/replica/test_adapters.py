from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

import httpx
import pytest
from fastapi import BackgroundTasks, Cookie, Depends, Header, HTTPException, Query, Request
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response, StreamingResponse

from serving.replica.adapters import adapted_app

pytestmark = pytest.mark.fastapi_compat


class Item(BaseModel):
    name: str
    count: int = 1


class Recorder:
    """A handler that keeps the values it was called with."""

    def __init__(self, events: list[str] | None = None) -> None:
        self.values: list[Any] = []
        self.events = [] if events is None else events

    async def __call__(self, value: Any) -> Response:
        self.events.append("handler")
        self.values.append(value)
        return JSONResponse({"ok": True})


async def ask(
    adapter: Callable[..., Any],
    handler: Callable[[Any], Any],
    method: str = "GET",
    path: str = "/",
    *,
    root_path: str = "",
    **request: Any,
) -> httpx.Response:
    transport = httpx.ASGITransport(
        adapted_app(adapter, handler), root_path=root_path, raise_app_exceptions=False
    )
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        return await client.request(method, path, **request)


def whole_path(request: Request) -> str:
    return request.url.path


def two_numbers(a: int, b: Annotated[float, Query(gt=0)] = 1.0) -> tuple[int, float]:
    return a, b


async def shouted(request: Request) -> str:
    return (await request.body()).decode().upper()


def headers_and_cookies(
    x_model: Annotated[str, Header()], session: Annotated[str | None, Cookie()] = None
) -> tuple[str, str | None]:
    return x_model, session


def item(item: Item, path: str = "none") -> tuple[Item, str]:
    return item, path


@pytest.mark.parametrize(
    ("adapter", "request_", "expected"),
    [
        (two_numbers, {"params": {"a": "1", "b": "2.5"}}, (1, 2.5)),
        (shouted, {"content": b"quiet", "method": "POST"}, "QUIET"),
        (
            headers_and_cookies,
            {"headers": {"x-model": "m1", "cookie": "session=s"}},
            ("m1", "s"),
        ),
        (item, {"json": {"name": "tea"}, "method": "PUT"}, (Item(name="tea"), "none")),
        (item, {"json": {"name": "a"}, "params": {"path": "q"}}, (Item(name="a"), "q")),
        (Item, {"json": {"name": "tea", "count": 2}}, Item(name="tea", count=2)),
        (lambda: 7, {}, 7),
    ],
    ids=["query", "async", "headers", "body", "parameter-named-path", "model", "lambda"],
)
async def test_adapter_result_is_the_sole_argument(
    adapter: Callable[..., Any], request_: dict[str, Any], expected: object
) -> None:
    handler = Recorder()

    response = await ask(adapter, handler, **request_)

    assert (response.status_code, handler.values) == (200, [expected])


@pytest.mark.parametrize(
    ("adapter", "request_", "location"),
    [
        (two_numbers, {"params": {"a": "one"}}, ["query", "a"]),
        (two_numbers, {"params": {"a": "1", "b": "-1"}}, ["query", "b"]),
        (Item, {"method": "POST", "json": {"count": 1}}, ["body", "name"]),
        (headers_and_cookies, {}, ["header", "x-model"]),
    ],
)
async def test_bad_input_is_a_422_that_names_the_field(
    adapter: Callable[..., Any], request_: dict[str, Any], location: list[str]
) -> None:
    handler = Recorder()

    response = await ask(adapter, handler, **request_)

    assert (response.status_code, handler.values) == (422, [])
    assert response.json()["detail"][0]["loc"] == location


@pytest.mark.parametrize("path", ["/api", "/api/", "/api/a/b", "/api//x"])
async def test_every_path_under_the_route_prefix_is_answered(path: str) -> None:
    handler = Recorder()

    response = await ask(whole_path, handler, path=path, root_path="/api")

    assert (response.status_code, handler.values) == (200, [path])


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/redoc"])
async def test_no_path_is_taken_by_documentation(path: str) -> None:
    handler = Recorder()

    await ask(whole_path, handler, path=path)

    assert handler.values == [path]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_every_method_is_answered(method: str) -> None:
    assert (await ask(whole_path, Recorder(), method)).status_code == 200


async def test_dependencies_of_an_adapter_are_closed_after_the_handler() -> None:
    events: list[str] = []

    def session() -> Iterator[str]:
        events.append("open")
        yield "session"
        events.append("close")

    def inner(session: str = Depends(session)) -> str:
        return session + "!"

    async def adapter(value: str = Depends(inner)) -> AsyncIterator[str]:
        yield value
        events.append("adapter closed")

    handler = Recorder(events)

    await ask(adapter, handler)

    assert handler.values == ["session!"]
    assert events == ["open", "handler", "adapter closed", "close"]


async def test_dependency_sees_the_exception_of_the_handler() -> None:
    seen: list[BaseException] = []

    def session() -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            seen.append(error)
            raise

    async def handler(value: None) -> Response:
        raise ValueError("broken")

    response = await ask(session, handler)

    assert response.status_code == 500
    assert [str(error) for error in seen] == ["broken"]


async def test_exception_of_the_handler_reaches_the_server() -> None:
    async def handler(value: object) -> Response:
        raise ValueError("broken")

    transport = httpx.ASGITransport(adapted_app(whole_path, handler))
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        with pytest.raises(ValueError, match="broken"):
            await client.get("/")


async def test_http_exception_of_an_adapter_is_its_answer() -> None:
    def adapter() -> None:
        raise HTTPException(401, "who are you?", headers={"WWW-Authenticate": "Basic"})

    response = await ask(adapter, Recorder())

    assert (response.status_code, response.json()) == (401, {"detail": "who are you?"})
    assert response.headers["www-authenticate"] == "Basic"


async def test_what_an_adapter_sets_on_the_response_is_sent() -> None:
    ran: list[str] = []

    def adapter(response: Response, tasks: BackgroundTasks) -> None:
        response.set_cookie("seen", "yes")
        response.status_code = 201
        tasks.add_task(ran.append, "task")

    response = await ask(adapter, Recorder())

    assert (response.status_code, response.json()) == (201, {"ok": True})
    assert response.cookies["seen"] == "yes"
    assert ran == ["task"]


async def test_streaming_response_of_the_handler_is_sent_whole() -> None:
    async def chunks() -> AsyncIterator[str]:
        yield "a"
        yield "b"

    async def handler(value: object) -> Response:
        return StreamingResponse(chunks())

    assert (await ask(whole_path, handler)).text == "ab"
