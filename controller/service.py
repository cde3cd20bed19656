"""The controller's gRPC service."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from serving.controller.inspection import stacks
from serving.controller.packages import PackageStore, digests
from serving.controller.publisher import Publisher, Watcher
from serving.controller.reconciler import Reconciler
from serving.controller.room import TooLargeError
from serving.controller.store import StoreError
from serving.controller.targets import ConflictError, NoVersionError
from serving.packages import PackageError
from serving.v1 import controller_pb2 as pb, controller_pb2_grpc

log = logging.getLogger("serving.controller")


# What callers are told of errors, by their code.
_CODES = {
    ConflictError: grpc.StatusCode.ALREADY_EXISTS,
    NoVersionError: grpc.StatusCode.INVALID_ARGUMENT,
    PackageError: grpc.StatusCode.INVALID_ARGUMENT,
    StoreError: grpc.StatusCode.FAILED_PRECONDITION,
    TooLargeError: grpc.StatusCode.INVALID_ARGUMENT,
}


class ControllerService(controller_pb2_grpc.ControllerServicer):
    """Translates calls to the reconciler and the publisher."""

    def __init__(
        self,
        reconciler: Reconciler,
        publisher: Publisher,
        packages: PackageStore,
        *,
        cluster: pb.ServeStatus,
        proxies: list[str],
        on_shutdown: Callable[[], None],
    ) -> None:
        self._reconciler = reconciler
        self._publisher = publisher
        self._packages = packages
        self._cluster = cluster
        self._proxies = proxies
        self._on_shutdown = on_shutdown
        self.is_shutting_down = False

    async def Deploy(self, request: pb.DeployRequest, context: Any) -> pb.DeployResponse:
        await self._refuse_at_the_end(context)
        deployments = [each for spec in request.applications for each in spec.deployments]
        if missing := self._packages.missing(digests(deployments)):
            return pb.DeployResponse(missing=missing)
        targets = self._reconciler.targets
        async with _refusing(context):
            generations = targets.deploy(*request.applications, alone=request.alone)
        return pb.DeployResponse(generations=generations)

    async def Upload(
        self, requests: AsyncIterator[pb.UploadRequest], context: Any
    ) -> pb.UploadResponse:
        first = await anext(aiter(requests), pb.UploadRequest())
        data = (request.data async for request in requests)
        try:
            async with _refusing(context):
                await self._packages.receive(first.digest, data)
        except OSError as error:
            message = f"the files that replicas are to run with cannot be kept: {error}"
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, message)
        return pb.UploadResponse()

    async def Delete(self, request: pb.DeleteRequest, context: Any) -> pb.DeleteResponse:
        async with _refusing(context):
            existed = self._reconciler.targets.delete(request.application)
        return pb.DeleteResponse(existed=existed)

    async def Rollback(self, request: pb.RollbackRequest, context: Any) -> pb.RollbackResponse:
        await self._refuse_at_the_end(context)
        async with _refusing(context):
            generation = self._reconciler.targets.roll_back(request.application, request.generation)
        return pb.RollbackResponse(generation=generation)

    async def GetStatus(self, request: pb.StatusRequest, context: Any) -> pb.ServeStatus:
        return self._status()

    async def WatchStatus(
        self, request: pb.StatusRequest, context: Any
    ) -> AsyncIterator[pb.ServeStatus]:
        while True:
            changed = asyncio.ensure_future(self._reconciler.statuses.change())
            try:
                # Let it begin to wait before looking, so that no change falls between.
                await asyncio.sleep(0)
                yield self._status()
                await changed
            finally:
                changed.cancel()

    def _status(self) -> pb.ServeStatus:
        watching = self._publisher.in_sync
        status = pb.ServeStatus(
            applications=self._reconciler.statuses.values(),
            proxies=[
                pb.ProxyStatus(name=name, status="HEALTHY" if name in watching else "STARTING")
                for name in self._proxies
            ],
        )
        status.MergeFrom(self._cluster)
        return status

    async def GetStacks(
        self, request: pb.ReplicaStacksRequest, context: Any
    ) -> pb.ReplicaStacksResponse:
        replicas = self._reconciler.registry.replicas.values()
        found = await stacks(replicas, request.application, request.replica)
        return pb.ReplicaStacksResponse(replicas=found)

    async def Watch(
        self, requests: AsyncIterator[pb.WatchRequest], context: Any
    ) -> AsyncIterator[pb.WatchUpdate]:
        first = await anext(aiter(requests), None)
        if first is None:
            return
        with self._publisher.watching(first.watcher, first.tickets) as watcher:
            confirming = asyncio.create_task(
                self._hear(watcher, requests), name=f"what is heard of {first.watcher}"
            )
            try:
                async for update in self._publisher.updates(watcher):
                    yield update
            finally:
                confirming.cancel()
                self._reconciler.scaling.forget(watcher)
                self._reconciler.statuses.notify()

    async def _hear(self, watcher: Watcher, requests: AsyncIterator[pb.WatchRequest]) -> None:
        async for request in requests:
            if request.loads or request.tickets:
                self._reconciler.scaling.hear(watcher, request.loads)
                self._publisher.hear_tickets(watcher, request.tickets)
                continue
            is_first = watcher.confirmed < 0
            self._publisher.confirm(watcher, request.revision)
            if is_first:
                self._reconciler.statuses.notify()

    async def ReportReplica(
        self, request: pb.ReplicaReport, context: Any
    ) -> pb.ReplicaReportResponse:
        wanted = self._reconciler.events.report(request.replica_id, request.error)
        return pb.ReplicaReportResponse(unwanted=not wanted)

    async def Shutdown(self, request: pb.ShutdownRequest, context: Any) -> pb.ShutdownResponse:
        self._reconciler.targets.forget_all()
        if not self.is_shutting_down:
            self.is_shutting_down = True
            self._on_shutdown()
        return pb.ShutdownResponse()

    async def _refuse_at_the_end(self, context: Any) -> None:
        if self.is_shutting_down:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the cluster is shutting down")


@asynccontextmanager
async def _refusing(context: Any) -> AsyncIterator[None]:
    """Ends the call with what the caller is to hear of an error."""
    try:
        yield
    except tuple(_CODES) as error:
        await context.abort(_CODES[type(error)], str(error))
