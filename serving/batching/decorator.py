"""What stands in the place of a function under `@serving.batch`."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterator,
    Sequence,
)
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, cast, final, overload

from serving.batching.function import ListFunction
from serving.batching.policy import BatchSizeFn, Settings
from serving.batching.queue import BatchQueue
from serving.instances import PerInstance, is_method

__all__ = ["BatchedCall", "BatchedMethod", "batch"]

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S")
R_co = TypeVar("R_co", covariant=True)


class BatchedCall(Protocol[P, R_co]):
    """A batched function: called with single items, and with parameters that can be changed."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...

    def set_max_batch_size(self, new_max_batch_size: int, /) -> None: ...
    def set_batch_wait_timeout_s(self, new_batch_wait_timeout_s: float, /) -> None: ...
    def set_max_concurrent_batches(self, new_max_concurrent_batches: int, /) -> None: ...
    def get_max_batch_size(self) -> int: ...
    def get_batch_wait_timeout_s(self) -> float: ...
    def get_max_concurrent_batches(self) -> int: ...


class BatchedMethod(Protocol[P, R_co]):
    """A batched method: on an instance, a `BatchedCall`."""

    def __get__(self, instance: object, owner: type | None = None, /) -> BatchedCall[P, R_co]: ...


class Batched(BatchedCall[P, R_co], BatchedMethod[P, R_co], Protocol[P, R_co]):
    """A batched function or method of several parameters: types cannot tell which it is."""


class _State:
    """The parameters and the queues of one instance, or of a plain function."""

    def __init__(self, function: ListFunction, settings: Settings) -> None:
        self._function = function
        self.settings = settings
        self._queues: dict[asyncio.AbstractEventLoop, BatchQueue] = {}

    def queue(self) -> BatchQueue:
        """That of the running loop."""
        loop = asyncio.get_running_loop()
        if (queue := self._queues.get(loop)) is None:
            for old in list(self._queues):
                if old.is_closed():
                    del self._queues[old]
            queue = self._queues[loop] = BatchQueue(
                self._function.name, self.settings, loop, interruptible=self._function.is_async
            )
        return queue

    def set(self, name: str, value: object) -> None:
        setattr(self.settings, name, value)
        for loop, queue in list(self._queues.items()):
            if not loop.is_closed():
                # Also from another thread, as where `reconfigure` is a plain function.
                loop.call_soon_threadsafe(queue.settings_changed)


