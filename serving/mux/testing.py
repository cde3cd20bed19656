"""Connections without a network, for tests of what stands on them.

:class:`SessionPair` joins two sessions and moves frames only when told to; :func:`connected` joins
two connections on the running event loop. Frames are serialized on their way, as on the wire.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple

import grpc
import grpc.aio

from serving.mux.connection import CallerConnection, ReplicaConnection
from serving.mux.session import DEFAULT_WINDOW, MAX_BATCH, Session, StreamCore
from serving.mux.stream import Stream
from serving.v1.frames_pb2 import ClientFrames, Frame, ServerFrames


def taken(session: Session, max_bytes: int = MAX_BATCH) -> list[Frame]:
    """The next batch of a session's frames."""
    message = ClientFrames()
    session.take(message.frames, max_bytes)
    return list(message.frames)


class SessionPair:
    """A caller's and a replica's session, and the frames that are under way between them."""

    def __init__(
        self,
        *,
        window: int = DEFAULT_WINDOW,
        on_open: Callable[[StreamCore], None] | None = None,
        make_stream: Callable[[Session, int], StreamCore] = StreamCore,
    ) -> None:
        """Streams are accepted as they open, unless ``on_open`` is given."""
        self.caller = Session(window=window, make_stream=make_stream)
        self.replica = Session(
            window=window, make_stream=make_stream, on_open=on_open or self._accept
        )
        self._under_way: dict[Session, deque[bytes]] = {self.caller: deque(), self.replica: deque()}

    def send(self, sender: Session, max_bytes: int = MAX_BATCH) -> list[Frame]:
        """Puts the next batch of ``sender`` on the wire, and shows it."""
        frames = taken(sender, max_bytes)
        peer = self.replica if sender is self.caller else self.caller
        self._under_way[peer] += [frame.SerializeToString() for frame in frames]
        return frames

    def deliver(self, receiver: Session, count: int | None = None) -> None:
        """Hands the next ``count`` frames that are under way to ``receiver``; all by default."""
        wire = self._under_way[receiver]
        count = len(wire) if count is None else min(count, len(wire))
        receiver.receive([Frame.FromString(wire.popleft()) for _ in range(count)])

    def exchange(self) -> None:
        """Sends and delivers until both ends have nothing more to say."""
        while self.send(self.caller) or self.send(self.replica) or any(self._under_way.values()):
            self.deliver(self.replica)
            self.deliver(self.caller)

    def _accept(self, stream: StreamCore) -> None:
        self.replica.accept(stream)


class MemoryCall:
    """One end of a call, as strict as gRPC's: two tasks that read or write at once are an error,
    and cancelling a task that waits in it ends the call. Holds one message each way."""

    def __init__(self, incoming: _Pipe, outgoing: _Pipe) -> None:
        self._incoming = incoming
        self._outgoing = outgoing

    async def read(self) -> Any:
        """The peer's next message, or ``grpc.aio.EOF``."""
        with self._ended_by_cancelling():
            return await self._incoming.get()

    async def write(self, message: ClientFrames | ServerFrames) -> None:
        """Sends a message; waits while the one before it has not been read."""
        with self._ended_by_cancelling():
            await self._outgoing.put(message)

    def cancel(self) -> bool:
        """Ends the call in good order. False where it had ended."""
        return self._incoming.end() | self._outgoing.end()

    def lose(self, details: str = "lost") -> None:
        """Ends the call as the death of the peer does; what is under way to here is lost."""
        none = grpc.aio.Metadata()
        error = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, none, none, details=details)
        self._incoming.end(error)
        self._outgoing.end()

    @contextlib.contextmanager
    def _ended_by_cancelling(self) -> Any:
        try:
            yield
        except asyncio.CancelledError:
            self.cancel()
            raise


class _Pipe:
    """One direction of a call."""

    def __init__(self) -> None:
        self._message: ClientFrames | ServerFrames | None = None
        self._changed = asyncio.Event()
        self._users: set[str] = set()
        self._ended = False
        self._error: grpc.aio.AioRpcError | None = None

    async def get(self) -> Any:
        with self._alone("read"):
            while self._message is None and not self._ended:
                await self._change()
        if self._error is not None:
            raise self._error
        message, self._message = self._message, None
        self._changed.set()
        return grpc.aio.EOF if message is None else message

    async def put(self, message: ClientFrames | ServerFrames) -> None:
        with self._alone("write"):
            while self._message is not None and not self._ended:
                await self._change()
        if self._ended:
            raise asyncio.InvalidStateError("the call has ended")
        self._message = type(message).FromString(message.SerializeToString())
        self._changed.set()

    def end(self, error: grpc.aio.AioRpcError | None = None) -> bool:
        if self._ended:
            return False
        self._ended = True
        self._error = error
        self._changed.set()
        return True

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    @contextlib.contextmanager
    def _alone(self, use: str) -> Any:
        assert use not in self._users, f"two tasks {use} at once"
        self._users.add(use)
        try:
            yield
        finally:
            self._users.discard(use)


def memory_calls() -> tuple[MemoryCall, MemoryCall]:
    """The caller's and the replica's end of one call."""
    up, down = _Pipe(), _Pipe()
    return MemoryCall(down, up), MemoryCall(up, down)


class Connected(NamedTuple):
    """Two connections that run, and the caller's end of the call between them."""

    caller: CallerConnection
    replica: ReplicaConnection
    call: MemoryCall


@contextlib.asynccontextmanager
async def connected(
    on_open: Callable[[Stream], None] | None = None,
    *,
    window: int = DEFAULT_WINDOW,
    on_load: Callable[[int], None] = lambda ongoing: None,
    ongoing: Callable[[], int] = lambda: 0,
    on_holdings: Callable[[frozenset[str]], None] = lambda keys: None,
    holdings: Callable[[], Sequence[str]] = lambda: (),
) -> AsyncIterator[Connected]:
    """A caller's and a replica's connection, joined and running. ``on_open`` is called with each
    stream that the replica gets; where it is None, all are accepted."""

    def accept(stream: Stream) -> None:
        stream.session.accept(stream)

    caller_call, replica_call = memory_calls()
    caller = CallerConnection(caller_call, window=window, on_load=on_load, on_holdings=on_holdings)
    replica = ReplicaConnection(
        replica_call, on_open or accept, window=window, ongoing=ongoing, holdings=holdings
    )
    tasks = [asyncio.ensure_future(end.run()) for end in (caller, replica)]
    try:
        await caller.ready.wait()
        yield Connected(caller, replica, caller_call)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
