"""What a decorator keeps for each instance of the class that its method stands in."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

S = TypeVar("S")


class PerInstance(Generic[S]):
    """A state for each instance, for as long as that lives.

    By identity: instances need be neither hashable nor equal to themselves only.
    """

    def __init__(self, make: Callable[[], S], decorator: str) -> None:
        """`make` makes a new state; errors name the `decorator`."""
        self._make = make
        self._decorator = decorator
        self._states: dict[int, tuple[weakref.ref[Any], S]] = {}

    def of(self, instance: Any) -> S:
        """The state of an instance."""
        key = id(instance)
        if (found := self._states.get(key)) is not None and found[0]() is instance:
            return found[1]
        states = self._states
        state = self._make()
        try:
            reference = weakref.ref(instance, lambda gone: _forget(states, key, gone))
        except TypeError:
            raise TypeError(
                f"{self._decorator}: instances of {type(instance).__name__} admit no weak "
                'references; add "__weakref__" to its __slots__'
            ) from None
        states[key] = (reference, state)
        return state


def _forget(
    states: dict[int, tuple[weakref.ref[Any], S]], key: int, gone: weakref.ref[Any]
) -> None:
    # Another object may live at that address by now.
    if key in states and states[key][0] is gone:
        del states[key]


def is_method(function: Callable[..., Any]) -> bool:
    """Whether it stands in a class: Python gives it the class's name before its own."""
    inside, _, _ = function.__qualname__.rpartition(".")
    return bool(inside) and not inside.endswith("<locals>") and not inspect.ismethod(function)