class Batcher:
    """A function on lists with its parameters, and the state of each instance that has it."""

    def __init__(self, function: Callable[..., Any], settings: Settings, is_method: bool) -> None:
        self.function = ListFunction(function, is_method=is_method)
        self._defaults = settings
        self._own = _State(self.function, settings)
        self._states = PerInstance(
            lambda: _State(self.function, self._defaults.copy()), "@serving.batch"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # As it was when it was decorated: queues and instances stay where they are.
        function = self.function
        return Batcher, (function.function, self._defaults.copy(), function.is_method)

    def state(self, instance: Any = None) -> _State:
        return self._own if instance is None else self._states.of(instance)

    def call(self, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        item, arguments = self.function.bind(args, kwargs)
        queue = self.state(instance).queue()
        execute = functools.partial(self.function.execute, instance)
        run = queue.stream if self.function.streams else queue.call
        return run(item, arguments, execute)

    def wrapper(self, instance: Any = None, *, unbound: bool = False) -> Callable[..., Any]:
        """A real function, which is what frameworks that inspect their handlers know."""
        taken = 1 if unbound else 0
        function = _wrapper(self, instance, taken)
        functools.update_wrapper(function, self.function.function)
        if instance is not None:
            # Its signature has no self.
            del function.__dict__["__wrapped__"]
            function.__dict__["__signature__"] = self.function.item_signature
        for name in ("max_batch_size", "batch_wait_timeout_s", "max_concurrent_batches"):
            function.__dict__[f"set_{name}"] = functools.partial(self._set, instance, name)
            function.__dict__[f"get_{name}"] = functools.partial(self._get, instance, name)
        return function

    def _set(self, instance: Any, name: str, value: object, /) -> None:
        self.state(instance).set(name, value)

    def _get(self, instance: Any, name: str, /) -> Any:
        return getattr(self.state(instance).settings, name)


def _wrapper(batcher: Batcher, instance: Any, taken: int) -> Callable[..., Any]:
    async def call(*args: Any, **kwargs: Any) -> Any:
        owner = args[0] if taken else instance
        return await batcher.call(owner, args[taken:], kwargs)

    async def stream(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        owner = args[0] if taken else instance
        items = batcher.call(owner, args[taken:], kwargs)
        try:
            async for item in items:
                yield item
        finally:
            await items.aclose()

    return stream if batcher.function.streams else call


class _Method:
    """Stands in a class: gives each instance a function of its own."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher
        functools.update_wrapper(self, batcher.function.function)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Method, (self._batcher,)

    def __get__(self, instance: Any, owner: type | None = None) -> Callable[..., Any]:
        if instance is None:
            return self._batcher.wrapper(unbound=True)
        return self._batcher.wrapper(instance)

    def __call__(self, instance: Any, /, *args: Any, **kwargs: Any) -> Any:
        return self._batcher.wrapper(instance)(*args, **kwargs)


def _decorate(function: Any, settings: Settings) -> Any:
    if isinstance(function, staticmethod | classmethod):
        raise TypeError("@serving.batch: put it on a plain method, not on a static or class method")
    if not callable(function) or not hasattr(function, "__qualname__"):
        raise TypeError(
            f"@serving.batch goes on a function or a method, not on {function!r}; its parameters "
            "are given by name: @serving.batch(max_batch_size=8)"
        )
    if is_method(function):
        return _Method(Batcher(function, settings, is_method=True))
    return Batcher(function, settings, is_method=False).wrapper()


if TYPE_CHECKING:

    @final
    class _Unknown:
        """Nothing but Any is taken for this: what a function without annotations returns."""


# What a batched function answers, and what it yields.
Answer = Coroutine[Any, Any, Sequence[R]] | Sequence[R]
Answers = AsyncIterator[Sequence[R]] | Iterator[Sequence[R]]


class _Decorator(Protocol):
    @overload
    def __call__(self, function: Callable[..., _Unknown], /) -> Any: ...
    @overload
    def __call__(
        self, function: Callable[[list[T]], Answer[R]], /
    ) -> BatchedCall[[T], Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(
        self, function: Callable[[S, list[T]], Answer[R]], /
    ) -> BatchedMethod[[T], Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(
        self, function: Callable[..., Answer[R]], /
    ) -> Batched[..., Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(
        self, function: Callable[[list[T]], Answers[R]], /
    ) -> BatchedCall[[T], AsyncGenerator[R, None]]: ...
    @overload
    def __call__(
        self, function: Callable[[S, list[T]], Answers[R]], /
    ) -> BatchedMethod[[T], AsyncGenerator[R, None]]: ...
    @overload
    def __call__(
        self, function: Callable[..., Answers[R]], /
    ) -> Batched[..., AsyncGenerator[R, None]]: ...


@overload
def batch(function: Callable[..., _Unknown], /) -> Any: ...
@overload
def batch(
    function: Callable[[list[T]], Answer[R]], /
) -> BatchedCall[[T], Coroutine[Any, Any, R]]: ...
@overload
def batch(
    function: Callable[[S, list[T]], Answer[R]], /
) -> BatchedMethod[[T], Coroutine[Any, Any, R]]: ...
@overload
def batch(function: Callable[..., Answer[R]], /) -> Batched[..., Coroutine[Any, Any, R]]: ...
@overload
def batch(
    function: Callable[[list[T]], Answers[R]], /
) -> BatchedCall[[T], AsyncGenerator[R, None]]: ...
@overload
def batch(
    function: Callable[[S, list[T]], Answers[R]], /
) -> BatchedMethod[[T], AsyncGenerator[R, None]]: ...
@overload
def batch(function: Callable[..., Answers[R]], /) -> Batched[..., AsyncGenerator[R, None]]: ...
@overload
def batch(
    *,
    max_batch_size: int = 10,
    batch_wait_timeout_s: float = 0.01,
    max_concurrent_batches: int = 1,
    batch_size_fn: BatchSizeFn | None = None,
) -> _Decorator: ...
def batch(
    function: Any = None,
    /,
    max_batch_size: int = 10,
    batch_wait_timeout_s: float = 0.01,
    max_concurrent_batches: int = 1,
    batch_size_fn: BatchSizeFn | None = None,
) -> Any:
    """Lets single calls of a function or method share one call of it, on lists.

    The function takes lists, one entry for each call, and returns a list of the same length; who
    calls it passes and gets single items: ``await self.predict(x)``. An exception object among the
    results fails its own item only. A generator function yields such lists, and its callers get
    asynchronous generators.

    A batch runs once it has `max_batch_size` items, or once its first item has waited for
    `batch_wait_timeout_s`; at most `max_concurrent_batches` run at once. With `batch_size_fn`,
    which measures a list of items, a batch holds as many as measure `max_batch_size` together.

    Each instance has its own batches and parameters. They can be changed while it runs, such as in
    `reconfigure`: ``self.predict.set_max_batch_size(16)``.
    """
    settings = Settings(max_batch_size, batch_wait_timeout_s, max_concurrent_batches, batch_size_fn)
    if function is not None:
        return _decorate(function, settings)
    return cast(_Decorator, functools.partial(_decorate, settings=settings))
