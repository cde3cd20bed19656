"""Results in shared memory: how long they stay there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from serving.calls import payload, shares
from serving.calls.shares import MIN_SHARED
from serving.mux import Stream
from serving.mux.testing import Connected, connected
from serving.replica.calls import CallHandler
from serving.replica.methods import Methods
from serving.v1 import call_pb2 as pb
from tests.support.mux import turn

RESULT = bytes(range(256)) * (MIN_SHARED // 256)


def give() -> bytes:
    return RESULT


@asynccontextmanager
async def called(
    *, shared_memory: bool
) -> AsyncIterator[tuple[Connected, Stream, asyncio.Task[None]]]:
    """A call that is being answered: its connection, the caller's stream, the replica's task."""
    handler = CallHandler(Methods(give, "give"))
    message = pb.Call(method="__call__")
    payload.encode(payload.dumps(((), {})), message.arguments)
    tasks: list[asyncio.Task[None]] = []

    def admit(stream: Stream) -> None:
        tasks.append(asyncio.ensure_future(answer(stream)))
        stream.on_early_end(tasks[0].cancel)

    async def answer(stream: Stream) -> None:
        part = await stream.receive()
        assert part is not None
        await handler.run(pb.Call.FromString(part.data), stream)

    async with connected(admit) as connection:
        connection.replica.session.shares_memory = shared_memory
        stream = connection.caller.open(pb.CALL, message.SerializeToString(), end=True)
        await turn()
        yield connection, stream, tasks[0]


async def test_large_result_stands_in_shared_memory_until_the_caller_has_it() -> None:
    async with called(shared_memory=True) as (_, stream, task):
        part = await stream.receive()
        assert part is not None
        message = pb.Payload.FromString(part.data)
        assert shares._Process.size > MIN_SHARED
        assert payload.loads(await payload.receive(stream, message)) == RESULT
        assert not task.done()

        stream.reset()
        await task  # It was not cancelled.
        assert shares._Process.size == 0


async def test_shared_result_is_freed_when_the_caller_is_lost() -> None:
    async with called(shared_memory=True) as (connection, stream, task):
        assert await stream.receive() is not None
        connection.call.lose("killed")

        await task
        assert shares._Process.size == 0


async def test_shared_result_is_freed_when_the_request_is_cancelled() -> None:
    async with called(shared_memory=True) as (_, stream, task):
        assert await stream.receive() is not None
        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task
        assert shares._Process.size == 0


async def test_large_result_is_sent_to_a_caller_that_shares_no_memory() -> None:
    async with called(shared_memory=False) as (_, stream, task):
        part = await stream.receive()
        assert part is not None
        message = pb.Payload.FromString(part.data)
        assert [buffer.WhichOneof("place") for buffer in message.buffers] == ["following"]
        assert payload.loads(await payload.receive(stream, message)) == RESULT
        await task
