"""Tasks that are cancelled wherever they wait: no task, waiter, stream or byte is left or lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from serving.mux import CallerConnection, ConnectionLost, ReplicaConnection, Stream
from serving.mux.session import MIN_WINDOW, Part
from serving.mux.testing import Connected, connected, memory_calls
from serving.v1.frames_pb2 import DATA
from tests.support.mux import TAG, frame, turn, until


class Replica:
    """A replica's end that accepts what it is told to, and keeps its streams."""

    def __init__(self) -> None:
        self.accepting = True
        self.opened: list[Stream] = []

    def on_open(self, stream: Stream) -> None:
        self.opened.append(stream)
        if self.accepting:
            stream.session.accept(stream)


@pytest.fixture
def replica() -> Replica:
    return Replica()


@pytest.fixture
async def connection(replica: Replica) -> AsyncIterator[Connected]:
    async with connected(replica.on_open, window=MIN_WINDOW) as connection:
        yield connection
        await until(lambda: not connection.caller.session.streams)
        await until(lambda: not connection.replica.session.streams)


async def cancel_waiting(work: Awaitable[object]) -> None:
    """Starts ``work``, sees that it waits, cancels it."""
    task = asyncio.ensure_future(work)
    await turn()
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def opened(connection: Connected, replica: Replica) -> tuple[Stream, Stream]:
    caller = connection.caller.open(TAG, b"", end=False)
    await until(lambda: replica.opened)
    await replica.opened[-1].receive()
    return caller, replica.opened[-1]


def assert_nobody_waits(stream: Stream) -> None:
    assert stream._readers == []
    assert stream._writers == []


WAITS: dict[str, Callable[[Stream], Awaitable[object]]] = {
    "receive": lambda stream: stream.receive(),
    "send": lambda stream: stream.send(TAG, bytes(5 * MIN_WINDOW)),
    "over": lambda stream: stream.over(),
}


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("end", ["caller", "replica"])
async def test_stream_goes_on_after_a_wait_was_cancelled(
    connection: Connected, replica: Replica, end: str, wait: str
) -> None:
    caller, theirs = await opened(connection, replica)
    mine, other = (caller, theirs) if end == "caller" else (theirs, caller)
    await cancel_waiting(WAITS[wait](mine))
    assert_nobody_waits(mine)

    if wait == "send":  # The message had been queued, and comes whole.
        assert await other.receive(2**31) == Part(TAG, bytes(5 * MIN_WINDOW), False, False)
    other.write(TAG, b"still there")
    assert await mine.receive() == Part(TAG, b"still there", False, False)
    theirs.write(TAG, b"", end=True)
    assert await caller.receive() == Part(TAG, b"", False, True)


async def test_reader_cancelled_within_a_message_leaves_it_whole(
    connection: Connected, replica: Replica
) -> None:
    caller, _ = await opened(connection, replica)
    message = bytes(range(256)) * 3
    for start in (0, 256, 512):  # A frame a turn.
        if start:
            await cancel_waiting(caller.receive())
        chunk = message[start : start + 256]
        caller.session.receive([frame(DATA, caller.id, tag=TAG, data=chunk, more=start < 512)])
    assert await caller.receive() == Part(TAG, message, False, False)
    caller.reset()


async def test_cancelled_readers_do_not_widen_the_window(
    connection: Connected, replica: Replica
) -> None:
    caller, theirs = await opened(connection, replica)
    for _ in range(5):
        sending = asyncio.ensure_future(caller.send(TAG, bytes(2 * MIN_WINDOW)))
        await turn()
        reading = asyncio.ensure_future(theirs.receive())
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait((reading,))
        assert await theirs.receive() is not None
        await sending
    await turn()
    assert theirs.granted + theirs.owed == MIN_WINDOW
    caller.reset()


async def test_waiting_for_a_replica_to_accept_can_be_cancelled(
    connection: Connected, replica: Replica
) -> None:
    replica.accepting = False
    caller = connection.caller.open(TAG, b"", end=False)
    await cancel_waiting(caller.accepted_by_peer())
    assert_nobody_waits(caller)
    caller.reset()


@pytest.mark.parametrize("wait", [*WAITS, "accepted"])
async def test_cancelled_request_resets_its_stream_and_no_other(
    connection: Connected, replica: Replica, wait: str
) -> None:
    """As a request's task does that is cancelled: its stream ends on both ends at once."""
    replica.accepting = wait != "accepted"

    async def request() -> None:
        stream = connection.caller.open(TAG, b"", end=False)
        try:
            await (stream.accepted_by_peer() if wait == "accepted" else WAITS[wait](stream))
        finally:
            stream.reset()

    await cancel_waiting(request())
    await until(lambda: replica.opened and replica.opened[0].error)
    replica.accepting = True
    replica.opened.clear()
    caller, theirs = await opened(connection, replica)
    theirs.write(TAG, b"unharmed", end=True)
    assert await caller.receive() == Part(TAG, b"unharmed", False, True)


async def test_request_cancelled_before_the_loop_turned_is_never_sent(
    connection: Connected, replica: Replica
) -> None:
    connection.caller.open(TAG, b"", end=True).reset()
    await turn()
    assert replica.opened == []


@pytest.mark.parametrize("end", ["caller", "replica"])
async def test_connection_that_is_cancelled_ends_its_streams(end: str) -> None:
    replica = Replica()
    calls = memory_calls()
    caller = CallerConnection(calls[0])
    theirs = ReplicaConnection(calls[1], replica.on_open)
    tasks = {
        "caller": asyncio.ensure_future(caller.run()),
        "replica": asyncio.ensure_future(theirs.run()),
    }
    stream = caller.open(TAG, b"", end=False)
    reading = asyncio.ensure_future(stream.receive())
    await until(lambda: replica.opened)
    await cancel_waiting(tasks[end])
    with pytest.raises(ConnectionLost):
        await reading
    await asyncio.wait(tasks.values())
    assert isinstance(replica.opened[0].error, ConnectionLost)
    assert not caller.session.streams
    assert not theirs.session.streams


async def test_connection_that_is_cancelled_before_it_stands_leaves_nothing() -> None:
    caller_call, _ = memory_calls()
    caller = CallerConnection(caller_call)
    stream = caller.open(TAG, b"", end=True)
    await cancel_waiting(caller.run())
    with pytest.raises(ConnectionLost):
        await stream.receive()
