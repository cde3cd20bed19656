"""WebSockets, through FastAPI and as plain ASGI."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import FastAPI, WebSocket, WebSocketDisconnect, WebSocketException

import serving
from tests.support.record import Record

WITHIN_S = 20.0

app = FastAPI()


@serving.deployment(max_ongoing_requests=300)
@serving.ingress(app)
class Sockets:
    """Notes `left CODE REASON` as each handler learns it."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.sent = 0
        self.released = asyncio.Event()

    def note_departure(self, left: WebSocketDisconnect) -> None:
        self.record.note("left", left.code, left.reason)

    @app.get("/sent")
    async def tell_sent(self) -> int:
        return self.sent

    @app.get("/release")
    async def release(self) -> None:
        self.released.set()

    @app.websocket("/echo")
    async def echo(self, websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            while True:
                message = await websocket.receive()
                if message["type"] == "websocket.disconnect":
                    raise WebSocketDisconnect(message["code"], message.get("reason"))
                message["type"] = "websocket.send"
                await websocket.send(message)
        except WebSocketDisconnect as left:
            self.note_departure(left)

    @app.websocket("/handshake/{name}")
    async def handshake(self, websocket: WebSocket, name: str, q: str) -> None:
        chosen = websocket.scope["subprotocols"][-1]
        await websocket.accept(subprotocol=chosen, headers=[(b"x-own", b"1"), (b"x-own", b"2")])
        await websocket.send_json(
            {"name": name, "q": q, "path": websocket.url.path, "x": websocket.headers["x-mine"]}
        )
        await websocket.close(3001, "told")

    @app.websocket("/refused/{how}")
    async def refused(self, websocket: WebSocket, how: str) -> None:
        if how == "close":
            await websocket.close()
        elif how == "exception":
            raise WebSocketException(1008)
        else:
            raise ValueError("before accept")

    @app.websocket("/fails")
    async def fails(self, websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("last words")
        raise ValueError("after accept")

    @app.websocket("/waits")
    async def waits(self, websocket: WebSocket) -> None:
        """Only receives."""
        await websocket.accept()
        self.record.note("accepted")
        try:
            await websocket.receive_text()
        except WebSocketDisconnect as left:
            self.note_departure(left)

    @app.websocket("/notices")
    async def notices(self, websocket: WebSocket) -> None:
        """Only sends."""
        await websocket.accept()
        try:
            while True:
                await websocket.send_text("notice")
                await asyncio.sleep(0.01)
        except WebSocketDisconnect as left:
            self.note_departure(left)

    @app.websocket("/flood")
    async def flood(self, websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            while True:
                await websocket.send_bytes(b"x" * 64 * 1024)
                self.sent += 64 * 1024
        except WebSocketDisconnect as left:
            self.note_departure(left)

    @app.websocket("/deaf")
    async def deaf(self, websocket: WebSocket) -> None:
        """Reads nothing."""
        await websocket.accept()
        await asyncio.wait_for(self.released.wait(), WITHIN_S)


@serving.deployment
@serving.ingress(lambda: plain)
class Plain:
    """An ASGI application, no framework."""


async def plain(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "websocket":
        return
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept", "subprotocol": scope["subprotocols"][0]})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})
