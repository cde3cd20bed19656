"""The gRPC call under a session: one reader task, one writer task, and nobody else.

Concurrent writes on one call fail, and cancelling a task that waits in ``read`` or ``write``
cancels the whole call; so requests only touch their streams, and the writer sends once a loop
turn whatever they have queued by then. Nothing waits for company: there are no timers here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import grpc
import grpc.aio

from serving.mux.errors import ProtocolError
from serving.mux.session import DEFAULT_WINDOW, Session, StreamCore
from serving.mux.stream import Stream
from serving.v1.frames_pb2 import ClientFrames, ServerFrames

LAST_WRITE_S = 1.0
"""How long the end of a replica's connection waits for a message that the caller does not read."""

_KEEPALIVE = [
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]


def channel_options() -> list[tuple[str, Any]]:
    """Options of a channel that carries connections: dead peers are noticed within 30 s, and
    reconnecting begins after 50 ms."""
    return [
        *_KEEPALIVE,
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", 50),
        ("grpc.min_reconnect_backoff_ms", 50),
        ("grpc.max_reconnect_backoff_ms", 2_000),
    ]


def server_options() -> list[tuple[str, Any]]:
    """Options of a server that accepts connections."""
    return [
        *_KEEPALIVE,
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.so_reuseport", 0),
    ]


class ClientCall(Protocol):
    """What a caller's connection needs of ``ReplicaStub(channel).Connect()``."""

    async def read(self) -> Any: ...
    async def write(self, request: ClientFrames) -> None: ...
    def cancel(self) -> bool: ...


class ServerCall(Protocol):
    """What a replica's connection needs of a servicer's context."""

    async def read(self) -> Any: ...
    async def write(self, message: ServerFrames) -> None: ...


class CallerConnection:
    """A caller's end of one ``Connect`` call."""

    def __init__(
        self,
        call: ClientCall,
        *,
        window: int = DEFAULT_WINDOW,
        on_load: Callable[[int], None] = lambda ongoing: None,
        on_holdings: Callable[[frozenset[str]], None] = lambda keys: None,
    ) -> None:
        """``on_load`` hears the replica's number of ongoing requests with each of its messages;
        ``on_holdings`` hears what the replica holds whenever it says so, first of all before the
        connection is ``ready``."""
        self._call = call
        self._wake = asyncio.Event()
        self._on_load = on_load
        self._on_holdings = on_holdings
        self.session = Session(window=window, make_stream=Stream, wake=self._wake.set)
        self.ready = asyncio.Event()

    def open(self, tag: int, data: bytes, *, end: bool, timeout_us: int = 0) -> Stream:
        """Opens a stream with its first message; ``timeout_us`` is the request's remaining time,
        0 for no limit. Raises StreamRefused or ConnectionLost as ``Session.open``."""
        stream = self.session.open(tag, data, end=end, timeout_us=timeout_us)
        assert isinstance(stream, Stream)
        return stream

    async def run(self) -> None:
        """Carries streams until the call ends; then every open stream fails. Raises what ended
        it: ``grpc.RpcError``, ProtocolError, or nothing after the replica's orderly end."""
        reason = "the connection was closed"
        try:
            await _until_first(self._read(), self._write())
        except grpc.RpcError as error:
            reason = _describe(error)
            raise
        except ProtocolError as error:
            reason = f"protocol error: {error}"
            raise
        finally:
            self._call.cancel()
            self.session.close(reason)
            self.ready.clear()

    async def _read(self) -> None:
        session, read, on_load = self.session, self._call.read, self._on_load
        while (message := await read()) is not grpc.aio.EOF:
            # As it was when the frames were sent: their streams count as ongoing still.
            on_load(message.ongoing)
            session.receive(message.frames)
            if message.HasField("holdings"):
                self._on_holdings(frozenset(message.holdings.keys))
            if not self.ready.is_set():
                self.ready.set()

    async def _write(self) -> None:
        wake, take, write = self._wake, self.session.take, self._call.write
        try:
            while True:
                await wake.wait()
                wake.clear()
                while take((message := ClientFrames()).frames):
                    await write(message)
        except asyncio.InvalidStateError:
            # The call has ended, and this is all that gRPC says here: the read tells why.
            await asyncio.Event().wait()


