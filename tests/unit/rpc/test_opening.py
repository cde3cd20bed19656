"""What a gRPC call's stream begins with."""

from __future__ import annotations

import pytest

from serving.mux.session import MAX_FRAME
from serving.rpc.opening import MAX_INLINE, head_of
from serving.v1.grpc_pb2 import GrpcRequest


@pytest.mark.parametrize(
    ("metadata_bytes", "message", "inline"),
    [
        (0, b"", True),
        (0, bytes(MAX_INLINE), True),
        (0, bytes(MAX_INLINE + 1), False),
        (8_000, bytes(MAX_INLINE), True),
        (20_000, bytes(MAX_INLINE), False),
        (0, None, False),
    ],
)
def test_message_travels_with_the_head_where_both_fit_a_frame(
    metadata_bytes: int, message: bytes | None, inline: bool
) -> None:
    request = GrpcRequest(method="/test.Words/Say", metadata=[b"key", bytes(metadata_bytes)])

    head, travels = head_of(request, message)

    assert travels is inline
    assert len(head) <= MAX_FRAME
    sent = GrpcRequest.FromString(head)
    assert sent.HasField("message") is inline
    assert (sent.message if inline else None) == (message if inline else None)
    assert (sent.method, len(sent.metadata[1])) == ("/test.Words/Say", metadata_bytes)


def test_message_of_the_request_itself_is_taken_out_where_it_does_not_fit() -> None:
    request = GrpcRequest(method="/test.Words/Say", message=bytes(MAX_INLINE + 1))

    head, inline = head_of(request, request.message)

    assert not inline
    assert head == GrpcRequest(method="/test.Words/Say").SerializeToString()
