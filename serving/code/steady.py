"""Sets of plain values that are pickled the same in every process, whatever their order there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PLAIN = (str, bytes, int, float, bool, type(None))


class _SteadySet:
    """Stands for a set, and loads as one."""

    def __init__(self, members: set[Any] | frozenset[Any]) -> None:
        self.members = members

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self.members), (sorted(self.members, key=repr),)


def steady(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same with every value that is a set pickled in a fixed order."""
    return {name: steady_value(value) for name, value in values.items()}


def steady_value(value: Any) -> Any:
    """`value`, or what stands for it if it is a set of plain values or a tuple with such in it."""
    if type(value) in (set, frozenset) and len(value) > 1:
        if all(type(member) in _PLAIN for member in value):
            return _SteadySet(value)
    elif type(value) is tuple and any(type(item) is frozenset for item in value):
        return tuple(map(steady_value, value))
    return value
