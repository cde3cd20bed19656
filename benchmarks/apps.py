"""The applications that are measured. uvicorn serves these very objects; serving does too.

This module imports nothing of serving, so that uvicorn alone is not weighed down by it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

from fastapi import FastAPI
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

CHUNKS = 50


async def _answer(send: Send, body: bytes) -> None:
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def five(scope: Scope, receive: Receive, send: Send) -> None:
    """Five bytes, as little as an ASGI application can answer."""
    if scope["type"] == "http":
        await _answer(send, b"hello")


async def post(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads the whole body and answers its length."""
    if scope["type"] != "http":
        return
    length = 0
    while True:
        message = await receive()
        length += len(message.get("body", b""))
        if not message.get("more_body", False):
            break
    await _answer(send, b"%d" % length)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Sends every WebSocket message back. Over HTTP, the five-byte answer."""
    if scope["type"] != "websocket":
        await five(scope, receive, send)
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


async def _chunks() -> AsyncIterator[bytes]:
    for number in range(CHUNKS):
        yield b"chunk %d\n" % number


async def stream(scope: Scope, receive: Receive, send: Send) -> None:
    """Fifty chunks out of an async generator."""
    if scope["type"] == "http":
        await StreamingResponse(_chunks(), media_type="text/plain")(scope, receive, send)


async def _events() -> AsyncIterator[str]:
    for number in range(CHUNKS):
        yield f"data: {json.dumps({'token': 'word', 'index': number})}\n\n"


async def sse(scope: Scope, receive: Receive, send: Send) -> None:
    """Fifty server-sent events out of an async generator, as a language model streams tokens."""
    if scope["type"] == "http":
        await StreamingResponse(_events(), media_type="text/event-stream")(scope, receive, send)


fastapi = FastAPI()


@fastapi.get("/items/{item_id}")
async def read_item(item_id: int, q: str = "", limit: int = 10) -> dict[str, object]:
    """A small route: a path parameter, query parameters, a dict back."""
    return {"item_id": item_id, "q": q, "limit": limit, "tags": ["a", "b"]}
