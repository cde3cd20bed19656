"""What a request sees of its stream, over a connection in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest

from serving.mux import (
    ConnectionLost,
    ResetCode,
    Stream,
    StreamRejected,
    StreamReset,
)
from serving.mux.session import HIGH_WATER, MAX_FRAME, MIN_WINDOW, Part
from serving.mux.testing import Connected, connected
from serving.v1.frames_pb2 import DATA
from tests.support.mux import TAG, frame, turn, until


class Joined(NamedTuple):
    """A connection, and one stream on it that the caller has more to send on."""

    connection: Connected
    caller: Stream
    replica: Stream


@pytest.fixture
async def joined() -> AsyncIterator[Joined]:
    opened: list[Stream] = []

    def accept(stream: Stream) -> None:
        stream.session.accept(stream)
        opened.append(stream)

    async with connected(accept, window=MIN_WINDOW) as connection:
        caller = connection.caller.open(TAG, b"open", end=False)
        await caller.accepted_by_peer()
        assert await opened[0].receive() == Part(TAG, b"open", False, False)
        yield Joined(connection, caller, opened[0])


async def test_receive_gives_each_message_then_none(joined: Joined) -> None:
    joined.caller.write(TAG, b"first")
    joined.caller.write(TAG + 1, b"", end=True)
    assert await joined.replica.receive() == Part(TAG, b"first", False, False)
    assert await joined.replica.receive() == Part(TAG + 1, b"", False, True)
    assert await joined.replica.receive() is None


async def test_large_message_is_received_whole(joined: Joined) -> None:
    """Though it is larger than the window."""
    sent = bytes(range(256)) * (5 * MIN_WINDOW // 256)
    joined.caller.write(TAG, sent)
    joined.caller.write(TAG, b"next", end=True)
    assert await joined.replica.receive() == Part(TAG, sent, False, False)
    assert await joined.replica.receive() == Part(TAG, b"next", False, True)


async def test_message_above_the_limit_is_received_in_parts(joined: Joined) -> None:
    joined.caller.write(TAG, bytes(5 * MAX_FRAME), end=True)
    parts = []
    while (part := await joined.replica.receive(max_bytes=2 * MAX_FRAME)) is not None:
        parts.append(part)
    assert [len(part.data) for part in parts] == [2 * MAX_FRAME, 2 * MAX_FRAME, MAX_FRAME]
    assert [part.more for part in parts] == [True, True, False]
    assert [part.end for part in parts] == [False, False, True]


async def test_send_waits_for_a_slow_reader_and_goes_on(joined: Joined) -> None:
    sending = asyncio.ensure_future(joined.replica.send(TAG, bytes(3 * MIN_WINDOW), end=True))
    await turn()
    assert not sending.done()
    assert joined.replica.unsent > HIGH_WATER

    part = await joined.caller.receive()
    await sending
    assert part == Part(TAG, bytes(3 * MIN_WINDOW), False, True)


async def test_send_of_little_does_not_wait(joined: Joined) -> None:
    sending = joined.caller.send(TAG, bytes(HIGH_WATER // 2))
    with pytest.raises(StopIteration):
        sending.send(None)


async def test_several_writers_wait_and_all_go_on(joined: Joined) -> None:
    """As tasks that broadcast to one WebSocket."""
    sending = [
        asyncio.ensure_future(joined.replica.send(TAG, bytes(2 * MIN_WINDOW))) for _ in range(3)
    ]
    for _ in sending:
        await joined.caller.receive()
    await asyncio.gather(*sending)


ENDINGS = {
    "reset by the peer": StreamReset,
    "reset here": StreamReset,
    "connection lost": ConnectionLost,
}


async def end_early(joined: Joined, how: str) -> None:
    if how == "reset by the peer":
        joined.replica.reset(ResetCode.TIMEOUT, "over")
        await until(lambda: joined.caller.error)
    elif how == "reset here":
        joined.caller.reset()
    else:
        joined.connection.call.lose()
        await until(lambda: joined.caller.error)


@pytest.mark.parametrize("how", ENDINGS)
async def test_early_end_wakes_the_reader(joined: Joined, how: str) -> None:
    reading = asyncio.ensure_future(joined.caller.receive())
    await turn()
    await end_early(joined, how)
    with pytest.raises(ENDINGS[how]):
        await reading
    with pytest.raises(ENDINGS[how]):
        await joined.caller.receive()


@pytest.mark.parametrize("how", ENDINGS)
async def test_early_end_wakes_the_reader_within_a_message(joined: Joined, how: str) -> None:
    joined.caller.session.receive([frame(DATA, joined.caller.id, data=b"half", more=True)])
    reading = asyncio.ensure_future(joined.caller.receive(max_bytes=2**31))
    await turn()
    await end_early(joined, how)
    with pytest.raises(ENDINGS[how]):
        await reading


@pytest.mark.parametrize("how", ENDINGS)
async def test_early_end_wakes_the_writer(joined: Joined, how: str) -> None:
    writing = asyncio.ensure_future(joined.caller.send(TAG, bytes(3 * MIN_WINDOW)))
    await turn()
    assert not writing.done()
    await end_early(joined, how)
    await writing
    await joined.caller.send(TAG, bytes(3 * MIN_WINDOW))  # Dropped: there is nobody to read it.


@pytest.mark.parametrize("how", ENDINGS)
async def test_early_end_wakes_who_waits_for_the_replica(how: str) -> None:
    opened: list[Stream] = []
    async with connected(opened.append) as connection:
        caller = connection.caller.open(TAG, b"", end=False)
        await until(lambda: opened)
        waiting = asyncio.ensure_future(caller.accepted_by_peer())
        await turn()
        await end_early(Joined(connection, caller, opened[0]), how)
        with pytest.raises(ENDINGS[how]):
            await waiting


async def test_replicas_end_wakes_its_own_reader(joined: Joined) -> None:
    """What the caller still has to send is not wanted any more, finished or not."""
    joined.caller.write(TAG, bytes(3 * MIN_WINDOW))
    await turn()
    reading = asyncio.ensure_future(joined.replica.receive(max_bytes=2**31))
    over = asyncio.ensure_future(joined.replica.over())
    joined.replica.write(TAG, b"enough", end=True)
    await over
    assert await joined.caller.receive() == Part(TAG, b"enough", False, True)
    assert await reading is None
    assert await joined.replica.receive() is None


@pytest.mark.parametrize("how", ["ended", "reset", "lost"])
async def test_over_waits_for_the_last_frame_or_the_early_end(joined: Joined, how: str) -> None:
    joined.replica.write(TAG, bytes(3 * MIN_WINDOW), end=True)
    over = asyncio.ensure_future(joined.replica.over())
    await turn()
    assert not over.done()
    if how == "ended":
        await joined.caller.receive()
    elif how == "reset":
        joined.caller.reset()
    else:
        joined.connection.call.lose()
    await over


async def test_rejected_stream_raises_where_it_is_awaited() -> None:
    async with connected(lambda stream: stream.session.reject(stream)) as connection:
        caller = connection.caller.open(TAG, b"", end=True)
        with pytest.raises(StreamRejected):
            await caller.receive()


async def test_early_end_is_told_once_whether_it_came_before_or_after(joined: Joined) -> None:
    told: list[str] = []
    joined.caller.on_early_end(lambda: told.append("before"))
    joined.replica.reset()
    await until(lambda: joined.caller.error)
    assert told == ["before"]
    joined.caller.on_early_end(lambda: told.append("after"))
    assert told == ["before", "after"]
    joined.connection.call.lose()
    await turn()
    assert told == ["before", "after"]


async def test_good_end_is_no_early_end(joined: Joined) -> None:
    told: list[str] = []
    joined.caller.on_early_end(lambda: told.append("caller"))
    joined.replica.on_early_end(lambda: told.append("replica"))
    joined.replica.write(TAG, b"", end=True)
    await joined.caller.receive()
    joined.connection.call.lose()
    await turn()
    assert told == []


async def test_message_written_just_before_abort_is_received(joined: Joined) -> None:
    joined.replica.write(TAG, b"last words")
    joined.replica.abort(ResetCode.INTERNAL_ERROR, "broke")
    assert await joined.caller.receive() == Part(TAG, b"last words", False, False)
    with pytest.raises(StreamReset, match="broke"):
        await joined.caller.receive()
