"""Constructor arguments as they were bound, with a handle in the place of each bound deployment.

Nothing is pickled: arguments are the very objects that were bound. Only what holds a bound
deployment (a list, a dict, an object in one of its attributes) is copied, so that the original
keeps it.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Callable
from typing import Any

from serving.deployment import Application

_HOLDS_NOTHING = (type, types.ModuleType, types.FunctionType, types.MethodType, str, bytes)


class Handles:
    """Puts handles, made by `handle_of`, in the place of bound deployments."""

    def __init__(self, handle_of: Callable[[Application], object]) -> None:
        self._handle_of = handle_of
        # By identity, together with the value itself, so that its id stays its own.
        self._done: dict[int, tuple[object, Any]] = {}

    def put_into(self, value: Any) -> Any:
        """The value, or a copy where it holds a bound deployment."""
        if isinstance(value, Application):
            return self._handle_of(value)
        if id(value) not in self._done:
            self._done[id(value)] = value, value  # what refers to itself is not copied
            self._done[id(value)] = value, self._new(value)
        return self._done[id(value)][1]

    def _new(self, value: Any) -> Any:
        kind = type(value)
        if isinstance(value, _HOLDS_NOTHING):
            return value
        if kind is dict:
            items = {key: self.put_into(item) for key, item in value.items()}
            return items if any(items[key] is not value[key] for key in value) else value
        if isinstance(value, list | tuple | set | frozenset):
            old = list(value)
            new = [self.put_into(item) for item in old]
            if all(one is other for one, other in zip(new, old, strict=True)):
                return value
            return kind(*new) if hasattr(kind, "_fields") else kind(new)
        return self._new_object(value)

    def _new_object(self, value: Any) -> Any:
        attributes = getattr(value, "__dict__", None)
        if type(attributes) is not dict:
            return value
        changed = {
            name: new
            for name, old in list(attributes.items())
            if (new := self.put_into(old)) is not old
        }
        if not changed:
            return value
        new_value = copy.copy(value)
        new_value.__dict__.update(changed)
        return new_value
