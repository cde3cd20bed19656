"""Handlers that wait, and count how many there are of them."""

from __future__ import annotations

import threading
from typing import Any

from starlette.requests import Request
from starlette.responses import StreamingResponse

import serving
from tests.support.gate import Gate
from tests.support.record import Record

MEET_WITHIN_S = 20.0


@serving.deployment
class Counts:
    """Notes each request that it begins; answers how many there were at the most."""

    def __init__(self, gate: Gate, record: Record) -> None:
        self.gate = gate
        self.record = record
        self.now = 0
        self.most = 0

    async def __call__(self, request: Request) -> int:
        self.record.note("began", request.url.path)
        self.now += 1
        self.most = max(self.now, self.most)
        try:
            await self.gate.pass_through_async()
        finally:
            self.now -= 1
        return self.most


@serving.deployment
class Meets:
    """A synchronous handler that returns once so many of it run at the same time."""

    def __init__(self, parties: int) -> None:
        self.barrier = threading.Barrier(parties)

    def __call__(self) -> str:
        self.barrier.wait(MEET_WITHIN_S)
        return "met"


@serving.deployment
class MeetsInStreams(Meets.func_or_class):  # type: ignore[name-defined, misc]
    """The same in a synchronous generator."""

    def __call__(self) -> Any:
        def generate() -> Any:
            yield "has "
            self.barrier.wait(MEET_WITHIN_S)
            yield "met"

        return StreamingResponse(generate())


@serving.deployment(max_ongoing_requests=1)
class Holds:
    """Holds what it begins until the gate is open; for requests and calls alike."""

    def __init__(self, gate: Gate, record: Record) -> None:
        self.gate = gate
        self.record = record

    async def __call__(self, request: object) -> str:
        self.record.note("began")
        await self.gate.pass_through_async()
        return "passed"
