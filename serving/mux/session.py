"""The rules of a connection, without I/O, tasks or clocks.

A :class:`Session` is one end of a connection. The layer above opens streams and writes messages;
:meth:`Session.take` gives the next batch of frames for the wire; :meth:`Session.receive` takes the
peer's. What happens to a stream is told to it by three methods that a subclass overrides
(``readable``, ``writable``, ``ended_early``), so that the same rules serve asyncio and the tests.

Flow control: each frame of a message costs its bytes and ``FRAME_OVERHEAD``, so that empty frames
are not free. A sender spends what its peer granted; the receiver grants anew as its reader
*consumes*, never on arrival. The frame that opens a stream is free (at most ``MAX_FRAME`` bytes);
what follows it waits until the replica accepts the stream, and the grant says so. The replica's
first window is a constant of the caller, carried by OPEN.

The replica's last frame ends the stream in both directions, as the response of HTTP does: what
the caller still has to send is not wanted any more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from serving.mux.errors import (
    ConnectionLost,
    ProtocolError,
    StreamError,
    StreamRefused,
    StreamRejected,
    StreamReset,
)
from serving.v1.frames_pb2 import (
    DATA,
    GOAWAY,
    OPEN,
    REJECT,
    RESET,
    WINDOW_UPDATE,
    Frame,
    ResetCode,
)

MAX_FRAME = 64 * 1024
"""Bytes of data in one frame, at most."""
FRAME_OVERHEAD = 64
"""What a frame costs of its window beside its bytes."""
DEFAULT_WINDOW = 1024 * 1024
"""Bytes that a peer may send on a stream before its reader has read."""
MIN_WINDOW = 2 * (MAX_FRAME + FRAME_OVERHEAD)
"""Below this a sender could wait for a grant that the receiver does not owe yet."""
HIGH_WATER = MAX_FRAME
"""Unsent bytes of a stream above which its writer is told to wait."""
MAX_BATCH = 256 * 1024
"""Bytes in one gRPC message, at most (and one frame more)."""
MAX_CONTROL = 16 * 1024
"""Frames other than OPEN and DATA that wait for the wire, at most: a peer that makes more answers
necessary and does not read them loses the connection."""
MAX_REASON = 1024
"""Characters of a reason, at most."""


class Part(NamedTuple):
    """A frame's share of a message: the whole of it where ``more`` is false on the first part."""

    tag: int
    data: bytes
    more: bool
    end: bool


class Frames(Protocol):
    """The frames of a message that is being made."""

    def add(self) -> Frame: ...
    def append(self, frame: Frame, /) -> None: ...


class StreamCore:
    """One stream's state on one end. The methods in the second half are for subclasses."""

    __slots__ = (
        "abort_code",
        "abort_reason",
        "accepted",
        "error",
        "granted",
        "id",
        "inbox",
        "on_wire",
        "owed",
        "pending",
        "queued",
        "receive_ended",
        "send_credit",
        "send_ended",
        "session",
        "timeout_us",
        "unsent",
    )

    def __init__(self, session: Session, stream_id: int) -> None:
        self.session = session
        self.id = stream_id
        self.error: StreamError | None = None
        self.timeout_us = 0
        self.accepted = False

        # Send state
        self.pending: deque[tuple[int, bytes | memoryview, bool]] = deque()
        self.unsent = 0
        self.send_credit = 0
        self.send_ended = False
        self.on_wire = False
        self.queued = False
        self.abort_code: ResetCode | None = None
        self.abort_reason = ""

        # Receive state
        self.inbox: deque[Part] = deque()
        self.granted = 0
        self.owed = 0
        self.receive_ended = False

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.id} unsent={self.unsent} credit={self.send_credit}"
            f" inbox={len(self.inbox)} ended={self.send_ended}/{self.receive_ended}"
            f" error={self.error!r}>"
        )

    @property
    def must_wait(self) -> bool:
        """Whether a writer should wait for ``writable`` before it writes more."""
        return self.unsent > HIGH_WATER and self.error is None

    def readable(self) -> None:
        """The inbox has a new part, or the stream ended, or (caller) it was accepted."""

    def writable(self) -> None:
        """``must_wait`` has become false."""

    def ended_early(self) -> None:
        """``error`` was set: by the peer, or because the connection is gone."""


