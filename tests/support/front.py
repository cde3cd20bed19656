"""A proxy's gRPC server in the test's own process and loop, before replicas in memory."""

from __future__ import annotations

import asyncio
import contextlib
import io
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from serving.aio import Tasks
from serving.config import HTTPOptions, gRPCOptions
from serving.mux import Stream
from serving.proxy.access_log import AccessLog
from serving.proxy.app import Proxy
from serving.proxy.grpc_server import GrpcServer
from serving.routing.watch import Directory
from serving.v1 import controller_pb2 as pb
from serving.v1.grpc_pb2 import (
    GRPC_HALF_CLOSE,
    GRPC_MESSAGE,
    GRPC_STATUS,
    GrpcMethod,
    GrpcRequest,
    GrpcServices,
    GrpcStatus,
)
from tests.support.routing import MemoryLink, MemoryReplica, make_deployment

METHODS = [
    GrpcMethod(name="/test.Echo/UnaryUnary"),
    GrpcMethod(name="/test.Echo/UnaryStream", response_streaming=True),
    GrpcMethod(name="/test.Echo/StreamUnary", request_streaming=True),
    GrpcMethod(name="/test.Echo/StreamStream", request_streaming=True, response_streaming=True),
]


DEADLINE_S = 10.0


async def until(condition: Callable[[], object]) -> None:
    """Waits until ``condition`` holds, which sockets are needed for."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.005)


class ReplicaCall:
    """A call as a replica sees it."""

    def __init__(self, stream: Stream, request: GrpcRequest) -> None:
        self.stream = stream
        self.request = request
        self.half_closed = request.HasField("message")
        self.ended_early = asyncio.Event()
        stream.on_early_end(self.ended_early.set)

    async def message(self) -> bytes | None:
        """The next message of the client; None after its half-close."""
        if self.request.HasField("message") and self.half_closed:
            self.half_closed = False
            return self.request.message
        part = await self.stream.receive(2**31)
        if part is None or part.tag == GRPC_HALF_CLOSE:
            return None
        assert part.tag == GRPC_MESSAGE
        return part.data

    async def answer(self, message: bytes) -> None:
        await self.stream.send(GRPC_MESSAGE, message)

    def end(self, **status: Any) -> None:
        self.stream.write(GRPC_STATUS, GrpcStatus(**status).SerializeToString(), end=True)


Handler = Callable[[ReplicaCall], Awaitable[None]]


class Front:
    """A proxy that serves gRPC, and what its access log says."""

    def __init__(self, proxy: Proxy, server: GrpcServer, log: io.StringIO) -> None:
        self.proxy = proxy
        self.server = server
        self._log = log

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    def serve(self, *applications: str, capacity: int = 100) -> None:
        """From now on these are there, and no others."""
        self.proxy.directory.apply(
            pb.WatchUpdate(
                snapshot=True,
                routes=[pb.Route(application=name, ingress="Model") for name in applications],
                deployments=[
                    make_deployment(name, application=name, capacity=capacity)
                    for name in applications
                ],
            )
        )
        self.server.notice()

    @property
    def inflight(self) -> int:
        """Requests that are at replicas, or queue."""
        routers = self.proxy.directory._routers.values()
        return sum(router.ongoing + router.balancer.queued for router in routers)

    async def logged(self) -> list[str]:
        """The lines of the access log."""
        assert self.proxy.access_log is not None
        await self.proxy.access_log.aclose()
        self.proxy.access_log = None
        return self._log.getvalue().splitlines()


@contextlib.asynccontextmanager
async def front(
    handler: Handler,
    *,
    applications: tuple[str, ...] = ("app",),
    services: GrpcServices | None = None,
    capacity: int = 100,
    **options: Any,
) -> AsyncIterator[Front]:
    """A proxy before one replica of each application, which answers calls by ``handler``."""
    tasks = Tasks()

    def on_open(replica: MemoryReplica, stream: Stream) -> None:
        stream.session.accept(stream)
        request = GrpcRequest.FromString(replica.requests[-1])
        tasks.start(handler(ReplicaCall(stream, request)), name="handler")  # type: ignore[arg-type]

    def make_link(address: str, **on: Any) -> Any:
        replica = MemoryReplica(address)
        replica.script = _Always(on_open)  # type: ignore[assignment]
        return MemoryLink(replica, **on)

    log = io.StringIO()
    directory = Directory(connects=lambda route: True, make_link=make_link)
    proxy = Proxy(
        HTTPOptions(), AccessLog(log, component="proxy-0", as_json=False), directory, None
    )
    proxy.grpc_options = gRPCOptions(**{"port": 0, **options})
    server = GrpcServer(proxy, proxy.grpc_options, services or GrpcServices(methods=METHODS))
    found = Front(proxy, server, log)
    found.serve(*applications, capacity=capacity)
    await server.start()
    try:
        yield found
    finally:
        await server.stop(0)
        await proxy.aclose()
        await tasks.aclose()


class _Always:
    """A replica's script without an end."""

    def __init__(self, act: Any) -> None:
        self._act = act

    def pop(self, index: int) -> Any:
        return self._act
