"""The models of one loader function on one event loop: their loads, users and ends."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
import weakref
from collections.abc import Awaitable, Callable, Collection
from contextvars import copy_context
from functools import partial
from typing import Any

from serving.aio import Tasks, call_hook
from serving.context import RequestScope, current_replica, current_request, enter_request
from serving.exceptions import RequestCancelledError
from serving.multiplex.policy import Shelf

__all__ = ["ModelCache"]

logger = logging.getLogger("serving.replica")

UNLOAD_TIMEOUT_S = 30.0
"""How long the `shutdown` of a model may take; then its place is given to another."""

Load = Callable[[str], Awaitable[Any]]


class _Ask:
    """A call that asks for a model."""

    __slots__ = ("context", "future", "load", "owner")

    def __init__(self, load: Load, loop: asyncio.AbstractEventLoop) -> None:
        self.load = load
        self.owner = current_request()
        self.context = copy_context()
        self.future: asyncio.Future[None] = loop.create_future()

    def succeed(self) -> None:
        if not self.future.done():
            self.future.set_result(None)

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class _Loading:
    """The load of one model. It is a request of its own, so that its calls end with it."""

    def __init__(self, model_id: str, ask: _Ask) -> None:
        origin = ask.owner or RequestScope()
        self.scope = RequestScope(origin.request_id, origin.route, origin.application, model_id)
        self.load = ask.load
        self.error: Exception | None = None
        self.given_up = False
        self.task: asyncio.Task[Any] | None = None

    async def run(self, model_id: str) -> Any:
        enter_request(self.scope)
        try:
            return await self.load(model_id)
        except Exception as error:
            self.error = error

    def give_up(self) -> None:
        assert self.task is not None
        self.given_up = True
        self.scope.cancel_calls()
        self.task.cancel()


class ModelCache:
    """Gives models to those who ask for them, and keeps as many loaded as it may.

    A call that comes with a request makes that use the model until it ends. The loader function
    comes with each call: a cache keeps no instance alive.
    """

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self._limit = limit
        self._shelf: Shelf[_Ask] = Shelf(limit)
        self._models: dict[str, Any] = {}
        self._loadings: dict[str, _Loading] = {}
        self._tasks = Tasks()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        replica = current_replica()
        self._replica_models = replica.models if replica is not None else None
        if self._replica_models is not None:
            self._replica_models.add(self)

    def __repr__(self) -> str:
        return f"<ModelCache {self._name} {self._shelf!r}>"

    @property
    def ids(self) -> Collection[str]:
        """The models that are loaded, or being loaded."""
        return list(self._shelf.present)

    async def get(self, model_id: str, load: Load) -> Any:
        """The model, which is loaded first where it is not. Raises what the load raises."""
        self._check(model_id)
        if model_id in self._models:
            return self._use(model_id, current_request())
        ask = _Ask(load, self._enter_loop())
        self._shelf.ask(model_id, ask)
        self._act()
        try:
            await ask.future
            return self._use(model_id, ask.owner)
        finally:
            if self._shelf.leave(model_id, ask):
                self._loadings[model_id].give_up()
                self._tell()
            self._act()

    async def aclose(self, timeout_s: float) -> None:
        """Gives up all loads and unloads all models, whoever uses them."""
        self._closed = True
        for ask in self._shelf.clear():
            ask.fail(self._ended())
        for loading in self._loadings.values():
            loading.give_up()
        for model_id in list(self._models):
            self._unload(model_id)
        try:
            async with asyncio.timeout(timeout_s):
                await self._tasks.join()
        except TimeoutError:
            logger.error("models of %s were not unloaded within %.1f s", self._name, timeout_s)
        await self._tasks.aclose()

    def _check(self, model_id: object) -> None:
        if self._closed:
            raise self._ended()
        if not isinstance(model_id, str):
            raise TypeError(f"{self._name}: the id of a model is a string, not {model_id!r}")
        if not model_id:
            raise ValueError(
                f"{self._name}: the id of the model is empty. Requests name their model in the "
                "header serve_multiplexed_model_id, gRPC calls in the metadata "
                "multiplexed_model_id, calls in handle.options(multiplexed_model_id=...)"
            )

    def _enter_loop(self) -> asyncio.AbstractEventLoop:
        """All that happens here happens on one loop: another only where the first is closed."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None and not self._loop.is_closed():
                raise RuntimeError(
                    f"{self._name} was called on a second event loop; await it in async code of "
                    "the replica, where the first one runs"
                )
            self._loop = loop
        return loop

    def _ended(self) -> RuntimeError:
        return RuntimeError(f"{self._name}: the replica has ended and loads no more models")

    def _use(self, model_id: str, owner: RequestScope | None) -> Any:
        if self._closed:  # while who asked was about to get it
            raise self._ended()
        model = self._models[model_id]
        if self._shelf.use(model_id, owner) and owner is not None:
            owner.on_end(partial(self._release, model_id, owner))
        return model

    def _release(self, model_id: str, owner: RequestScope) -> None:
        self._shelf.release(model_id, owner)
        self._act()

    # What the shelf decides.

    def _act(self) -> None:
        if self._closed:
            return
        plan = self._shelf.plan()
        for model_id in plan.load:
            self._load(model_id)
        for model_id in plan.unload:
            self._unload(model_id)
        if plan.stuck is not None:
            plan.stuck.fail(self._too_many(plan.stuck.owner))
        if plan.load or plan.unload:
            self._tell()

    def _too_many(self, owner: RequestScope | None) -> RuntimeError:
        request = f"request {owner.request_id}" if owner and owner.request_id else "a request"
        return RuntimeError(
            f"{self._name}: {request} uses the models {self._shelf.uses(owner)} until it ends and "
            "asks for another one, and all places are kept by requests that do so: raise "
            f"max_num_models_per_replica (it is {self._limit}), or use fewer models in a request"
        )

    def _tell(self) -> None:
        if self._replica_models is not None:
            self._replica_models.on_change()

    # Loading.

    def _load(self, model_id: str) -> None:
        ask = self._shelf.asks(model_id)[0]
        loading = self._loadings[model_id] = _Loading(model_id, ask)
        # The load uses its own place: should it wait for another one, this one is not free.
        self._shelf.use(model_id, loading.scope)
        loading.task = ask.context.copy().run(
            self._tasks.start, loading.run(model_id), name=f"load of {model_id} by {self._name}"
        )
        ended = partial(self._loading_ended, model_id, time.monotonic())
        loading.task.add_done_callback(ended)

    def _loading_ended(self, model_id: str, began_at: float, task: asyncio.Task[Any]) -> None:
        loading = self._loadings.pop(model_id)
        self._shelf.release(model_id, loading.scope)
        loading.scope.end()
        if task.cancelled():
            loading.error = RequestCancelledError(f"the load of model {model_id!r} was cancelled")
        if loading.error is None:
            self._models[model_id] = task.result()
            self._loading_succeeded(model_id, loading, time.monotonic() - began_at)
        elif loading.given_up:
            self._shelf.gone(model_id)
        else:
            for ask in self._shelf.failed(model_id):
                ask.fail(loading.error)
            self._tell()
        self._act()

    def _loading_succeeded(self, model_id: str, loading: _Loading, took_s: float) -> None:
        logger.info("%s loaded model %r in %.3f s", self._name, model_id, took_s)
        if loading.given_up:  # It did not heed its cancellation.
            self._unload(model_id)
            return
        self._shelf.loaded(model_id)
        for ask in self._shelf.asks(model_id):
            ask.succeed()

    # Unloading.

    def _unload(self, model_id: str) -> None:
        task = self._tasks.start(
            _end(model_id, self._models.pop(model_id)), name=f"unload of {model_id}"
        )
        task.add_done_callback(partial(self._unloaded, model_id))

    def _unloaded(self, model_id: str, _: asyncio.Task[None]) -> None:
        logger.info("%s unloaded model %r", self._name, model_id)
        self._shelf.gone(model_id)
        self._act()


async def _end(model_id: str, model: Any) -> None:
    """Calls the model's `shutdown`, and lets go of the model, so that its `__del__` runs."""
    enter_request(None)
    try:
        async with asyncio.timeout(UNLOAD_TIMEOUT_S):
            if callable(hook := getattr(model, "shutdown", None)):
                await call_hook(hook)
    except Exception:
        logger.exception("shutdown() of model %r failed", model_id)
    reference = _reference(model)
    del model, hook
    if reference is not None and reference() is not None:
        gc.collect()  # What holds it may be a cycle only; the next model needs the memory now.


def _reference(model: Any) -> weakref.ref[Any] | None:
    try:
        return weakref.ref(model)
    except TypeError:
        return None  # such as a string: it has no cycles
