"""`Replica.Invoke`: one request on one gRPC call, as any gRPC client makes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import grpc
import pytest

from serving.v1.controller_pb2 import WatchRequest
from serving.v1.controller_pb2_grpc import ControllerStub
from serving.v1.http_pb2 import HttpRequest
from serving.v1.replica_pb2 import InvokeRequest, InvokeResponse
from serving.v1.replica_pb2_grpc import ReplicaStub
from tests.integration.apps import bodies, cancellation, streaming
from tests.integration.apps.bodies import BLOCK, sha1
from tests.support.cluster import Cluster
from tests.support.control import until
from tests.support.processes import memory, ongoing, settled, spec_of, the_replica
from tests.support.record import Record

MiB = 1024 * 1024


@pytest.fixture
def waits(cluster: Cluster, record: Record) -> Iterator[Cluster]:
    waits = cancellation.Waits.options(max_ongoing_requests=1)
    with cluster.running(waits.bind(record)):
        yield cluster


@pytest.fixture
def body_app(cluster: Cluster) -> Iterator[Cluster]:
    with cluster.running(bodies.Bodies.bind()):
        yield cluster


@pytest.fixture
def streams(cluster: Cluster, record: Record) -> Iterator[Cluster]:
    with cluster.running(streaming.Streams.bind(record)):
        yield cluster


def address() -> str:
    """Where the replica listens, as the controller tells its watchers."""
    with grpc.insecure_channel(spec_of(the_replica()).controller_address) as channel:
        updates = ControllerStub(channel).Watch(iter([WatchRequest(watcher="test")]), timeout=10)
        try:
            (endpoint,) = next(updates).deployments[0].endpoints
            return str(endpoint.address)
        finally:
            updates.cancel()


@contextmanager
def replica() -> Iterator[ReplicaStub]:
    with grpc.insecure_channel(address()) as channel:
        yield ReplicaStub(channel)


def request(method: str, path: str, body: bytes = b"") -> InvokeRequest:
    head = HttpRequest(
        method=method,
        scheme="http",
        http_version="1.1",
        raw_path=path.encode(),
        headers=[b"host", b"test"],
        client_host="127.0.0.1",
        request_id="of-the-test",
        body=body,
    )
    return InvokeRequest(request=head)


def parts(*data: bytes) -> list[InvokeRequest]:
    return [InvokeRequest(body=part) for part in data]


def body_of(responses: list[InvokeResponse]) -> bytes:
    """The body, of a response that succeeded."""
    first, *rest = responses
    assert first.response.status == 200, first
    return first.response.body + b"".join(response.body for response in rest)


# Requests and responses.


def test_request_is_answered(body_app: Cluster) -> None:
    with replica() as stub:
        (answer,) = stub.Invoke(iter([request("GET", "/whole/5")]), timeout=10)

    assert (answer.response.status, answer.response.body) == (200, b"wwwww")
    headers = list(answer.response.headers)
    assert dict(zip(headers[::2], headers[1::2], strict=True))[b"content-length"] == b"5"


def test_large_response_comes_in_parts(body_app: Cluster) -> None:
    with replica() as stub:
        answers = list(stub.Invoke(iter([request("GET", f"/whole/{3 * MiB}")]), timeout=10))

    assert body_of(answers) == b"w" * 3 * MiB
    assert max(answer.ByteSize() for answer in answers) < MiB


def test_response_may_have_many_headers(body_app: Cluster) -> None:
    with replica() as stub:
        (answer,) = stub.Invoke(iter([request("GET", "/headers/200")]), timeout=10)

    assert list(answer.response.headers).count(b"v" * 1000) == 200


@pytest.mark.parametrize("size", [0, 10, 64 * 1024, 3 * MiB])
def test_body_may_come_with_the_request(body_app: Cluster, size: int) -> None:
    body = (BLOCK * 64)[:size]
    with replica() as stub:
        answers = list(stub.Invoke(iter([request("POST", "/echo", body)]), timeout=10))

    assert sha1(body_of(answers)) == sha1(body)


def test_body_may_come_in_parts(body_app: Cluster) -> None:
    sent = [request("POST", "/echo", b"first"), *parts(b"", b"second", BLOCK * 40, b"last")]
    with replica() as stub:
        answers = list(stub.Invoke(iter(sent), timeout=10))

    assert body_of(answers) == b"firstsecond" + BLOCK * 40 + b"last"


def test_stream_that_breaks_is_an_internal_error(streams: Cluster) -> None:
    with replica() as stub:
        call = stub.Invoke(iter([request("GET", "/broken/chunked")]), timeout=10)
        assert next(call).response.status == 200
        with pytest.raises(grpc.RpcError) as failure:
            list(call)

    assert failure.value.code() is grpc.StatusCode.INTERNAL
    assert "the stream broke" not in str(failure.value)


async def test_handler_may_answer_while_the_client_sends(body_app: Cluster) -> None:
    async with grpc.aio.insecure_channel(address()) as channel:
        call = ReplicaStub(channel).Invoke(timeout=10)
        await call.write(request("POST", "/piped"))
        for number in range(5):
            await call.write(InvokeRequest(body=b"part %d" % number))
            if number == 0:
                assert (await call.read()).response.status == 200
            assert (await call.read()).body == b"part %d" % number
        await call.done_writing()
        assert (await call.read()) in (grpc.aio.EOF, InvokeResponse(body=b""))
        assert await call.code() is grpc.StatusCode.OK


# Backpressure.


@pytest.mark.alone
async def test_client_that_reads_nothing_holds_back_the_generator(
    streams: Cluster, record: Record
) -> None:
    process = the_replica()
    async with grpc.aio.insecure_channel(address()) as channel:
        streams.get("/produced")
        before = memory(process)
        call = ReplicaStub(channel).Invoke()
        await call.write(request("GET", "/endless/async"))
        assert (await call.read()).response.status == 200

        produced = settled(lambda: streams.get("/produced").json())
        grown = memory(process) - before
        call.cancel()

    assert 0 < produced < 32 * MiB  # gRPC's own windows grow on a fast link
    assert grown < 16 * MiB
    record.wait_for("closed", within_s=1)


async def test_handler_that_reads_nothing_holds_back_the_client(waits: Cluster) -> None:
    process = the_replica()
    before = memory(process)
    async with grpc.aio.insecure_channel(address()) as channel:
        call = ReplicaStub(channel).Invoke()
        await call.write(request("POST", "/handler/it"))
        sent = 0
        try:
            while sent < 100 * MiB:
                await asyncio.wait_for(call.write(InvokeRequest(body=bytes(MiB))), 0.5)
                sent += MiB
        except (TimeoutError, asyncio.CancelledError):
            pass
        grown = memory(process) - before
        call.cancel()

    assert sent < 32 * MiB
    assert grown < 32 * MiB


# Ends before the end.


@pytest.mark.alone
def test_cancelled_call_cancels_its_handler(waits: Cluster, record: Record) -> None:
    with replica() as stub:
        call = stub.Invoke(iter([request("GET", "/handler/it")]))
        record.wait_for("started", "it")
        call.cancel()
        record.wait_for("cancelled", "it", within_s=1)

    until(lambda: ongoing(the_replica()) == 0, within_s=1)


@pytest.mark.alone
async def test_cancelled_call_of_an_aio_client_cancels_its_handler(
    waits: Cluster, record: Record
) -> None:
    async def sent() -> AsyncIterator[InvokeRequest]:
        yield request("GET", "/stream/it")

    async with grpc.aio.insecure_channel(address()) as channel:
        call = ReplicaStub(channel).Invoke(sent())
        await call.read()
        record.wait_for("started", "it")
        call.cancel()

    record.wait_for("cancelled", "it", within_s=1)


@pytest.mark.alone
def test_lost_channel_cancels_its_handler(waits: Cluster, record: Record) -> None:
    with replica() as stub:
        call = stub.Invoke(iter([request("GET", "/handler/it")]))
        record.wait_for("started", "it")
    assert call.done()

    record.wait_for("cancelled", "it", within_s=1)


@pytest.mark.alone
def test_deadline_cancels_the_handler(waits: Cluster, record: Record) -> None:
    with replica() as stub:
        call = stub.Invoke(iter([request("GET", "/handler/it")]), timeout=1)
        with pytest.raises(grpc.RpcError) as failure:
            list(call)

    assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    record.wait_for("cancelled", "it", within_s=1)


def test_full_replica_is_exhausted(waits: Cluster, record: Record) -> None:
    with replica() as stub:
        first = stub.Invoke(iter([request("GET", "/handler/first")]))
        record.wait_for("started", "first")
        with pytest.raises(grpc.RpcError) as failure:
            list(stub.Invoke(iter([request("GET", "/handler/second")]), timeout=10))
        first.cancel()

    assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "started second" not in record.notes()


# What is no request.

GARBAGE: dict[str, list[InvokeRequest]] = {
    "nothing": [],
    "empty": [InvokeRequest()],
    "a body first": parts(b"body"),
    "no method": [request("", "/")],
    "no path": [request("GET", "")],
    "odd headers": [InvokeRequest(request=HttpRequest(method="GET", headers=[b"host"]))],
    "a websocket": [InvokeRequest(request=HttpRequest(websocket=True, raw_path=b"/socket/it"))],
    "a head of a megabyte": [request("GET", "/" + "a" * MiB)],
    "a second request": [request("POST", "/echo"), request("POST", "/echo")],
}


@pytest.mark.alone
@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_is_an_invalid_argument(body_app: Cluster, garbage: str) -> None:
    with replica() as stub:
        with pytest.raises(grpc.RpcError) as failure:
            list(stub.Invoke(iter(GARBAGE[garbage]), timeout=10))
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT, failure.value
        assert body_of(list(stub.Invoke(iter([request("GET", "/whole/1")]), timeout=10))) == b"w"

    until(lambda: ongoing(the_replica()) == 0, within_s=1)