class ReplicaConnection:
    """A replica's end of one ``Connect`` call."""

    def __init__(
        self,
        call: ServerCall,
        on_open: Callable[[Stream], None],
        *,
        window: int = DEFAULT_WINDOW,
        ongoing: Callable[[], int] = lambda: 0,
        holdings: Callable[[], Sequence[str]] = lambda: (),
    ) -> None:
        """``on_open`` is called with each new stream and must start, ``accept`` or ``reject`` it
        without waiting. ``ongoing`` gives the number that travels with every message, and
        ``holdings`` the keys that travel with the first one and after ``push_holdings``."""
        self._call = call
        self._wake = asyncio.Event()
        self._ongoing = ongoing
        self._holdings = holdings
        self._holdings_are_news = bool(holdings())
        # Sent though there is nothing else to say; the first tells the caller that the call stands.
        self._news: int | None = ongoing()

        def opened(stream: StreamCore) -> None:
            assert isinstance(stream, Stream)
            on_open(stream)

        self.session = Session(
            window=window, make_stream=Stream, on_open=opened, wake=self._wake.set
        )

    def push_load(self) -> None:
        """Tells the caller the number of ongoing requests as it is now, whatever it is when the
        message leaves: who waits for a free slot must hear of it even if another was faster."""
        self._news = self._ongoing()
        self._wake.set()

    def push_holdings(self) -> None:
        """Tells the caller the holdings, as they are when the next message leaves."""
        self._holdings_are_news = True
        self._wake.set()

    def goaway(self, reason: str = "") -> None:
        """Accepts no further streams; ``run`` returns when the last open one has ended."""
        self.session.goaway(reason)

    async def run(self) -> None:
        """Carries streams until the caller leaves or, after ``goaway``, until all are done."""
        self._wake.set()
        reading = asyncio.ensure_future(self._read())
        writing = asyncio.ensure_future(self._write())
        try:
            done, _ = await asyncio.wait((reading, writing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.session.close("the caller's connection ended")
            reading.cancel()
            await self._end_writing(writing)
            await asyncio.gather(reading, writing, return_exceptions=True)
        for task in done:
            task.result()

    async def _end_writing(self, writing: asyncio.Task[None]) -> None:
        """gRPC cannot tell the caller of the end while a write is under way, nor after one that
        was cancelled, and the caller would wait for ever: so the last write is waited for."""
        self._wake.set()
        try:
            await asyncio.wait((writing,), timeout=LAST_WRITE_S)
        finally:
            writing.cancel()

    async def _read(self) -> None:
        session, read = self.session, self._call.read
        while (message := await read()) is not grpc.aio.EOF:
            session.receive(message.frames)

    async def _write(self) -> None:
        wake, session, write = self._wake, self.session, self._call.write
        while session.closed is None and not (session.draining and not session.streams):
            await wake.wait()
            wake.clear()
            while session.take((message := ServerFrames()).frames):
                await write(self._completed(message, self._ongoing()))
            # The news go by themselves, after all frames: the caller must not hear of a free slot
            # in the message that holds its REJECT, for it takes the REJECT for the later news.
            if self._news is not None:
                news, self._news = self._news, None
                await write(self._completed(ServerFrames(), news))
            elif self._holdings_are_news:
                await write(self._completed(ServerFrames(), self._ongoing()))

    def _completed(self, message: ServerFrames, ongoing: int) -> ServerFrames:
        message.ongoing = ongoing
        if self._holdings_are_news:
            self._holdings_are_news = False
            message.holdings.keys.extend(self._holdings())
            message.holdings.SetInParent()
        return message


async def _until_first(*works: Awaitable[None]) -> None:
    """Runs all until one ends, then cancels the rest; raises what the first to end raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


def _describe(error: grpc.RpcError) -> str:
    code = error.code() if hasattr(error, "code") else None
    details = error.details() if hasattr(error, "details") else str(error)
    return f"{code.name if code else 'UNKNOWN'}: {details}"


__all__ = [
    "CallerConnection",
    "ClientCall",
    "ReplicaConnection",
    "ServerCall",
    "channel_options",
    "server_options",
]
