"""A gRPC call's life in the proxy: before it a stand-in for the server, behind it a replica in
memory."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest

from serving.config import HTTPOptions, gRPCOptions
from serving.mux import Stream
from serving.proxy.access_log import AccessLog
from serving.proxy.app import Proxy
from serving.proxy.grpc import GrpcExchange
from serving.routing.watch import Directory
from serving.rpc.opening import MAX_INLINE
from serving.v1 import controller_pb2 as pb
from serving.v1.grpc_pb2 import (
    GRPC_HALF_CLOSE,
    GRPC_MESSAGE,
    GRPC_METADATA,
    GRPC_STATUS,
    GrpcMetadata,
    GrpcMethod,
    GrpcRequest,
    GrpcStatus,
)
from tests.support.mux import until
from tests.support.routing import MemoryLink, MemoryReplica, make_deployment

NAME = "/test.Echo/Call"


class Context:
    """What the exchange sees of grpc.aio's: the client's side is the test."""

    def __init__(self, *metadata: tuple[str, str | bytes], time_s: float | None = None) -> None:
        self.metadata = metadata
        self.time_s = time_s
        self.requests: asyncio.Queue[Any] = asyncio.Queue()
        self.answers: list[bytes] = []
        self.initial: tuple[Any, ...] = ()
        self.trailers: dict[str, Any] = {}
        self.code = grpc.StatusCode.OK
        self.details = ""
        self.broken = False

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return self.metadata

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def time_remaining(self) -> float | None:
        return self.time_s

    async def read(self) -> Any:
        message = await self.requests.get()
        if message is grpc.aio.EOF:
            self.requests.put_nowait(message)  # for those who ask again
        return message

    async def write(self, message: bytes) -> None:
        if self.broken:
            raise grpc.aio.InternalError("the call has ended")
        self.answers.append(message)

    async def send_initial_metadata(self, metadata: Any) -> None:
        self.initial = tuple(metadata)

    def set_trailing_metadata(self, metadata: Any) -> None:
        self.trailers = dict(metadata)

    def set_details(self, details: str) -> None:
        self.details = details

    async def abort(self, code: grpc.StatusCode, details: str, trailers: Any) -> None:
        self.code, self.details, self.trailers = code, details, dict(trailers)
        raise grpc.aio.AbortError


class Scene:
    """A proxy and its one replica, which holds every call for the test to answer."""

    def __init__(self, options: gRPCOptions) -> None:
        self.replica = MemoryReplica("replica")
        self.log = io.StringIO()
        directory = Directory(make_link=lambda address, **on: MemoryLink(self.replica, **on))  # type: ignore[arg-type]
        access_log = AccessLog(self.log, component="proxy-0", as_json=False)
        self.proxy = Proxy(HTTPOptions(), access_log, directory, options)
        directory.apply(
            pb.WatchUpdate(
                snapshot=True,
                routes=[pb.Route(application="app", ingress="Model")],
                deployments=[make_deployment("replica", capacity=1)],
            )
        )

    def call(
        self, context: Context, message: bytes | None = b"", **kind: bool
    ) -> asyncio.Task[bytes]:
        self.replica.script.append(lambda replica, stream: stream.session.accept(stream))
        exchange = GrpcExchange(self.proxy, GrpcMethod(name=NAME, **kind), context)

        async def run() -> bytes:
            with contextlib.suppress(grpc.aio.AbortError):
                return await exchange.run(message)
            return b""

        return self.proxy.tasks.start(run(), name="call")

    async def arrived(self) -> tuple[GrpcRequest, Stream]:
        await until(lambda: self.replica.streams)
        return GrpcRequest.FromString(self.replica.requests[-1]), self.replica.streams[-1]

    @property
    def ongoing(self) -> int:
        router = self.proxy.directory.router("app", "Model")
        assert router is not None
        return router.ongoing + router.balancer.queued

    async def logged(self) -> str:
        assert self.proxy.access_log is not None
        await self.proxy.access_log.aclose()
        self.proxy.access_log = None
        return self.log.getvalue()


@pytest.fixture
def options(request: pytest.FixtureRequest) -> gRPCOptions:
    return gRPCOptions(**getattr(request, "param", {}))


@pytest.fixture
async def scene(options: gRPCOptions) -> AsyncIterator[Scene]:
    scene = Scene(options)
    yield scene
    await scene.proxy.aclose()


def write_status(stream: Stream, **status: Any) -> None:
    stream.write(GRPC_STATUS, GrpcStatus(**status).SerializeToString(), end=True)


async def test_unary_call_is_one_message_each_way(scene: Scene) -> None:
    metadata: list[tuple[str, str | bytes]] = [
        ("request_id", "id-1"),
        ("multiplexed_model_id", "m"),
        ("x-bin", b"\x00\xff"),
    ]
    context = Context(*metadata)
    call = scene.call(context, b"question")
    request, stream = await scene.arrived()
    write_status(stream, message=b"answer", trailing_metadata=[b"a", b"b"])

    assert await call == b"answer"
    assert request == GrpcRequest(
        method=NAME,
        metadata=[part for each in metadata for part in map(encoded, each)],
        peer="ipv4:127.0.0.1:1",
        request_id="id-1",
        application="app",
        multiplexed_model_id="m",
        message=b"question",
    )
    assert context.trailers == {"a": "b", "request_id": "id-1"}
    assert (context.code, scene.ongoing) == (grpc.StatusCode.OK, 0)
    assert f" app {NAME} gRPC {NAME} OK " in await scene.logged()


def encoded(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


async def test_message_that_is_too_large_for_the_head_follows_it(scene: Scene) -> None:
    message = bytes(MAX_INLINE + 1)
    call = scene.call(Context(), message)
    request, stream = await scene.arrived()
    part = await stream.receive()
    write_status(stream)
    await call
    assert not request.HasField("message")
    assert part is not None
    assert (part.tag, part.data, part.end) == (GRPC_MESSAGE, message, True)


async def test_stream_of_answers_keeps_its_order_and_metadata(scene: Scene) -> None:
    context = Context()
    call = scene.call(context, response_streaming=True)
    _, stream = await scene.arrived()
    initial = GrpcMetadata(metadata=[b"first", b"word"])
    stream.write(GRPC_METADATA, initial.SerializeToString())
    stream.write(GRPC_MESSAGE, b"1")
    stream.write(GRPC_MESSAGE, b"")
    write_status(stream, code=5, details="no more", message=b"2")
    await call
    assert context.initial == (("first", "word"),)
    assert context.answers == [b"1", b"", b"2"]
    assert (context.code, context.details) == (grpc.StatusCode.NOT_FOUND, "no more")


async def test_stream_of_requests_ends_in_a_half_close(scene: Scene) -> None:
    context = Context()
    call = scene.call(context, None, request_streaming=True)
    _, stream = await scene.arrived()
    for message in (b"1", b"", grpc.aio.EOF):
        context.requests.put_nowait(message)
    parts = [await stream.receive() for _ in range(3)]
    write_status(stream)
    await call
    assert [(part.tag, part.data, part.end) for part in parts if part is not None] == [
        (GRPC_MESSAGE, b"1", False),
        (GRPC_MESSAGE, b"", False),
        (GRPC_HALF_CLOSE, b"", True),
    ]


async def test_end_of_the_requests_that_a_cancelling_brings_is_no_half_close(scene: Scene) -> None:
    context = Context()
    call = scene.call(context, None, request_streaming=True)
    _, stream = await scene.arrived()
    await until(lambda: context.requests._getters)  # type: ignore[attr-defined]
    context.requests.put_nowait(grpc.aio.EOF)
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.wait((call,))
    await until(lambda: stream.error)
    assert not stream.inbox
    assert "CANCELLED" in await scene.logged()


@pytest.mark.parametrize("options", [{"request_timeout_s": 0.05}], indirect=True)
@pytest.mark.parametrize("message", [b"", None], ids=["unary", "stream"])
async def test_time_that_is_over_ends_the_call_with_its_status(
    scene: Scene, message: bytes | None
) -> None:
    context = Context(time_s=60.0)
    call = scene.call(context, message, request_streaming=message is None)
    assert await call == b""
    assert context.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "0.05 s (request_timeout_s)" in context.details
    assert scene.ongoing == 0
    await until(lambda: scene.replica.streams[0].error)


async def test_call_that_is_cancelled_in_the_queue_leaves_it(scene: Scene) -> None:
    first = scene.call(Context())
    await scene.arrived()
    queued = scene.call(Context())
    await until(lambda: scene.ongoing == 2)
    queued.cancel()
    await asyncio.wait((queued,))
    assert scene.ongoing == 1
    first.cancel()
    await asyncio.wait((first,))
    assert scene.ongoing == 0


async def test_write_to_a_client_that_has_left_ends_the_call(scene: Scene) -> None:
    context = Context()
    call = scene.call(context, response_streaming=True)
    _, stream = await scene.arrived()
    context.broken = True
    stream.write(GRPC_MESSAGE, b"1")
    with contextlib.suppress(asyncio.CancelledError):
        await call
    assert call.cancelled()
    assert scene.ongoing == 0
    assert "CANCELLED" in await scene.logged()


@pytest.mark.parametrize(
    ("tag", "data"),
    [(GRPC_MESSAGE, b"no status"), (GRPC_STATUS, b"\xff no protobuf")],
    ids=["no status", "malformed"],
)
async def test_answer_that_breaks_the_rules_is_internal(
    scene: Scene, tag: int, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    context = Context(("request_id", "id-1"))
    call = scene.call(context)
    _, stream = await scene.arrived()
    stream.write(tag, data, end=True)
    await call
    assert context.code is grpc.StatusCode.INTERNAL
    assert context.details == "Internal Server Error (request id id-1)"
    assert context.trailers == {"request_id": "id-1"}
    assert "call failed in the proxy" in caplog.text
