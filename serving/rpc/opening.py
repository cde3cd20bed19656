"""What a gRPC call's stream begins with, whoever opens it."""

from __future__ import annotations

from serving.mux.session import MAX_FRAME
from serving.v1.grpc_pb2 import GrpcRequest

MAX_INLINE = 48 * 1024
"""Bytes of a message that travels in one frame with the head of its call, or with its status."""


def head_of(request: GrpcRequest, message: bytes | None) -> tuple[bytes, bool]:
    """The head of a call, and whether ``message``, its one message, travels in it. It does where
    both fit one frame: else it follows, as messages do that are not there yet (None)."""
    if message is not None and len(message) <= MAX_INLINE:
        request.message = message
        head = request.SerializeToString()
        if len(head) <= MAX_FRAME:
            return head, True
    # The client's metadata may be large, too.
    request.ClearField("message")
    return request.SerializeToString(), False
