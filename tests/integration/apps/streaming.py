"""Responses that come in parts, and generators that tell how far they got."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse

import serving
from tests.support.record import Record

GATE_WITHIN_S = 20.0
CHUNK_SIZES = (1, 10, 70_000, 3, 65_536, 400_000, 2)
ENDLESS_CHUNK = b"x" * 64 * 1024

app = FastAPI()


@serving.deployment
@serving.ingress(app)
class Streams:
    """`/go` lets the gated generator that waits between its two chunks go on."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.gate = asyncio.Event()
        self.thread_gate = threading.Event()
        self.produced = 0

    @app.get("/go")
    async def go(self) -> None:
        self.gate.set()
        self.gate = asyncio.Event()
        self.thread_gate.set()
        self.thread_gate = threading.Event()

    @app.get("/async")
    async def async_gated(self) -> Response:
        async def generate() -> AsyncIterator[bytes]:
            gate = self.gate
            yield b"first"
            await asyncio.wait_for(gate.wait(), GATE_WITHIN_S)
            yield b"second"

        return StreamingResponse(generate())

    @app.get("/sync")
    def sync_gated(self) -> Response:
        def generate() -> Iterator[bytes]:
            gate = self.thread_gate
            yield b"first"
            assert gate.wait(GATE_WITHIN_S)
            yield b"second"

        return StreamingResponse(generate())

    @app.get("/chunks")
    async def chunks(self) -> Response:
        async def generate() -> AsyncIterator[bytes]:
            for size in CHUNK_SIZES:
                yield b"c" * size

        return StreamingResponse(generate())

    @app.get("/events")
    async def events(self) -> Response:
        async def generate() -> AsyncIterator[str]:
            for number in range(3):
                yield f"id: {number}\ndata: {{}}\n\n"

        return StreamingResponse(generate(), media_type="text/event-stream")

    @app.get("/produced")
    async def tell_produced(self) -> int:
        return self.produced

    @app.get("/endless/async")
    async def async_endless(self) -> Response:
        async def generate() -> AsyncIterator[bytes]:
            try:
                while True:
                    self.produced += len(ENDLESS_CHUNK)
                    yield ENDLESS_CHUNK
            finally:
                self.record.note("closed")

        return StreamingResponse(generate(), headers={"content-length": str(10 * 1000**3)})

    @app.get("/endless/sync")
    def sync_endless(self) -> Response:
        def generate() -> Iterator[bytes]:
            try:
                while True:
                    self.produced += len(ENDLESS_CHUNK)
                    yield ENDLESS_CHUNK
            finally:
                self.record.note("closed")

        return StreamingResponse(generate())

    @app.get("/broken/{kind}")
    async def broken(self, kind: str) -> Response:
        async def generate() -> AsyncIterator[bytes]:
            yield b"first"
            raise ValueError("the stream broke")

        headers = {"content-length": "100"} if kind == "declared" else {}
        return StreamingResponse(generate(), headers=headers)


@serving.deployment
class PlainStream:
    """The same without a framework: called, it is a generator."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()

    async def __call__(self, request: Request) -> AsyncIterator[str]:
        if request.url.path.endswith("/go"):
            self.gate.set()
            return
        yield "first"
        await asyncio.wait_for(self.gate.wait(), GATE_WITHIN_S)
        yield "second"