class Session:
    """One end of a connection."""

    def __init__(
        self,
        *,
        window: int = DEFAULT_WINDOW,
        make_stream: Callable[[Session, int], StreamCore] = StreamCore,
        on_open: Callable[[StreamCore], None] | None = None,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        """A session that accepts streams where ``on_open`` is given (the replica's end), else one
        that opens them. ``wake`` is called when ``take`` has something to give."""
        if window < MIN_WINDOW:
            raise ValueError(f"window must be at least {MIN_WINDOW} bytes, not {window}")
        self.window = window
        self.streams: dict[int, StreamCore] = {}
        self.draining = False
        self.closed: str | None = None
        self.shares_memory = False
        """Whether the ends can read each other's memory files; who connects them finds out."""
        self._make_stream = make_stream
        self._on_open = on_open
        self._wake = wake
        self._last_id = 0
        self._goaway_id: int | None = None
        self._control: deque[Frame] = deque()
        self._control_overrun = False
        self._ready: deque[StreamCore] = deque()

    def __repr__(self) -> str:
        return (
            f"<Session streams={len(self.streams)} last={self._last_id}"
            f" draining={self.draining} closed={self.closed!r}>"
        )

    # The layer above.

    def open(self, tag: int, data: bytes, *, end: bool, timeout_us: int = 0) -> StreamCore:
        """Caller: opens a stream with its first message. Raises :class:`StreamRefused` while the
        peer drains and :class:`ConnectionLost` after the end of the connection."""
        if self.closed is not None:
            raise ConnectionLost(self.closed, sent=False)
        if self.draining:
            raise StreamRefused("the replica is draining")
        self._last_id += 1
        stream = self._make_stream(self, self._last_id)
        stream.timeout_us = timeout_us
        stream.granted = self.window
        self.streams[stream.id] = stream
        self.write(stream, tag, data, end=end)
        return stream

    def write(
        self, stream: StreamCore, tag: int, data: bytes | memoryview, *, end: bool = False
    ) -> None:
        r"""Queues a message. After the stream's early end it is dropped: ``error`` says why. What
        a view (of bytes) shows must not change before it is sent, or :meth:`detach`\ ed."""
        if stream.send_ended:
            raise RuntimeError(f"{stream!r}: write after its end")
        stream.send_ended = end
        if stream.error is not None or self.streams.get(stream.id) is not stream:
            return
        stream.pending.append((tag, data, end))
        stream.unsent += len(data) + FRAME_OVERHEAD
        if not stream.queued:
            stream.queued = True
            self._ready.append(stream)
            self._wake()

    def detach(self, stream: StreamCore) -> None:
        """Copies what is unsent of views, so that what they show may change."""
        pending = stream.pending
        for index, (tag, data, end) in enumerate(pending):
            if isinstance(data, memoryview):
                pending[index] = (tag, bytes(data), end)

    def read(self, stream: StreamCore) -> Part | None:
        """The next part that arrived, or None. Reading is what grants the peer more."""
        if not stream.inbox:
            return None
        part = stream.inbox.popleft()
        stream.owed += len(part.data) + FRAME_OVERHEAD
        if stream.owed >= self.window // 2 and not stream.receive_ended:
            self._grant(stream, stream.owed)
            stream.owed = 0
        return part

    def unread(self, stream: StreamCore, part: Part) -> None:
        """Puts back what was read of a message, for the next reader."""
        stream.inbox.appendleft(part)
        stream.owed -= len(part.data) + FRAME_OVERHEAD

    def accept(self, stream: StreamCore) -> None:
        """Replica: says that the stream is being worked on, if the caller has more to send."""
        if not stream.receive_ended:
            self._grant(stream, self.window)

    def reject(self, stream: StreamCore) -> None:
        """Replica: gives a stream back that was not started."""
        self._forget(stream)
        self._send_control(Frame(stream_id=stream.id, type=REJECT))

    def reset(self, stream: StreamCore, code: ResetCode, reason: str = "") -> None:
        """Ends a stream at once; ``error`` tells so those who still read or write it here.
        Harmless on one that has ended. A stream that never left this end is dropped without a
        word to the peer."""
        if self.streams.get(stream.id) is not stream:
            return
        self._forget(stream)
        stream.error = StreamReset(code, reason or "the stream was reset at this end")
        if stream.on_wire:
            self._send_control(
                Frame(
                    stream_id=stream.id,
                    type=RESET,
                    code=code,
                    reason=reason[:MAX_REASON],
                )
            )
        stream.readable()

    def abort(self, stream: StreamCore, code: ResetCode, reason: str = "") -> None:
        """Ends a stream early, but behind what was written: the peer gets that first."""
        if not stream.pending:
            self.reset(stream, code, reason)
        stream.send_ended = True
        stream.abort_code, stream.abort_reason = code, reason

    def goaway(self, reason: str = "") -> None:
        """Replica: accepts no further streams; those that it has go on."""
        if self.draining:
            return
        self.draining = True
        self._goaway_id = self._last_id
        self._send_control(
            Frame(type=GOAWAY, last_stream_id=self._last_id, reason=reason[:MAX_REASON])
        )

    def close(self, reason: str) -> None:
        """The connection is gone: every stream ends early, each with its own error."""
        if self.closed is not None:
            return
        self.closed = reason
        self._control.clear()
        for stream in list(self.streams.values()):
            self._fail(stream, ConnectionLost(reason, sent=stream.on_wire))

    # The wire.

    def take(self, frames: Frames, max_bytes: int = MAX_BATCH) -> bool:
        """Adds the next frames to send to those of a message, streams taking turns: one frame of
        each, then again. False where there is nothing that the peer has room for. Raises
        :class:`ProtocolError` as ``receive``."""
        self._check_control()
        size = 0
        control = self._control
        while control and size < max_bytes:
            frame = control.popleft()
            frames.append(frame)
            size += frame.ByteSize()
        ready = self._ready
        while ready and size < max_bytes:
            stream = ready.popleft()
            stream.queued = False
            cost = self._add_frame(stream, frames)
            size += cost
            if cost and stream.pending:
                stream.queued = True
                ready.append(stream)
        return size > 0

    def receive(self, frames: Iterable[Frame]) -> None:
        """Takes the peer's frames. Raises :class:`ProtocolError` where the connection cannot go
        on; a fault within one stream resets that stream."""
        for frame in frames:
            kind = frame.type
            if kind == DATA:
                self._on_data(frame)
            elif kind == OPEN:
                self._on_open_frame(frame)
            elif kind == WINDOW_UPDATE:
                self._on_window_update(frame)
            elif kind == RESET:
                self._on_reset(frame)
            elif kind == REJECT:
                self._on_reject(frame)
            elif kind == GOAWAY:
                self._on_goaway(frame)
            else:
                raise ProtocolError(f"frame of unknown type {kind} on stream {frame.stream_id}")
        self._check_control()

    # Sending.

    def _add_frame(self, stream: StreamCore, frames: Frames) -> int:
        """Adds a stream's next frame, and gives what it costs; 0 where there is none, or no
        credit for it. It is filled where it stands: one made apart would be copied."""
        if not stream.pending:
            return 0
        tag, data, end = stream.pending[0]
        opening = not stream.on_wire
        size = min(len(data), MAX_FRAME)
        cost = size + FRAME_OVERHEAD
        if not opening:
            if cost > stream.send_credit:
                return 0
            stream.send_credit -= cost
        more = size < len(data)
        if more:
            stream.pending[0] = (tag, memoryview(data)[size:], end)
            data = data[:size]
        else:
            stream.pending.popleft()
        last = end and not more
        frame = frames.add()
        frame.stream_id = stream.id
        frame.type = OPEN if opening else DATA
        frame.tag = tag
        frame.data = data if isinstance(data, bytes) else bytes(data)
        if last:
            frame.end_stream = True
        if more:
            frame.more = True
        if opening:
            if stream.timeout_us:
                frame.timeout_us = stream.timeout_us
            if self.window != DEFAULT_WINDOW:
                frame.window_increment = self.window
        stream.on_wire = True
        self._sent(stream, size if more else cost, last)
        return cost

    def _sent(self, stream: StreamCore, size: int, last: bool) -> None:
        waited = stream.must_wait
        stream.unsent -= size
        if waited and not stream.must_wait:
            stream.writable()
        if last and self._on_open is not None:
            # The replica's end: the stream is over.
            self._forget(stream)
            stream.receive_ended = True
            stream.readable()
        elif stream.abort_code is not None and not stream.pending:
            self.reset(stream, stream.abort_code, stream.abort_reason)

    def _send_control(self, frame: Frame) -> None:
        # Often said on behalf of a request, which is not to blame: so nothing is raised here.
        if len(self._control) >= MAX_CONTROL:
            self._control_overrun = True
        else:
            self._control.append(frame)
        self._wake()

    def _check_control(self) -> None:
        if self._control_overrun:
            raise ProtocolError("the peer makes answers necessary and does not read them")

    def _grant(self, stream: StreamCore, increment: int) -> None:
        stream.granted += increment
        self._send_control(
            Frame(stream_id=stream.id, type=WINDOW_UPDATE, window_increment=increment)
        )

    def _forget(self, stream: StreamCore) -> None:
        del self.streams[stream.id]
        stream.pending.clear()
        if stream.queued:
            stream.queued = False
            self._ready.remove(stream)
        waited = stream.must_wait
        stream.unsent = 0
        if waited:
            stream.writable()
        if self.draining and not self.streams:
            self._wake()  # Who carries the frames waits for the last stream to end.

    def _fail(self, stream: StreamCore, error: StreamError) -> None:
        if self.streams.get(stream.id) is not stream:
            return  # Ended by the end of another, as a request's calls end with it.
        stream.error = error
        stream.receive_ended = True
        self._forget(stream)
        stream.readable()
        stream.writable()
        stream.ended_early()

    # Receiving.

    def _on_open_frame(self, frame: Frame) -> None:
        if self._on_open is None:
            raise ProtocolError(f"OPEN of stream {frame.stream_id} from a replica")
        if frame.stream_id <= self._last_id:
            raise ProtocolError(
                f"OPEN of stream {frame.stream_id} after stream {self._last_id}: ids must rise"
            )
        self._last_id = frame.stream_id
        if self._goaway_id is not None:
            return  # The caller learns from GOAWAY that it was never started.
        stream = self._make_stream(self, frame.stream_id)
        stream.on_wire = True
        stream.send_credit = frame.window_increment or DEFAULT_WINDOW
        stream.timeout_us = frame.timeout_us
        self.streams[stream.id] = stream
        if fault := _fault(frame):
            self._reset_by_rule(stream, ResetCode.PROTOCOL_ERROR, fault)
            return
        stream.inbox.append(Part(frame.tag, frame.data, frame.more, frame.end_stream))
        # What is free on the sender's side is free here too.
        stream.owed = -len(frame.data) - FRAME_OVERHEAD
        stream.receive_ended = frame.end_stream
        self._on_open(stream)

    def _on_data(self, frame: Frame) -> None:
        stream = self._find(frame)
        if stream is None:
            return
        if stream.receive_ended:
            self._reset_by_rule(stream, ResetCode.PROTOCOL_ERROR, "DATA after the end")
            return
        if fault := _fault(frame):
            self._reset_by_rule(stream, ResetCode.PROTOCOL_ERROR, fault)
            return
        data = frame.data
        stream.granted -= len(data) + FRAME_OVERHEAD
        if stream.granted < 0:
            self._reset_by_rule(stream, ResetCode.FLOW_CONTROL_ERROR, "more than was granted")
            return
        end = frame.end_stream
        stream.accepted = True
        stream.inbox.append(Part(frame.tag, data, frame.more, end))
        if end:
            stream.receive_ended = True
            if self._on_open is None:
                self._forget(stream)
        stream.readable()

    def _on_window_update(self, frame: Frame) -> None:
        stream = self._find(frame)
        if stream is None:
            return
        stream.send_credit += frame.window_increment
        if not frame.window_increment or stream.send_credit > 2**31:
            self._reset_by_rule(stream, ResetCode.FLOW_CONTROL_ERROR, "window out of range")
            return
        if stream.pending and not stream.queued:
            stream.queued = True
            self._ready.append(stream)
            self._wake()
        if not stream.accepted:
            stream.accepted = True
            stream.readable()

    def _on_reset(self, frame: Frame) -> None:
        stream = self._find(frame)
        if stream is not None:
            self._fail(stream, StreamReset(frame.code, frame.reason))

    def _on_reject(self, frame: Frame) -> None:
        if self._on_open is not None:
            raise ProtocolError("REJECT from a caller")
        stream = self._find(frame)
        if stream is None:
            return
        if stream.accepted:
            raise ProtocolError(f"REJECT of stream {frame.stream_id}, which was accepted")
        self._fail(stream, StreamRejected("the replica is full"))

    def _on_goaway(self, frame: Frame) -> None:
        if self._on_open is not None:
            raise ProtocolError("GOAWAY from a caller")
        self.draining = True
        refused = [stream for stream in self.streams.values() if stream.id > frame.last_stream_id]
        if any(stream.accepted for stream in refused):
            raise ProtocolError("GOAWAY refuses a stream that was accepted")
        for stream in refused:
            self._fail(stream, StreamRefused(frame.reason or "the replica is draining"))

    def _find(self, frame: Frame) -> StreamCore | None:
        stream = self.streams.get(frame.stream_id)
        if stream is None and (frame.stream_id == 0 or frame.stream_id > self._last_id):
            raise ProtocolError(
                f"frame of type {frame.type} on stream {frame.stream_id}, which was never opened"
            )
        if stream is not None and not stream.on_wire:
            raise ProtocolError(f"answer on stream {frame.stream_id} before it was opened")
        return stream  # None: it ended here while the frame was under way.

    def _reset_by_rule(self, stream: StreamCore, code: ResetCode, reason: str) -> None:
        """The peer broke a rule within one stream: that stream ends on both ends."""
        self.reset(stream, code, reason)
        stream.error = StreamReset(code, reason)
        stream.receive_ended = True
        stream.readable()
        stream.writable()
        stream.ended_early()


def _fault(frame: Frame) -> str | None:
    """What is wrong with an OPEN or DATA frame, whatever the state of its stream."""
    if len(frame.data) > MAX_FRAME:
        return "the frame holds too many bytes"
    if frame.end_stream and frame.more:
        return "the stream ends within a message"
    return None
