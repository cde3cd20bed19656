"""A cluster within this process: an event loop on a thread, and on it all that runs in one.

The parts are those of the real one: replicas (`LocalReplica`), the proxy's ASGI application, the
caller of handles, and their routers. In the place of the controller stands `LocalCluster`, which
tells the routers what there is; in the place of gRPC stand connections in memory.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import itertools
import os
import threading
import weakref
from collections.abc import Coroutine
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

import anyio._backends._asyncio  # now, and not when the first test starts
import anyio.to_thread

from serving import logs
from serving.aio import Tasks
from serving.calls import local
from serving.calls.caller import Caller
from serving.config import HTTPOptions
from serving.controller.tickets import Tickets
from serving.exceptions import ApplicationConflictError, ClusterError
from serving.handle import DeploymentHandle
from serving.mux.testing import MemoryCall, memory_calls
from serving.proxy.app import Proxy
from serving.routing.watch import Directory
from serving.schema import ServeStatus
from serving.specs import Graph
from serving.testing.application import Application
from serving.testing.replica import LAST_WORDS_S, LocalLink
from serving.v1 import controller_pb2 as pb

T = TypeVar("T")

START_TIMEOUT_S = 10.0

_numbers = itertools.count(1)
_clusters: weakref.WeakValueDictionary[str, LocalCluster] = weakref.WeakValueDictionary()


def find(key: str) -> LocalCluster | None:
    """The local cluster of that key, unless it has ended."""
    found = _clusters.get(key)
    return None if found is None or found.is_closed else found


class LocalCluster:
    """Runs applications in this process until it is closed. For any thread but its own."""

    def __init__(self, http_options: HTTPOptions) -> None:
        self.key = f"local-{os.getpid()}-{next(_numbers)}"
        self.loop: asyncio.AbstractEventLoop
        self.proxy: Proxy
        self.tasks: Tasks
        """What requests of clients run in."""
        self._http_options = http_options
        self._applications: dict[str, Application] = {}
        self._directories: list[Directory] = []
        self._published: set[tuple[str, str]] = set()
        self._tickets = Tickets(self._tell_tickets_soon)

        # The thread
        self._ready = threading.Event()
        self._end: asyncio.Event
        self._thread = threading.Thread(target=self._main, name=f"serving-{self.key}", daemon=True)
        self._thread.start()
        if not self._ready.wait(START_TIMEOUT_S):
            raise ClusterError("the thread of the local cluster did not start")
        _clusters[self.key] = self
        atexit.register(self.close)
        logs.stamp_records()

    def __repr__(self) -> str:
        return f"<LocalCluster {self.key} {list(self._applications)}>"

    @property
    def is_closed(self) -> bool:
        return not self._thread.is_alive()

    def begin(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Runs this on the loop."""
        try:
            return asyncio.run_coroutine_threadsafe(work, self.loop)
        except RuntimeError:  # the loop is closed
            work.close()
            raise ClusterError("the local application has ended") from None

    def do(self, work: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        """Runs this on the loop and waits for its result; TimeoutError, and it is cancelled, where
        there is none within `timeout_s`."""
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError("this would block the event loop on which the application runs")
        future = self.begin(work)
        try:
            return future.result(timeout_s)
        finally:
            future.cancel()

    def deploy(self, graph: Graph, name: str, route_prefix: str | None) -> None:
        """Runs an application, in the place of one of that name.

        Raises DeploymentFailedError, ApplicationConflictError.
        """
        application = Application(graph, name, route_prefix, self.key, self.handle)
        self.do(self._deploy(application))

    def delete(self, name: str) -> bool:
        """Ends an application, letting its requests finish; returns whether there was one."""
        return self.do(self._delete(name))

    def close(self, *, grace_s: float | None = None) -> None:
        """Ends all; harmless the second time. `grace_s`: how long requests may take to finish, at
        most."""
        if self.is_closed:
            return
        try:
            self.do(self._delete_all(grace_s))
        finally:
            self._forget()
            self.loop.call_soon_threadsafe(self._end.set)
            self._thread.join()

    def handle(self, deployment: str, application: str) -> DeploymentHandle[Any]:
        """A handle that calls a deployment here, from whatever code uses it."""
        context = copy_context()
        context.run(local.enter, self.key)
        return context.run(DeploymentHandle, deployment, application)

    def application(self, name: str) -> Application | None:
        """The application of that name."""
        return self._applications.get(name)

    def applications(self) -> list[Application]:
        """All that run."""
        return list(self._applications.values())

    def status(self) -> ServeStatus:
        """What runs."""
        return ServeStatus(applications={each.name: each.status() for each in self.applications()})

    # The thread

    def _main(self) -> None:
        try:
            asyncio.run(self._run())
        finally:
            self._forget()

    async def _run(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        self.tasks = Tasks()
        make_link = partial(LocalLink, connect=self._connect)
        calls = Directory(make_link=make_link)
        requests = Directory(connects=lambda route: True, make_link=make_link)
        self._directories = [calls, requests]
        self.proxy = Proxy(self._http_options, None, requests)
        caller = Caller(calls, _known)
        hearing = Tasks()
        for directory in self._directories:
            hearing.start(self._hear(directory), name="what is heard of a caller")
        local.register(self.key, caller)
        self._ready.set()
        try:
            await self._end.wait()
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS_S):
                    await self.tasks.join()  # clients take what is there for them
            await self.tasks.aclose()
            await hearing.aclose()
            await self.proxy.aclose()
            await caller.aclose()

    async def _deploy(self, application: Application) -> None:
        name = application.name
        await self._delete(name)
        self._check_route_is_free(application)
        self._applications[name] = application
        self._publish()
        try:
            await application.start(self._publish)
        except BaseException:
            await self._end_application(application, 0)
            raise
        await self.proxy.directory.settled()

    def _check_route_is_free(self, application: Application) -> None:
        for other in self._applications.values():
            if other.route_prefix and other.route_prefix == application.route_prefix:
                raise ApplicationConflictError(
                    f"application {application.name!r} cannot have the route prefix "
                    f"{other.route_prefix!r}: application {other.name!r} has it; choose another "
                    f"route_prefix, or serving.delete({other.name!r}) first"
                )

    async def _delete(self, name: str) -> bool:
        application = self._applications.get(name)
        if application is None:
            return False
        await self._end_application(application, None)
        return True

    async def _delete_all(self, grace_s: float | None) -> None:
        applications = self.applications()
        await asyncio.gather(*(self._end_application(each, grace_s) for each in applications))

    async def _end_application(self, application: Application, grace_s: float | None) -> None:
        application.is_ending = True
        try:
            await application.stop(grace_s, self._publish)
        finally:
            if self._applications.get(application.name) is application:
                del self._applications[application.name]
            self._publish()

    def _publish(self) -> None:
        """Tells the routers what there is."""
        applications = self.applications()
        update = pb.WatchUpdate(
            snapshot=True,
            routes=[route for each in applications if (route := each.route()) is not None],
            deployments=[message for each in applications for message in each.deployments()],
        )
        wanted = {(each.application, each.name): each for each in update.deployments}
        for key in self._published - wanted.keys():
            self._tickets.remove(key)
        for key, deployment in wanted.items():
            self._tickets.limit(key, deployment.max_queued_requests)
        self._published = set(wanted)
        for directory in self._directories:
            directory.apply(update)
            self._tell_tickets(directory)
        # One pool of threads stands for those of all replicas.
        threads = sum(each.max_ongoing_requests for each in applications)
        anyio.to_thread.current_default_thread_limiter().total_tokens = max(1, threads)

    async def _hear(self, directory: Directory) -> None:
        """Listens to what a caller wants of the tickets of queues, and has none of its load."""
        async for request in directory.reporter.requests():
            self._tickets.hear(directory, request.tickets)

    def _tell_tickets_soon(self, directory: Directory) -> None:
        self.loop.call_soon(self._tell_tickets, directory)

    def _tell_tickets(self, directory: Directory) -> None:
        directory.apply(pb.WatchUpdate(tickets=self._tickets.take(directory)))

    def _connect(self, replica_id: str) -> MemoryCall:
        for application in self._applications.values():
            if (replica := application.replica(replica_id)) is not None:
                return replica.connect()
        call, _ = memory_calls()
        call.lose("there is no such replica")
        return call

    def _forget(self) -> None:
        local.unregister(self.key)
        atexit.unregister(self.close)


async def _known() -> None:
    """What there is, is known at once."""


def _forget_all() -> None:
    """In a forked child, which has none of our threads."""
    for cluster in list(_clusters.values()):
        atexit.unregister(cluster.close)


os.register_at_fork(after_in_child=_forget_all)
