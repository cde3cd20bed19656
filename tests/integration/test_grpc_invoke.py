"""`Replica.Invoke` for methods: one call of a user's service on one gRPC call, past the proxy."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest

import serving
from serving.v1.controller_pb2 import WatchRequest
from serving.v1.controller_pb2_grpc import ControllerStub
from serving.v1.grpc_pb2 import GrpcRequest
from serving.v1.http_pb2 import HttpRequest
from serving.v1.replica_pb2 import InvokeRequest, InvokeResponse
from serving.v1.replica_pb2_grpc import ReplicaStub
from tests.integration.apps import grpc_probe
from tests.support.cluster import Cluster
from tests.support.control import until
from tests.support.processes import ongoing, replicas, spec_of
from tests.support.protos import failed, probe
from tests.support.record import Record

LIMIT = 4 * 1024 * 1024
GRPC_OPTIONS = {"max_receive_message_bytes": LIMIT, "max_send_message_bytes": LIMIT}
TIMEOUT_S = 20.0
LONG_S = 60.0


@pytest.fixture
def record(all_records: Record) -> Record:
    all_records.path.unlink(missing_ok=True)
    return all_records


@pytest.fixture(scope="module", autouse=True)
def applications(cluster: Cluster, all_records: Record) -> Iterator[None]:
    front: Any = grpc_probe.Front.options(max_ongoing_requests=4)
    graph = front.bind(all_records, grpc_probe.Callee.bind(all_records))
    kinds, statuses = grpc_probe.Coroutines.bind(), grpc_probe.Statuses.bind()
    with cluster.running_for_grpc(kinds=kinds, statuses=statuses, graph=graph):
        # What a script holds to call it stays.
        serving.get_deployment_handle("Front", "graph").state.remote().result(TIMEOUT_S)
        yield


def address(application: str) -> str:
    """Where the replica of its ingress listens, as the controller tells whoever watches it."""
    controller = spec_of(replicas(application)[0]).controller_address
    with grpc.insecure_channel(controller) as channel:
        updates = ControllerStub(channel).Watch(iter([WatchRequest(watcher="test")]), timeout=10)
        snapshot = next(updates)
        updates.cancel()
    (ingress,) = (route.ingress for route in snapshot.routes if route.application == application)
    (endpoint,) = (
        endpoint
        for deployment in snapshot.deployments
        if (deployment.application, deployment.name) == (application, ingress)
        for endpoint in deployment.endpoints
    )
    return str(endpoint.address)


def head(method: str, **fields: Any) -> InvokeRequest:
    call = GrpcRequest(
        method=f"/probe.Probe/{method}", peer="ipv4:127.0.0.1:1", request_id="mine", **fields
    )
    return InvokeRequest(call=call)


def messages(*requests: Any) -> list[InvokeRequest]:
    return [InvokeRequest(message=request.SerializeToString()) for request in requests]


def replies(answers: list[InvokeResponse]) -> list[Any]:
    return [probe.Reply.FromString(answer.message) for answer in answers]


@pytest.fixture
def kinds() -> Iterator[ReplicaStub]:
    with grpc.insecure_channel(address("kinds")) as channel:
        yield ReplicaStub(channel)


@pytest.fixture
def statuses() -> Iterator[ReplicaStub]:
    with grpc.insecure_channel(address("statuses")) as channel:
        yield ReplicaStub(channel)


@pytest.fixture
def graph() -> Iterator[ReplicaStub]:
    with grpc.insecure_channel(address("graph")) as channel:
        yield ReplicaStub(channel)


REQUESTS = [probe.Request(text="first", count=2), probe.Request(text="second", count=1)]
EXPECTED = {
    "One": ["first"],
    "Many": ["first", "first"],
    "Gather": ["first second"],
    "Chat": ["first", "first", "second"],
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_call_of_each_kind_is_answered(kinds: ReplicaStub, kind: str) -> None:
    requests = REQUESTS[:1] if kind in ("One", "Many") else REQUESTS
    sent = [head(kind), *messages(*requests)]

    answers = list(kinds.Invoke(iter(sent), timeout=TIMEOUT_S))

    assert [reply.text for reply in replies(answers)] == EXPECTED[kind]


def test_message_may_come_with_the_head(kinds: ReplicaStub) -> None:
    sent = [head("One", message=REQUESTS[0].SerializeToString())]

    (reply,) = replies(list(kinds.Invoke(iter(sent), timeout=TIMEOUT_S)))

    assert reply.text == "first"


def test_messages_of_megabytes_are_whole(kinds: ReplicaStub) -> None:
    request = probe.Request(payload=bytes(range(256)) * (3 * 1024 * 4), count=2)

    answers = list(kinds.Invoke(iter([head("Chat"), *messages(request)]), timeout=TIMEOUT_S))

    assert [reply.payload for reply in replies(answers)] == [request.payload] * 2


@pytest.mark.parametrize("where", ["request", "reply"])
def test_message_beyond_the_limit_is_exhausted_and_the_limit_named(
    kinds: ReplicaStub, where: str
) -> None:
    payload, size = (bytes(LIMIT), 0) if where == "request" else (b"", LIMIT)
    sent = [head("One"), *messages(probe.Request(payload=payload, size=size))]

    failure = failed(lambda: list(kinds.Invoke(iter(sent), timeout=TIMEOUT_S)))

    assert failure.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(LIMIT) in failure.details()


async def test_streams_go_both_ways_at_once() -> None:
    async with grpc.aio.insecure_channel(address("kinds")) as channel:
        call = ReplicaStub(channel).Invoke(timeout=TIMEOUT_S)
        await call.write(head("Chat"))
        for number in range(5):
            (message,) = messages(probe.Request(text=str(number), count=1))
            await call.write(message)
            (reply,) = replies([await call.read()])
            assert (reply.text, reply.number) == (str(number), number)
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK


def test_status_and_metadata_are_those_of_the_call(statuses: ReplicaStub) -> None:
    failure = probe.Failure(
        code=grpc.StatusCode.DATA_LOSS.value[0], details="☺", how="abort", trailers={"x-a": "1"}
    )
    call = statuses.Invoke(iter([head("Fail"), *messages(failure)]), timeout=TIMEOUT_S)

    error = failed(lambda: list(call))
    assert (error.code(), error.details()) == (grpc.StatusCode.DATA_LOSS, "☺")
    assert ("x-a", "1") in list(error.trailing_metadata())

    flat = [b"x-initial", b"1", b"x-trailing-bin", b"\0"]
    sent = [head("One", metadata=flat), *messages(probe.Request())]
    answered = statuses.Invoke(iter(sent), timeout=TIMEOUT_S)
    assert len(list(answered)) == 1
    assert ("x-initial", "1") in list(answered.initial_metadata())
    assert ("x-trailing-bin", b"\0") in list(answered.trailing_metadata())


def test_handler_knows_its_call(statuses: ReplicaStub) -> None:
    sent = [head("Inspect", multiplexed_model_id="m-1"), *messages(probe.Request())]

    (answer,) = statuses.Invoke(iter(sent), timeout=TIMEOUT_S)

    seen = probe.Seen.FromString(answer.message)
    assert (seen.request_id, seen.multiplexed_model_id) == ("mine", "m-1")
    assert seen.peer == "ipv4:127.0.0.1:1"
    assert TIMEOUT_S - 5 < seen.time_remaining_s <= TIMEOUT_S * 1.01  # gRPC rounds it up


@pytest.mark.alone
@pytest.mark.parametrize("end", ["cancel", "deadline"])
def test_end_of_the_call_cancels_down_the_graph(
    graph: ReplicaStub, record: Record, end: str
) -> None:
    sent = [head("One"), *messages(probe.Request(text="it", seconds=LONG_S))]
    call = graph.Invoke(iter(sent), timeout=1 if end == "deadline" else None)
    record.wait_for("started callee it")
    if end == "cancel":
        call.cancel()
    else:
        assert failed(lambda: list(call)).code() is grpc.StatusCode.DEADLINE_EXCEEDED

    record.wait_for("cancelled front it", within_s=1)
    record.wait_for("cancelled callee it", within_s=1)
    until(lambda: not any(ongoing(each) for each in replicas("graph")), within_s=1)


def test_full_replica_is_exhausted(graph: ReplicaStub, record: Record) -> None:
    request = probe.Request(text="it", seconds=LONG_S)
    calls = [graph.Invoke(iter([head("One"), *messages(request)])) for _ in range(4)]
    until(lambda: record.notes().count("started front it") == 4)

    failure = failed(
        lambda: list(graph.Invoke(iter([head("One"), *messages(request)]), timeout=TIMEOUT_S))
    )
    for call in calls:
        call.cancel()

    assert failure.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("method", ["Nobody", "Unheard"])
def test_unknown_method_is_unimplemented(kinds: ReplicaStub, method: str) -> None:
    sent = [head(method), *messages(probe.Request())]

    failure = failed(lambda: list(kinds.Invoke(iter(sent), timeout=TIMEOUT_S)))

    assert failure.code() is grpc.StatusCode.UNIMPLEMENTED
    assert method in failure.details()


GARBAGE = {
    "a message first": messages(probe.Request()),
    "a body": [head("One"), InvokeRequest(body=b"body")],
    "an http request behind": [
        head("Chat"),
        InvokeRequest(request=HttpRequest(method="GET", raw_path=b"/")),
    ],
    "a second call": [head("Chat"), head("Chat")],
    "odd metadata": [head("One", metadata=[b"key"]), *messages(probe.Request())],
}


@pytest.mark.alone
@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_is_an_invalid_argument(kinds: ReplicaStub, garbage: str) -> None:
    failure = failed(lambda: list(kinds.Invoke(iter(GARBAGE[garbage]), timeout=TIMEOUT_S)))
    assert failure.code() is grpc.StatusCode.INVALID_ARGUMENT, failure

    sent = [head("One"), *messages(REQUESTS[0])]
    assert len(list(kinds.Invoke(iter(sent), timeout=TIMEOUT_S))) == 1
    until(lambda: not any(ongoing(each) for each in replicas("kinds")), within_s=1)


@pytest.mark.alone
async def test_call_of_an_asynchronous_client_is_cancelled(record: Record) -> None:
    async def sent() -> AsyncIterator[InvokeRequest]:
        yield head("Many")
        for message in messages(probe.Request(text="it", seconds=LONG_S, count=2)):
            yield message

    async with grpc.aio.insecure_channel(address("graph")) as channel:
        call = ReplicaStub(channel).Invoke(sent())
        await call.read()
        call.cancel()

    record.wait_for("cancelled callee it", within_s=1)


@pytest.mark.alone
async def test_messages_of_cancelled_calls_never_look_whole() -> None:
    front = serving.get_deployment_handle("Front", "graph")
    before = await front.state.remote()
    chance = random.Random(0)

    async def sent() -> AsyncIterator[InvokeRequest]:
        yield head("Gather")
        while True:
            yield messages(probe.Request())[0]
            await asyncio.sleep(0.001)

    async def cancelled_call(stub: Any) -> None:
        call = stub.Invoke(sent())
        await asyncio.sleep(chance.uniform(0, 0.05))
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call.read()

    async with grpc.aio.insecure_channel(address("graph")) as channel:
        stub = ReplicaStub(channel)
        for _ in range(50):
            await asyncio.gather(*(cancelled_call(stub) for _ in range(3)))

    after = await front.state.remote()
    assert after["cancelled"] > before["cancelled"] + 50
    assert after["completed"] == before["completed"]
