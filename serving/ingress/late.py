"""Functions that call a method on an instance which is found only when they are called."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

LATE = "__serving_late__"
"""Where such a function keeps what it was made from."""


def late_bound(method: MethodType, receiver: Callable[[], object]) -> Callable[..., Any]:
    """A function like the bound method, but of the instance that `receiver` gives when it is
    called.

    It has the names, the signature and the globals of the method, for annotations that are strings
    are looked up there. Not `functools.wraps`: what is behind it must not be found.
    """
    function = _of_the_same_kind(method.__func__, receiver)
    names = inspect.unwrap(method.__func__).__globals__
    late = FunctionType(function.__code__, names, method.__name__, None, function.__closure__)
    late.__module__, late.__qualname__ = method.__module__, method.__qualname__
    late.__doc__ = method.__doc__
    late.__signature__ = inspect.signature(method)  # type: ignore[attr-defined]
    setattr(late, LATE, method.__func__)
    return late


def _of_the_same_kind(method: Callable[..., Any], receiver: Callable[[], object]) -> FunctionType:
    """Frameworks ask of what kind a function is. Uses no globals, for it is to be given others."""
    for is_kind, make in _KINDS:
        if is_kind(method):
            return make(method, receiver)
    plain: FunctionType = _plain(method, receiver)
    return plain


def _plain(method: Any, receiver: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        return method(receiver(), *args, **kwargs)

    return call


def _async(method: Any, receiver: Any) -> Any:
    async def call(*args: Any, **kwargs: Any) -> Any:
        return await method(receiver(), *args, **kwargs)

    return call


def _generator(method: Any, receiver: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        return (yield from method(receiver(), *args, **kwargs))

    return call


def _async_generator(method: Any, receiver: Any) -> Any:
    async def call(*args: Any, **kwargs: Any) -> Any:
        items = method(receiver(), *args, **kwargs)
        try:
            item = await items.__anext__()
            while True:
                try:
                    sent = yield item
                except GeneratorExit:
                    await items.aclose()
                    raise
                except BaseException as error:
                    item = await items.athrow(error)
                else:
                    item = await items.asend(sent)
        except StopAsyncIteration:
            return

    return call


_KINDS: list[tuple[Callable[[object], bool], Callable[..., FunctionType]]] = [
    (inspect.isasyncgenfunction, _async_generator),
    (inspect.isgeneratorfunction, _generator),
    (inspect.iscoroutinefunction, _async),
]
