"""Requests for what only some replicas hold."""

from __future__ import annotations

from serving.routing.balancer import Balancer, Replica


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
