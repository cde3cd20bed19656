"""Handlers that are there when their process dies."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse

import serving
from tests.support.record import Record

METHODS = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE"]
WITHIN_S = 20.0

app = FastAPI()


@serving.deployment(num_replicas=2)
@serving.ingress(app)
class Mortal:
    """Each request notes `reached PID`, and waits until the gate file is there."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.gate = record.path.with_name("gate")
        record.note("constructed", os.getpid())

    async def opened(self) -> None:
        async with asyncio.timeout(WITHIN_S):
            while not self.gate.exists():  # noqa: ASYNC110 - the event is in another process
                await asyncio.sleep(0.01)

    @app.api_route("/waits", methods=METHODS)
    async def waits(self) -> int:
        self.record.note("reached", os.getpid())
        await self.opened()
        return os.getpid()

    @app.post("/reads")
    async def reads(self, request: Request) -> int:
        self.record.note("reached", os.getpid())
        return len(await request.body())

    @app.get("/streams")
    async def streams(self) -> Response:
        async def generate() -> AsyncIterator[bytes]:
            yield b"begun"
            await self.opened()

        return StreamingResponse(generate(), headers={"x-pid": str(os.getpid())})

    @app.api_route("/kills", methods=METHODS)
    async def kills(self) -> None:
        self.record.note("killed", os.getpid())
        os.kill(os.getpid(), signal.SIGKILL)

    @app.get("/pid")
    async def pid(self) -> int:
        return os.getpid()
