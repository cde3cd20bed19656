"""Handlers that are at work when their replica is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

import serving

BIG = 8_000_000


@serving.deployment
class Big:
    """Answers more than what lies between a handler and a client that does not read."""

    async def __call__(self, request: Request) -> Response:
        return Response(bytes(BIG))


@serving.deployment
class Endless:
    """Never comes to its end."""

    async def __call__(self, request: Request) -> StreamingResponse:
        return StreamingResponse(self.ticks())

    async def ticks(self) -> AsyncIterator[bytes]:
        while True:
            yield b"tick"
            await asyncio.sleep(0.05)


@serving.deployment
class Spins:
    """Keeps a thread, and most of the interpreter's lock, for ever."""

    def __call__(self, request: Request) -> None:
        while True:
            pass
