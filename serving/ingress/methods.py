"""Which functions are methods of an ingress class, and what calling them means for one instance.

A function belongs to a class when the class holds it, or when it was defined in the class body
under a name that was used again (of two `def root` in one body the class keeps only the second, an
app keeps both). Two classes may share an app, and a notebook cell that runs twice makes two classes
of one name; so `@serving.ingress` marks functions with the class that they belong to.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from types import FunctionType, MethodType
from typing import Any, cast

from serving.ingress.late import LATE, late_bound

_OWNER = "__serving_owner__"


class ForeignMethodError(LookupError):
    """The function is a method of an ingress class that the instance is not of."""


def claim(cls: type, routes: Iterable[Any]) -> None:
    """Marks the functions of `cls`, and those of its bases that have a route, as theirs.

    Raises TypeError where a method that is the endpoint of one of `routes` has no `self`.
    """
    routes = list(routes)
    functions = [_function(value) for value in vars(cls).values()]
    functions += [_function(route.endpoint) for route in routes]
    for base in _bases(cls):
        for function in functions:
            if function is not None and _named_in(function, base) and _of_body(function, base):
                vars(function).setdefault(_OWNER, base)
    for route in routes:
        check_self(cls, route)


def check_self(cls: type, route: Any) -> None:
    """Raises TypeError where the endpoint of `route` is a method of `cls` without `self`."""
    function = _function(route.endpoint)
    if function is None or isinstance(route.endpoint, staticmethod | MethodType):
        return
    home = _home(cls, function)
    if home is None or isinstance(home, staticmethod):
        return
    first = next(iter(inspect.signature(function).parameters.values()), None)
    if first is None or not _may_be_self(first, route.path):
        code = inspect.unwrap(function).__code__
        raise TypeError(
            f"{code.co_filename}:{code.co_firstlineno}: {function.__qualname__} has a route but no "
            "'self': add it as the first parameter, or decorate the method with @staticmethod"
        )


class Methods:
    """The methods of one instance, looked up by the functions they were defined as."""

    def __init__(self, instance: object, receiver: Callable[[], object] | None = None) -> None:
        """`receiver`: methods are not bound to the instance, but to what it gives when they are
        called, another instance of the same class."""
        self.instance = instance
        self._receiver = receiver
        self._late: dict[Callable[..., Any], Callable[..., Any]] = {}
        self.cls = type(instance)
        self.namespace = {
            name: value for base in reversed(self.cls.__mro__) for name, value in vars(base).items()
        }

    def bound(self, call: Any) -> Any | None:
        """What to call in place of `call`; None where it is no method of the instance.

        Where a subclass overrides the method, this is the subclass's. Raises ForeignMethodError
        where the function is a method of another ingress class.
        """
        if self._receiver is not None:
            call = self._as_defined(call)
        function = _function(call)
        if function is None or isinstance(call, MethodType):
            return None
        name = self._name(function)
        if name is not None:
            return _bind(inspect.getattr_static(self.cls, name), self.instance, self.cls)
        owner = vars(function).get(_OWNER)
        if owner is None:
            owner = next((base for base in _bases(self.cls) if _named_in(function, base)), None)
            if owner is None:
                return None
            if not _of_body(function, owner):
                raise ForeignMethodError(function.__qualname__)
        if owner not in self.cls.__mro__:
            raise ForeignMethodError(function.__qualname__)
        return _bind(call, self.instance, self.cls)

    def bound_or_same(self, call: Any) -> Any:
        """What to call in place of `call`: `call` itself unless it is a method of the instance."""
        try:
            bound = self.bound(call)
        except ForeignMethodError:
            return call
        return call if bound is None else self.for_any_instance(bound)

    def for_any_instance(self, bound: Any) -> Any:
        """A bound method, or with a `receiver` what calls it on the instance whose turn it is."""
        if self._receiver is None or getattr(bound, "__self__", None) is not self.instance:
            return bound
        function = bound.__func__
        if not isinstance(function, FunctionType):
            return bound
        if function not in self._late:  # one of each: FastAPI calls a dependency once a request
            self._late[function] = late_bound(bound, self._receiver)
        return self._late[function]

    def _as_defined(self, call: Any) -> Any:
        """What was bound before, for another instance, as it was then."""
        if isinstance(call, MethodType) and type(call.__self__) is self.cls:
            return call.__func__
        return getattr(call, LATE, call)

    def _name(self, function: FunctionType) -> str | None:
        for base in _bases(self.cls):
            for name, value in vars(base).items():
                if _function(value) is function:
                    return name
        return None


def _bases(cls: type) -> Iterator[type]:
    return (base for base in cls.__mro__ if base is not object)


def _function(call: object) -> FunctionType | None:
    """The plain function behind a function, a method, a staticmethod or a classmethod."""
    if isinstance(call, MethodType | staticmethod | classmethod):
        call = call.__func__
    return call if isinstance(call, FunctionType) else None


def _named_in(function: FunctionType, cls: type) -> bool:
    """Whether the function was defined in the body of a class of that name."""
    scope, _, _ = function.__qualname__.rpartition(".")
    return scope == cls.__qualname__ and function.__module__ == cls.__module__


def _of_body(function: FunctionType, cls: type) -> bool:
    """Whether that may have been this class, and not one that a notebook cell failed to define.

    Cells are compiled by themselves, so a namesake of another cell is of another file.
    """
    namesake = _function(vars(cls).get(function.__qualname__.rpartition(".")[2]))
    return namesake is None or _file(namesake) == _file(function)


def _file(function: FunctionType) -> str:
    return cast(FunctionType, inspect.unwrap(function)).__code__.co_filename


def _home(cls: type, function: FunctionType) -> object | None:
    """The attribute of `cls` or a base that holds `function`, or the function, or None."""
    for base in _bases(cls):
        for value in vars(base).values():
            if _function(value) is function:
                return cast(object, value)
    if vars(function).get(_OWNER, cls) not in cls.__mro__:
        return None
    bodies = (_named_in(function, base) and _of_body(function, base) for base in _bases(cls))
    return function if any(bodies) else None


def _bind(attribute: Any, instance: object, cls: type) -> Callable[..., Any]:
    bind = getattr(type(attribute), "__get__", None)
    bound: Callable[..., Any] = attribute if bind is None else bind(attribute, instance, cls)
    return bound


def _may_be_self(parameter: inspect.Parameter, path: str) -> bool:
    """Whether the first parameter of a method can be meant as `self`, whatever its name."""
    if parameter.name == "self" or parameter.kind is parameter.VAR_POSITIONAL:
        return True
    plain = parameter.annotation is parameter.empty and parameter.default is parameter.empty
    in_path = re.search(rf"{{{parameter.name}[:}}]", path)
    return plain and not in_path and parameter.kind is not parameter.KEYWORD_ONLY
