"""Handlers that take longer than they may."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse

import serving
from tests.support.record import Record

FAR_TOO_LONG_S = 20.0

app = FastAPI()


@serving.deployment(max_ongoing_requests=1)
@serving.ingress(app)
class Slow:
    """Notes `cancelled AT`, by a clock that all processes share."""

    def __init__(self, record: Record) -> None:
        self.record = record

    @contextmanager
    def noting(self) -> Iterator[None]:
        self.record.note("started")
        try:
            yield
        except asyncio.CancelledError:
            self.record.note("cancelled", time.monotonic())
            raise

    @app.get("/quick")
    async def quick(self) -> None:
        self.record.note("quick")

    @app.get("/handler")
    async def handler(self) -> None:
        with self.noting():
            await asyncio.sleep(FAR_TOO_LONG_S)

    @app.post("/reading")
    async def reading(self, request: Request) -> int:
        with self.noting():
            return len(await request.body())

    @app.get("/thread")
    def thread(self) -> None:
        time.sleep(1.5)
        self.record.note("slept")

    @app.get("/stubborn")
    async def stubborn(self) -> Response:
        """Does not let itself be cancelled, and goes on to send."""
        try:
            await asyncio.sleep(FAR_TOO_LONG_S)
        except asyncio.CancelledError:
            self.record.note("ignored")

        async def generate() -> AsyncIterator[bytes]:
            while True:
                yield b"x" * 1000

        return StreamingResponse(generate())

    @app.get("/stream/{kind}")
    async def stream(self, kind: str) -> Response:
        async def generate() -> AsyncIterator[bytes]:
            with self.noting():
                while True:
                    yield b"chunk"
                    await asyncio.sleep(0.02)

        headers = {"content-length": "1000000"} if kind == "declared" else {}
        return StreamingResponse(generate(), headers=headers)

    @app.get("/flood")
    async def flood(self) -> Response:
        async def generate() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"x" * 64 * 1024
            finally:  # it hangs at its `yield`: closed, not cancelled
                self.record.note("cancelled", time.monotonic())

        return StreamingResponse(generate())
