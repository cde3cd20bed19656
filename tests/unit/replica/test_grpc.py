"""Calls of users' gRPC services in a replica, over a connection in memory."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import BytesValue, StringValue

from serving.context import current_request, get_multiplexed_model_id
from serving.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
    RequestCancelledError,
)
from serving.grpc_util import GrpcContext
from serving.mux import Stream, StreamReset
from serving.mux.session import DEFAULT_WINDOW, MAX_FRAME
from serving.mux.testing import Connected, connected
from serving.replica.grpc import GrpcHandler
from serving.replica.methods import Methods
from serving.replica.runner import Runner
from serving.rpc import metadata
from serving.rpc.methods import Method
from serving.rpc.opening import MAX_INLINE
from serving.v1.controller_pb2 import GrpcSettings
from serving.v1.grpc_pb2 import (
    GRPC_HALF_CLOSE,
    GRPC_MESSAGE,
    GRPC_METADATA,
    GRPC_REQUEST,
    GRPC_STATUS,
    GrpcMetadata,
    GrpcRequest,
    GrpcStatus,
)
from tests.support.mux import turn, until

Code = grpc.StatusCode
MiB = 1024 * 1024
LIMIT = 4 * MiB


def rpc(name: str, *, streams_in: bool = False, streams_out: bool = False) -> Method:
    kind = StringValue
    return Method(
        f"/test.Words/{name}",
        streams_in,
        streams_out,
        kind.FromString,
        kind.SerializeToString,
        kind.DESCRIPTOR,
    )


RPCS = {
    method.name: method
    for method in [
        rpc("Say"),
        rpc("Split", streams_out=True),
        rpc("Join", streams_in=True),
        rpc("Chat", streams_in=True, streams_out=True),
        rpc("Nobody"),
    ]
}


def message(text: str) -> bytes:
    return StringValue(value=text).SerializeToString()


@dataclass
class Answer:
    """What came back of a call."""

    status: GrpcStatus = field(default_factory=GrpcStatus)
    texts: list[str] = field(default_factory=list)
    initial: metadata.Metadata = ()

    @property
    def code(self) -> Code:
        (found,) = (code for code in Code if code.value[0] == self.status.code)
        return found

    @property
    def trailers(self) -> metadata.Metadata:
        return metadata.unflatten(self.status.trailing_metadata)


class Client:
    """Calls the methods of one object in a replica."""

    def __init__(self, ends: Connected, runner: Runner) -> None:
        self.ends = ends
        self.runner = runner

    def begin(
        self, name: str, inline: bytes | None = None, *, timeout_us: int = 0, **fields: Any
    ) -> Stream:
        """A call whose first message is in its request; more may follow where it has none."""
        call = GrpcRequest(method=f"/test.Words/{name}", request_id="id-1", **fields)
        if inline is not None:
            call.message = inline
        return self.ends.caller.open(
            GRPC_REQUEST, call.SerializeToString(), end=inline is not None, timeout_us=timeout_us
        )

    async def call(self, name: str, *texts: str, **fields: Any) -> Answer:
        """A call of one message that is in its request, or of as many as its method takes."""
        described = RPCS.get(f"/test.Words/{name}")
        if described is None or not described.request_streaming:
            (text,) = texts
            return await answer(self.begin(name, message(text), **fields))
        stream = self.begin(name, **fields)
        for text in texts:
            stream.write(GRPC_MESSAGE, message(text))
        stream.write(GRPC_HALF_CLOSE, b"", end=True)
        return await answer(stream)


async def answer(stream: Stream) -> Answer:
    found = Answer()
    while (part := await stream.receive(100 * MiB)) is not None:
        assert not part.more
        if part.tag == GRPC_METADATA:
            assert not found.texts
            found.initial = metadata.unflatten(GrpcMetadata.FromString(part.data).metadata)
        elif part.tag == GRPC_MESSAGE:
            found.texts.append(StringValue.FromString(part.data).value)
        else:
            assert (part.tag, part.end) == (GRPC_STATUS, True)
            found.status = GrpcStatus.FromString(part.data)
            if found.status.HasField("message"):
                found.texts.append(StringValue.FromString(found.status.message).value)
    return found


@asynccontextmanager
async def replica_of(
    instance: Any,
    *,
    max_receive_bytes: int = LIMIT,
    max_send_bytes: int = LIMIT,
    rpcs: dict[str, Method] = RPCS,
) -> AsyncIterator[Client]:
    settings = GrpcSettings(
        max_receive_message_bytes=max_receive_bytes, max_send_message_bytes=max_send_bytes
    )
    handler = GrpcHandler(Methods(instance, "Words"), rpcs, settings)

    async def app(*_: object) -> None:
        raise AssertionError("no call is an HTTP request")

    runner = Runner(app, max_ongoing=10, state={}, rpcs=handler, application="words")

    def on_open(stream: Stream) -> None:
        runner.admit(ends.replica, stream)

    async with connected(on_open) as ends:
        yield Client(ends, runner)
        await runner.drain(5)


# The four kinds of call, to methods of every kind.


class Async:
    async def Say(self, request: StringValue) -> StringValue:
        return StringValue(value=request.value.upper())

    async def Split(self, request: StringValue) -> AsyncIterator[StringValue]:
        for word in request.value.split():
            yield StringValue(value=word)

    async def Join(self, requests: AsyncIterator[StringValue]) -> StringValue:
        return StringValue(value="+".join([each.value async for each in requests]))

    async def Chat(self, requests: AsyncIterator[StringValue]) -> AsyncIterator[StringValue]:
        async for each in requests:
            yield StringValue(value=each.value.upper())


class Sync:
    def Say(self, request: StringValue) -> StringValue:
        return StringValue(value=request.value.upper())

    def Split(self, request: StringValue) -> Iterator[StringValue]:
        for word in request.value.split():
            yield StringValue(value=word)

    def Join(self, requests: Iterator[StringValue]) -> StringValue:
        return StringValue(value="+".join(each.value for each in requests))

    def Chat(self, requests: Iterator[StringValue]) -> Iterator[StringValue]:
        for each in requests:
            yield StringValue(value=each.value.upper())


class Returning:
    """Methods that return iterators, and what is to be awaited."""

    def Say(self, request: StringValue) -> Any:
        return Async().Say(request)

    def Split(self, request: StringValue) -> Iterator[StringValue]:
        return iter([StringValue(value=word) for word in request.value.split()])

    def Join(self, requests: AsyncIterator[StringValue]) -> Any:
        return Async().Join(requests)

    async def Chat(self, requests: AsyncIterator[StringValue]) -> AsyncIterator[StringValue]:
        return Async().Chat(requests)


@pytest.mark.parametrize("kind", [Async, Sync, Returning])
@pytest.mark.parametrize(
    ("name", "sent", "expected"),
    [
        ("Say", ["hello"], ["HELLO"]),
        ("Say", [""], [""]),
        ("Split", ["a b c"], ["a", "b", "c"]),
        ("Split", [""], []),
        ("Join", ["a", "", "b"], ["a++b"]),
        ("Join", [], [""]),
        ("Chat", ["a", "b"], ["A", "B"]),
        ("Chat", [], []),
    ],
)
async def test_call_of_each_kind_is_answered(
    kind: type, name: str, sent: list[str], expected: list[str]
) -> None:
    async with replica_of(kind()) as client:
        answered = await client.call(name, *sent)

    assert (answered.code, answered.texts) == (Code.OK, expected)


async def test_unary_answer_is_one_frame() -> None:
    async with replica_of(Async()) as client:
        part = await client.begin("Say", message("hello")).receive()

    assert part is not None
    assert (part.tag, part.end) == (GRPC_STATUS, True)


@pytest.mark.parametrize("size", [MAX_INLINE - 8, MAX_INLINE, 3 * MiB])
async def test_message_larger_than_a_frame_arrives_whole(size: int) -> None:
    async with replica_of(Async()) as client:
        stream = client.begin("Say")
        stream.write(GRPC_MESSAGE, message("x" * size), end=True)
        answered = await answer(stream)

    assert answered.texts == ["X" * size]


async def test_last_message_may_bring_the_half_close() -> None:
    async with replica_of(Async()) as client:
        stream = client.begin("Join")
        stream.write(GRPC_MESSAGE, message("a"))
        stream.write(GRPC_MESSAGE, message("b"), end=True)

        assert (await answer(stream)).texts == ["a+b"]


async def test_answers_of_a_dialogue_come_while_it_goes_on() -> None:
    async with replica_of(Sync()) as client:
        stream = client.begin("Chat")
        for word in "abc":
            stream.write(GRPC_MESSAGE, message(word))
            part = await stream.receive()
            assert part is not None
            assert StringValue.FromString(part.data).value == word.upper()
        stream.write(GRPC_HALF_CLOSE, b"", end=True)

        assert (await answer(stream)).code is Code.OK


async def test_request_that_is_not_read_does_not_keep_the_answer() -> None:
    class Impatient:
        async def Join(self, requests: AsyncIterator[StringValue]) -> StringValue:
            return StringValue(value=(await anext(requests)).value)

    async with replica_of(Impatient()) as client:
        stream = client.begin("Join")
        stream.write(GRPC_MESSAGE, message("first"))

        assert (await answer(stream)).texts == ["first"]


async def test_call_knows_where_it_belongs() -> None:
    seen: list[Any] = []

    class Curious:
        async def Say(self, request: StringValue) -> StringValue:
            scope = current_request()
            assert scope is not None
            seen.append((scope.request_id, scope.route, scope.application))
            seen.append(get_multiplexed_model_id())
            return request

    async with replica_of(Curious()) as client:
        await client.call("Say", "x", application="front", multiplexed_model_id="m1")
        await client.call("Say", "x")

    assert seen == [
        ("id-1", "/test.Words/Say", "front"),
        "m1",
        ("id-1", "/test.Words/Say", "words"),
        "",
    ]


# Backpressure.


async def test_slow_reader_stops_the_generator() -> None:
    made = 0

    class Endless:
        async def Split(self, request: StringValue) -> AsyncIterator[StringValue]:
            nonlocal made
            while True:
                made += 1
                yield StringValue(value="x" * 50_000)

    async with replica_of(Endless()) as client:
        stream = client.begin("Split", message(""))
        await turn(500)
        before = made
        await turn(500)

        assert before == made < 40
        stream.reset()


async def test_slow_method_stops_the_client() -> None:
    gate = asyncio.Event()

    class Slow:
        async def Join(self, requests: AsyncIterator[StringValue]) -> StringValue:
            await gate.wait()
            return StringValue(value=str(len([each async for each in requests])))

    async with replica_of(Slow()) as client:
        stream = client.begin("Join")
        for _ in range(40):
            stream.write(GRPC_MESSAGE, message("x" * 50_000))
        await turn(1000)
        assert stream.unsent > 40 * 50_000 - DEFAULT_WINDOW - MAX_FRAME
        gate.set()
        await stream.drain()
        stream.write(GRPC_HALF_CLOSE, b"", end=True)

        assert (await answer(stream)).texts == ["40"]


# Limits.


@pytest.mark.parametrize("text", ["x" * 1000, "x" * 200_000])
@pytest.mark.parametrize("name", ["Say", "Join"])
async def test_too_large_request_names_the_limit(name: str, text: str) -> None:
    async with replica_of(Async(), max_receive_bytes=900) as client:
        stream = client.begin(name)
        stream.write(GRPC_MESSAGE, message(text), end=True)
        answered = await answer(stream)

    assert answered.code is Code.RESOURCE_EXHAUSTED
    assert "max_receive_message_bytes (900)" in answered.status.details


async def test_too_large_inline_request_names_the_limit() -> None:
    async with replica_of(Async(), max_receive_bytes=900) as client:
        answered = await client.call("Say", "x" * 1000)

    assert answered.code is Code.RESOURCE_EXHAUSTED
    assert "has 1003 bytes, more than max_receive_message_bytes (900)" in answered.status.details


async def test_request_of_just_the_limit_is_taken() -> None:
    async with replica_of(Async(), max_receive_bytes=200_004) as client:
        stream = client.begin("Say")
        stream.write(GRPC_MESSAGE, message("x" * 200_000), end=True)

        assert len((await answer(stream)).texts[0]) == 200_000


@pytest.mark.parametrize("name", ["Say", "Split"])
async def test_too_large_response_names_the_limit_and_both_sizes(name: str) -> None:
    async with replica_of(Async(), max_send_bytes=900) as client:
        answered = await client.call(name, "x" * 1000)

    assert (answered.code, answered.texts) == (Code.RESOURCE_EXHAUSTED, [])
    assert "has 1003 bytes, more than max_send_message_bytes (900)" in answered.status.details


# Status.


class Told:
    """Ends as the test tells."""

    def __init__(self, end: Any) -> None:
        self._end = end

    async def Say(self, request: StringValue, grpc_context: GrpcContext) -> Any:
        return self._end(grpc_context)

    def Split(self, request: StringValue, grpc_context: GrpcContext) -> Iterator[Any]:
        yield StringValue(value="first")
        self._end(grpc_context)


def set_and_return(context: GrpcContext) -> StringValue:
    context.set_code(Code.NOT_FOUND)
    context.set_details("no such word: größer")
    context.set_trailing_metadata([("words", "0"), ("raw-bin", b"\x00\xff")])
    return StringValue(value="not sent")


def set_and_return_none(context: GrpcContext) -> None:
    set_and_return(context)


def set_and_raise(context: GrpcContext) -> None:
    set_and_return(context)
    raise ValueError("secret")


def abort(context: GrpcContext) -> None:
    context.abort(
        Code.NOT_FOUND, "no such word: größer", [("words", "0"), ("raw-bin", b"\x00\xff")]
    )


@pytest.mark.parametrize("name", ["Say", "Split"])
@pytest.mark.parametrize("end", [set_and_return, set_and_return_none, set_and_raise, abort])
async def test_status_of_the_method_arrives_intact(name: str, end: Any) -> None:
    async with replica_of(Told(end)) as client:
        answered = await client.call(name, "x")

    assert (answered.code, answered.status.details) == (Code.NOT_FOUND, "no such word: größer")
    assert answered.trailers == (("words", "0"), ("raw-bin", b"\x00\xff"))
    assert answered.texts == (["first"] if name == "Split" else [])


async def test_details_and_trailers_go_with_a_message() -> None:
    def end(context: GrpcContext) -> StringValue:
        context.set_code(Code.OK)
        context.set_details("all well")
        context.set_initial_metadata([("first", "1")])
        context.set_trailing_metadata([("last", "9")])
        return StringValue(value="yes")

    async with replica_of(Told(end)) as client:
        answered = await client.call("Say", "x")

    assert (answered.code, answered.status.details) == (Code.OK, "all well")
    assert answered.texts == ["yes"]
    assert (answered.initial, answered.trailers) == ((("first", "1"),), (("last", "9"),))


def raise_value_error(context: GrpcContext) -> None:
    raise ValueError("secret")


def set_ok_and_raise(context: GrpcContext) -> None:
    context.set_code(Code.OK)
    context.set_details("well")
    raise ValueError("secret")


def exit_process(context: GrpcContext) -> None:
    raise SystemExit("secret")


@pytest.mark.parametrize("end", [raise_value_error, set_ok_and_raise, exit_process])
async def test_unhandled_exception_tells_the_request_id_and_no_more(
    end: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with replica_of(Told(end)) as client:
        answered = await client.call("Say", "x")

    assert answered.code is Code.INTERNAL
    assert answered.status.details == "Internal Server Error (request id id-1)"
    (record,) = caplog.records
    assert record.getMessage() == "call of /test.Words/Say failed"
    assert record.exc_info is not None
    assert "secret" in str(record.exc_info[1])


async def test_abort_is_no_failure_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with replica_of(Told(abort)) as client:
        await client.call("Say", "x")

    assert not caplog.records


async def test_code_that_was_set_keeps_the_exception_out_of_the_details(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def end(context: GrpcContext) -> None:
        context.set_code(Code.ABORTED)
        raise ValueError("secret")

    async with replica_of(Told(end)) as client:
        answered = await client.call("Say", "x")

    assert (answered.code, answered.status.details) == (Code.ABORTED, "")
    assert "secret" in caplog.text


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BackPressureError, Code.RESOURCE_EXHAUSTED),
        (DeploymentUnavailableError, Code.UNAVAILABLE),
        (ReplicaUnavailableError, Code.UNAVAILABLE),
    ],
)
async def test_refusal_further_on_has_a_status_of_its_own(error: Any, code: Code) -> None:
    def end(context: GrpcContext) -> None:
        raise error("secret")

    def end_with_code(context: GrpcContext) -> None:
        context.set_code(Code.ABORTED)
        raise error("secret")

    async with replica_of(Told(end)) as client:
        answered = await client.call("Say", "x")
    async with replica_of(Told(end_with_code)) as client:
        kept = await client.call("Say", "x")

    assert answered.code is code
    assert answered.status.details
    assert "secret" not in answered.status.details
    assert (kept.code, kept.status.details) == (Code.ABORTED, "")


async def test_largest_trailers_are_left_out_where_there_are_too_many(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def end(context: GrpcContext) -> StringValue:
        context.set_details("d" * 5000)
        context.set_trailing_metadata([("big", "b" * 3000), ("small", "s"), ("mid", "m" * 2000)])
        return StringValue()

    async with replica_of(Told(end)) as client:
        answered = await client.call("Say", "x")

    assert [key for key, _ in answered.trailers] == ["small", "mid"]
    assert len(answered.status.details.encode()) == 1024
    assert "left out big" in caplog.text


async def test_initial_metadata_comes_once_and_first() -> None:
    late = []

    class Words:
        async def Split(
            self, request: StringValue, grpc_context: GrpcContext
        ) -> AsyncIterator[StringValue]:
            grpc_context.set_initial_metadata([("first", "1")])
            yield StringValue(value="a")
            try:
                grpc_context.set_initial_metadata([("late", "1")])
            except RuntimeError as error:
                late.append(str(error))
            yield StringValue(value="b")

    async with replica_of(Words()) as client:
        answered = await client.call("Split", "x")

    assert (answered.initial, answered.texts) == ((("first", "1"),), ["a", "b"])
    assert "set_trailing_metadata()" in late[0]


async def test_context_tells_of_the_call() -> None:
    seen: list[Any] = []

    class Curious:
        def Say(self, request: StringValue, *, grpc_context: GrpcContext) -> StringValue:
            seen.extend([grpc_context.invocation_metadata(), grpc_context.peer()])
            seen.append(grpc_context.time_remaining())
            return request

    sent = [b"key", b"value", b"raw-bin", b"\xff"]
    async with replica_of(Curious()) as client:
        await client.call("Say", "x", metadata=sent, peer="ipv4:1.2.3.4:5")
        await client.call("Say", "x", timeout_us=60_000_000)

    assert seen[:3] == [(("key", "value"), ("raw-bin", b"\xff")), "ipv4:1.2.3.4:5", None]
    assert 50 < seen[5] <= 60


# What cannot be answered.


@pytest.mark.parametrize(
    ("name", "instance", "details"),
    [
        ("Nobody", Async(), "deployment 'Words' has no method 'Nobody'"),
        ("Say", lambda request: request, "deployment 'Words' has no method 'Say'"),
        ("Unknown", Async(), "no function of grpc_servicer_functions adds /test.Words/Unknown"),
    ],
)
async def test_method_that_is_not_there_is_unimplemented(
    name: str, instance: Any, details: str
) -> None:
    async with replica_of(instance) as client:
        answered = await client.call(name, "x")

    assert answered.code is Code.UNIMPLEMENTED
    assert answered.status.details.startswith(details)


@pytest.mark.parametrize("name", ["reconfigure", "check_health", "shutdown"])
async def test_method_that_the_replica_calls_itself_is_no_rpc(name: str) -> None:
    called: list[Any] = []
    instance = type("Living", (), {name: lambda _, request=None: called.append(request)})()
    described = rpc(name)
    async with replica_of(instance, rpcs={described.name: described}) as client:
        answered = await client.call(name, "x")

    assert answered.code is Code.UNIMPLEMENTED
    assert answered.status.details == (
        f"{name!r} is a method that replicas call themselves: /test.Words/{name} needs another name"
    )
    assert called == []


@pytest.mark.parametrize("name", ["Say", "Join"])
async def test_request_that_cannot_be_parsed_is_told(name: str) -> None:
    async with replica_of(Async()) as client:
        stream = client.begin(name)
        stream.write(GRPC_MESSAGE, b"\xff\xff", end=True)
        answered = await answer(stream)

    assert answered.code is Code.INTERNAL
    assert answered.status.details.startswith(
        f"the request of /test.Words/{name} cannot be parsed: "
    )


async def test_unary_call_without_its_message_is_told() -> None:
    async with replica_of(Async()) as client:
        stream = client.begin("Say")
        stream.write(GRPC_HALF_CLOSE, b"", end=True)
        answered = await answer(stream)

    assert answered.code is Code.UNIMPLEMENTED
    assert answered.status.details == "/test.Words/Say takes one message: none came"


class Wrong:
    async def Say(self, request: StringValue) -> None:
        return None

    async def Split(self, request: StringValue) -> AsyncIterator[BytesValue]:
        yield BytesValue(value=b"x")

    async def Join(self, requests: Any) -> AsyncIterator[StringValue]:
        yield StringValue()

    async def Chat(self, requests: Any) -> StringValue:
        return StringValue()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "Say",
            "Words.Say returned 'NoneType', and /test.Words/Say answers with a "
            "google.protobuf.StringValue",
        ),
        (
            "Split",
            "Words.Split yielded 'BytesValue', and /test.Words/Split answers with a "
            "google.protobuf.StringValue",
        ),
        ("Join", "Words.Join is a generator: /test.Words/Join answers with one message: return it"),
        (
            "Chat",
            "Words.Chat returned 'StringValue' and no generator: /test.Words/Chat answers with a "
            "stream of messages: yield them",
        ),
    ],
)
async def test_answer_of_a_wrong_kind_is_told_in_the_log(
    name: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with replica_of(Wrong()) as client:
        answered = await client.call(name, "x")

    assert answered.code is Code.INTERNAL
    assert answered.status.details == "Internal Server Error (request id id-1)"
    assert told in caplog.text


async def test_method_that_wants_more_than_it_can_get_is_told_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Servicer:
        async def Say(self, request: StringValue, context: Any) -> StringValue:
            return request

        async def Split(self, *, grpc_context: GrpcContext) -> AsyncIterator[StringValue]:
            yield StringValue()

    async with replica_of(Servicer()) as client:
        answers = [await client.call(name, "x") for name in ("Say", "Split")]

    assert [answered.code for answered in answers] == [Code.INTERNAL] * 2
    cure = "what answers /test.Words/Say takes the request and, if it likes, grpc_context"
    assert f"Words.Say: missing a required argument: 'context': {cure}" in caplog.text
    assert "Words.Split: too many positional arguments: what answers" in caplog.text


async def test_service_without_protobuf_says_what_its_serializer_refuses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain = Method("/test.Words/Say", False, False, bytes, bytes)

    class Words:
        async def Say(self, request: bytes) -> str:
            return request.decode()

    async with replica_of(Words(), rpcs={plain.name: plain}) as client:
        answered = await client.call("Say", "x")

    assert answered.code is Code.INTERNAL
    assert "Words.Say returned 'str', and /test.Words/Say answers with" in caplog.text


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"\xff\xff", "malformed GrpcRequest"), (b"\x12\x01a", "metadata comes in pairs")],
)
async def test_head_that_is_none_resets_the_stream(data: bytes, reason: str) -> None:
    async with replica_of(Async()) as client:
        with pytest.raises(StreamReset, match=reason):
            await client.ends.caller.open(GRPC_REQUEST, data, end=True).receive()


# Cancelling.


async def test_cancelled_call_is_cancelled_in_its_method() -> None:
    began, cancelled = asyncio.Event(), asyncio.Event()

    class Slow:
        async def Say(self, request: StringValue) -> StringValue:
            began.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.set()
                raise
            return request

    async with replica_of(Slow()) as client:
        stream = client.begin("Say", message("x"))
        await began.wait()
        stream.reset()
        await asyncio.wait_for(cancelled.wait(), 5)
        await until(lambda: client.runner.ongoing == 0)


async def test_cancelled_generator_is_closed() -> None:
    closed = asyncio.Event()

    class Slow:
        async def Split(self, request: StringValue) -> AsyncIterator[StringValue]:
            try:
                yield request
                await asyncio.sleep(60)
            finally:
                closed.set()

    async with replica_of(Slow()) as client:
        stream = client.begin("Split", message("x"))
        assert await stream.receive() is not None
        stream.reset()
        await asyncio.wait_for(closed.wait(), 5)


@pytest.mark.parametrize("name", ["Join", "Chat"])
async def test_cancelled_call_leaves_no_thread_that_waits_for_messages(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    raised: list[BaseException] = []
    waits = threading.Event()

    def read(requests: Iterator[StringValue]) -> StringValue:
        next(requests)
        waits.set()
        try:
            return next(requests)
        except BaseException as error:
            raised.append(error)
            raise

    class Reading:
        def Join(self, requests: Iterator[StringValue]) -> StringValue:
            return read(requests)

        def Chat(self, requests: Iterator[StringValue]) -> Iterator[StringValue]:
            yield read(requests)

    async with replica_of(Reading()) as client:
        stream = client.begin(name)
        stream.write(GRPC_MESSAGE, message("x"))
        await asyncio.to_thread(waits.wait, 5)
        stream.reset()
        deadline = time.monotonic() + 5
        while client.runner.ongoing and time.monotonic() < deadline:
            await turn()

        assert client.runner.ongoing == 0
        assert [type(error) for error in raised] == [RequestCancelledError]
        assert not caplog.records


async def test_messages_have_one_reader_at_a_time() -> None:
    class Greedy:
        async def Join(self, requests: AsyncIterator[StringValue]) -> StringValue:
            first = asyncio.ensure_future(anext(requests))
            await turn(2)
            try:
                await anext(requests)
            except RuntimeError as error:
                return StringValue(value=str(error))
            finally:
                first.cancel()
            return StringValue()

    async with replica_of(Greedy()) as client:
        (text,) = (await answer(client.begin("Join"))).texts

    assert text == "the messages of /test.Words/Join have a reader already"


async def test_plain_iteration_on_the_event_loop_is_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Blocking:
        async def Join(self, requests: Any) -> StringValue:
            return StringValue(value="".join(each.value for each in requests))

    async with replica_of(Blocking()) as client:
        answered = await client.call("Join", "a")

    assert answered.code is Code.INTERNAL
    assert "write `async for`" in caplog.text


async def test_reader_that_is_left_behind_ends_with_its_call() -> None:
    ended: list[str] = []

    class Leaving:
        async def Join(self, requests: Iterator[StringValue]) -> StringValue:
            def read() -> None:
                ended.extend(each.value for each in requests)
                ended.append("end")

            self.thread = threading.Thread(target=read)
            self.thread.start()
            return StringValue(value="done")

    leaving = Leaving()
    async with replica_of(leaving) as client:
        assert (await answer(client.begin("Join"))).texts == ["done"]
        await asyncio.to_thread(leaving.thread.join, 5)

    assert ended == ["end"]


async def test_time_limit_ends_a_call() -> None:
    class Slow:
        async def Say(self, request: StringValue) -> StringValue:
            await asyncio.sleep(60)
            return request

    async with replica_of(Slow()) as client:
        with pytest.raises(StreamReset, match="time is over"):
            await client.begin("Say", message("x"), timeout_us=20_000).receive()
