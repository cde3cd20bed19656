"""cloudpickle, with reducers for what it cannot send or what would not load.

Beyond cloudpickle:

- A function defined inside a function of an importable module (FastAPI and Starlette are full of
  them) keeps that module's namespace; cloudpickle would give it a copy, with context variables and
  locks of its own.
- The names that string annotations use travel too, so that FastAPI and pydantic find them.
- A sentinel that a module has under a name, such as `dataclasses.MISSING`, stays that very object.
- What belongs to one process (locks, context variables) arrives as new.
- Routes and pydantic models are sent as what they were made from, and made anew once all is loaded.
- A class that a process has already is left as it is when it comes once more.
- The bytes do not depend on the order of sets.
"""

from __future__ import annotations

import concurrent.futures
import contextvars
import functools
import io
import pickle
import queue
import subprocess
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NewType, NoReturn, ParamSpec

import cloudpickle  # type: ignore[import-untyped]

from serving.code import models, references, webapps
from serving.code.loading import when_loaded
from serving.code.steady import steady, steady_value

_REDUCE_METHODS = ("__reduce_ex__", "__reduce__")
# Classes that are sent by value and are whole in this process: defined here, or loaded before.
complete_classes: weakref.WeakSet[type] = weakref.WeakSet()


class CodePickler(cloudpickle.Pickler):  # type: ignore[misc]
    """A pickler for code. `latest` is the object that was being reduced last. `replace` is asked
    for what is to be pickled in the place of an object; None: the object itself."""

    def __init__(
        self,
        file: io.BytesIO,
        replace: Callable[[object], object | None] | None = None,
        buffer_callback: Callable[[pickle.PickleBuffer], object] | None = None,
    ) -> None:
        super().__init__(file, protocol=5, buffer_callback=buffer_callback)
        self.latest: object = None
        self._replace = replace
        self._importable: dict[str, bool] = {}
        self._providers: dict[int, object] = {}
        self._by_value: list[types.ModuleType] = []

    def close(self) -> None:
        """Undoes what was registered with cloudpickle for the time of dumping."""
        while self._by_value:
            cloudpickle.unregister_pickle_by_value(self._by_value.pop())

    def reducer_override(self, obj: Any) -> Any:
        self.latest = obj
        if self._replace is not None and (other := self._replace(obj)) is not None:
            return other.__reduce_ex__(5)
        if isinstance(obj, types.FunctionType):
            return self._reduce_function(obj)
        if isinstance(obj, type):
            return self._reduce_class(obj)
        if isinstance(obj, types.ModuleType):
            self._send_by_value(obj.__name__)
        elif isinstance(obj, types.CodeType):
            return _reduce_code(obj)
        elif webapps.is_request(obj):
            _refuse(obj)
        for kind, reduce in _REDUCERS:
            if isinstance(obj, kind):
                return reduce(obj)
        return webapps.reduce(obj, self._providers) or self._reduce_plain(obj)

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
            slots["__globals__"] = steady({**found, **slots["__globals__"]})
        return make, args, (attributes, slots), *rest

    def _reduce_class(self, cls: type) -> Any:
        if vars(cls).get("__pydantic_complete__") is False and references.path_of(cls) is None:
            models.rebuild(cls)
        if models.is_parametrized(cls):  # pydantic names it in the module, but only in this process
            reduced = cloudpickle.cloudpickle._dynamic_class_reduce(cls)
        else:
            reduced = self._reduce_definition(cls)
        if not isinstance(reduced, tuple) or len(reduced) < 6:
            return reduced
        complete_classes.add(cls)
        make, args, (attributes, slots), _, _, set_state = reduced
        namespace = vars(sys.modules.get(cls.__module__, types.ModuleType("")))
        names = _annotation_names([vars(cls).get("__annotations__", {})])
        found = {name: namespace[name] for name in names if name in namespace}
        attributes = steady(models.without_schemas(cls, attributes))
        state = (set_state, (attributes, slots), cls.__module__, found)
        return make, args, state, None, None, _set_class_state

    def _reduce_plain(self, obj: Any) -> Any:
        """What pickle itself would do, with the sets among the attributes in a fixed order."""
        cls: Any = type(obj)
        inherits = all(getattr(cls, name) is getattr(object, name) for name in _REDUCE_METHODS)
        if not inherits or cls in self.dispatch_table:
            return super().reducer_override(obj)
        make, args, state, *rest = obj.__reduce_ex__(5)
        if state is None and args == (cls,) and cls is not object:
            path = references.constant_path(obj)
            return (make, args, state, *rest) if path is None else (references.resolve, (path,))
        return make, args, steady(state) if isinstance(state, dict) else state, *rest

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
            known = name == "__main__" or name in cloudpickle.list_registry_pickle_by_value()
            if not self._importable[name] and module is not None and not known:
                cloudpickle.register_pickle_by_value(module)
                self._by_value.append(module)
        return not self._importable[name]


