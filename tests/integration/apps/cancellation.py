"""Handlers that wait, and note what becomes of them."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

from fastapi import Depends, FastAPI, Request, WebSocket
from fastapi.responses import Response, StreamingResponse

import serving
from tests.support.record import Record

RELEASED_WITHIN_S = 20.0

app = FastAPI()


async def resource(request: Request, name: str) -> AsyncIterator[str]:
    """A dependency whose end can be seen."""
    record: Record = request.app.state.record
    record.note("opened", name)
    try:
        yield name
    finally:
        await asyncio.sleep(0)  # the end of a dependency may itself await
        record.note("disposed", name)


@serving.deployment
@serving.ingress(app)
class Waits:
    """Each route notes `started NAME`, how it was ended, and `finished NAME`.

    `/release` ends what waits at the time, be it shielded, cleaning up or a thread.
    """

    def __init__(self, record: Record) -> None:
        self.record = app.state.record = record
        self.released = asyncio.Event()
        self.threads_released = threading.Event()
        self.kept: set[asyncio.Task[None]] = set()

    @contextmanager
    def noting(self, name: str) -> Iterator[None]:
        self.record.note("started", name)
        try:
            yield
        except asyncio.CancelledError:
            self.record.note("cancelled", name)
            raise
        finally:
            self.record.note("finished", name)

    @app.get("/release")
    async def release(self) -> None:
        self.released.set()
        self.released = asyncio.Event()
        self.threads_released.set()
        self.threads_released = threading.Event()

    @app.get("/quick/{name}")
    async def quick(self, name: str) -> str:
        self.record.note("quick", name)
        return name

    @app.api_route("/handler/{name}", methods=["GET", "POST", "OPTIONS"])
    async def handler(self, name: str) -> None:
        with self.noting(name):
            await asyncio.sleep(RELEASED_WITHIN_S)

    @app.get("/stream/{name}")
    async def stream(self, name: str) -> Response:
        async def generate() -> AsyncIterator[bytes]:
            with self.noting(name):
                yield b"begun"
                await asyncio.sleep(RELEASED_WITHIN_S)

        return StreamingResponse(generate())

    @app.get("/dependency/{name}")
    async def dependency(self, name: str, _: str = Depends(resource)) -> None:
        with self.noting(name):
            await asyncio.sleep(RELEASED_WITHIN_S)

    @app.get("/cleaning/{name}")
    async def cleaning(self, name: str) -> None:
        """Cleans up with an `await`: cancelling comes once."""
        try:
            with self.noting(name):
                await asyncio.sleep(RELEASED_WITHIN_S)
        finally:
            await self.released.wait()
            self.record.note("cleaned", name)

    @app.get("/shielded/{name}")
    async def shielded(self, name: str) -> None:
        async def inner() -> None:
            await self.released.wait()
            self.record.note("survived", name)

        with self.noting(name):
            work = asyncio.create_task(inner())
            self.kept.add(work)
            await asyncio.shield(work)

    @app.get("/thread/{name}")
    def thread(self, name: str) -> str:
        released = self.threads_released
        with self.noting(name):
            assert released.wait(RELEASED_WITHIN_S)
            return name

    @app.websocket("/socket/{name}")
    async def socket(self, websocket: WebSocket, name: str) -> None:
        with self.noting(name):
            await websocket.accept()

    @app.post("/storm/{name}")
    async def storm(self, name: str) -> Response:
        """Takes a while over its answer, and over each of its chunks."""

        async def generate() -> AsyncIterator[bytes]:
            try:
                for _ in range(20):
                    yield b"x" * 10_000
                    await asyncio.sleep(random.uniform(0, 0.02))
            finally:
                self.record.note("closed", name)

        with self.noting(name):
            await asyncio.sleep(random.uniform(0, 0.1))
            chunks = generate()
        self.record.note("opened", name)
        return StreamingResponse(chunks)


@serving.deployment
class PlainThread:
    """A synchronous callable, one request at a time."""

    def __init__(self, record: Record) -> None:
        self.record = record

    def __call__(self, request: Request) -> str:
        name = request.url.path.rsplit("/", 1)[-1]
        self.record.note("started", name)
        gate = self.record.path.with_name(f"release-{name}")
        wait_for_file(gate)
        self.record.note("finished", name)
        return name


def wait_for_file(path: Path) -> None:
    pause = threading.Event()
    for _ in range(1000):
        if path.exists():
            return
        pause.wait(0.02)
    raise TimeoutError(f"{path} never came")
