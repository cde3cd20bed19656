"""Values that pickling would let through as something else, or as nothing of use.

Classes and functions that travel by value may hold locks and the like, and get new ones. A value
that is given to a call or a constructor means that very object, which stays in its process.
"""

from __future__ import annotations

import io
import queue
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from types import FunctionType, ModuleType
from typing import Any

from serving.code.blame import attributes
from serving.deployment import Application, Deployment

_VISITS = 100_000
_LOCKS = (type(threading.Lock()), type(threading.RLock()))
_PROCESS_BOUND = (*_LOCKS, threading.local, queue.SimpleQueue, threading.Thread)
_NOT_ENTERED = (str, bytes, bytearray, int, float, complex, type(None), type, FunctionType)


def in_call(value: object) -> object | None:
    """What cannot be an argument or a result of a call, wherever it stands in the value."""
    return _find(value, _is_refused_in_call, _children)


def in_bind(value: object) -> object | None:
    """What cannot be given to `bind`, as an argument or in a list, tuple, set or dict."""
    return _find(value, _is_refused_in_bind, _items)


def _is_refused_in_call(value: object) -> bool:
    return isinstance(value, (*_PROCESS_BOUND, Application, Deployment)) or _is_open_file(value)


def _is_refused_in_bind(value: object) -> bool:
    if isinstance(value, _LOCKS):
        return "unlocked" not in repr(value)  # which asks without taking it
    return isinstance(value, threading.Thread) or _is_open_file(value)


def _is_open_file(value: object) -> bool:
    if not isinstance(value, io.TextIOWrapper) or value.closed:
        return False
    return all(value is not each for each in (sys.stdout, sys.stderr, sys.stdin))


def _find(
    root: object, is_wanted: Callable[[object], bool], children: Callable[[Any], Iterator[object]]
) -> object | None:
    waiting = deque([root])
    seen: dict[int, object] = {}
    while waiting and len(seen) < _VISITS:
        value = waiting.popleft()
        if is_wanted(value):
            return value
        if id(value) not in seen and not isinstance(value, (*_NOT_ENTERED, ModuleType)):
            seen[id(value)] = value
            waiting.extend(children(value))
    return None


def _items(value: Any) -> Iterator[object]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        yield from value


def _children(value: Any) -> Iterator[object]:
    yield from _items(value)
    kind: Any = type(value)
    # One that says itself how it is pickled may leave out what cannot be.
    if all(
        getattr(kind, name) is getattr(object, name)
        for name in ("__reduce_ex__", "__reduce__", "__getstate__")
    ):
        yield from (each for _, each in list(attributes(value)))
