"""What a request sees of its stream: messages in, messages out, and its early end."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable

from serving.mux.session import DEFAULT_WINDOW, Part, Session, StreamCore
from serving.v1.frames_pb2 import ResetCode


class Stream(StreamCore):
    """One request and its response, on one event loop.

    At most one task reads at a time. Nobody here touches the gRPC call of the connection,
    so cancelling a task that waits here harms no other stream, nor this one.
    """

    __slots__ = ("_on_answer", "_on_early_end", "_on_over", "_readers", "_writers")

    def __init__(self, session: Session, stream_id: int) -> None:
        super().__init__(session, stream_id)
        self._readers: list[asyncio.Future[None]] = []
        self._writers: list[asyncio.Future[None]] = []
        self._on_early_end: Callable[[], object] | None = None
        self._on_over: Callable[[], object] | None = None
        self._on_answer: Callable[[], object] | None = None

    async def receive(self, max_bytes: int = DEFAULT_WINDOW) -> Part | None:
        """The next message, or None after the last. A message of more than ``max_bytes`` comes in
        several parts, all but its last with ``more`` set. What arrived before an early end is
        given first; then its :class:`StreamError` is raised. A reader that is cancelled within a
        message leaves all of it for the next."""
        part = self.session.read(self)
        while part is None:
            if self.error is not None:
                raise self.error
            if self.receive_ended:
                return None
            await _wait(self._readers)
            part = self.session.read(self)
        if not part.more:
            return part
        return await self._assemble(part, max_bytes)

    async def accepted_by_peer(self) -> None:
        """Waits until the replica has begun to work on the stream; raises its early end."""
        while not self.accepted:
            if self.error is not None:
                raise self.error
            await _wait(self._readers)

    async def over(self) -> None:
        """Replica: waits until the last frame has left, or the stream ended early."""
        while self.error is None and self.session.streams.get(self.id) is self:
            await _wait(self._readers)

    def write(self, tag: int, data: bytes | memoryview, *, end: bool = False) -> None:
        """Queues a message at once. Follow with :meth:`drain` where ``must_wait``."""
        self.session.write(self, tag, data, end=end)

    async def send(self, tag: int, data: bytes | memoryview, *, end: bool = False) -> None:
        """Queues a message and waits while too much is unsent (backpressure)."""
        self.session.write(self, tag, data, end=end)
        if self.must_wait:
            await self.drain()

    async def drain(self) -> None:
        """Waits until little enough is unsent, or the stream ended early."""
        while self.must_wait:
            await _wait(self._writers)

    def reset(self, code: ResetCode = ResetCode.CANCEL, reason: str = "") -> None:
        """Ends the stream, in both directions. Harmless where it has ended."""
        self.session.reset(self, code, reason)

    def abort(self, code: ResetCode, reason: str = "") -> None:
        """Ends the stream early, behind what was written to it."""
        self.session.abort(self, code, reason)

    def on_early_end(self, callback: Callable[[], object] | None) -> None:
        """Calls ``callback`` once if the peer resets the stream or the connection is lost; None:
        nobody wants to hear of it any more."""
        self._on_early_end = callback
        if self.error is not None and callback is not None:
            callback()

    def on_over(self, callback: Callable[[], object]) -> None:
        """Calls ``callback`` once when nothing more comes from the peer: its last frame has
        arrived, read or not, or the stream ended early."""
        if self.receive_ended:
            callback()
        else:
            self._on_over = callback

    def on_answer(self, callback: Callable[[], object]) -> None:
        """Caller: calls ``callback`` once when the first of the answer has arrived, or the stream
        ended early. It must not raise."""
        self._on_answer = callback

    # Called by the session.

    def readable(self) -> None:
        if self.receive_ended and self._on_over is not None:
            over, self._on_over = self._on_over, None
            over()
        if self._on_answer is not None and (self.inbox or self.receive_ended):
            answer, self._on_answer = self._on_answer, None
            answer()
        if self._readers:
            _wake(self._readers)

    def writable(self) -> None:
        if self._writers:
            _wake(self._writers)

    def ended_early(self) -> None:
        if self._on_early_end is not None:
            self._on_early_end()

    async def _assemble(self, first: Part, max_bytes: int) -> Part | None:
        # A BytesIO gives what it holds without a copy: a list of parts and their sum would be twice
        # the message.
        part, whole = first, io.BytesIO()
        size = whole.write(first.data)
        try:
            while part.more and size < max_bytes:
                following = self.session.read(self)
                if following is not None:
                    size += whole.write(following.data)
                    part = following
                elif self.error is not None:
                    raise self.error
                elif self.receive_ended:
                    return None  # The replica has answered: the rest is not wanted.
                else:
                    await _wait(self._readers)
        except asyncio.CancelledError:
            self.session.unread(self, Part(first.tag, whole.getvalue(), True, False))
            raise
        return Part(first.tag, whole.getvalue(), part.more, part.end)


async def _wait(waiters: list[asyncio.Future[None]]) -> None:
    waiter = asyncio.get_running_loop().create_future()
    waiters.append(waiter)
    try:
        await waiter
    finally:
        waiters.remove(waiter)


def _wake(waiters: list[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