class _ModuleGlobals:
    """Stands for the namespace of a module."""

    def __init__(self, module: str) -> None:
        self.module = module

    def __reduce__(self) -> tuple[Any, ...]:
        return references.module_globals, (self.module,)


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
    if cls in complete_classes:
        return
    complete_classes.add(cls)
    set_state(cls, inner)
    if models.is_model(cls):
        when_loaded(models.rebuild, cls)
    if module in sys.modules:
        namespace = vars(sys.modules[module])
        for name, value in {cls.__qualname__: cls, **names}.items():
            namespace.setdefault(name, value)


_FILENAME = 10
"""Its place among the arguments of `types.CodeType`."""


def _reduce_code(code: types.CodeType) -> Any:
    make, args = cloudpickle.Pickler.dispatch_table[types.CodeType](code)
    # Newer releases of cloudpickle leave it out. Tracebacks tell it, and which cell of a notebook
    # has a class's source is known by it.
    args = (*args[:_FILENAME], code.co_filename, *args[_FILENAME + 1 :])
    return make, tuple(map(steady_value, args))


def _reduce_context_variable(variable: contextvars.ContextVar[Any]) -> Any:
    try:
        return _context_variable, (variable.name, contextvars.Context().run(variable.get))
    except LookupError:
        return contextvars.ContextVar, (variable.name,)


def _context_variable(name: str, default: Any) -> contextvars.ContextVar[Any]:
    return contextvars.ContextVar(name, default=default)


def _refuse(obj: Any) -> NoReturn:
    raise TypeError(f"cannot pickle a {type(obj).__qualname__}, which belongs to its process")


def _reduce_thread(thread: threading.Thread) -> Any:
    return NotImplemented if thread.ident is None else _refuse(thread)


def _reduce_cache(cache: Any) -> Any:
    if references.path_of(cache) is not None:
        return NotImplemented
    parameters = cache.cache_parameters()
    return _cached, (parameters["maxsize"], parameters["typed"], cache.__wrapped__), vars(cache)


def _cached(maxsize: int | None, typed: bool, function: Callable[..., Any]) -> Any:
    return functools.lru_cache(maxsize, typed)(function)


def _reduce_new_type(new_type: Any) -> Any:
    if references.path_of(new_type) is not None:
        return NotImplemented
    return NewType, (new_type.__name__, new_type.__supertype__)


def _reduce_parameters(parameters: Any) -> Any:
    if references.path_of(parameters) is not None:
        return NotImplemented
    return ParamSpec, (parameters.__name__,)


def _reduce_weak_dictionary(mapping: Any) -> Any:
    return type(mapping), (dict(mapping),)


def _as_new(factory: Callable[[], Any]) -> tuple[type, Callable[[Any], Any]]:
    return type(factory()), lambda _: (factory, ())


_REDUCERS: list[tuple[type, Callable[[Any], Any]]] = [
    *map(_as_new, (threading.Lock, threading.RLock, threading.local, queue.SimpleQueue)),
    (contextvars.ContextVar, _reduce_context_variable),
    (type(functools.lru_cache(int)), _reduce_cache),
    (NewType, _reduce_new_type),
    (ParamSpec, _reduce_parameters),
    (weakref.WeakKeyDictionary, _reduce_weak_dictionary),
    (weakref.WeakValueDictionary, _reduce_weak_dictionary),
    (threading.Thread, _reduce_thread),
    # Once locks can be sent, these could be too, and would wait for ever in the replica.
    (concurrent.futures.Future, _refuse),
    (subprocess.Popen, _refuse),
]
