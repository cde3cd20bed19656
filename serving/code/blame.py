"""Which object could not be sent, and where it hangs."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Iterator
from io import IOBase
from types import (
    AsyncGeneratorType,
    BuiltinFunctionType,
    FunctionType,
    GeneratorType,
    MethodType,
    ModuleType,
)
from typing import Any

from serving.code import references, webapps
from serving.deployment import Application, Deployment

_VISITS = 100_000
_CURE = (
    "Make that object in the replica, for instance in __init__, or move the code into a module "
    "that can be imported: a replica then imports it instead of a copy."
)
_LEAVES = (str, bytes, bytearray, int, float, complex, bool, type(None), ModuleType)


def explain(root: object, culprit: object, error: Exception) -> str:
    """A sentence or two on why `root` could not be pickled, and the way out."""
    reason = f"{type(error).__name__}: {error}"
    if isinstance(error.__cause__ or error, RecursionError):
        return f"{_name(root)} cannot be sent to a replica: it is nested too deeply ({reason})"
    path = None if culprit is root else _path(root, culprit)
    what = f"{_name(root)} cannot be sent to a replica"
    if culprit is not root:
        kind = f"{type(culprit).__module__}.{type(culprit).__qualname__}".removeprefix("builtins.")
        where = f"{path} is" if path else "it holds"
        what += f": {where} a {kind}, which cannot be pickled"
    is_code = isinstance(root, type | FunctionType)
    return f"{what} ({reason}). {_CURE if is_code else _cure(culprit)}"


def _cure(culprit: object) -> str:
    if webapps.is_request(culprit):
        return "Pass what you need of it, such as `await request.json()`."
    if isinstance(culprit, GeneratorType | AsyncGeneratorType):
        return "Pass a list of its items."
    if isinstance(culprit, Awaitable):
        return "Await it, and pass what it gives."
    if isinstance(culprit, Application | Deployment):
        return "Pass a handle: what `.bind` puts in its place, or serving.get_deployment_handle()."
    if isinstance(culprit, IOBase):
        return "Pass its path, or what it holds."
    return _CURE


def _name(obj: object) -> str:
    name = getattr(obj, "__qualname__", None)
    if not isinstance(name, str) or isinstance(obj, GeneratorType | AsyncGeneratorType):
        kind = type(obj).__qualname__
        return f"{'an' if kind[0] in 'AEIOUaeiou' else 'a'} {kind}"
    return f"{getattr(obj, '__module__', '')}.{name}".lstrip(".")


def _path(root: object, culprit: object) -> str | None:
    """The shortest way from `root` to `culprit`, in words; None where none was found."""
    waiting: deque[tuple[object, str]] = deque([(root, _label(root))])
    seen = {id(root): root}
    while waiting and len(seen) < _VISITS:
        obj, path = waiting.popleft()
        for step, child in _children(obj):
            if child is culprit:
                return path + step
            if id(child) not in seen and not isinstance(child, _LEAVES):
                seen[id(child)] = child
                waiting.append((child, path + step))
    return None


def _label(obj: object) -> str:
    return getattr(obj, "__qualname__", None) or type(obj).__qualname__


def _children(obj: Any) -> Iterator[tuple[str, object]]:
    """What is pickled along with `obj`, and how it hangs there."""
    if isinstance(obj, FunctionType):
        yield from _function_children(obj)
    elif isinstance(obj, MethodType | BuiltinFunctionType):
        yield ".__self__", obj.__self__
    elif isinstance(obj, dict):
        yield from ((f"[{key!r:.40}]", value) for key, value in list(obj.items()))
    elif isinstance(obj, list | tuple | set | frozenset):
        yield from ((f"[{index}]", item) for index, item in enumerate(obj))
    elif isinstance(obj, staticmethod | classmethod):
        yield "", obj.__func__
    elif isinstance(obj, property):
        yield from (("", part) for part in (obj.fget, obj.fset, obj.fdel))
    elif not isinstance(obj, type) or references.path_of(obj) is None:
        yield from ((f".{name}", value) for name, value in list(attributes(obj)))
        yield from ((f".{base.__name__}", base) for base in getattr(obj, "__bases__", ()))
        yield f" (a {type(obj).__qualname__})", type(obj)


def _function_children(function: FunctionType) -> Iterator[tuple[str, object]]:
    if references.path_of(function) is not None:
        return
    closure = function.__closure__ or ()
    for name, cell in zip(function.__code__.co_freevars, closure, strict=True):
        if cell != type(cell)():  # an empty one has no contents
            yield f" (closure variable '{name}')", cell.cell_contents
    if references.lives_in_module(function) is None:
        for name in _global_names(function):
            if name in function.__globals__:
                yield f" (global '{name}')", function.__globals__[name]
    yield " (defaults)", (function.__defaults__, function.__kwdefaults__)
    yield "", vars(function)


def _global_names(function: FunctionType) -> Iterator[str]:
    codes = [function.__code__]
    while codes:
        code = codes.pop()
        yield from code.co_names
        codes += [const for const in code.co_consts if isinstance(const, type(code))]


def attributes(obj: Any) -> Iterator[tuple[str, object]]:
    """The attributes of an object, in its `__dict__` and in its slots."""
    yield from getattr(obj, "__dict__", {}).items()
    for base in type(obj).__mro__:
        slots = vars(base).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(obj, name):
                yield name, getattr(obj, name)
