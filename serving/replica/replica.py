"""One copy of a deployment: the user's object, what serves it, and its end.

It lives on the running event loop, and does not know whether it has the process for itself.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from serving.context import ReplicaContext, enter_replica
from serving.replica.callables import ASGIApp, callable_app, response_handler
from serving.replica.calls import CallHandler
from serving.replica.lifespan import Lifespan
from serving.replica.runner import Runner
from serving.replica.service import DataService
from serving.v1.controller_pb2 import ReplicaSpec

logger = logging.getLogger("serving.replica")

LIFESPAN_TIMEOUT_S = 5.0


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
        self.runner: Runner | None = None
        self.service: DataService | None = None
        self._whole_process = whole_process
        self._lifespan: Lifespan | None = None

    def __repr__(self) -> str:
        return f"<Replica {self.spec.replica_id} ongoing={self.ongoing}>"

    @property
    def ongoing(self) -> int:
        return self.runner.ongoing if self.runner is not None else 0

    async def start(self, load: Callable[[], UserCode]) -> DataService:
        """Makes the user's object of what `load` gives, starts its application, and gives what
        takes connections to it. Raises what the user's code raises."""
        spec = self.spec
        self._enter_context()
        user_code = load()
        self.instance = await _construct(user_code)
        self._enter_context()
        if spec.deployment.options.user_config_json:
            await _reconfigure(self.instance, json.loads(spec.deployment.options.user_config_json))
        app = await self._start_app(user_code)
        self.runner = Runner(
            app,
            max_ongoing=spec.deployment.options.max_ongoing_requests,
            state=self._lifespan.state if self._lifespan is not None else {},
            calls=CallHandler(self.instance, spec.deployment.name),
            application=spec.application,
        )
        self.service = DataService(self.runner)
        return self.service

    async def drain(self, grace_s: float) -> None:
        """Takes no further requests and waits for those that run; after `grace_s` those left are
        cancelled."""
        assert self.service is not None
        assert self.runner is not None
        self.service.goaway("the replica is stopping")
        await self.runner.drain(grace_s)

    async def shut_down(self, timeout_s: float) -> None:
        """Lets the application and the user's object end what they started."""
        if self._lifespan is not None:
            await self._lifespan.shutdown(LIFESPAN_TIMEOUT_S)
        await _shut_down(self.instance, timeout_s)

    def _enter_context(self) -> None:
        spec = self.spec
        context = ReplicaContext(
            spec.application, spec.deployment.name, spec.replica_id, self.instance
        )
        enter_replica(context, whole_process=self._whole_process)

    async def _start_app(self, user_code: UserCode) -> ASGIApp:
        binding = getattr(user_code.target, "__serving_ingress__", None)
        if binding is None:
            return _plain_app(self.instance, user_code.http_adapter)
        app: ASGIApp = await binding.build(self.instance)
        lifespan = Lifespan(app)
        await lifespan.startup()
        self._lifespan = lifespan
        return app


def user_traceback(error: BaseException) -> str:
    """The traceback from the first frame that is not ours on."""
    here = os.path.dirname(os.path.dirname(__file__)) + os.sep
    trace: TracebackType | None = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(here):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace))


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


async def _reconfigure(instance: Any, user_config: Any) -> None:
    result = instance.reconfigure(user_config)
    if inspect.isawaitable(result):
        await result


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


def _plain_app(instance: Any, adapter: Callable[..., Any] | None) -> ASGIApp:
    if adapter is None:
        return callable_app(instance)
    from serving.replica.adapters import adapted_app

    return adapted_app(adapter, response_handler(instance))
