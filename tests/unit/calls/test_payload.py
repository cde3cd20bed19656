"""Python values on a stream."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest

from serving.calls import payload
from serving.calls.shares import MIN_SHARED, Shares
from serving.mux import Stream
from serving.mux.testing import connected
from serving.v1 import call_pb2 as pb


class Block:
    """A value with an out-of-band buffer, as an array is."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Block, (pickle.PickleBuffer(self.data),)


class Pending:
    def __reduce__(self) -> Any:
        raise payload.Unresolved("await me")


async def through_stream(value: Any) -> Any:
    opened: asyncio.Queue[Stream] = asyncio.Queue()

    def accept(stream: Stream) -> None:
        stream.session.accept(stream)
        opened.put_nowait(stream)

    async with connected(accept) as connection:
        message = pb.Payload()
        following = payload.encode(payload.dumps(value), message)
        caller = connection.caller.open(pb.CALL, message.SerializeToString(), end=not following)
        replica = await opened.get()
        sending = asyncio.ensure_future(payload.send_following(caller, following, end=True))
        if not following:
            sending.cancel()
        first = await replica.receive()
        assert first is not None
        buffers = await payload.receive(replica, pb.Payload.FromString(first.data))
        await asyncio.gather(sending, return_exceptions=True)
        return payload.loads(buffers)


@pytest.mark.parametrize("size", [0, 1, 16 * 1024, 64 * 1024, 64 * 1024 + 1, 20_000_000])
async def test_buffers_arrive_whole_and_writable(size: int) -> None:
    data = bytearray(i % 251 for i in range(251)) * (size // 251 + 1)
    del data[size:]
    got = await through_stream([Block(data), {"b": Block(data)}])
    assert got[0].data == data
    assert got[1]["b"].data == data
    assert not memoryview(got[0].data).readonly


@pytest.mark.parametrize("size", [10, 100_000])
async def test_plain_values(size: int) -> None:
    value = ((b"x" * size,), {"k": ["y" * size]})
    assert await through_stream(value) == value


async def test_local_classes_go_by_value() -> None:
    class Local:
        word = "here"

    assert (await through_stream(Local())).word == "here"


async def test_arrays_of_what_goes_by_value_stay_out_of_its_pickle() -> None:
    class Local:
        def __init__(self) -> None:
            self.block = Block(bytearray(100_000))

    data, view = payload.dumps(Local())
    assert len(data) < 10_000
    assert len(view) == 100_000
    got = await through_stream(Local())
    assert got.block.data == bytes(100_000)
    assert not memoryview(got.block.data).readonly


def test_captured_value_is_what_it_was() -> None:
    block = Block(bytearray(b"before" * 1000))
    data, view = payload.capture([block])
    block.data[:6] = b"after!"

    assert bytes(view[:6]) == b"before"


async def test_shared_buffers_are_found_where_they_stand() -> None:
    large, small, pickled = bytearray(b"x" * MIN_SHARED), bytearray(100), b"z" * MIN_SHARED
    message = pb.Payload()
    following = payload.encode(payload.dumps([Block(large), Block(small), pickled]), message)
    with Shares() as shares:
        await shares.place(following)
        assert payload.share(message, following, shares.places) == []
        assert message.ByteSize() < 1000
        async with connected() as connection:
            stream = connection.caller.open(pb.CALL, b"", end=True)
            got = payload.loads(await payload.receive(stream, message))
    assert got[0].data == large
    assert got[1].data == small
    assert got[2] == pickled
    got[0].data[0] = 1


def test_what_is_not_shared_still_follows() -> None:
    message = pb.Payload()
    following = payload.encode(payload.dumps([Block(bytes(20_000 + n)) for n in range(3)]), message)

    rest = payload.share(message, following, {1: pb.SharedMemory(size=20_001)})
    assert [len(view) for view in rest] == [20_000, 20_002]
    assert [buffer.WhichOneof("place") for buffer in message.buffers] == [
        "following",
        "shared",
        "following",
    ]


async def test_shared_memory_that_is_gone_is_an_error() -> None:
    place = pb.SharedMemory(pid=2**31, fd=1, size=MIN_SHARED, inode=1)
    message = pb.Payload(pickled=b"x", buffers=[pb.Buffer(shared=place)])
    async with connected() as connection:
        stream = connection.caller.open(pb.CALL, b"", end=True)
        with pytest.raises(OSError, match="No such file"):
            await payload.receive(stream, message)


async def test_arrays() -> None:
    numpy = pytest.importorskip("numpy")
    got = await through_stream(numpy.arange(100_000))
    assert (got == numpy.arange(100_000)).all()
    got[0] = 5


def test_an_unresolved_value_comes_through() -> None:
    with pytest.raises(payload.Unresolved, match="await me"):
        payload.dumps([Pending()])
    with pytest.raises(payload.Unresolved, match="await me"):
        payload.dumps([lambda: None, Pending()])


def test_many_small_buffers_do_not_make_a_large_message() -> None:
    message = pb.Payload()
    following = payload.encode(payload.dumps([Block(bytes(10_000)) for _ in range(50)]), message)
    assert message.ByteSize() < 64 * 1024
    assert len(following) == 48


@pytest.mark.parametrize(
    ("announced", "sent", "fault"), [(5, b"1234", "has 4"), (3, b"1234", "larger")]
)
async def test_a_wrong_size_is_an_error(announced: int, sent: bytes, fault: str) -> None:
    opened: asyncio.Queue[Stream] = asyncio.Queue()
    message = pb.Payload(pickled=b"x", buffers=[pb.Buffer(following=announced)])
    async with connected(opened.put_nowait) as connection:
        connection.caller.open(pb.BUFFER, sent, end=True)
        with pytest.raises(ValueError, match=fault):
            await payload.receive(await opened.get(), message)


async def test_the_end_of_the_stream_or_another_message_is_an_error() -> None:
    opened: asyncio.Queue[Stream] = asyncio.Queue()
    message = pb.Payload(pickled=b"x", buffers=[pb.Buffer(following=3)])
    async with connected(opened.put_nowait) as connection:
        connection.caller.open(pb.CALL, b"abc", end=True)
        stream = await opened.get()
        with pytest.raises(ValueError, match="of kind"):
            await payload.receive(stream, message)
        with pytest.raises(ValueError, match="ended"):
            await payload.receive(stream, message)
