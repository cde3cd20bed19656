"""What can go wrong on a connection, by what a caller may do about it.

::

    MuxError
    ├── StreamError              one stream ended early
    │   ├── StreamReset          the peer ended it; it may have been worked on
    │   ├── StreamRejected       the replica is full; never started, send it elsewhere
    │   ├── StreamRefused        the replica is draining; never started, send it elsewhere
    │   └── ConnectionLost       the call ended; ``sent`` tells whether it can have been started
    └── ProtocolError            the peer broke the rules of frames.proto; ends the connection
"""

from __future__ import annotations

from serving.v1.frames_pb2 import ResetCode


class MuxError(Exception):
    """Base of all errors of the transport."""


class StreamError(MuxError):
    """A stream ended before its end."""


class StreamReset(StreamError):
    """The peer reset the stream."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        try:
            name = ResetCode.Name(ResetCode.ValueType(self.code))
        except ValueError:
            name = f"code {self.code}"
        return f"{name}: {self.reason}" if self.reason else name


class StreamRejected(StreamError):
    """The replica had no free slot and did not start the request."""


class StreamRefused(StreamError):
    """The replica is draining and did not start the request."""


class ConnectionLost(StreamError):
    """The connection ended. ``sent`` is false where no byte of the stream can have left."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.sent = sent


class ProtocolError(MuxError):
    """The peer sent a frame that the rules do not allow."""
