"""Many streams over one gRPC call: framing, batching, flow control, loss.

A *stream* is one request and its response; a *connection* is one long-lived ``Replica.Connect``
call that carries many of them. The rules are in ``session`` (synchronous, no asyncio), the call
itself in ``connection``. Nothing here knows HTTP or deployments.
"""

from serving.mux.connection import (
    CallerConnection,
    ClientCall,
    ReplicaConnection,
    channel_options,
    server_options,
)
from serving.mux.errors import (
    ConnectionLost,
    MuxError,
    ProtocolError,
    StreamError,
    StreamRefused,
    StreamRejected,
    StreamReset,
)
from serving.mux.session import Session
from serving.mux.stream import Stream
from serving.v1.frames_pb2 import ResetCode

__all__ = [
    "CallerConnection",
    "ClientCall",
    "ConnectionLost",
    "MuxError",
    "ProtocolError",
    "ReplicaConnection",
    "ResetCode",
    "Session",
    "Stream",
    "StreamError",
    "StreamRefused",
    "StreamRejected",
    "StreamReset",
    "channel_options",
    "server_options",
]
