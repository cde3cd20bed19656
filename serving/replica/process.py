"""The life of a replica process: start, ready, drain, stop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import json
import logging
import os
from collections.abc import Coroutine
from typing import Any

import anyio.to_thread
import grpc.aio

from serving import code
from serving.aio import settle_gc
from serving.calls import process
from serving.calls.process import calling
from serving.mux import channel_options
from serving.replica.control import ControlServer
from serving.replica.hooks import user_traceback
from serving.replica.replica import Replica, UserCode
from serving.replica.service import DataService, data_server_options
from serving.replica.watchdog import Watchdog
from serving.v1.controller_pb2 import ReplicaReport, ReplicaReportResponse, ReplicaSpec
from serving.v1.controller_pb2_grpc import ControllerStub
from serving.v1.replica_pb2 import DescribeResponse
from serving.v1.replica_pb2_grpc import add_ReplicaServicer_to_server

logger = logging.getLogger("serving.replica")

REPORT_TIMEOUT_S = 60.0
"""The controller may be starting anew meanwhile."""
LAST_WORDS_S = 1.0
"""What the ends of cancelled requests have to reach their callers, beyond the grace."""


class ReplicaProcess:
    """One copy of a deployment, from its constructor to its end."""

    def __init__(self, spec: ReplicaSpec) -> None:
        self._spec = spec
        self._loop = asyncio.get_running_loop()
        self._watchdog = Watchdog(self._loop)
        self._control = ControlServer(spec.control_address, self, self._loop)
        self._replica = Replica(spec, whole_process=True)
        # What the control server's threads wait for.
        self._asked: set[concurrent.futures.Future[str]] = set()
        self._drain_grace_s: asyncio.Future[float] = self._loop.create_future()
        # What the controller is told of it.
        self._state = DescribeResponse.STARTING
        self._max_ongoing = spec.deployment.options.max_ongoing_requests
        self._user_config_json = spec.deployment.options.user_config_json

    async def run(self) -> int:
        """Serves until it is drained; gives the process's exit code."""
        self._control.start()
        spec = self._spec
        async with calling(spec.controller_address, f"replica {spec.replica_id}") as caller:
            process.use(caller)
            self._resize(spec.deployment.options.max_ongoing_requests)
            try:
                service = await self._replica.start(self._load)
            except Exception as error:
                await self._report(user_traceback(error))
                return 1
            await self._serve(service)
        return 0

    # Controlled: called on the control server's threads.

    @property
    def ongoing(self) -> int:
        return self._replica.ongoing

    @property
    def loop_lag_s(self) -> float:
        return self._watchdog.lag_s

    @property
    def has_check(self) -> bool:
        return self._replica.hooks is not None and self._replica.hooks.has_check

    def describe(self) -> DescribeResponse:
        """What it is, and what it runs with."""
        return DescribeResponse(
            replica_id=self._spec.replica_id,
            state=self._state,
            max_ongoing_requests=self._max_ongoing,
            user_config_json=self._user_config_json,
        )

    def resize(self, max_ongoing_requests: int) -> None:
        self._loop.call_soon_threadsafe(self._resize, max_ongoing_requests)

    def reconfigure(self, user_config_json: str, timeout_s: float) -> str:
        """Gives the traceback of what the user's method raised, or nothing."""
        try:
            return self._ask(self._reconfigure(user_config_json), timeout_s)
        except TimeoutError:
            return f"reconfigure() has not returned within {timeout_s:.0f} s"

    def check_health(self, timeout_s: float) -> str:
        """Gives what the user's method complains of, or nothing: also where the loop is blocked,
        so that it cannot be asked."""
        if self._replica.hooks is None:
            return ""
        try:
            return self._ask(self._replica.hooks.check_health(timeout_s), 2 * timeout_s)
        except TimeoutError:
            return ""

    def begin_drain(self, grace_s: float) -> None:
        """Ends the process once its requests are done, or ``grace_s`` have passed. Callable from
        any thread and from a signal handler."""
        self._loop.call_soon_threadsafe(self._set_drain, grace_s)

    def _ask(self, work: Coroutine[Any, Any, str], timeout_s: float) -> str:
        """Runs work on the loop for a thread that waits for it; nothing once the replica ends."""
        asked = asyncio.run_coroutine_threadsafe(work, self._loop)
        self._asked.add(asked)
        try:
            return asked.result(timeout_s)
        except concurrent.futures.CancelledError:
            return ""
        finally:
            asked.cancel()
            self._asked.discard(asked)

    # The steps of its life.

    def _load(self) -> UserCode:
        deployment, folders = self._spec.deployment, self._spec.import_folders
        if self._spec.working_dir:
            os.chdir(self._spec.working_dir)
        if self._spec.sources_dir:
            code.sources.install(self._spec.sources_dir, folders)
        target = code.load(deployment.code, first=folders)
        args, kwargs = code.loads(deployment.init_args)
        adapter: Any = None
        if deployment.HasField("http_adapter"):
            adapter = code.load(deployment.http_adapter, first=folders)
        return UserCode(target, args, kwargs, adapter)

    async def _serve(self, service: DataService) -> None:
        server = grpc.aio.server(options=data_server_options(self._spec.grpc))
        add_ReplicaServicer_to_server(service, server)
        server.add_insecure_port(self._spec.address)
        await server.start()
        self._watchdog.start()
        settle_gc()
        try:
            self._state = DescribeResponse.READY
            if await self._report(""):
                self._set_drain(0.0)
            grace_s = await self._drain_grace_s
            self._state = DescribeResponse.DRAINING
            deadline = self._loop.time() + grace_s
            await self._replica.drain(grace_s)
            # Answers that are done may still be on their way to slow readers.
            await server.stop(grace=max(LAST_WORDS_S, deadline - self._loop.time()))
            await self._replica.shut_down(deadline - self._loop.time())
            gc.unfreeze()  # The interpreter's last collection finalizes what the object held.
        finally:
            for asked in list(self._asked):
                asked.cancel()
            await server.stop(grace=None)
            self._watchdog.stop()
            await self._loop.run_in_executor(None, self._control.stop)

    async def _reconfigure(self, user_config_json: str) -> str:
        assert self._replica.hooks is not None
        try:
            await self._replica.hooks.reconfigure(json.loads(user_config_json))
        except Exception as error:
            logger.exception("reconfigure() of the deployment failed")
            return user_traceback(error)
        self._user_config_json = user_config_json
        return ""

    async def _report(self, error: str) -> bool:
        """Tells the controller, which tells those who deployed it, and the log. Gives whether it
        is not wanted."""
        spec = self._spec
        report = ReplicaReport(replica_id=spec.replica_id, pid=os.getpid(), error=error)
        async with grpc.aio.insecure_channel(
            spec.controller_address, options=channel_options()
        ) as channel:
            stub = ControllerStub(channel)
            response: ReplicaReportResponse = await stub.ReportReplica(
                report, wait_for_ready=True, timeout=REPORT_TIMEOUT_S
            )
            return response.unwanted

    def _resize(self, max_ongoing: int) -> None:
        self._max_ongoing = max_ongoing
        anyio.to_thread.current_default_thread_limiter().total_tokens = max_ongoing
        if self._replica.runner is not None:
            self._replica.runner.resize(max_ongoing)

    def _set_drain(self, grace_s: float) -> None:
        if not self._drain_grace_s.done():
            self._drain_grace_s.set_result(grace_s)
