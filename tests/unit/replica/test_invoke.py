"""`Invoke` for calls of gRPC methods: one gRPC call, translated to a stream and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from serving.context import ReplicaModels, current_request
from serving.grpc_util import GrpcContext
from serving.replica.grpc import GrpcHandler
from serving.replica.methods import Methods
from serving.replica.runner import Runner
from serving.replica.service import DataService, data_server_options
from serving.rpc.methods import Method
from serving.rpc.opening import MAX_INLINE
from serving.v1.controller_pb2 import GrpcSettings
from serving.v1.grpc_pb2 import GrpcRequest
from serving.v1.http_pb2 import HttpRequest
from serving.v1.replica_pb2 import InvokeRequest, InvokeResponse
from tests.support.mux import until

Code = grpc.StatusCode
MiB = 1024 * 1024
KIND = StringValue.FromString, StringValue.SerializeToString, StringValue.DESCRIPTOR
RPCS = {
    method.name: method
    for method in [
        Method("/test.Words/Say", False, False, *KIND),
        Method("/test.Words/Join", True, False, *KIND),
        Method("/test.Words/Chat", True, True, *KIND),
    ]
}


class Aborted(Exception):
    """As gRPC ends a method that aborts its call."""


class Context:
    """What gRPC gives a method that is called: its client is the test."""

    def __init__(self, *requests: InvokeRequest, half_closed: bool = True) -> None:
        self.requests: asyncio.Queue[Any] = asyncio.Queue()
        for request in requests:
            self.requests.put_nowait(request)
        if half_closed:
            self.requests.put_nowait(grpc.aio.EOF)
        self.remaining_s: float | None = None
        self.texts: list[str] = []
        self.initial: Any = ()
        self.trailers: Any = ()
        self.code: Any = 0
        self.details = ""

    async def read(self) -> Any:
        message = await self.requests.get()
        if message is grpc.aio.EOF:
            self.requests.put_nowait(message)  # every read from then on finds it
        return message

    async def write(self, message: InvokeResponse) -> None:
        assert message.WhichOneof("part") == "message"
        self.texts.append(StringValue.FromString(message.message).value)

    def peer(self) -> str:
        return "unix:"

    def invocation_metadata(self) -> Any:
        return (("user-agent", "test"), ("raw-bin", b"\xff"))

    def time_remaining(self) -> float | None:
        return self.remaining_s

    async def send_initial_metadata(self, metadata: Any) -> None:
        assert not self.texts
        self.initial = metadata

    def set_code(self, code: Any) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details

    def set_trailing_metadata(self, metadata: Any) -> None:
        self.trailers = metadata

    async def abort(self, code: Code, details: str) -> None:
        self.code, self.details = code, details
        raise Aborted


class Words:
    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.cancelled = asyncio.Event()

    async def Say(self, request: StringValue, grpc_context: GrpcContext) -> StringValue:
        scope = current_request()
        assert scope is not None
        self.seen = [scope.request_id, grpc_context.peer(), *grpc_context.invocation_metadata()]
        grpc_context.set_initial_metadata([("first", "1")])
        grpc_context.set_trailing_metadata([("last", "9")])
        if request.value == "abort":
            grpc_context.abort(Code.ABORTED, "as told")
        return request

    async def Join(self, requests: AsyncIterator[StringValue]) -> StringValue:
        return StringValue(value="+".join([each.value async for each in requests]))

    async def Chat(self, requests: AsyncIterator[StringValue]) -> AsyncIterator[StringValue]:
        try:
            async for each in requests:
                yield each
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


def service(words: Words, *, max_ongoing: int = 10) -> DataService:
    settings = GrpcSettings(max_receive_message_bytes=4 * MiB, max_send_message_bytes=4 * MiB)

    async def app(*_: object) -> None:
        raise AssertionError("no call is an HTTP request")

    handler = GrpcHandler(Methods(words, "Words"), RPCS, settings)
    runner = Runner(app, max_ongoing=max_ongoing, state={}, rpcs=handler)
    return DataService(runner, ReplicaModels())


def head(name: str, inline: str | None = None, **fields: Any) -> InvokeRequest:
    call = GrpcRequest(method=f"/test.Words/{name}", **fields)
    if inline is not None:
        call.message = StringValue(value=inline).SerializeToString()
    return InvokeRequest(call=call)


def message(text: str) -> InvokeRequest:
    return InvokeRequest(message=StringValue(value=text).SerializeToString())


SIZES = [0, 1, MAX_INLINE - 10, MAX_INLINE, 200_000, 3 * MiB]


@pytest.mark.parametrize("size", SIZES)
async def test_message_with_the_head_arrives_whole(size: int) -> None:
    client = Context(head("Say", "x" * size))

    await service(Words()).Invoke(None, client)

    assert (client.texts, client.code) == (["x" * size], 0)


@pytest.mark.parametrize("size", SIZES)
async def test_messages_keep_their_boundaries(size: int) -> None:
    texts = ["a" * size, "", "b", "c" * size]
    client = Context(head("Chat"), *map(message, texts))

    await service(Words()).Invoke(None, client)

    assert (client.texts, client.code) == (texts, 0)


async def test_many_messages_become_one() -> None:
    client = Context(head("Join"), message("a"), message("b"))

    await service(Words()).Invoke(None, client)

    assert client.texts == ["a+b"]


async def test_status_and_metadata_are_those_of_the_call() -> None:
    client, words = Context(head("Say", "abort", metadata=[b"own", b"1"])), Words()

    await service(words).Invoke(None, client)

    assert (client.code, client.details) == (Code.ABORTED.value[0], "as told")
    assert (client.initial, client.trailers) == ((("first", "1"),), (("last", "9"),))
    request_id, *rest = words.seen
    assert len(request_id) == 32
    assert rest == ["unix:", ("own", "1"), ("user-agent", "test"), ("raw-bin", b"\xff")]


async def test_request_id_and_peer_of_the_client_are_kept() -> None:
    words = Words()

    await service(words).Invoke(
        None, Context(head("Say", "x", request_id="mine", peer="ipv4:1.2.3.4:5"))
    )

    assert words.seen[:2] == ["mine", "ipv4:1.2.3.4:5"]


async def test_answers_come_while_the_client_sends() -> None:
    client = Context(head("Chat"), half_closed=False)
    answering = asyncio.ensure_future(service(Words()).Invoke(None, client))

    for number in range(3):
        client.requests.put_nowait(message(str(number)))
        await until(lambda: len(client.texts) > number)  # noqa: B023 - called in this turn
    client.requests.put_nowait(grpc.aio.EOF)
    await answering

    assert client.texts == ["0", "1", "2"]


async def test_cancelled_call_is_cancelled_in_its_method() -> None:
    words, client = Words(), Context(head("Chat"), message("x"), half_closed=False)
    answering = asyncio.ensure_future(service(words).Invoke(None, client))
    await until(lambda: client.texts)

    answering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answering

    await asyncio.wait_for(words.cancelled.wait(), 5)


async def test_time_that_is_over_is_deadline_exceeded() -> None:
    client = Context(head("Join"), half_closed=False)
    client.remaining_s = 0.02

    with pytest.raises(Aborted):
        await service(Words()).Invoke(None, client)

    assert client.code is Code.DEADLINE_EXCEEDED


async def test_full_replica_is_exhausted() -> None:
    client = Context(head("Say", "x"))

    with pytest.raises(Aborted):
        await service(Words(), max_ongoing=0).Invoke(None, client)

    assert (client.code, client.details) == (Code.RESOURCE_EXHAUSTED, "the replica is full")


@pytest.mark.parametrize(
    ("requests", "told"),
    [
        ([], "the first message must hold a request or a call"),
        ([message("x")], "the first message must hold a request or a call"),
        ([InvokeRequest(request=HttpRequest(websocket=True))], "a WebSocket is no request"),
        ([head("Join"), InvokeRequest(body=b"x")], "after the first must hold a message"),
        ([head("Say", "x", metadata=[b"key"])], "pairs of key and value"),
        ([head("Say", "x", metadata=[b"\xff", b"x"])], "utf-8"),
    ],
)
async def test_call_that_breaks_the_rules_is_refused(
    requests: list[InvokeRequest], told: str
) -> None:
    client = Context(*requests)

    with pytest.raises(Aborted):
        await service(Words()).Invoke(None, client)

    assert client.code is Code.INVALID_ARGUMENT
    assert told in client.details


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(0, 4 * MiB), (100 * MiB, 100 * MiB + 65536), (3 * 1024 * MiB, 2**31 - 1)],
)
def test_server_takes_messages_of_the_limit_and_what_is_around_them(
    limit: int, expected: int
) -> None:
    options = dict(data_server_options(GrpcSettings(max_receive_message_bytes=limit)))

    assert options["grpc.max_receive_message_length"] == expected
