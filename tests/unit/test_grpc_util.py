"""What a method may say of its answer, and what is refused there and then."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import pytest

from serving.grpc_util import AbortError, GrpcContext
from serving.v1.grpc_pb2 import GrpcRequest

Code = grpc.StatusCode


def context(**fields: Any) -> GrpcContext:
    return GrpcContext(GrpcRequest(method="/test.Words/Say", **fields))


def test_context_knows_what_the_call_is_known_by() -> None:
    call = GrpcRequest(
        metadata=[b"language", b"fr", b"seal-bin", b"\xff"],
        peer="ipv4:127.0.0.1:40512",
        request_id="mine",
        application="shop",
        multiplexed_model_id="fr",
    )

    known = GrpcContext(call)

    assert known.invocation_metadata() == (("language", "fr"), ("seal-bin", b"\xff"))
    assert known.peer() == "ipv4:127.0.0.1:40512"
    assert known.request_id() == "mine"
    assert known.application() == "shop"
    assert known.multiplexed_model_id() == "fr"


def test_nothing_is_set_before_it_is_set() -> None:
    fresh = context()

    assert (fresh.code(), fresh.details(), fresh.trailing_metadata()) == (None, "", ())
    assert fresh.invocation_metadata() == ()
    assert fresh.time_remaining() is None


def test_time_remaining_runs_out_and_stays_out() -> None:
    now = 100.0
    limited = GrpcContext(GrpcRequest(), deadline=105.0, clock=lambda: now)

    assert limited.time_remaining() == 5
    now = 200.0
    assert limited.time_remaining() == 0


def test_what_was_set_can_be_read() -> None:
    answered = context()
    answered.set_code(Code.NOT_FOUND)
    answered.set_details("none")
    answered.set_trailing_metadata(grpc.aio.Metadata(("a", "1"), ("a", "2"), ("b-bin", b"\0")))

    assert (answered.code(), answered.details()) == (Code.NOT_FOUND, "none")
    assert answered.trailing_metadata() == (("a", "1"), ("a", "2"), ("b-bin", b"\0"))


@pytest.mark.parametrize("code", ["NOT_FOUND", 5, None, Code])
def test_code_that_is_none_is_refused(code: Any) -> None:
    with pytest.raises(TypeError, match=r"takes a grpc\.StatusCode, such as grpc\.StatusCode\."):
        context().set_code(code)


def test_details_that_are_no_text_are_refused() -> None:
    with pytest.raises(TypeError, match=r"set_details\(\) takes a str, not b'x'"):
        context().set_details(b"x")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["set_trailing_metadata", "set_initial_metadata"])
@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ([("Key", "v")], "write 'key'"),
        ([("key ü", "v")], "other characters than a-z"),
        ([("", "v")], "other characters than a-z"),
        ([(":path", "v")], "other characters than a-z"),
        ([("grpc-status", "0")], "one of gRPC's own"),
        ([(b"key", "v")], "a key is a str"),
        ([("key", b"v")], "such as 'key-bin'"),
        ([("key", 1)], "is to be a str, not 1"),
        ([("key", "größer")], "printable ASCII: encode it, and name it 'key-bin'"),
        ([("key", "a\nb")], "printable ASCII"),
        ([("key-bin", "v")], "is to be bytes, not 'v'"),
        ([("key", "v", "w")], "takes pairs"),
        (["kv"], "takes pairs"),
        ({"key": "v"}, "takes pairs"),
    ],
)
def test_metadata_that_grpc_does_not_take_is_refused(name: str, entries: Any, told: str) -> None:
    with pytest.raises((TypeError, ValueError)) as raised:
        getattr(context(), name)(entries)

    assert name in str(raised.value)
    assert told in str(raised.value)


def test_initial_metadata_has_a_limit() -> None:
    with pytest.raises(ValueError, match="takes 4096 bytes at most, not 5035: send the rest in"):
        context().set_initial_metadata([("key", "v" * 5000)])


def test_initial_metadata_cannot_be_set_once_the_answer_has_begun() -> None:
    begun = context()
    begun.set_initial_metadata([("a", "1")])
    assert begun.begin() == (("a", "1"),)
    assert begun.begin() == ()

    with pytest.raises(RuntimeError, match=r"use set_trailing_metadata\(\)"):
        begun.set_initial_metadata([("b", "2")])


def test_abort_raises_and_keeps_its_status() -> None:
    aborted = context()

    with pytest.raises(AbortError, match="ABORTED: too old"):
        aborted.abort(Code.ABORTED, "too old", [("version", "1")])

    assert (aborted.code(), aborted.details()) == (Code.ABORTED, "too old")
    assert aborted.trailing_metadata() == (("version", "1"),)


def test_context_of_a_test_tells_what_a_method_set() -> None:
    made = GrpcContext(GrpcRequest())

    with pytest.raises(AbortError, match="NOT_FOUND: no such word"):
        made.abort(grpc.StatusCode.NOT_FOUND, "no such word", [("word", "x")])

    assert made.code() is grpc.StatusCode.NOT_FOUND
    assert made.details() == "no such word"
    assert made.trailing_metadata() == (("word", "x"),)
    assert made.time_remaining() is None


def test_abort_without_trailers_keeps_those_that_were_set() -> None:
    aborted = context()
    aborted.set_trailing_metadata([("version", "1")])

    with pytest.raises(AbortError):
        aborted.abort(Code.ABORTED)

    assert aborted.trailing_metadata() == (("version", "1"),)


def test_abort_takes_no_success() -> None:
    untouched = context()

    with pytest.raises(ValueError, match="to end well, return"):
        untouched.abort(Code.OK, "fine")

    assert untouched.code() is None
