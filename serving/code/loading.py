"""What is left to do once everything is loaded.

Pickled objects form cycles (a class, its functions, their globals, an app, its routes, the class),
so while one object is being loaded others are still empty. What needs its neighbours complete, such
as a route that reads the signature of its endpoint, is put off until all of them are.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any

_Step = tuple[Callable[..., object], tuple[Any, ...]]
_steps: ContextVar[list[_Step] | None] = ContextVar("serving_loading_steps", default=None)


def when_loaded(function: Callable[..., object], *args: Any) -> None:
    """Calls the function when the outermost object is complete, in the order of these calls."""
    steps = _steps.get()
    if steps is None:
        raise RuntimeError("code is to be loaded with serving.code.loads, not with pickle.loads")
    steps.append((function, args))


def loads(data: Any, buffers: Iterable[Any] = ()) -> Any:
    """As pickle's, and carries out in the end what was put off."""
    steps: list[_Step] = []
    token = _steps.set(steps)
    try:
        value = pickle.loads(data, buffers=buffers)
    finally:
        _steps.reset(token)
    for function, args in steps:
        function(*args)
    return value
