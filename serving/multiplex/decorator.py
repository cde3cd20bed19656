"""What stands in the place of a function under `@serving.multiplexed`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, overload

from serving.context import current_replica
from serving.instances import PerInstance, is_method
from serving.multiplex.cache import ModelCache
from serving.multiplex.policy import UNLIMITED

__all__ = ["multiplexed"]

F = TypeVar(
    "F",
    bound=Callable[[str], Coroutine[Any, Any, Any]]
    | Callable[[Any, str], Coroutine[Any, Any, Any]],
)


class _Loader:
    """A function that loads models, with the models of each instance or replica that has it."""

    def __init__(self, function: Callable[..., Any], limit: int) -> None:
        self.function = function
        self._limit = limit
        self._of_instances = is_method(function)
        self._signature = inspect.signature(function)
        self._caches = PerInstance(
            lambda: ModelCache(function.__qualname__, limit), "@serving.multiplexed"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # As it was when it was decorated: models and instances stay where they are.
        return _Loader, (self.function, self._limit)

    async def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        *instance, model_id = self._signature.bind(*args, **kwargs).args
        load = functools.partial(self.function, *instance)
        return await self._cache(instance).get(model_id, load)

    def _cache(self, instance: list[Any]) -> ModelCache:
        if self._of_instances:
            return self._caches.of(instance[0])
        # In local testing, replicas share the function.
        replica = current_replica()
        return self._caches.of(replica.models if replica is not None else self)


def _decorate(function: Any, limit: int) -> Any:
    if not inspect.iscoroutinefunction(function):
        raise TypeError(
            f"@serving.multiplexed goes on an async function or method, not on {function!r}: make "
            "it `async def`; what blocks goes into a thread: await asyncio.to_thread(...)"
        )
    expected = 2 if is_method(function) else 1
    if len(inspect.signature(function).parameters) != expected:
        raise TypeError(
            f"@serving.multiplexed: {function.__qualname__} must take the id of the model and "
            f"nothing else, not {inspect.signature(function)}"
        )
    loader = _Loader(function, limit)

    @functools.wraps(function)
    async def get(*args: Any, **kwargs: Any) -> Any:
        return await loader.call(args, kwargs)

    return get


def _check_limit(limit: object) -> None:
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise TypeError(f"max_num_models_per_replica must be an int, not {limit!r}")
    if limit < 1 and limit != UNLIMITED:
        raise ValueError(
            f"max_num_models_per_replica must be at least 1, or -1 for no limit, not {limit}"
        )


@overload
def multiplexed(function: F, /) -> F: ...
@overload
def multiplexed(*, max_num_models_per_replica: int = 3) -> Callable[[F], F]: ...
def multiplexed(function: Any = None, /, *, max_num_models_per_replica: int = 3) -> Any:
    """Lets a replica hold many models, of which those that were asked for last stay loaded.

    It goes on an async function or method that takes the id of a model and returns the model:
    ``model = await self.get_model(serving.get_multiplexed_model_id())``. That is called when the
    model is not loaded, and once for all who ask for it meanwhile; if it fails, they all get the
    exception, and the next call tries again. When the last of them is cancelled, the load is.

    At most `max_num_models_per_replica` models are loaded at a time (-1: no limit); the one that
    was asked for longest ago leaves for the next one. A model that a request has asked for stays
    until that request has ended. As a model leaves, its method `shutdown` is called, where it has
    one, plain or async; then it is let go of, which is when Python calls its `__del__`. So do all
    when the replica ends.

    Requests for a model, by the header `serve_multiplexed_model_id` or by the handle's option
    `multiplexed_model_id`, go to replicas that have it loaded, as long as these have room.
    """
    _check_limit(max_num_models_per_replica)
    if function is not None:
        return _decorate(function, max_num_models_per_replica)
    return functools.partial(_decorate, limit=max_num_models_per_replica)
