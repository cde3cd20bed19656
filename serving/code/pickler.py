"""cloudpickle, with reducers for what it cannot send or what would not load.

Beyond cloudpickle:

- A function defined inside a function of an importable module (FastAPI and Starlette are full of
  them) keeps that module's namespace; cloudpickle would give it a copy, with context variables and
  locks of its own.
- The names that string annotations use travel too, so that FastAPI and pydantic find them.
- What belongs to one process (locks, context variables) arrives as new.
- A class that a process has already is left as it is when it comes once more.
- The bytes do not depend on the order of sets.
"""

from __future__ import annotations

import contextvars
import io
import queue
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import cloudpickle

from serving.code import references

_SCALARS = (str, bytes, int, float, bool, type(None))
# Classes whose attributes are set: defined here, or loaded before.
_complete: weakref.WeakSet[type] = weakref.WeakSet()


class CodePickler(cloudpickle.Pickler):
    """A pickler for code. `latest` is the object that was being reduced last."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self.latest: object = None
        self._importable: dict[str, bool] = {}
        self._by_value: list[types.ModuleType] = []

    def close(self) -> None:
        """Undoes what was registered with cloudpickle for the time of dumping."""
        while self._by_value:
            cloudpickle.unregister_pickle_by_value(self._by_value.pop())

    def reducer_override(self, obj: Any) -> Any:
        self.latest = obj
        if isinstance(obj, types.FunctionType):
            return self._reduce_function(obj)
        if isinstance(obj, type):
            return self._reduce_class(obj)
        if isinstance(obj, types.ModuleType):
            self._send_by_value(obj.__name__)
        elif isinstance(obj, types.CodeType):
            return _reduce_code(obj)
        for kind, reduce in _REDUCERS:
            if isinstance(obj, kind):
                return reduce(obj)
        return _reduce_starlette(obj) if _is_starlette(obj) else super().reducer_override(obj)

    def _reduce_function(self, function: types.FunctionType) -> Any:
        reduced = self._reduce_definition(function)
        if not isinstance(reduced, tuple) or len(reduced) < 6:
            return reduced
        make, args, (attributes, slots), *rest = reduced
        module = references.lives_in_module(function)
        if module is not None:
            args = (args[0], _ModuleGlobals(module), *args[2:])
            slots["__globals__"] = {}
        else:
            names = _annotation_names([function.__annotations__])
            found = {n: function.__globals__[n] for n in names if n in function.__globals__}
            slots["__globals__"] = _steady({**found, **slots["__globals__"]})
        return make, args, (attributes, slots), *rest

    def _reduce_class(self, cls: type) -> Any:
        if vars(cls).get("__pydantic_complete__") is False and references.path_of(cls) is None:
            cls.model_rebuild(raise_errors=False)  # type: ignore[attr-defined]
        reduced = self._reduce_definition(cls)
        if not isinstance(reduced, tuple) or len(reduced) < 6:
            return reduced
        _complete.add(cls)
        make, args, (attributes, slots), _, _, set_state = reduced
        namespace = vars(sys.modules.get(cls.__module__, types.ModuleType("")))
        names = _annotation_names([vars(cls).get("__annotations__", {})])
        found = {name: namespace[name] for name in names if name in namespace}
        state = (set_state, (_steady(attributes), slots), cls.__module__, found)
        return make, args, state, None, None, _set_class_state

    def _reduce_definition(self, obj: Any) -> Any:
        """By reference, through a `Deployment` if need be, or else as cloudpickle does."""
        module = getattr(obj, "__module__", None)
        if isinstance(module, str) and not self._send_by_value(module):
            path = references.path_of(obj)
            if path is not None and _differs(path, obj):
                return references.resolve, (path,)
        return super().reducer_override(obj)

    def _send_by_value(self, name: str) -> bool:
        """Whether what module `name` defines goes by value, since no replica could import it."""
        if name not in self._importable:
            self._importable[name] = references.importable(name)
            module = sys.modules.get(name)
            if not self._importable[name] and module is not None and name != "__main__":
                cloudpickle.register_pickle_by_value(module)
                self._by_value.append(module)
        return not self._importable[name]


class _ModuleGlobals:
    """Stands for the namespace of a module."""

    def __init__(self, module: str) -> None:
        self.module = module

    def __reduce__(self) -> tuple[Any, ...]:
        return references.module_globals, (self.module,)


class _SteadySet:
    """Stands for a set, and is pickled the same whatever the order of its members."""

    def __init__(self, members: set[Any] | frozenset[Any]) -> None:
        self.members = members

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self.members), (sorted(self.members, key=repr),)


def _steady(values: dict[str, Any]) -> dict[str, Any]:
    return {name: _steady_value(value) for name, value in values.items()}


def _steady_value(value: Any) -> Any:
    if type(value) in (set, frozenset) and len(value) > 1:
        if all(type(member) in _SCALARS for member in value):
            return _SteadySet(value)
    elif type(value) is tuple and any(type(item) is frozenset for item in value):
        return tuple(map(_steady_value, value))
    return value


def _differs(path: str, obj: object) -> bool:
    """Whether plain pickling by name would meet something else, such as a `Deployment`."""
    module, _, name = path.partition(":")
    found: Any = sys.modules[module]
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is not obj


def _annotation_names(annotations: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The names in annotations that are strings, as `from __future__ import annotations` makes."""
    for mapping in annotations:
        for annotation in mapping.values():
            if isinstance(annotation, str):
                try:
                    yield from compile(annotation, "<annotation>", "eval").co_names
                except SyntaxError:
                    continue


