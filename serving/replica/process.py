"""The life of a replica process: start, ready, drain, stop."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import os
import traceback
from types import TracebackType
from typing import Any

import anyio.to_thread
import grpc.aio

from serving import code
from serving.aio import settle_gc
from serving.calls import process
from serving.calls.process import calling
from serving.context import ReplicaContext, enter_replica
from serving.mux import channel_options, server_options
from serving.replica.callables import ASGIApp, callable_app, response_handler
from serving.replica.calls import CallHandler
from serving.replica.control import ControlServer
from serving.replica.lifespan import Lifespan
from serving.replica.runner import Runner
from serving.replica.service import DataService
from serving.replica.watchdog import Watchdog
from serving.v1.controller_pb2 import DeploymentSpec, ReplicaReport, ReplicaSpec
from serving.v1.controller_pb2_grpc import ControllerStub
from serving.v1.replica_pb2_grpc import add_ReplicaServicer_to_server

logger = logging.getLogger("serving.replica")

REPORT_TIMEOUT_S = 10.0
SHUTDOWN_TIMEOUT_S = 5.0
LAST_WORDS_S = 1.0
"""What the ends of cancelled requests have to reach their callers, beyond the grace."""


class ReplicaProcess:
    """One copy of a deployment, from its constructor to its end."""

    def __init__(self, spec: ReplicaSpec) -> None:
        self._spec = spec
        self._loop = asyncio.get_running_loop()
        self._watchdog = Watchdog(self._loop)
        self._control = ControlServer(spec.control_address, self, self._loop)
        self._runner: Runner | None = None
        self._instance: Any = None
        self._drain_grace_s: asyncio.Future[float] = self._loop.create_future()

    async def run(self) -> int:
        """Serves until it is drained; gives the process's exit code."""
        self._control.start()
        spec = self._spec
        async with calling(spec.controller_address, f"replica {spec.replica_id}") as caller:
            process.use(caller)
            try:
                app, lifespan = await self._start_user_code()
            except Exception as error:
                await self._report(_user_traceback(error))
                return 1
            await self._serve(app, lifespan)
        return 0

    # Controlled: called on the control server's threads.

    @property
    def ongoing(self) -> int:
        return self._runner.ongoing if self._runner is not None else 0

    @property
    def loop_lag_s(self) -> float:
        return self._watchdog.lag_s

    def reconfigure(self, max_ongoing_requests: int) -> None:
        self._loop.call_soon_threadsafe(self._resize, max_ongoing_requests)

    def begin_drain(self, grace_s: float) -> None:
        """Ends the process once its requests are done, or ``grace_s`` have passed. Callable from
        any thread and from a signal handler."""
        self._loop.call_soon_threadsafe(self._set_drain, grace_s)

    # The steps of its life.

    async def _start_user_code(self) -> tuple[ASGIApp, Lifespan | None]:
        deployment = self._spec.deployment
        self._resize(deployment.options.max_ongoing_requests)
        self._enter_context(None)
        target = code.load(deployment.code)
        instance = self._instance = await _construct(target, deployment)
        self._enter_context(instance)
        if deployment.options.user_config_json:
            await _reconfigure(instance, json.loads(deployment.options.user_config_json))
        binding = getattr(target, "__serving_ingress__", None)
        if binding is None:
            return _plain_app(instance, deployment), None
        app = await binding.build(instance)
        lifespan = Lifespan(app)
        await lifespan.startup()
        return app, lifespan

    async def _serve(self, app: ASGIApp, lifespan: Lifespan | None) -> None:
        options = self._spec.deployment.options
        state = lifespan.state if lifespan is not None else {}
        runner = Runner(
            app,
            max_ongoing=options.max_ongoing_requests,
            state=state,
            calls=CallHandler(self._instance, self._spec.deployment.name),
            application=self._spec.application,
        )
        self._runner = runner
        service = DataService(runner)
        server = grpc.aio.server(options=server_options())
        add_ReplicaServicer_to_server(service, server)
        server.add_insecure_port(self._spec.address)
        await server.start()
        self._watchdog.start()
        settle_gc()
        try:
            await self._report("")
            grace_s = await self._drain_grace_s
            deadline = self._loop.time() + grace_s
            service.goaway("the replica is stopping")
            await runner.drain(grace_s)
            # Answers that are done may still be on their way to slow readers.
            await server.stop(grace=max(LAST_WORDS_S, deadline - self._loop.time()))
            if lifespan is not None:
                await lifespan.shutdown(SHUTDOWN_TIMEOUT_S)
            await _shut_down(self._instance, max(LAST_WORDS_S, deadline - self._loop.time()))
        finally:
            await server.stop(grace=None)
            self._watchdog.stop()
            await self._loop.run_in_executor(None, self._control.stop)

    def _enter_context(self, instance: Any) -> None:
        spec = self._spec
        context = ReplicaContext(spec.application, spec.deployment.name, spec.replica_id, instance)
        enter_replica(context, whole_process=True)

    async def _report(self, error: str) -> None:
        """Tells the controller, which tells those who deployed it, and the log."""
        spec = self._spec
        report = ReplicaReport(replica_id=spec.replica_id, pid=os.getpid(), error=error)
        async with grpc.aio.insecure_channel(
            spec.controller_address, options=channel_options()
        ) as channel:
            stub = ControllerStub(channel)
            await stub.ReportReplica(report, wait_for_ready=True, timeout=REPORT_TIMEOUT_S)

    def _resize(self, max_ongoing: int) -> None:
        anyio.to_thread.current_default_thread_limiter().total_tokens = max_ongoing
        if self._runner is not None:
            self._runner.resize(max_ongoing)

    def _set_drain(self, grace_s: float) -> None:
        if not self._drain_grace_s.done():
            self._drain_grace_s.set_result(grace_s)


async def _construct(target: Any, deployment: DeploymentSpec) -> Any:
    """The user's object: an instance of a class, or the function itself."""
    if not inspect.isclass(target):
        return target
    args, kwargs = code.loads(deployment.init_args)
    if not inspect.iscoroutinefunction(target.__init__):
        return target(*args, **kwargs)
    instance = target.__new__(target, *args, **kwargs)
    await target.__init__(instance, *args, **kwargs)
    return instance


async def _shut_down(instance: Any, timeout_s: float) -> None:
    """Calls the user's `shutdown`, if there is one."""
    hook = None if inspect.isfunction(instance) else getattr(instance, "shutdown", None)
    if hook is None:
        return
    try:
        async with asyncio.timeout(timeout_s):
            result = hook()
            if inspect.isawaitable(result):
                await result
    except Exception:
        logger.exception("shutdown() of the deployment failed")


async def _reconfigure(instance: Any, user_config: Any) -> None:
    result = instance.reconfigure(user_config)
    if inspect.isawaitable(result):
        await result


def _plain_app(instance: Any, deployment: DeploymentSpec) -> ASGIApp:
    if not deployment.HasField("http_adapter"):
        return callable_app(instance)
    from serving.replica.adapters import adapted_app

    adapter: Any = code.load(deployment.http_adapter)
    return adapted_app(adapter, response_handler(instance))


def _user_traceback(error: BaseException) -> str:
    """The traceback from the first frame that is not ours on."""
    here = os.path.dirname(os.path.dirname(__file__)) + os.sep
    trace: TracebackType | None = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(here):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace))
