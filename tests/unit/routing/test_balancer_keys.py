"""Requests for what only some replicas hold."""

from __future__ import annotations

import random

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from serving.routing.balancer import Balancer, Replica, Waiter, first_in_line
from tests.support.machines import run_machine


def balancer_of(*names: str, capacity: int = 1) -> tuple[Balancer, list[Replica]]:
    balancer = Balancer()
    replicas = [balancer.add(name, capacity) for name in names]
    for replica in replicas:
        balancer.connected(replica)
    return balancer, replicas


def ignore() -> None:
    """Nobody waits."""


def test_holder_of_the_key_is_chosen() -> None:
    balancer, (_, second, _) = balancer_of("a", "b", "c", capacity=10)
    balancer.holds(second, frozenset({"m"}))

    assert [balancer.acquire("m") for _ in range(10)] == [second] * 10


def test_all_callers_choose_the_same_replica_where_nobody_holds_the_key() -> None:
    balancer, _ = balancer_of("a", "b", "c")
    other, _ = balancer_of("c", "b", "a")

    chosen, agreed = balancer.acquire("m"), other.acquire("m")
    assert chosen is not None
    assert agreed is not None
    assert chosen.id == agreed.id


def test_request_waits_for_a_holder_that_is_full_and_in_time_takes_another() -> None:
    balancer, (first, second) = balancer_of("a", "b")
    balancer.holds(first, frozenset({"m"}))
    assert balancer.acquire("m") is first
    assert balancer.acquire("m") is None

    waiter = balancer.enqueue(balancer.arrive(), ignore, key="m")
    assert waiter.replica is None
    balancer.relax(waiter)
    assert waiter.replica is second


def test_request_that_waits_for_a_holder_gets_it_when_it_frees() -> None:
    balancer, (first, _) = balancer_of("a", "b")
    balancer.holds(first, frozenset({"m"}))
    balancer.acquire("m")
    waiter = balancer.enqueue(balancer.arrive(), ignore, key="m")

    balancer.release(first)
    assert waiter.replica is first


def test_others_are_not_held_up_by_a_request_that_waits_for_a_holder() -> None:
    balancer, (first, second) = balancer_of("a", "b")
    balancer.holds(first, frozenset({"m"}))
    balancer.acquire("m")
    balancer.enqueue(balancer.arrive(), ignore, key="m")

    assert balancer.acquire() is second


def test_replica_that_is_lost_holds_nothing() -> None:
    balancer, (first, second) = balancer_of("a", "b")
    balancer.holds(first, frozenset({"m"}))
    balancer.unusable(first)

    assert balancer.acquire("m") is second


def test_first_in_line_is_waited_for_as_if_it_held_the_key() -> None:
    """A burst of first requests goes to one replica, as far as it has room in time."""
    balancer, replicas = balancer_of("a", "b")
    first = balancer.acquire("m")
    other = next(replica for replica in replicas if replica is not first)

    assert balancer.acquire("m") is None
    waiter = balancer.enqueue(balancer.arrive(), ignore, key="m")
    assert waiter.replica is None
    balancer.holds(other, frozenset({"m"}))
    assert waiter.replica is other


def test_request_that_has_no_patience_left_takes_any_replica() -> None:
    balancer, (first, second) = balancer_of("a", "b")
    balancer.holds(first, frozenset({"m"}))
    balancer.acquire("m")

    waiter = balancer.enqueue(balancer.arrive(), ignore, key="m", patient=False)
    assert waiter.replica is second


def test_slot_goes_to_the_earliest_of_all_that_can_use_it() -> None:
    balancer, (first, second) = balancer_of("a", "b")
    balancer.holds(first, frozenset({"m", "n"}))
    balancer.acquire("m")
    balancer.acquire()
    waiters = [balancer.enqueue(balancer.arrive(), ignore, key=key) for key in ("n", "m", "", "n")]

    for waiter in waiters:
        assert waiter.replica is None
        balancer.release(first)
        assert waiter.replica is first


def test_line_keeps_the_order_of_arrival_of_those_that_are_relaxed() -> None:
    balancer, (only,) = balancer_of("a")
    balancer.acquire()
    early = balancer.enqueue(balancer.arrive(), ignore, key="m")
    late = balancer.enqueue(balancer.arrive(), ignore)
    balancer.relax(early)

    balancer.release(only)
    assert (early.replica, late.replica) == (only, None)


@pytest.mark.parametrize("loss", ["unusable", "removed", "holds it no more"])
def test_those_that_wait_for_a_holder_go_elsewhere_when_it_is_none_any_more(loss: str) -> None:
    balancer, replicas = balancer_of("a", "b")
    holder, other = sorted(replicas, key=lambda each: first_in_line("m", replicas) is each)
    balancer.holds(holder, frozenset({"m"}))
    balancer.acquire("m")
    waiter = balancer.enqueue(balancer.arrive(), ignore, key="m")

    if loss == "unusable":
        balancer.unusable(holder)
    elif loss == "removed":
        balancer.remove(holder.id)
    else:
        balancer.holds(holder, frozenset())
    assert waiter.replica is other


def test_line_forgets_those_that_have_left() -> None:
    """Clients that give up leave no more behind than there are waiters."""
    balancer, (only,) = balancer_of("a")
    balancer.acquire("m")
    first = balancer.enqueue(balancer.arrive(), ignore, key="m")
    for _ in range(1000):
        balancer.abandon(balancer.enqueue(balancer.arrive(), ignore, key="m"))

    assert first.line is not None
    assert len(first.line._heap) < 50
    balancer.release(only)
    assert first.replica is only
    assert balancer._lines == {}
    assert only.lines == set()


