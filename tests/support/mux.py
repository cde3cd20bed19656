"""Builders for the tests of the transport's rules."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from serving.mux.session import Part, Session, StreamCore
from serving.mux.testing import SessionPair, taken
from serving.v1.frames_pb2 import Frame, FrameType

TAG = 7


class Recorded(StreamCore):
    """A stream that writes down what it is told."""

    def __init__(self, session: Session, stream_id: int) -> None:
        super().__init__(session, stream_id)
        self.told: list[str] = []

    def readable(self) -> None:
        self.told.append("readable")

    def writable(self) -> None:
        self.told.append("writable")

    def ended_early(self) -> None:
        self.told.append("ended early")


def told(stream: StreamCore) -> list[str]:
    """What a recorded stream was told."""
    assert isinstance(stream, Recorded)
    return stream.told


def open_stream(
    pair: SessionPair, data: bytes = b"", *, end: bool = False
) -> tuple[StreamCore, StreamCore]:
    """A stream that both ends know: the caller's, the replica's."""
    stream = pair.caller.open(TAG, data, end=end)
    pair.exchange()
    return stream, pair.replica.streams[stream.id]


def read_all(stream: StreamCore) -> list[Part]:
    """All parts that have arrived."""
    return list(iter(lambda: stream.session.read(stream), None))


def messages(parts: Iterable[Part]) -> list[bytes]:
    """Whole messages, out of their parts."""
    whole = [b""]
    for part in parts:
        whole[-1] += part.data
        if not part.more:
            whole.append(b"")
    assert whole.pop() == b""
    return whole


def frame(kind: FrameType, stream_id: int = 1, **fields: Any) -> Frame:
    return Frame(stream_id=stream_id, type=kind, **fields)


def kinds(frames: Iterable[Frame]) -> list[str]:
    """The names of the frames' types."""
    return [FrameType.Name(each.type) for each in frames]


def assert_nothing_left(pair: SessionPair) -> None:
    """No stream, and no frame that waits, on either end."""
    pair.exchange()
    for session in (pair.caller, pair.replica):
        assert not session.streams
        assert not taken(session)
        assert not session._ready


async def until(condition: Callable[[], object], turns: int = 1000) -> None:
    """Lets the event loop turn until ``condition`` holds: in memory nothing takes longer."""
    for _ in range(turns):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came true")


async def turn(times: int = 20) -> None:
    """Lets the event loop turn, where nothing is expected to happen."""
    for _ in range(times):
        await asyncio.sleep(0)
