"""Deployments that answer the services of `tests/protos`."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

import serving
from serving.context import current_request
from serving.handle import DeploymentHandle
from tests.support.gate import Gate
from tests.support.protos import probe
from tests.support.record import Record

Message = Any
Context = Any
Handle = DeploymentHandle[Any]
logger = logging.getLogger("serving.app")


def reply(request: Message, number: int = 0) -> Message:
    """What came, and as many bytes more as were asked for."""
    label = request.label if request.HasField("label") else None
    payload = request.payload + bytes(request.size)
    return probe.Reply(text=request.text, payload=payload, number=number, label=label)


def joined(requests: Iterable[Message]) -> Message:
    came = list(requests)
    payload = b"".join(request.payload for request in came)
    return probe.Reply(
        text=" ".join(request.text for request in came), payload=payload, number=len(came)
    )


# The four kinds, in all the forms that a method may have.


@serving.deployment
class Coroutines:
    """Coroutines, and generators that are."""

    async def One(self, request: Message) -> Message:
        return reply(request)

    async def Many(self, request: Message) -> AsyncIterator[Message]:
        for number in range(request.count):
            yield reply(request, number)

    async def Gather(self, requests: AsyncIterator[Message]) -> Message:
        return joined([request async for request in requests])

    async def Chat(self, requests: AsyncIterator[Message]) -> AsyncIterator[Message]:
        numbers = itertools.count()
        async for request in requests:
            for _ in range(request.count):
                yield reply(request, next(numbers))

    async def Empty(self, request: Message) -> Message:
        return request

    async def Ping(self, request: Message) -> Message:
        return probe.Reply(text=f"pong {request.text}")


@serving.deployment
class Threads:
    """Plain functions and generators: they run in threads."""

    def One(self, request: Message) -> Message:
        return reply(request)

    def Many(self, request: Message) -> Iterator[Message]:
        for number in range(request.count):
            yield reply(request, number)

    def Gather(self, requests: Iterator[Message]) -> Message:
        return joined(requests)

    def Chat(self, requests: Iterator[Message]) -> Iterator[Message]:
        numbers = itertools.count()
        for request in requests:
            for _ in range(request.count):
                yield reply(request, next(numbers))


@serving.deployment
class Returned:
    """Functions that return what is to be iterated over."""

    async def One(self, request: Message) -> Message:
        return reply(request)

    def Many(self, request: Message) -> Iterator[Message]:
        return iter([reply(request, number) for number in range(request.count)])

    def Gather(self, requests: Iterator[Message]) -> Message:
        return joined(iter(requests))

    async def Chat(self, requests: AsyncIterator[Message]) -> AsyncIterator[Message]:
        async def replies() -> AsyncIterator[Message]:
            numbers = itertools.count()
            async for request in requests:
                for _ in range(request.count):
                    yield reply(request, next(numbers))

        return replies()


# Statuses and metadata.


@serving.deployment
class Statuses:
    """Ends as it is told."""

    def __init__(self, behind: Handle | None = None) -> None:
        self._behind = behind

    async def Fail(self, failure: Message, grpc_context: Context) -> Message:
        self._fail(failure, grpc_context)
        return probe.Reply(text="answered all the same")

    async def FailMidway(self, failure: Message, grpc_context: Context) -> AsyncIterator[Message]:
        for number in range(failure.after):
            yield probe.Reply(number=number)
        self._fail(failure, grpc_context)

    def _fail(self, failure: Message, context: Context) -> None:
        code = next(code for code in grpc.StatusCode if code.value[0] == failure.code)
        trailers = sorted(failure.trailers.items())
        match failure.how:
            case "abort":
                context.abort(code, failure.details, trailers)
            case "set" | "set and raise":
                context.set_code(code)
                context.set_details(failure.details)
                context.set_trailing_metadata(trailers)
            case "code and raise":
                context.set_code(code)
        if failure.how.endswith("raise"):
            raise ValueError(f"the secret {failure.details}")

    async def Inspect(self, request: Message, grpc_context: Context) -> Message:
        logger.info("inspected")
        scope = current_request()
        assert scope is not None
        left = grpc_context.time_remaining()
        return probe.Seen(
            metadata={
                key: value.hex() if isinstance(value, bytes) else value
                for key, value in grpc_context.invocation_metadata()
            },
            peer=grpc_context.peer(),
            time_remaining_s=-1 if left is None else left,
            request_id=scope.request_id,
            multiplexed_model_id=serving.get_multiplexed_model_id(),
            application=scope.application,
        )

    # Metadata is echoed as the server of gRPC's own interoperability tests does it.

    async def One(self, request: Message, grpc_context: Context) -> Message:
        self._echo(grpc_context)
        return reply(request)

    async def Chat(
        self, requests: AsyncIterator[Message], grpc_context: Context
    ) -> AsyncIterator[Message]:
        self._echo(grpc_context)
        async for request in requests:
            yield reply(request)

    def _echo(self, context: Context) -> None:
        sent = context.invocation_metadata()
        initial, trailing = (
            [entry for entry in sent if entry[0] == key] for key in ("x-initial", "x-trailing-bin")
        )
        context.set_initial_metadata(initial)
        context.set_trailing_metadata(trailing)

    # What cannot be sent.

    async def Many(self, request: Message) -> AsyncIterator[Message]:
        yield probe.Reply(number=1)
        yield request

    # What is done elsewhere.

    async def Wait(self, request: Message) -> Message:
        logger.info("statuses waits")
        assert self._behind is not None
        return probe.Reply(text=await self._behind.remote())


@serving.deployment(max_ongoing_requests=1, max_queued_requests=0)
class Narrow:
    """Takes one call at a time, and none in addition."""

    def __init__(self, gate: Gate, record: Record) -> None:
        self._gate = gate
        self._record = record

    async def __call__(self) -> str:
        logger.info("narrow waits")
        self._record.note("full")
        await self._gate.pass_through_async()
        return "done"


@serving.deployment
class Plain:
    """Has methods for no RPC but this one."""

    def One(self, request: Message) -> Message:
        return reply(request)


@serving.deployment
class Broken:
    """Cannot be constructed."""

    def __init__(self) -> None:
        raise RuntimeError("never constructed")

    async def One(self, request: Message) -> Message:
        return reply(request)


# A graph of two deployments.


@serving.deployment(max_ongoing_requests=200)
class Callee:
    """Works for a while, and notes how that ended."""

    def __init__(self, record: Record) -> None:
        self._notes = Notes("callee", record)

    async def work(self, name: str, seconds: float) -> str:
        with self._notes.of(name):
            await asyncio.sleep(seconds)
        return name

    async def items(self, name: str, count: int, seconds: float) -> AsyncIterator[int]:
        with self._notes.of(name):
            for number in range(count):
                yield number
                await asyncio.sleep(seconds)

    async def state(self) -> dict[str, int]:
        return self._notes.state()


@serving.deployment
class Front:
    """Has the callee do the work, in each kind of call."""

    def __init__(self, record: Record, callee: Handle) -> None:
        self._notes = Notes("front", record)
        self._callee = callee
        self._meeting = Meeting()

    async def One(self, request: Message) -> Message:
        with self._notes.of(request.text):
            await self._callee.work.remote(request.text, request.seconds)
        return reply(request)

    async def Many(self, request: Message) -> AsyncIterator[Message]:
        items = self._callee.options(stream=True).items
        with self._notes.of(request.text):
            async for number in items.remote(request.text, request.count, request.seconds):
                yield reply(request, number)

    async def Gather(self, requests: AsyncIterator[Message]) -> Message:
        first = await anext(requests)
        with self._notes.of(first.text):
            async for request in requests:
                await self._callee.work.remote(request.text, request.seconds)
        return probe.Reply(text=first.text)

    async def Chat(self, requests: AsyncIterator[Message]) -> AsyncIterator[Message]:
        first = await anext(requests)
        with self._notes.of(first.text):
            yield reply(first)
            async for request in requests:
                await self._callee.work.remote(request.text, request.seconds)
                yield reply(request)

    def Wait(self, request: Message) -> Message:
        """Works in a thread."""
        with self._notes.of(request.text):
            time.sleep(request.seconds)
        return reply(request)

    async def Inspect(self, request: Message, grpc_context: Context) -> Message:
        """Tells, late, how long the call may still take."""
        await asyncio.sleep(request.seconds)
        return probe.Seen(time_remaining_s=grpc_context.time_remaining())

    async def Meet(self, request: Message) -> Message:
        await self._meeting.of(request.count)
        return reply(request)

    async def state(self) -> dict[str, int]:
        return self._notes.state()


class Notes:
    """What began, and how it ended: recorded where it has a name, and counted."""

    def __init__(self, who: str, record: Record) -> None:
        self._who = who
        self._record = record
        self._counts = Counter(started=0, cancelled=0, completed=0, finished=0)

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        self._note("started", name)
        try:
            yield
        except asyncio.CancelledError:
            self._note("cancelled", name)
            raise
        else:
            self._note("completed", name)
        finally:
            self._note("finished", name)

    def _note(self, what: str, name: str) -> None:
        self._counts[what] += 1
        if name:
            self._record.note(what, self._who, name)

    def state(self) -> dict[str, int]:
        """The counts, and the number of asyncio tasks beside the one that asks."""
        return {**self._counts, "tasks": len(asyncio.all_tasks())}


class Meeting:
    """Lets calls go once there are enough of them."""

    def __init__(self) -> None:
        self._here = 0
        self._complete = asyncio.Event()

    async def of(self, number: int) -> None:
        self._here += 1
        complete = self._complete
        if self._here == number:
            complete.set()
            self._here, self._complete = 0, asyncio.Event()
        await complete.wait()


# Flow.


@serving.deployment
class Flow:
    """Reads late, or writes without end."""

    def __init__(self, gate: Gate, record: Record) -> None:
        self._gate = gate
        self._record = record
        self._made = 0

    async def Gather(self, requests: AsyncIterator[Message]) -> Message:
        """Reads on when the gate opens."""
        first = await anext(requests)
        self._record.note("reads", first.text)
        await self._gate.pass_through_async()
        return probe.Reply(number=1 + len([request async for request in requests]))

    async def Many(self, request: Message) -> AsyncIterator[Message]:
        try:
            while True:
                self._made += 1
                yield reply(request)
        finally:
            self._record.note("closed", request.text)

    async def One(self, request: Message) -> Message:
        """How many were made by Many."""
        return probe.Reply(number=self._made)
