"""Python values on a stream: a pickle, and its large buffers beside it.

A value's buffers (the data of arrays, say) are pickled out of band, so that they are copied once
into frames and once out of them. What was received is writable, as what was sent was.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from serving import code, memory
from serving.calls import shares
from serving.code import loading
from serving.exceptions import CodeNotPortableError
from serving.mux.stream import Stream
from serving.v1 import call_pb2 as pb

Buffer = bytes | bytearray | memoryview

MAX_PICKLE = 32 * 1024
"""A pickle of more bytes follows the message, rather than being in it."""
MAX_INLINE = 16 * 1024
"""A buffer of as many bytes follows the message."""
MAX_INLINE_TOTAL = 24 * 1024
"""Bytes of buffers within a message, at most: with its pickle it still fits into one frame."""


class Unresolved(Exception):
    """Raised by a `__reduce__`: the object, which the message names, stands for a value that must
    be awaited first."""

    def __init__(self, name: str, *, streams: bool = False) -> None:
        super().__init__(name)
        self.streams = streams
        """It stands for several values, rather."""


def dumps(value: object) -> list[Buffer]:
    """The pickle of a value, and its out-of-band buffers, which are views of the value's own.

    Raises CodeNotPortableError, and Unresolved where the pickling met that.
    """
    buffers: list[Buffer] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        try:
            buffers.append(buffer.raw())
        except BufferError:
            return True  # Not contiguous: pickle says what is to be done about it.
        return False

    try:
        data = pickle.dumps(value, protocol=5, buffer_callback=keep)
        if b"__main__" not in data:
            return [data, *buffers]
    except Unresolved:
        raise
    except Exception:  # whatever a `__reduce__` raises: the other pickler says what is wrong
        culprit = code.unportable.in_call(value)
        if culprit is not None:
            raise code.refuse(value, culprit) from None
    buffers.clear()
    return [_dumps_code(value, keep), *buffers]


def capture(value: object) -> list[Buffer]:
    """As `dumps`, with copies of the value's buffers: it may be changed from now on."""
    buffers = dumps(value)
    if len(buffers) > 1:
        buffers[1:] = [memory.copy(memoryview(view)) for view in buffers[1:]]
    return buffers


def loads(buffers: Sequence[Any]) -> Any:
    """The value of what `dumps` gave. Only for data from a trusted process: loading runs code."""
    return loading.loads(buffers[0], buffers[1:])


def encode(buffers: Sequence[Buffer], message: pb.Payload) -> list[memoryview]:
    """Fills the message that announces a value; gives what is to follow it on the stream."""
    if len(buffers[0]) <= MAX_PICKLE:
        message.pickled = bytes(buffers[0])
        if len(buffers) == 1:
            return []
        buffers = buffers[1:]
    following: list[memoryview] = []
    room = MAX_INLINE_TOTAL
    for buffer in buffers:
        view = memoryview(buffer).cast("B")
        size = len(view)
        if size < MAX_INLINE and size <= room:
            room -= size
            message.buffers.add(inline=bytes(view))
        else:
            message.buffers.add(following=size)
            following.append(view)
    return following


def share(
    message: pb.Payload, following: Sequence[memoryview], places: Mapping[int, pb.SharedMemory]
) -> list[memoryview]:
    """Says in the message which of what would follow, by its index, stands in shared memory; gives
    the rest, which still follows."""
    announced = (buffer for buffer in message.buffers if buffer.WhichOneof("place") == "following")
    rest = []
    for index, (buffer, view) in enumerate(zip(announced, following, strict=True)):
        if index in places:
            buffer.shared.CopyFrom(places[index])
        else:
            rest.append(view)
    return rest


async def send_following(stream: Stream, following: Sequence[memoryview], *, end: bool) -> None:
    """Sends what follows a message. Afterwards the buffers may be changed."""
    for number, view in enumerate(following, 1):
        await stream.send(pb.BUFFER, view, end=end and number == len(following))
    stream.session.detach(stream)


async def receive(stream: Stream, message: pb.Payload) -> list[Any]:
    """The buffers of a value, for `loads`, with those that follow the message on the stream, or
    that stand in shared memory.

    Raises ValueError where they are not as announced, OSError where memory cannot be read.
    """
    buffers: list[Any] = [message.pickled] if message.pickled else []
    for buffer in message.buffers:
        place = buffer.WhichOneof("place")
        if place == "inline":
            buffers.append(bytearray(buffer.inline))
        elif place == "following":
            buffers.append(await _receive_buffer(stream, buffer.following))
        elif place == "shared":
            buffers.append(await shares.read(buffer.shared))
        else:
            raise ValueError(f"a buffer is in a place that is not known here: {place}")
    if not buffers:
        raise ValueError("a value without its pickle")
    return buffers


async def _receive_buffer(stream: Stream, size: int) -> bytearray | memoryview:
    if size > sys.maxsize:
        raise ValueError(f"a buffer of {size} bytes was announced")
    buffer = memory.allocate(size)
    filled = 0
    more = True
    while more:
        part = await stream.receive(max_bytes=1)
        if part is None:
            raise ValueError(f"the stream ended within a buffer: {filled} of {size} bytes came")
        if part.tag != pb.BUFFER:
            raise ValueError(f"a message of kind {part.tag} where a buffer was announced")
        after = filled + len(part.data)
        if after > size:
            raise ValueError(f"a buffer is larger than the {size} bytes that were announced")
        buffer[filled:after] = part.data
        filled = after
        more = part.more
    if filled != size:
        raise ValueError(f"a buffer has {filled} bytes, not the {size} that were announced")
    return buffer


def _dumps_code(value: object, buffer_callback: Callable[[pickle.PickleBuffer], object]) -> bytes:
    try:
        return code.dumps(value, buffer_callback=buffer_callback)
    except CodeNotPortableError as error:
        if isinstance(error.__cause__, Unresolved):
            raise error.__cause__ from None
        raise
