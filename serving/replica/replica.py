"""One copy of a deployment: the user's object, what serves it, and its end.

It lives on the running event loop, and does not know whether it has the process for itself.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from serving.context import ReplicaContext, ReplicaModels, enter_replica, get_replica_context
from serving.ingress import IngressBinding
from serving.replica.callables import ASGIApp, callable_app, response_handler
from serving.replica.calls import CallHandler
from serving.replica.grpc import GrpcHandler
from serving.replica.hooks import Hooks, Unhealthy
from serving.replica.lifespan import Lifespan
from serving.replica.methods import Methods
from serving.replica.runner import Runner
from serving.replica.service import DataService
from serving.rpc.methods import Method as RpcMethod, load
from serving.v1.controller_pb2 import GrpcSettings, ReplicaSpec

END_S = 5.0
"""What the application's own end has at least, where its requests took all of the grace."""
LAST_S = 1.0
"""What the ends of the object and of its models have at least, where others took all of it."""


@dataclass(frozen=True)
class UserCode:
    """What a replica is made from."""

    target: Any
    """The class, or the function."""
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    http_adapter: Callable[..., Any] | None = None


class Replica:
    """From the constructor of the user's object to its end: `start`, `drain`, `shut_down`."""

    def __init__(self, spec: ReplicaSpec, *, whole_process: bool) -> None:
        self.spec = spec
        self.instance: Any = None
        """The user's object."""
        self.hooks: Hooks | None = None
        """Its methods of life."""
        self.runner: Runner | None = None
        self.service: DataService | None = None
        self._models = ReplicaModels()
        self._whole_process = whole_process
        self._lifespan: Lifespan | None = None
        self._give_back_app: Callable[[], None] = lambda: None

    def __repr__(self) -> str:
        return f"<Replica {self.spec.replica_id} ongoing={self.ongoing}>"

    @property
    def ongoing(self) -> int:
        return self.runner.ongoing if self.runner is not None else 0

    async def start(self, load: Callable[[], UserCode]) -> DataService:
        """Makes the user's object of what `load` gives, starts its application, and gives what
        takes connections to it. Raises what the user's code raises."""
        try:
            return await self._start(load)
        except BaseException:
            self._give_back_app()
            raise

    async def _start(self, load: Callable[[], UserCode]) -> DataService:
        spec = self.spec
        self._enter_context()
        user_code = load()
        binding: IngressBinding | None = getattr(user_code.target, "__serving_ingress__", None)
        if binding is not None and not self._whole_process:
            self._give_back_app = binding.borrow(user_code.target)
        loading = _loading_rpcs(spec.grpc)
        try:
            self.instance = await _construct(user_code)
        except BaseException:
            loading.cancel()
            raise
        try:
            rpcs = await loading
        except ValueError as error:
            # Where it was found out says nothing: the user's traceback is that of its cause.
            raise error.with_traceback(None) from error.__cause__
        self._enter_context()
        options = spec.deployment.options
        self.hooks = Hooks(self.instance)
        if options.user_config_json:
            await self.hooks.reconfigure(json.loads(options.user_config_json))
        app = await self._start_app(user_code, binding)
        if complaint := await self.hooks.check_health(options.health_check_timeout_s):
            raise Unhealthy(f"check_health() failed: {complaint}")
        methods = Methods(self.instance, spec.deployment.name)
        self.runner = Runner(
            app,
            max_ongoing=options.max_ongoing_requests,
            state=self._lifespan.state if self._lifespan is not None else {},
            calls=CallHandler(methods),
            rpcs=GrpcHandler(methods, rpcs, spec.grpc),
            application=spec.application,
        )
        self.service = DataService(self.runner, self._models)
        return self.service

    async def drain(self, grace_s: float) -> None:
        """Takes no further requests and waits for those that run; after `grace_s` those left are
        cancelled."""
        assert self.service is not None
        assert self.runner is not None
        self.service.goaway("the replica is stopping")
        await self.runner.drain(grace_s)

    async def shut_down(self, timeout_s: float) -> None:
        """The end of the application's lifespan, then the object's own (`shutdown`, `__del__`),
        then those of its models."""
        assert self.hooks is not None
        loop = asyncio.get_running_loop()
        deadline = loop.time() + max(timeout_s, END_S)
        if self._lifespan is not None:
            await self._lifespan.shutdown(deadline - loop.time())
        self._give_back_app()
        await self.hooks.end(max(LAST_S, deadline - loop.time()))
        await self._models.aclose(max(LAST_S, deadline - loop.time()))

    def _enter_context(self) -> None:
        spec = self.spec
        context = ReplicaContext(
            spec.application, spec.deployment.name, spec.replica_id, self.instance, self._models
        )
        enter_replica(context, whole_process=self._whole_process)

    async def _start_app(self, user_code: UserCode, binding: IngressBinding | None) -> ASGIApp:
        if binding is None:
            return _plain_app(self.instance, user_code.http_adapter)
        receiver = None if self._whole_process else _instance_here
        app: ASGIApp = await binding.build(self.instance, receiver)
        lifespan = Lifespan(app)
        await lifespan.startup()
        self._lifespan = lifespan
        return app


def _instance_here() -> Any:
    return get_replica_context().servable_object


def _loading_rpcs(settings: GrpcSettings) -> asyncio.Future[dict[str, RpcMethod]]:
    """The RPCs of the users' services, which a thread finds while the object is made."""
    loop = asyncio.get_running_loop()
    if not settings.servicer_functions:
        nothing = loop.create_future()
        nothing.set_result({})
        return nothing
    # What the replica has of its own comes first.
    sys.path.extend(path for path in settings.sys_path if path not in sys.path)
    loading = loop.run_in_executor(None, load, list(settings.servicer_functions))
    # Nobody asks for it where the object could not be made.
    loading.add_done_callback(lambda done: done.cancelled() or done.exception())
    return loading


async def _construct(user_code: UserCode) -> Any:
    """The user's object: an instance of a class, or the function itself."""
    target, args, kwargs = user_code.target, user_code.args, user_code.kwargs
    if not inspect.isclass(target):
        return target
    if not inspect.iscoroutinefunction(target.__init__):
        return target(*args, **kwargs)
    instance = target.__new__(target, *args, **kwargs)
    await target.__init__(instance, *args, **kwargs)
    return instance


def _plain_app(instance: Any, adapter: Callable[..., Any] | None) -> ASGIApp:
    if adapter is None:
        return callable_app(instance)
    from serving.replica.adapters import adapted_app

    return adapted_app(adapter, response_handler(instance))
