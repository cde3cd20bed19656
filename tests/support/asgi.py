"""Calling an ASGI application in the test's own loop: no sockets, no threads of a test client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx


async def request(app: Any, method: str, url: str, **kwargs: Any) -> httpx.Response:
    """One HTTP request; an exception of the app is raised."""
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.request(method, url, **kwargs)


async def get(app: Any, url: str, **kwargs: Any) -> Any:
    """The decoded JSON of a GET that must succeed."""
    response = await request(app, "GET", url, **kwargs)
    assert response.status_code == 200, response.text
    return response.json()


async def websocket(app: Any, path: str, *messages: str) -> list[str]:
    """The texts that a WebSocket sends, having been sent `messages` and then been left."""
    incoming: list[dict[str, Any]] = [
        {"type": "websocket.connect"},
        *({"type": "websocket.receive", "text": text} for text in messages),
        {"type": "websocket.disconnect", "code": 1000},
    ]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return incoming.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "websocket",
        "asgi": {"version": "3.0"},
        "scheme": "ws",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [],
        "subprotocols": [],
        "state": {},
    }
    await app(scope, receive, send)
    assert sent[0]["type"] == "websocket.accept", sent
    return [message["text"] for message in sent if message["type"] == "websocket.send"]


@asynccontextmanager
async def lifespan(app: Any) -> AsyncIterator[None]:
    """Runs the lifespan of a FastAPI or Starlette application around a block."""
    async with app.router.lifespan_context(app):
        yield