@pytest.mark.parametrize("capacity", [1, 10])
def test_hot_key_spreads_over_as_many_replicas_as_it_needs(capacity: int) -> None:
    """One key at five times what a replica can bear: 20 ms a request, patience of 100 ms."""
    balancer, replicas = balancer_of(*"abcdefgh", capacity=capacity)
    heard: dict[Replica, int] = {}
    running: list[tuple[int, Replica]] = []
    waiting: list[tuple[int, Waiter]] = []
    done = 0
    for now_ms in range(3000):
        for replica in [replica for at, replica in running if at <= now_ms]:
            done += 1
            if heard.setdefault(replica, now_ms) == now_ms:
                balancer.holds(replica, frozenset({"hot"}))
        for _, replica in [entry for entry in running if entry[0] <= now_ms]:
            balancer.release(replica)
        running = [entry for entry in running if entry[0] > now_ms]
        if now_ms % 4 == 0:
            waiting += [
                (now_ms, balancer.enqueue(balancer.arrive(), ignore, key="hot"))
                for _ in range(capacity)
            ]
        for since, waiter in waiting:
            if since + 100 <= now_ms:
                balancer.relax(waiter)
            if waiter.replica is not None:
                running.append((now_ms + 20, waiter.replica))
                waiter.replica, waiter.key = None, "taken"
        waiting = [entry for entry in waiting if entry[1].key != "taken"]

    assert 5 <= len(heard) <= 6
    assert done > 0.9 * 3000 / 4 * capacity


class KeyedTraffic(RuleBasedStateMachine):
    """Requests with and without keys; replicas come, go, and hold now this, now that."""

    KEYS = ("", "m", "n")

    @initialize(capacity=st.integers(1, 2))
    def begin(self, capacity: int) -> None:
        self.balancer = Balancer(rng=random.Random(0))
        self.capacity = capacity
        self.made = 0
        self.running: list[tuple[int, str, Replica]] = []
        self.waiting: list[Waiter] = []

    @rule(key=st.sampled_from(KEYS), patient=st.booleans())
    def request(self, key: str, patient: bool) -> None:
        arrival = self.balancer.arrive()
        if (replica := self.balancer.acquire(key)) is not None:
            self.running.append((arrival, key, replica))
        else:
            self.enqueue(arrival, key, patient=patient)

    def enqueue(self, arrival: int, key: str, **options: bool) -> None:
        self.waiting.append(self.balancer.enqueue(arrival, ignore, key=key, **options))
        self.collect()

    def collect(self) -> None:
        """Those that have got a slot run; nobody like them that arrived earlier still waits."""
        granted = [waiter for waiter in self.waiting if waiter.replica is not None]
        self.waiting = [waiter for waiter in self.waiting if waiter.replica is None]
        for waiter in granted:
            assert waiter.replica is not None
            self.running.append((waiter.arrival, waiter.key, waiter.replica))
            assert not [
                other
                for other in self.waiting
                if other.arrival < waiter.arrival and (other.line is self.balancer._anyone)
            ]

    @precondition(lambda self: self.running)
    @rule(number=st.integers(0, 9), rejected=st.booleans())
    def finish(self, number: int, rejected: bool) -> None:
        arrival, key, replica = self.running.pop(number % len(self.running))
        if rejected:
            self.balancer.rejected(replica)
        self.balancer.release(replica)
        self.collect()
        if rejected:
            self.enqueue(arrival, key, placed=True)

    @precondition(lambda self: self.waiting)
    @rule(number=st.integers(0, 9), relaxed=st.booleans())
    def lose_patience(self, number: int, relaxed: bool) -> None:
        waiter = self.waiting[number % len(self.waiting)]
        if relaxed:
            self.balancer.relax(waiter)
        else:
            self.waiting.remove(waiter)
            self.balancer.abandon(waiter)
        self.collect()

    @rule()
    def add(self) -> None:
        self.made += 1
        self.balancer.connected(self.balancer.add(f"r{self.made}", self.capacity))
        self.collect()

    @precondition(lambda self: self.balancer.replicas)
    @rule(
        number=st.integers(0, 9),
        how=st.sampled_from(["lost", "back", "removed", "speaks"]),
        keys=st.frozensets(st.sampled_from(KEYS[1:])),
    )
    def change(self, number: int, how: str, keys: frozenset[str]) -> None:
        replica = list(self.balancer.replicas.values())[number % len(self.balancer.replicas)]
        if how == "lost":
            self.balancer.unusable(replica)
        elif how == "back":
            self.balancer.connected(replica)
        elif how == "removed":
            self.balancer.remove(replica.id)
        elif replica.usable:
            self.balancer.heard(replica, replica.inflight)
            self.balancer.holds(replica, keys)
        self.collect()

    @invariant()
    def nobody_waits_while_there_is_a_slot_for_it(self) -> None:
        for waiter in getattr(self, "waiting", ()):
            usable = [each for each in self.balancer.replicas.values() if each.usable]
            holders = [replica for replica in usable if waiter.key in replica.keys]
            if waiter.line is self.balancer._anyone:
                fit = usable
            else:
                first = first_in_line(waiter.key, usable)
                fit = holders or ([first] if first is not None else [])
            assert not any(replica.has_room for replica in fit)

    @invariant()
    def all_is_counted(self) -> None:
        if not hasattr(self, "balancer"):
            return
        assert self.balancer.queued == len(self.waiting)
        lines = self.balancer._lines
        assert all(line.length == len(list(line)) > 0 for line in lines.values())
        for replica in self.balancer.replicas.values():
            assert replica.inflight == sum(1 for *_, other in self.running if other is replica)
            assert replica.lines == {line for line in lines.values() if replica in line.holders}


def test_traffic_with_keys_leaves_nobody_waiting_beside_a_slot() -> None:
    run_machine(KeyedTraffic)
