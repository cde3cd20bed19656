"""The two tasks that carry a session's frames, over a call in memory."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

from serving.mux import (
    CallerConnection,
    ConnectionLost,
    ProtocolError,
    ReplicaConnection,
    Stream,
    StreamRefused,
    StreamRejected,
)
from serving.mux.testing import MemoryCall, connected, memory_calls
from serving.v1.frames_pb2 import DATA, GOAWAY, OPEN, RESET, ClientFrames, ServerFrames
from tests.support.mux import TAG, frame, kinds, turn, until


async def test_caller_hears_the_load_with_every_message() -> None:
    heard: list[int] = []
    loads = iter((3, 4, 5))
    caller_call, replica_call = memory_calls()
    caller = CallerConnection(caller_call, on_load=heard.append)
    replica = ReplicaConnection(
        replica_call, lambda stream: stream.write(TAG, b"", end=True), ongoing=lambda: next(loads)
    )
    tasks = [asyncio.ensure_future(end.run()) for end in (caller, replica)]
    await caller.ready.wait()
    assert heard == [3]
    await caller.open(TAG, b"", end=True).receive()
    assert heard == [3, 4]
    replica.push_load()
    await until(lambda: heard == [3, 4, 5])
    caller_call.cancel()
    await asyncio.gather(*tasks)
    assert not caller.ready.is_set()


async def test_news_of_a_free_slot_does_not_travel_with_the_reject_that_it_undoes() -> None:
    """The caller learns of the rejection after it has heard the load of the same message: it
    would take the replica for full, and hear nothing more."""
    caller_call, replica_call = memory_calls()
    ongoing = 1

    def reject(stream: Stream) -> None:
        nonlocal ongoing
        stream.session.reject(stream)
        ongoing = 0  # The slot frees in the same turn.
        replica.push_load()

    replica = ReplicaConnection(replica_call, reject, ongoing=lambda: ongoing)
    running = asyncio.ensure_future(replica.run())
    await caller_call.read()
    await caller_call.write(ClientFrames(frames=[frame(OPEN, 1, end_stream=True)]))
    first = await caller_call.read()
    second = await caller_call.read()
    assert kinds(first.frames) == ["REJECT"]
    assert kinds(second.frames) == []
    assert second.ongoing == 0
    caller_call.cancel()
    await running


async def test_news_of_a_free_slot_is_told_though_another_caller_was_faster() -> None:
    """Else a caller that was turned away could wait for ever: nobody turns it away again."""
    caller_call, replica_call = memory_calls()
    ongoing = 0
    replica = ReplicaConnection(replica_call, lambda stream: None, ongoing=lambda: ongoing)
    running = asyncio.ensure_future(replica.run())
    await caller_call.read()
    replica.push_load()
    ongoing = 1
    assert (await caller_call.read()).ongoing == 0
    caller_call.cancel()
    await running


async def test_all_that_is_queued_in_one_turn_travels_in_one_message() -> None:
    caller_call, replica_call = memory_calls()
    caller = CallerConnection(caller_call)
    running = asyncio.ensure_future(caller.run())
    for _ in range(50):
        caller.open(TAG, b"hello", end=True)
    message = await replica_call.read()
    assert len(message.frames) == 50
    replica_call.cancel()
    await running


async def test_lost_call_fails_every_stream_with_what_grpc_said() -> None:
    """And whether it can have been started: not where it waited behind a message that gRPC could
    not take yet."""
    caller_call, _ = memory_calls()
    caller = CallerConnection(caller_call)
    running = asyncio.ensure_future(caller.run())
    streams = []
    for _ in range(4):
        streams.append(caller.open(TAG, b"", end=True))
        await turn()
    caller_call.lose("the peer died")
    sent = []
    for stream in streams:
        with pytest.raises(ConnectionLost, match="UNAVAILABLE: the peer died") as caught:
            await stream.receive()
        sent.append(caught.value.sent)
    assert sent == [True, True, False, False]
    await asyncio.wait((running,))
    assert isinstance(running.exception(), grpc.RpcError)


async def test_run_raises_what_ended_the_call() -> None:
    caller_call, _ = memory_calls()
    caller = CallerConnection(caller_call)
    running = asyncio.ensure_future(caller.run())
    await turn()
    caller_call.lose("the peer died")
    with pytest.raises(grpc.RpcError, match="the peer died"):
        await running


async def test_end_of_the_call_is_told_by_the_reader_though_the_writer_meets_it_first() -> None:
    """gRPC lets a write fail with a mere "already finished" before the read tells the reason."""

    class Finished(MemoryCall):
        """The status has come, and the loop has not yet come to the reader."""

        async def write(self, message: ClientFrames | ServerFrames) -> None:
            asyncio.get_running_loop().call_later(0.001, self.lose, "the peer died")
            raise asyncio.InvalidStateError("RPC already finished")

    ends = memory_calls()
    caller = CallerConnection(Finished(ends[0]._incoming, ends[0]._outgoing))
    stream = caller.open(TAG, b"", end=True)
    with pytest.raises(grpc.RpcError, match="the peer died"):
        await caller.run()
    with pytest.raises(ConnectionLost, match="the peer died"):
        await stream.receive()


async def test_orderly_end_of_the_replica_ends_run_quietly() -> None:
    caller_call, replica_call = memory_calls()
    caller = CallerConnection(caller_call)
    running = asyncio.ensure_future(caller.run())
    stream = caller.open(TAG, b"", end=True)
    await turn()
    replica_call.cancel()
    await running
    with pytest.raises(ConnectionLost):
        await stream.receive()


async def test_breach_of_the_rules_ends_the_callers_connection_with_its_reason() -> None:
    caller_call, replica_call = memory_calls()
    caller = CallerConnection(caller_call)
    running = asyncio.ensure_future(caller.run())
    stream = caller.open(TAG, b"", end=True)
    await replica_call.read()
    await replica_call.write(ServerFrames(frames=[frame(OPEN, 1)]))
    with pytest.raises(ProtocolError, match="from a replica"):
        await running
    with pytest.raises(ConnectionLost, match="protocol error: OPEN of stream 1 from a replica"):
        await stream.receive()
    assert await replica_call.read() is grpc.aio.EOF


async def test_breach_of_the_rules_ends_the_replicas_connection_and_its_streams() -> None:
    opened: list[Stream] = []
    caller_call, replica_call = memory_calls()
    replica = ReplicaConnection(replica_call, opened.append)
    running = asyncio.ensure_future(replica.run())
    await caller_call.write(ClientFrames(frames=[frame(OPEN, 1), frame(DATA, 7)]))
    with pytest.raises(ProtocolError, match="never opened"):
        await running
    assert isinstance(opened[0].error, ConnectionLost)


async def test_goaway_ends_an_idle_connection() -> None:
    caller_call, replica_call = memory_calls()
    replica = ReplicaConnection(replica_call, lambda stream: None)
    running = asyncio.ensure_future(replica.run())
    await caller_call.read()
    replica.goaway("draining")
    (goaway,) = (await caller_call.read()).frames
    assert (goaway.type, goaway.reason) == (GOAWAY, "draining")
    await running


@pytest.mark.parametrize("ending", ["answered", "reset by the caller", "reset by the replica"])
async def test_goaway_ends_the_connection_after_its_last_stream(ending: str) -> None:
    opened: list[Stream] = []
    caller_call, replica_call = memory_calls()
    replica = ReplicaConnection(replica_call, opened.append)
    running = asyncio.ensure_future(replica.run())
    await caller_call.read()
    await caller_call.write(ClientFrames(frames=[frame(OPEN, 1, end_stream=True)]))
    await until(lambda: opened)
    replica.goaway()
    await caller_call.read()
    await turn()
    assert not running.done()

    if ending == "answered":
        opened[0].write(TAG, b"done", end=True)
        assert kinds((await caller_call.read()).frames) == ["DATA"]
    elif ending == "reset by the replica":
        opened[0].reset()
        assert kinds((await caller_call.read()).frames) == ["RESET"]
    else:
        await caller_call.write(ClientFrames(frames=[frame(RESET, 1)]))
    await running


async def test_caller_of_a_draining_replica_is_refused() -> None:
    async with connected() as connection:
        connection.replica.goaway("draining")
        racing = connection.caller.open(TAG, b"", end=True)
        with pytest.raises(StreamRefused, match="draining"):
            await racing.receive()
        with pytest.raises((StreamRefused, ConnectionLost)):
            connection.caller.open(TAG, b"", end=True)


async def test_rejected_stream_leaves_the_connection_as_it_was() -> None:
    answers: list[Any] = [
        lambda stream: stream.session.reject(stream),
        lambda stream: stream.write(TAG, b"", end=True),
    ]
    async with connected(lambda stream: answers.pop(0)(stream)) as connection:
        with pytest.raises(StreamRejected):
            await connection.caller.open(TAG, b"", end=True).receive()
        assert await connection.caller.open(TAG, b"", end=True).receive()


async def test_call_in_memory_is_as_strict_as_grpcs() -> None:
    caller_call, replica_call = memory_calls()
    first = asyncio.ensure_future(caller_call.read())
    await turn()
    with pytest.raises(AssertionError, match="two tasks read at once"):
        await caller_call.read()
    first.cancel()
    await asyncio.wait((first,))
    assert await replica_call.read() is grpc.aio.EOF
    with pytest.raises(asyncio.InvalidStateError):
        await caller_call.write(ClientFrames())
