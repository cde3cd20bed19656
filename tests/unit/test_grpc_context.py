"""What a method can know of its gRPC call, also where a test makes the context."""

from __future__ import annotations

import grpc
import pytest

from serving.grpc_util import AbortError, GrpcContext
from serving.v1.grpc_pb2 import GrpcRequest


def test_context_knows_what_the_call_is_known_by() -> None:
    call = GrpcRequest(
        metadata=[b"language", b"fr", b"seal-bin", b"\xff"],
        peer="ipv4:127.0.0.1:40512",
        request_id="mine",
        application="shop",
        multiplexed_model_id="fr",
    )

    context = GrpcContext(call)

    assert context.invocation_metadata() == (("language", "fr"), ("seal-bin", b"\xff"))
    assert context.peer() == "ipv4:127.0.0.1:40512"
    assert context.request_id() == "mine"
    assert context.application() == "shop"
    assert context.multiplexed_model_id() == "fr"


def test_context_of_a_test_tells_what_a_method_set() -> None:
    context = GrpcContext(GrpcRequest())

    with pytest.raises(AbortError, match="NOT_FOUND: no such word"):
        context.abort(grpc.StatusCode.NOT_FOUND, "no such word", [("word", "x")])

    assert context.code() is grpc.StatusCode.NOT_FOUND
    assert context.details() == "no such word"
    assert context.trailing_metadata() == (("word", "x"),)
    assert context.time_remaining() is None
