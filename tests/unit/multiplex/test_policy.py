"""Which models are loaded, and which leave for them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from serving.multiplex.policy import UNLIMITED, Plan, Shelf
from tests.support.machines import run_machine


@dataclass(frozen=True, eq=False)
class Ask:
    owner: str | None = None


def shelf_with(*names: str, limit: int) -> Shelf[Ask]:
    """A shelf on which these are loaded, asked for in this order, and unused."""
    shelf: Shelf[Ask] = Shelf(limit)
    for name in names:
        receive(shelf, name)
    return shelf


def receive(shelf: Shelf[Ask], name: str, owner: str | None = None) -> None:
    """Asks for a model, which is loaded at once."""
    ask = Ask(owner)
    shelf.ask(name, ask)
    if name in shelf.plan().load:
        shelf.loaded(name)
    shelf.use(name, owner)
    assert not shelf.leave(name, ask)


def ask_for(shelf: Shelf[Ask], name: str, owner: str | None = None) -> tuple[Ask, Plan[Ask]]:
    ask = Ask(owner)
    shelf.ask(name, ask)
    return ask, shelf.plan()


@pytest.mark.parametrize(
    ("loaded", "limit", "expected"),
    [
        ("", 1, Plan(load=["new"])),
        ("ab", 3, Plan(load=["new"])),
        ("ab", UNLIMITED, Plan(load=["new"])),
        ("abc", 3, Plan(unload=["a"])),
        ("abca", 3, Plan(unload=["b"])),
        ("abcab", 3, Plan(unload=["c"])),
    ],
)
def test_model_that_was_asked_for_longest_ago_leaves_for_a_new_one(
    loaded: str, limit: int, expected: Plan[Ask]
) -> None:
    shelf = shelf_with(*loaded, limit=limit)

    assert ask_for(shelf, "new")[1] == expected


def test_place_is_free_when_the_model_is_gone() -> None:
    shelf = shelf_with("a", limit=1)
    assert ask_for(shelf, "b")[1] == Plan(unload=["a"])
    assert shelf.plan() == Plan()

    shelf.gone("a")
    assert shelf.plan() == Plan(load=["b"])


def test_each_who_waits_makes_one_model_leave() -> None:
    shelf = shelf_with(*"abc", limit=3)

    assert ask_for(shelf, "d")[1] == Plan(unload=["a"])
    assert ask_for(shelf, "d")[1] == Plan()
    assert ask_for(shelf, "e")[1] == Plan(unload=["b"])


def test_model_in_use_stays_and_another_leaves() -> None:
    shelf = shelf_with(*"abc", limit=3)
    shelf.use("a", "request")
    shelf.use("b", "request")
    shelf.use("c", "other")
    shelf.release("c", "other")

    assert ask_for(shelf, "d")[1] == Plan(unload=["c"])


def test_model_leaves_when_the_last_who_uses_it_has_ended() -> None:
    shelf = shelf_with("a", limit=1)
    assert shelf.use("a", "one")
    assert not shelf.use("a", "one")
    assert shelf.use("a", "two")

    assert ask_for(shelf, "b")[1] == Plan()
    shelf.release("a", "one")
    assert shelf.plan() == Plan()
    shelf.release("a", "two")
    assert shelf.plan() == Plan(unload=["a"])


def test_those_who_wait_get_places_in_the_order_of_arrival() -> None:
    shelf = shelf_with("a", limit=1)
    shelf.use("a", "request")
    for name in "cbd":
        ask_for(shelf, name)
    shelf.release("a", "request")
    assert shelf.plan() == Plan(unload=["a"])

    shelf.gone("a")
    assert shelf.plan() == Plan(load=["c"])


def test_model_that_is_asked_for_while_it_leaves_is_loaded_anew_after_that() -> None:
    shelf = shelf_with("a", limit=2)
    shelf.use("a", "request")
    receive(shelf, "b", "other")
    ask_for(shelf, "c")
    shelf.release("a", "request")
    assert shelf.plan() == Plan(unload=["a"])

    assert ask_for(shelf, "a")[1] == Plan()
    shelf.release("b", "other")
    assert shelf.plan() == Plan(unload=["b"])
    shelf.gone("b")
    assert shelf.plan() == Plan(load=["c"])
    shelf.gone("a")
    assert shelf.plan() == Plan(load=["a"])


def test_load_is_given_up_when_the_last_who_asked_leaves_and_keeps_its_place_till_it_ends() -> None:
    shelf: Shelf[Ask] = Shelf(1)
    first, plan = ask_for(shelf, "a")
    assert plan == Plan(load=["a"])
    second, _ = ask_for(shelf, "a")

    assert not shelf.leave("a", first)
    assert shelf.leave("a", second)
    assert list(shelf.present) == []
    assert ask_for(shelf, "b")[1] == Plan()
    shelf.gone("a")
    assert shelf.plan() == Plan(load=["b"])


def test_model_that_nobody_waits_for_any_more_is_not_loaded() -> None:
    shelf = shelf_with("a", limit=1)
    shelf.use("a", "request")
    ask, _ = ask_for(shelf, "b")

    assert not shelf.leave("b", ask)
    shelf.release("a", "request")
    assert shelf.plan() == Plan()


def test_failed_load_is_all_theirs_who_asked_and_forgotten() -> None:
    shelf: Shelf[Ask] = Shelf(1)
    asks = [ask_for(shelf, "a")[0] for _ in range(3)]

    assert shelf.failed("a") == asks
    assert not shelf.leave("a", asks[0])
    assert ask_for(shelf, "a")[1] == Plan(load=["a"])


@pytest.mark.parametrize("owners", [("one",), ("one", "two")])
def test_requests_that_keep_all_places_and_wait_for_more_are_stuck(owners: tuple[str, ...]) -> None:
    shelf: Shelf[Ask] = Shelf(len(owners))
    for owner in owners:
        receive(shelf, f"first of {owner}", owner)
    plan: Plan[Ask] = Plan()
    for owner in owners:
        assert plan.stuck is None
        ask, plan = ask_for(shelf, f"second of {owner}", owner)

    assert plan.stuck is ask
    assert not shelf.leave(f"second of {owners[-1]}", ask)
    assert shelf.plan().stuck is None or owners == ("one",)


def test_request_that_waits_while_another_works_is_not_stuck() -> None:
    shelf: Shelf[Ask] = Shelf(2)
    receive(shelf, "a", "one")
    receive(shelf, "b", "two")

    assert ask_for(shelf, "c", "one")[1] == Plan()
    shelf.release("b", "two")
    assert shelf.plan() == Plan(unload=["b"])


def test_request_of_which_several_tasks_wait_is_stuck_until_all_have_left() -> None:
    shelf: Shelf[Ask] = Shelf(1)
    receive(shelf, "a", "one")
    first, plan = ask_for(shelf, "b", "one")
    assert plan.stuck is first
    second, plan = ask_for(shelf, "b", "one")
    assert plan.stuck is second

    shelf.leave("b", second)
    assert shelf.plan().stuck is first
    shelf.leave("b", first)
    ask_for(shelf, "c", "two")
    assert shelf.plan() == Plan()


def test_all_leave_at_the_end() -> None:
    shelf = shelf_with("a", limit=1)
    shelf.use("a", "request")
    ask, _ = ask_for(shelf, "b")

    assert shelf.clear() == [ask]
    assert list(shelf.present) == []
    assert shelf.plan() == Plan()


class Requests(RuleBasedStateMachine):
    """Requests ask for models, get them, end; loads end well, or not."""

    @initialize(limit=st.sampled_from([1, 2, 3, UNLIMITED]))
    def begin(self, limit: int) -> None:
        self.limit = limit
        self.shelf: Shelf[Ask] = Shelf(limit)
        self.asks: dict[Ask, str] = {}
        self.loading: set[str] = set()
        self.given_up: set[str] = set()
        self.loaded: set[str] = set()
        self.unloading: set[str] = set()
        self.users: set[tuple[str, str]] = set()

    def act(self) -> None:
        while True:
            plan = self.shelf.plan()
            for name in plan.unload:
                assert name in self.loaded
                assert not [user for user in self.users if user[0] == name]
                assert name not in self.asks.values()
                self.loaded.remove(name)
                self.unloading.add(name)
            for name in plan.load:
                assert name not in self.loading | self.loaded | self.unloading | self.given_up
                self.loading.add(name)
            if plan.stuck is None:
                return
            self.leave(plan.stuck)

    def leave(self, ask: Ask) -> None:
        name = self.asks.pop(ask)
        if self.shelf.leave(name, ask):
            self.loading.remove(name)
            self.given_up.add(name)

    @rule(name=st.sampled_from("abcd"), owner=st.sampled_from(["one", "two", "three", None]))
    def ask(self, name: str, owner: str | None) -> None:
        if name in self.loaded:
            self.use(name, owner)
        else:
            ask = Ask(owner)
            self.asks[ask] = name
            self.shelf.ask(name, ask)
        self.act()

    def use(self, name: str, owner: str | None) -> None:
        news = self.shelf.use(name, owner)
        assert news == (owner is not None and (name, owner) not in self.users)
        if owner is not None:
            self.users.add((name, owner))

    @rule(owner=st.sampled_from(["one", "two", "three"]))
    def end(self, owner: str) -> None:
        for ask in [ask for ask in self.asks if ask.owner == owner]:
            self.leave(ask)
        for name, _ in [user for user in self.users if user[1] == owner]:
            self.shelf.release(name, owner)
            self.users.remove((name, owner))
        self.act()

    @precondition(lambda self: self.asks)
    @rule(number=st.integers(0, 9))
    def cancel(self, number: int) -> None:
        self.leave(list(self.asks)[number % len(self.asks)])
        self.act()

    @precondition(lambda self: self.loading)
    @rule(number=st.integers(0, 9), well=st.booleans())
    def load_ends(self, number: int, well: bool) -> None:
        name = sorted(self.loading)[number % len(self.loading)]
        self.loading.remove(name)
        if well:
            self.shelf.loaded(name)
            self.loaded.add(name)
            asks = self.shelf.asks(name)
        else:
            asks = self.shelf.failed(name)
        assert asks == [ask for ask, asked in self.asks.items() if asked == name]
        for ask in asks:
            if well:
                self.use(name, ask.owner)
            self.leave(ask)
        self.act()

    @precondition(lambda self: self.unloading or self.given_up)
    @rule(number=st.integers(0, 9))
    def leaves(self, number: int) -> None:
        leaving = sorted(self.unloading | self.given_up)
        name = leaving[number % len(leaving)]
        self.shelf.gone(name)
        self.unloading.discard(name)
        self.given_up.discard(name)
        self.act()

    @invariant()
    def limit_holds_and_nobody_waits_beside_a_place(self) -> None:
        if not hasattr(self, "shelf"):
            return
        assert set(self.shelf.present) == self.loading | self.loaded
        places = len(self.loading) + len(self.loaded) + len(self.unloading) + len(self.given_up)
        waiting = set(self.asks.values()) - self.loading
        assert self.limit == UNLIMITED or places <= self.limit
        if waiting - self.unloading - self.given_up:
            assert places == self.limit
            used = {name for name, _ in self.users}
            assert self.unloading or self.given_up or self.loaded <= used


def test_requests_get_their_models_within_the_limit() -> None:
    run_machine(Requests, examples=200)
