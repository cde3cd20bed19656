"""Applications whose deployments call each other, for handles.py.

The names are of this module, so that the replicas import them.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from repeat import BODY, ITEMS, repeat

import serving


@serving.deployment(max_ongoing_requests=200)
class Callee:
    """What is called: nothing here takes time of its own."""

    async def echo(self, body: bytes) -> bytes:
        return body

    async def pid(self) -> int:
        return os.getpid()

    async def items(self) -> AsyncIterator[bytes]:
        for _ in range(ITEMS):
            yield BODY

    async def events(self, pause_s: float) -> AsyncIterator[str]:
        async for event in _events(pause_s):
            yield event


@serving.deployment(max_ongoing_requests=200)
class Calling:
    """Calls it as often as it can."""

    def __init__(self, callee: Any) -> None:
        echo, items = callee.echo, callee.options(stream=True).items

        async def call() -> None:
            await echo.remote(BODY)

        async def stream() -> None:
            async for _ in items.remote():
                pass

        self._calls: dict[str, Callable[[], Awaitable[None]]] = {"call": call, "stream": stream}

    async def pid(self) -> int:
        return os.getpid()

    async def ask(self, what: str, concurrency: int, seconds: float) -> dict[str, float]:
        """One round."""
        return asdict(await repeat(self._calls[what], concurrency, seconds))


routes = FastAPI()


@serving.deployment(max_ongoing_requests=200)
@serving.ingress(routes)
class Ingress:
    """Each route twice: answered by itself, and by the deployment behind it."""

    def __init__(self, callee: Any) -> None:
        self._echo = callee.echo
        self._events = callee.options(stream=True).events

    @routes.post("/direct")
    async def direct(self, request: Request) -> Response:
        return Response(await request.body())

    @routes.post("/chain")
    async def chain(self, request: Request) -> Response:
        return Response(await self._echo.remote(await request.body()))

    @routes.get("/events")
    async def events(self, pause_s: float = 0) -> Response:
        return StreamingResponse(_events(pause_s), media_type="text/event-stream")

    @routes.get("/relayed-events")
    async def relayed_events(self, pause_s: float = 0) -> Response:
        return StreamingResponse(self._events.remote(pause_s), media_type="text/event-stream")


async def _events(pause_s: float) -> AsyncIterator[str]:
    """Each event tells when it was made, by the clock that all processes of a machine share."""
    for _ in range(ITEMS):
        yield f"data: {time.perf_counter()}\n\n"
        if pause_s:
            await asyncio.sleep(pause_s)


calls = Calling.bind(Callee.bind())
web = Ingress.bind(Callee.bind())
