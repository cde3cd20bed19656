"""The gRPC services that every proxy has beside users' own: health, reflection, ServingAPI."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.reflection import aio as reflection

from serving.proxy.app import Proxy
from serving.rpc.methods import (
    HEALTH,
    REFLECTION,
    REFLECTION_V1,
    SERVING_API,
    Recorder,
    with_imports,
)
from serving.v1 import api_pb2, api_pb2_grpc
from serving.v1.grpc_pb2 import GrpcServices

Handlers = dict[str, Any]
"""An RpcMethodHandler for each method."""

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health:
    """grpc.health.v1: of this proxy (""), and of each application by its name. (The servicer that
    comes with grpcio-health-checking is told statuses, and cannot be told that one is no more.)"""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._noticed = asyncio.Event()

    def notice(self) -> None:
        """A status may have changed."""
        noticed, self._noticed = self._noticed, asyncio.Event()
        noticed.set()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> Any:
        status = self._status(request.service)
        if status == SERVICE_UNKNOWN:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"there is no application {request.service!r}"
            )
        return health_pb2.HealthCheckResponse(status=status)

    async def List(self, request: health_pb2.HealthListRequest, context: Any) -> Any:
        names = ["", *self._proxy.directory.routes.applications]
        return health_pb2.HealthListResponse(
            statuses={
                name: health_pb2.HealthCheckResponse(status=self._status(name)) for name in names
            }
        )

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:
        told = None
        while True:
            noticed, draining = self._noticed, self._proxy.draining
            if (status := self._status(request.service)) != told:
                await context.write(health_pb2.HealthCheckResponse(status=status))
                told = status
            if draining:  # And that is told by now.
                return
            await noticed.wait()

    def _status(self, service: str) -> health_pb2.HealthCheckResponse.ServingStatus:
        directory = self._proxy.directory
        route = directory.routes.named(service) if service else None
        if service and route is None:
            return SERVICE_UNKNOWN
        callable_ = route is None or directory.can_answer(route)
        return SERVING if callable_ and not self._proxy.draining else NOT_SERVING


class ServingAPI(api_pb2_grpc.ServingAPIServicer):
    """What the proxy tells of itself."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy

    async def ListApplications(
        self, request: api_pb2.ListApplicationsRequest, context: Any
    ) -> api_pb2.ListApplicationsResponse:
        names = self._proxy.directory.routes.applications
        return api_pb2.ListApplicationsResponse(application_names=names)

    async def Healthz(
        self, request: api_pb2.HealthzRequest, context: Any
    ) -> api_pb2.HealthzResponse:
        if self._proxy.draining:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "draining")
        return api_pb2.HealthzResponse(message="success")


def built_in(proxy: Proxy, health: Health, reflected: GrpcServices | None) -> Handlers:
    """Who answers their methods, by the methods' names. ``reflected`` are the users' services that
    reflection tells of; None: there is no reflection."""
    # Not added to the server: it would wait for calls of each method by itself, and every call of
    # any would pay for that.
    added = Recorder()
    health_pb2_grpc.add_HealthServicer_to_server(health, added)
    api_pb2_grpc.add_ServingAPIServicer_to_server(ServingAPI(proxy), added)
    if reflected is not None:
        users = {method.name.split("/")[1] for method in reflected.methods}
        names = {*users, HEALTH, SERVING_API, REFLECTION}
        servicer = reflection.ReflectionServicer(names, pool=_pool(reflected))
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, added)
        # The same messages under a later name, which some clients ask for first.
        info = "ServerReflectionInfo"
        added.handlers[f"/{REFLECTION_V1}/{info}"] = added.handlers[f"/{REFLECTION}/{info}"]
    return added.handlers


def _pool(services: GrpcServices) -> DescriptorPool:
    """A pool of what users' services are made of, and the built-in ones. Not the process's: that
    has the proxy's own messages, and what two clusters call by one name may differ."""
    pool = DescriptorPool()
    for file in services.files:
        pool.AddSerializedFile(file)
    for module in (health_pb2, reflection_pb2, api_pb2):
        for described in with_imports(module.DESCRIPTOR):
            _add(pool, described)
    return pool


def _add(pool: DescriptorPool, file: FileDescriptor) -> None:
    try:
        pool.FindFileByName(file.name)
    except KeyError:
        pool.AddSerializedFile(file.serialized_pb)
