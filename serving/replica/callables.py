"""Plain functions and classes with ``__call__``, as ASGI applications.

``async`` code runs on the event loop, synchronous code in worker threads, as many as the replica
takes requests. The handler gets a Starlette ``Request``, or nothing where it takes no argument.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, Awaitable, Callable
from types import AsyncGeneratorType, GeneratorType
from typing import Any

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from serving.replica.results import to_response

ASGIApp = Callable[..., Awaitable[Any]]


def callable_app(handler: Callable[..., Any]) -> ASGIApp:
    """An ASGI application that answers every path with what ``handler`` returns for it."""
    call = _caller(handler)

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await _refuse(scope, receive, send)
            return
        value = await call(Request(scope, receive, send))
        if isinstance(value, (GeneratorType, AsyncGeneratorType)):
            value = StreamingResponse(value, media_type="text/plain")
        if isinstance(value, Response):
            await value(scope, receive, send)
            return
        status, headers, body = to_response(value)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


def response_handler(handler: Callable[..., Any]) -> Callable[[Any], Awaitable[Response]]:
    """``handler`` as an async callable whose result is a Starlette response (for adapters)."""
    call = _caller(handler)

    async def respond(value: Any) -> Response:
        result = await call(value)
        if isinstance(result, (GeneratorType, AsyncGeneratorType)):
            result = StreamingResponse(result, media_type="text/plain")
        if isinstance(result, Response):
            return result
        status, headers, body = to_response(result)
        response = Response(body, status_code=status)
        response.raw_headers = list(headers)
        return response

    return respond


def _caller(handler: Callable[..., Any]) -> Callable[[Any], Awaitable[Any]]:
    takes_argument = _takes_argument(handler)
    if _is_async(handler):
        if takes_argument:
            return handler
        return lambda value: handler()
    if inspect.isasyncgenfunction(handler) or inspect.isasyncgenfunction(
        getattr(handler, "__call__", None)  # noqa: B004 - the method itself is wanted
    ):

        async def generate(value: Any) -> AsyncIterable[Any]:
            stream: AsyncIterable[Any] = handler(value) if takes_argument else handler()
            return stream

        return generate

    async def in_thread(value: Any) -> Any:
        arguments = (value,) if takes_argument else ()
        result = await anyio.to_thread.run_sync(handler, *arguments)
        return await result if inspect.isawaitable(result) else result

    return in_thread


def _is_async(handler: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
        getattr(handler, "__call__", None)  # noqa: B004 - the method itself is wanted
    )


def _takes_argument(handler: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(handler).parameters.values()
    except (TypeError, ValueError):  # A builtin without a signature.
        return True
    positional = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.VAR_POSITIONAL,
    )
    return any(parameter.kind in positional for parameter in parameters)


async def _refuse(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """A plain callable speaks no WebSocket: the handshake is answered with 403."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close"})
