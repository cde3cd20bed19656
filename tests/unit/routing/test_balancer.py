"""Choosing a replica and waiting for one."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from serving.routing.balancer import Balancer, QueueFull, Replica, Waiter
from tests.support.machines import run_machine


def make_balancer(*loads: int, capacity: int = 10) -> Balancer:
    """A balancer with one connected replica ("r0", "r1", ...) for each number of requests that it
    has in flight."""
    balancer = Balancer(rng=random.Random(0))
    for i, load in enumerate(loads):
        replica = balancer.add(f"r{i}", capacity)
        balancer.connected(replica)
        replica.inflight = load
    return balancer


def enqueue(balancer: Balancer, count: int = 1) -> list[Waiter]:
    return [balancer.enqueue(balancer.arrive(), lambda: None) for _ in range(count)]


def served(waiters: Iterable[Waiter]) -> list[bool]:
    return [waiter.replica is not None for waiter in waiters]


# Choice


@pytest.mark.parametrize(
    ("loads", "expected"),
    [
        ([], None),
        ([0], "r0"),
        ([10], None),
        ([3, 2], "r1"),
        ([10, 9], "r1"),
        ([10, 10, 10, 10, 9], "r4"),
        ([10, 10, 10, 10, 10], None),
    ],
    ids=str,
)
def test_least_loaded_replica_with_room_is_chosen(loads: list[int], expected: str | None) -> None:
    replica = make_balancer(*loads).acquire()
    assert (replica.id if replica else None) == expected


def test_of_two_choices_the_less_loaded_is_preferred() -> None:
    balancer = make_balancer(0, 0, 8, 8, capacity=100_000)
    for _ in range(1000):
        balancer.acquire()
    loads = [replica.inflight for replica in balancer.replicas.values()]
    assert sum(loads) == 1016
    assert max(loads) - min(loads) < 20


def test_requests_of_other_callers_count() -> None:
    balancer = make_balancer(0, 3)
    busy, idle = balancer.replicas.values()
    balancer.heard(busy, 8)
    balancer.heard(idle, 3)
    assert balancer.acquire() is idle


def test_equal_replicas_share_the_requests() -> None:
    balancer = make_balancer(0, 0)
    chosen = set()
    for _ in range(50):
        replica = balancer.acquire()
        assert replica is not None
        chosen.add(replica.id)
        balancer.release(replica)
    assert chosen == {"r0", "r1"}


def test_replica_that_is_not_connected_is_not_chosen() -> None:
    balancer = Balancer()
    replica = balancer.add("r0", 10)
    assert balancer.acquire() is None
    balancer.connected(replica)
    assert balancer.acquire() is replica
    balancer.unusable(replica)
    assert balancer.acquire() is None


def test_replica_that_rejected_is_not_asked_before_it_speaks_of_room() -> None:
    balancer = make_balancer(0, capacity=5)
    (replica,) = balancer.replicas.values()
    balancer.rejected(replica)
    assert balancer.acquire() is None
    balancer.heard(replica, 5)
    assert balancer.acquire() is None
    balancer.heard(replica, 4)
    assert balancer.acquire() is replica


def test_replica_that_comes_back_is_asked_again() -> None:
    balancer = make_balancer(0)
    (replica,) = balancer.replicas.values()
    balancer.heard(replica, 10)
    balancer.rejected(replica)
    balancer.unusable(replica)
    balancer.connected(replica)
    assert balancer.acquire() is replica
    assert replica.others == 0


# The queue


def test_first_slot_that_frees_goes_to_the_first_that_waits() -> None:
    balancer = make_balancer(2, capacity=2)
    (replica,) = balancer.replicas.values()
    waiters = enqueue(balancer, 3)
    balancer.release(replica)
    assert served(waiters) == [True, False, False]
    balancer.release(replica)
    assert served(waiters) == [True, True, False]
    assert balancer.queued == 1


def test_nobody_overtakes_who_waits() -> None:
    balancer = make_balancer()
    waiters = enqueue(balancer, 2)
    replica = balancer.add("r0", 1)
    balancer.connected(replica)
    assert served(waiters) == [True, False]
    assert balancer.acquire() is None


def test_waiter_is_told_when_it_has_its_replica() -> None:
    balancer = make_balancer(1, capacity=1)
    (replica,) = balancer.replicas.values()
    told: list[Replica | None] = []
    waiter = balancer.enqueue(balancer.arrive(), lambda: told.append(waiter.replica))
    balancer.release(replica)
    assert told == [replica]


def test_requests_that_were_sent_away_take_their_old_places() -> None:
    """In whatever order they come back."""
    balancer = make_balancer()
    first, second, third = (balancer.arrive() for _ in range(3))
    fresh = enqueue(balancer, 2)
    back = {
        arrival: balancer.enqueue(arrival, lambda: None, placed=True)
        for arrival in (second, first, third)
    }
    order = [back[first], back[second], back[third], *fresh]
    replica = balancer.add("r0", 0)
    balancer.connected(replica)
    for expected in order:
        balancer.resize(replica.capacity + 1)
        assert expected.replica is replica
        assert sum(served(order)) == replica.capacity


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_queue_is_bounded(limit: int) -> None:
    balancer = make_balancer()
    balancer.max_queued = limit
    enqueue(balancer, limit)
    with pytest.raises(QueueFull):
        enqueue(balancer)
    assert balancer.queued == limit


def test_queue_takes_back_a_request_though_it_is_full() -> None:
    balancer = make_balancer()
    balancer.max_queued = 1
    earlier = balancer.arrive()
    enqueue(balancer)
    balancer.enqueue(earlier, lambda: None, placed=True)
    assert balancer.queued == 2


def test_abandoned_place_is_free_again() -> None:
    balancer = make_balancer(1, capacity=1)
    balancer.max_queued = 2
    (replica,) = balancer.replicas.values()
    first, second = enqueue(balancer, 2)
    balancer.abandon(first)
    balancer.abandon(first)
    enqueue(balancer)
    balancer.release(replica)
    assert served([first, second]) == [False, True]


def test_abandoned_slot_goes_to_the_next() -> None:
    balancer = make_balancer(1, capacity=1)
    (replica,) = balancer.replicas.values()
    first, second = enqueue(balancer, 2)
    balancer.release(replica)
    balancer.abandon(first)
    assert served([first, second]) == [False, True]
    assert replica.inflight == 1


@pytest.mark.parametrize("news", ["connected", "room", "more capacity"])
def test_whatever_makes_room_serves_the_queue(news: str) -> None:
    balancer = make_balancer(1, capacity=1)
    (replica,) = balancer.replicas.values()
    if news == "room":
        balancer.release(replica)
        balancer.rejected(replica)
    (waiter,) = enqueue(balancer)
    if news == "connected":
        balancer.connected(balancer.add("r1", 1))
    elif news == "room":
        balancer.heard(replica, 0)
    else:
        balancer.resize(2)
    assert waiter.replica is not None


def test_replica_removed_while_in_flight_gets_nothing_more() -> None:
    balancer = make_balancer(2, capacity=2)
    (replica,) = balancer.replicas.values()
    (waiter,) = enqueue(balancer)
    balancer.remove(replica.id)
    balancer.connected(replica)  # Its link came up again.
    balancer.heard(replica, 0)
    balancer.release(replica)
    balancer.release(replica)
    assert waiter.replica is None
    assert replica.inflight == 0


def test_lower_capacity_holds_for_new_requests() -> None:
    balancer = make_balancer(5, capacity=10)
    balancer.resize(3)
    assert balancer.acquire() is None


def test_repr_tells_the_state() -> None:
    balancer = make_balancer(2)
    (replica,) = balancer.replicas.values()
    balancer.heard(replica, 5)
    balancer.rejected(replica)
    assert repr(replica) == "<Replica r0 2+3/10 full>"
    balancer.unusable(replica)
    assert repr(balancer) == "<Balancer [<Replica r0 2+3/10 unusable full>] queued=0>"


# Whatever happens


class Traffic(RuleBasedStateMachine):
    """Requests come, are worked on, sent away and given up; replicas come and go."""

    @initialize(capacity=st.integers(1, 3), limit=st.sampled_from([-1, 0, 2]))
    def begin(self, capacity: int, limit: int) -> None:
        self.balancer = Balancer(rng=random.Random(0))
        self.balancer.max_queued = limit
        self.capacity = capacity
        self.made = 0
        self.running: list[tuple[int, Replica]] = []
        self.waiting: dict[Waiter, int] = {}

    @rule()
    def request(self) -> None:
        arrival = self.balancer.arrive()
        replica = self.balancer.acquire()
        if replica is not None:
            self.running.append((arrival, replica))
            return
        try:
            self.enqueue(arrival, placed=False)
        except QueueFull:
            assert self.balancer.max_queued >= 0
            assert self.balancer.queued >= self.balancer.max_queued

    def enqueue(self, arrival: int, *, placed: bool) -> None:
        def notify() -> None:
            told.append(arrival)

        told: list[int] = []
        waiter = self.balancer.enqueue(arrival, notify, placed=placed)
        assert bool(told) == (waiter.replica is not None)
        self.waiting[waiter] = arrival
        self.collect()

    def collect(self) -> None:
        """Those that have got their slot run; nobody that arrived earlier still waits."""
        granted = {waiter: at for waiter, at in self.waiting.items() if waiter.replica is not None}
        for waiter, arrival in granted.items():
            assert waiter.replica is not None
            self.running.append((arrival, waiter.replica))
            del self.waiting[waiter]
        if granted and self.waiting:
            assert max(granted.values()) < min(self.waiting.values())

    @precondition(lambda self: self.running)
    @rule(number=st.integers(0, 9))
    def finish(self, number: int) -> None:
        _, replica = self.running.pop(number % len(self.running))
        self.balancer.release(replica)
        self.collect()

    @precondition(lambda self: self.running)
    @rule(number=st.integers(0, 9))
    def send_away(self, number: int) -> None:
        arrival, replica = self.running.pop(number % len(self.running))
        self.balancer.rejected(replica)
        self.balancer.release(replica)
        self.collect()
        self.enqueue(arrival, placed=True)

    @precondition(lambda self: self.waiting)
    @rule(number=st.integers(0, 9))
    def give_up(self, number: int) -> None:
        waiter = list(self.waiting)[number % len(self.waiting)]
        del self.waiting[waiter]
        self.balancer.abandon(waiter)

    @rule()
    def add(self) -> None:
        self.made += 1
        self.balancer.connected(self.balancer.add(f"r{self.made}", self.capacity))
        self.collect()

    @precondition(lambda self: self.balancer.replicas)
    @rule(number=st.integers(0, 9), how=st.sampled_from(["lost", "back", "removed", "speaks"]))
    def change(self, number: int, how: str) -> None:
        replica = list(self.balancer.replicas.values())[number % len(self.balancer.replicas)]
        if how == "lost":
            self.balancer.unusable(replica)
        elif how == "back":
            self.balancer.connected(replica)
        elif how == "removed":
            self.balancer.remove(replica.id)
        else:
            self.balancer.heard(replica, replica.inflight)
        self.collect()

    @invariant()
    def no_slot_is_lost_or_given_twice(self) -> None:
        if not hasattr(self, "balancer"):
            return
        for replica in self.balancer.replicas.values():
            assert replica.inflight == sum(1 for _, other in self.running if other is replica)
            assert replica.inflight <= replica.capacity
        assert self.balancer.queued == len(self.waiting)

    @invariant()
    def nobody_waits_while_there_is_room(self) -> None:
        if getattr(self, "waiting", None):
            assert not any(replica.has_room for replica in self.balancer.replicas.values())


def test_traffic_keeps_the_order_and_the_slots() -> None:
    run_machine(Traffic)
