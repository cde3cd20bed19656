"""Which model is loaded next, and which one leaves for it: decided here, without a clock or a loop.

At most `limit` models have a place at a time: being loaded, loaded, or leaving. A model leaves for
another only while no request uses it, the one that was asked for longest ago first. Who asks for a
model that has no place waits for one, in the order of arrival.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

__all__ = ["UNLIMITED", "Ask", "Plan", "Shelf"]

UNLIMITED = -1


class Ask(Protocol):
    """A call that asks for a model and has not got it yet."""

    @property
    def owner(self) -> Hashable | None:
        """The request that asks, if it is one."""


A = TypeVar("A", bound=Ask)


class _Model(Generic[A]):
    """A model that is asked for, or has a place."""

    def __init__(self) -> None:
        self.loaded = False
        self.asks: dict[A, None] = {}
        """In the order of arrival."""
        self.users: set[Hashable] = set()


@dataclass
class Plan(Generic[A]):
    """What is to be done now."""

    load: list[str] = field(default_factory=list)
    unload: list[str] = field(default_factory=list)
    stuck: A | None = None
    """It would wait for ever: each place is kept by a request that waits for yet another one."""


class Shelf(Generic[A]):
    """The models that are asked for, loaded, and leaving."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: OrderedDict[str, _Model[A]] = OrderedDict()
        """Those that have no place yet, in the order of arrival."""
        self._present: OrderedDict[str, _Model[A]] = OrderedDict()
        """Those that are being loaded or loaded; the one that was asked for last is the last."""
        self._leaving: set[str] = set()
        """Those that are being unloaded, and loads that were given up and have not ended yet."""
        self._waiting_owners: dict[Hashable, int] = {}

    def __repr__(self) -> str:
        return (
            f"<Shelf {list(self._present)} waiting={list(self._waiting)} "
            f"leaving={sorted(self._leaving)} limit={self._limit}>"
        )

    @property
    def present(self) -> Iterable[str]:
        """The models that are loaded or being loaded."""
        return self._present.keys()

    def asks(self, name: str) -> list[A]:
        """Those who ask for a model and have not got it yet."""
        model = self._find(name)
        return list(model.asks) if model is not None else []

    def uses(self, owner: Hashable) -> list[str]:
        """The models that a request uses."""
        return [name for name, model in self._present.items() if owner in model.users]

    # What happens.

    def ask(self, name: str, ask: A) -> None:
        """Somebody asks for a model that is not loaded. `leave` follows."""
        if (model := self._present.get(name)) is not None:
            self._present.move_to_end(name)
        else:
            model = self._waiting.setdefault(name, _Model())
            self._count(ask, 1)
        model.asks[ask] = None

    def leave(self, name: str, ask: A) -> bool:
        """Who asked has got it, or does not want it any more. Tells whether its load is to be
        given up, for nobody waits for it: `gone` follows when that has ended."""
        model = self._find(name)
        if model is None or ask not in model.asks:
            return False
        del model.asks[ask]
        if name in self._waiting:
            self._count(ask, -1)
            if not model.asks:
                del self._waiting[name]
            return False
        if model.asks or model.loaded:
            return False
        self._begin_leaving(name)
        return True

    def use(self, name: str, owner: Hashable | None) -> bool:
        """A request uses it; tells whether it did not before: then `release` follows."""
        if (model := self._present.get(name)) is None:
            return False
        self._present.move_to_end(name)
        if owner is None or owner in model.users:
            return False
        model.users.add(owner)
        return True

    def release(self, name: str, owner: Hashable) -> None:
        """That request has ended."""
        if name in self._present:
            self._present[name].users.discard(owner)

    def loaded(self, name: str) -> None:
        """Its load has ended well."""
        self._present[name].loaded = True

    def failed(self, name: str) -> list[A]:
        """Its load has failed, for all of those who asked for it."""
        return list(self._present.pop(name).asks)

    def gone(self, name: str) -> None:
        """It has been unloaded, or its load, that was given up, has ended."""
        self._leaving.discard(name)

    # What is to be done.

    def plan(self) -> Plan[A]:
        """What is to be done now, and is from here on taken as begun."""
        plan: Plan[A] = Plan()
        if self._waiting:
            self._fill_places(plan)
            self._free_places(plan)
            if self._is_stuck():
                plan.stuck = self._last_to_wait()
        return plan

    def clear(self) -> list[A]:
        """All that are present are to leave, whoever uses them. Gives those who ask in vain."""
        models = [*self._present.values(), *self._waiting.values()]
        self._leaving.update(self._present)
        self._present.clear()
        self._waiting.clear()
        self._waiting_owners.clear()
        return [ask for model in models for ask in model.asks]

    @property
    def _room(self) -> int:
        if self._limit == UNLIMITED:
            return len(self._waiting)
        return self._limit - len(self._present) - len(self._leaving)

    def _fill_places(self, plan: Plan[A]) -> None:
        """Those who waited longest get the places that are free."""
        if self._room <= 0:
            return
        for name in list(self._waiting):
            # One that is still leaving begins anew only when it is gone.
            if name not in self._leaving:
                self._begin_loading(name)
                plan.load.append(name)
            if self._room <= 0:
                return

    def _free_places(self, plan: Plan[A]) -> None:
        """For those who still wait, beyond the places that are being freed already."""
        short = len(self._waiting) - len(self._leaving) - max(0, self._room)
        if short <= 0:
            return
        for name, model in list(self._present.items()):
            if model.loaded and not model.asks and not model.users:
                self._begin_leaving(name)
                plan.unload.append(name)
                short -= 1
            if short <= 0:
                return

    def _begin_loading(self, name: str) -> None:
        model = self._present[name] = self._waiting.pop(name)
        for ask in model.asks:
            self._count(ask, -1)

    def _begin_leaving(self, name: str) -> None:
        del self._present[name]
        self._leaving.add(name)

    def _is_stuck(self) -> bool:
        return bool(self._waiting and self._present and not self._leaving) and all(
            any(owner in self._waiting_owners for owner in model.users)
            for model in self._present.values()
        )

    def _last_to_wait(self) -> A:
        """Of those whose owners keep what others wait for."""
        keepers = {owner for model in self._present.values() for owner in model.users}
        waiting = (model for model in reversed(self._waiting.values()))
        asks = (ask for model in waiting for ask in reversed(model.asks))
        return next(ask for ask in asks if ask.owner in keepers)

    def _find(self, name: str) -> _Model[A] | None:
        return self._present.get(name) or self._waiting.get(name)

    def _count(self, ask: A, change: int) -> None:
        """Keeps the owners that wait for a place."""
        if ask.owner is None:
            return
        count = self._waiting_owners.get(ask.owner, 0) + change
        if count:
            self._waiting_owners[ask.owner] = count
        else:
            del self._waiting_owners[ask.owner]