def _set_class_state(cls: type, state: tuple[Any, ...]) -> None:
    """Fills in a class that has been loaded, unless this process has it already."""
    set_state, inner, module, names = state
    if cls in _complete:
        return
    _complete.add(cls)
    set_state(cls, inner)
    if module in sys.modules:
        namespace = vars(sys.modules[module])
        for name, value in {cls.__qualname__: cls, **names}.items():
            namespace.setdefault(name, value)


def _reduce_code(code: types.CodeType) -> Any:
    make, args = cloudpickle.Pickler.dispatch_table[types.CodeType](code)
    return make, tuple(map(_steady_value, args))


def _is_starlette(obj: object) -> bool:
    """Whether `obj` is one of Starlette's objects that cannot be told to load by its attributes."""
    loaded = sys.modules.get("starlette.applications")
    return loaded is not None and isinstance(
        obj,
        loaded.Starlette | loaded.State | loaded.BaseRoute | loaded.Router,
    )


def _reduce_starlette(obj: Any) -> Any:
    state = _steady(vars(obj))
    if "user_middleware" in state:  # an application, which builds its stack at the first request
        state["middleware_stack"] = None
    return _new, (type(obj),), state, None, None, _update


def _new(cls: type) -> Any:
    return cls.__new__(cls)


def _update(obj: Any, state: dict[str, Any]) -> None:
    vars(obj).update(state)


def _reduce_context_variable(variable: contextvars.ContextVar[Any]) -> Any:
    try:
        return _context_variable, (variable.name, contextvars.Context().run(variable.get))
    except LookupError:
        return contextvars.ContextVar, (variable.name,)


def _context_variable(name: str, default: Any) -> contextvars.ContextVar[Any]:
    return contextvars.ContextVar(name, default=default)


def _as_new(*factories: Callable[[], Any]) -> Iterator[tuple[type, Callable[[Any], Any]]]:
    for factory in factories:
        yield type(factory()), lambda _, factory=factory: (factory, ())


_REDUCERS: list[tuple[type, Callable[[Any], Any]]] = [
    *_as_new(threading.Lock, threading.RLock, threading.local, queue.SimpleQueue),
    (contextvars.ContextVar, _reduce_context_variable),
]
