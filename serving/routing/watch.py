"""What the controller knows, kept up to date in this process: routes, deployments, endpoints."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc
import grpc.aio

from serving.aio import Tasks
from serving.mux import channel_options
from serving.routing.link import Link
from serving.routing.loads import Counters, Reporter
from serving.routing.router import Router
from serving.routing.routes import Route, RouteTable
from serving.routing.tickets import Share
from serving.v1.controller_pb2 import Deployment, WatchRequest, WatchUpdate
from serving.v1.controller_pb2_grpc import ControllerStub

logger = logging.getLogger("serving.routing")

FIRST_BACKOFF_S = 0.05
MAX_BACKOFF_S = 1.0
SETTLE_TIMEOUT_S = 1.0


class Directory:
    """The routes, and a router for each deployment that this process has asked for."""

    def __init__(
        self,
        *,
        connects: Callable[[Route], bool] = lambda route: False,
        make_link: Callable[..., Link] = Link,
    ) -> None:
        """``connects``: whether the router of an ingress is made before the first request (in a
        proxy). ``make_link`` connects routers to replicas."""
        self.routes = RouteTable()
        self._make_link = make_link
        self._connects = connects
        self._deployments: dict[tuple[str, str], Deployment] = {}
        self._routers: dict[tuple[str, str], Router] = {}
        self._closing = Tasks()
        self.reporter = Reporter(self._counters, self._shares)

    @property
    def is_empty(self) -> bool:
        """Whether no application is known."""
        return not self._deployments

    def can_answer(self, route: Route) -> bool:
        """Whether a request may be brought there: it has replicas, or some are to come."""
        target = self._deployments.get((route.application, route.ingress))
        return target is not None and not target.unavailable

    def router(self, application: str, deployment: str) -> Router | None:
        """The way to a deployment, or None where the controller knows none of that name."""
        key = application, deployment
        if (router := self._routers.get(key)) is None and (
            target := self._deployments.get(key)
        ) is not None:
            router = Router(
                application,
                deployment,
                make_link=self._make_link,
                on_news=self.reporter.wake,
            )
            self._routers[key] = router
            router.update(target)
            self.reporter.wake()
        return router

    def apply(self, update: WatchUpdate) -> None:
        """Takes a snapshot or a delta."""
        changed = {(item.application, item.name): item for item in update.deployments}
        if update.snapshot:
            gone = self._deployments.keys() - changed.keys()
        else:
            gone = {(key.application, key.name) for key in update.removed}
        for key in gone:
            self._remove(key)
        for key, target in changed.items():
            self._deployments[key] = target
            if router := self._routers.get(key):
                router.update(target)
        for each in update.tickets:
            if router := self._routers.get((each.application, each.deployment)):
                router.hear_tickets(each)
        if update.routes_changed or update.snapshot:
            self.routes = RouteTable(
                Route(route.route_prefix, route.application, route.ingress)
                for route in update.routes
            )
        for route in filter(self._connects, self.routes.routes):
            self.router(route.application, route.ingress)
        self.reporter.wake()

    async def settled(self) -> None:
        """Waits until a connection to each replica was tried once, for ``SETTLE_TIMEOUT_S`` at
        most: requests that come before would queue though there is room."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_TIMEOUT_S):
                for router in list(self._routers.values()):
                    await router.settled()

    async def aclose(self) -> None:
        """Ends all connections."""
        for key in list(self._deployments):
            self._remove(key)
        await self._closing.join()

    def _counters(self) -> Iterator[tuple[tuple[str, str], Counters]]:
        """Of the deployments whose number follows the load."""
        for key, router in self._routers.items():
            if interval_s := self._deployments[key].load_interval_s:
                balancer = router.balancer
                yield (
                    key,
                    Counters(balancer.queued, router.ongoing, balancer.arrivals, interval_s),
                )

    def _shares(self) -> Iterator[tuple[tuple[str, str], Share]]:
        for key, router in self._routers.items():
            yield key, router.share

    def _remove(self, key: tuple[str, str]) -> None:
        self._deployments.pop(key, None)
        if router := self._routers.pop(key, None):
            self._closing.start(router.aclose(), name=f"close {router!r}")


async def watch(
    controller_address: str,
    watcher: str,
    apply: Callable[[WatchUpdate], Awaitable[None]],
    reporter: Reporter,
) -> None:
    """Gives ``apply`` every update that the controller sends, each stream of them beginning with
    a snapshot, and confirms each once it is applied; tells the controller what ``reporter``
    reports. Runs until it is cancelled: while the controller is away, what was heard last holds."""
    backoff_s = FIRST_BACKOFF_S
    while True:
        try:
            async with grpc.aio.insecure_channel(
                controller_address, options=channel_options()
            ) as channel:
                upstream = Upstream(ControllerStub(channel).Watch(wait_for_ready=True))
                await upstream.write(reporter.opening(watcher))
                async with reporting(upstream, reporter):
                    while (update := await upstream.call.read()) is not grpc.aio.EOF:
                        backoff_s = FIRST_BACKOFF_S
                        await apply(update)
                        await upstream.write(WatchRequest(revision=update.revision))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            # InvalidStateError: the controller was gone before its update could be confirmed.
            logger.debug("watch of the controller ended: %s", error)
        except Exception:  # An update that cannot be applied: the next snapshot may be another.
            logger.exception("an update of the controller could not be applied")
        await asyncio.sleep(backoff_s * random.uniform(0.5, 1.5))
        backoff_s = min(backoff_s * 2, MAX_BACKOFF_S)


class Upstream:
    """What this process tells the controller, one message after another."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self._turn = asyncio.Lock()

    async def write(self, request: WatchRequest) -> None:
        async with self._turn:
            await self.call.write(request)


@contextlib.asynccontextmanager
async def reporting(upstream: Upstream, reporter: Reporter) -> AsyncIterator[None]:
    """Reports for as long as the context lasts, or until the controller is gone."""

    async def report() -> None:
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            async for request in reporter.requests():
                await upstream.write(request)

    tasks = Tasks()
    tasks.start(report(), name="report")
    try:
        yield
    finally:
        await tasks.aclose()
