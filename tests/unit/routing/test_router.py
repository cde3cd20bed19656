"""Bringing requests to replicas: what is sent where, and what is sent a second time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from serving.mux import ResetCode, Stream, StreamError, StreamReset
from serving.mux.session import Part
from serving.routing import router as router_module, tickets as tickets_module
from serving.routing.router import (
    Call,
    MemoryNotShared,
    Overloaded,
    ReplicaLost,
    Router,
    RoutingError,
    Unavailable,
)
from serving.v1.controller_pb2 import TicketRequest, TicketUpdate
from tests.support.mux import TAG, turn, until
from tests.support.routing import (
    Act,
    MemoryReplica,
    answer,
    die,
    hold,
    make_deployment,
    preferring,
    reject,
)


@asynccontextmanager
async def routed(
    *replicas: MemoryReplica, capacity: int = 1, max_queued: int = -1, tickets: int | None = None
) -> AsyncIterator[Router]:
    """A router that is connected to ``replicas``; "a" is preferred, then "b", and so on. Of the
    ``max_queued`` tickets it has all, or so many."""
    router = preferring(*replicas)
    router.update(
        make_deployment(
            *(replica.name for replica in replicas), capacity=capacity, max_queued=max_queued
        )
    )
    if tickets is not None or max_queued > 0:
        granted = max_queued if tickets is None else tickets
        router.share.take()  # it joins
        router.hear_tickets(TicketUpdate(granted=granted, answered=True))
    await until(lambda: all(r.usable for r in router.balancer.replicas.values()))
    try:
        yield router
    finally:
        await router.aclose()
    assert [replica.links for replica in replicas] == [0] * len(replicas)


def start(router: Router, data: bytes = b"request", **options: Any) -> asyncio.Task[Call]:
    return asyncio.ensure_future(router.start(TAG, data, end=options.pop("end", True), **options))


async def ask(router: Router, data: bytes = b"request", **options: Any) -> bytes:
    """A whole request; gives the first message of its answer."""
    call = await start(router, data, **options)
    call.close()
    assert call.first is not None
    return call.first.data


def in_flight(router: Router) -> list[int]:
    return [replica.inflight for replica in router.balancer.replicas.values()]


# One request


def begin(replica: MemoryReplica, stream: Stream) -> None:
    """The first part of an answer that goes on."""
    stream.session.accept(stream)
    stream.write(TAG, b"begun")


async def test_answer_begins_and_the_slot_is_held_until_the_call_is_closed() -> None:
    async with routed(MemoryReplica("a", begin)) as router:
        call = await router.start(TAG, b"request", end=True)
        assert call.first == Part(TAG, b"begun", False, False)
        assert in_flight(router) == [1]
        call.close()
        call.close()
        assert in_flight(router) == [0]


async def test_slot_is_free_once_the_whole_answer_has_arrived_read_or_not() -> None:
    replica = MemoryReplica("a", begin)
    async with routed(replica) as router:
        call = await router.start(TAG, b"request", end=True)
        replica.streams[0].write(TAG, b"done", end=True)
        await until(lambda: in_flight(router) == [0])
        assert await ask(router) == b"a"
        assert await call.stream.receive() == Part(TAG, b"done", False, True)
        call.close()
        assert in_flight(router) == [0]


async def test_request_with_more_to_send_starts_when_the_replica_accepts_it() -> None:
    replica = MemoryReplica("a", hold)
    async with routed(replica) as router:
        call = await router.start(TAG, b"head", end=False)
        assert call.first is None
        call.stream.write(TAG, b"body", end=True)
        assert await replica.streams[0].receive() == Part(TAG, b"body", False, True)
        call.close()


async def test_close_of_an_open_call_resets_it_with_its_code() -> None:
    replica = MemoryReplica("a", hold)
    async with routed(replica) as router:
        call = await router.start(TAG, b"head", end=False)
        call.close(ResetCode.TIMEOUT, "too slow")
        await until(lambda: replica.streams[0].error)
        assert str(replica.streams[0].error) == "TIMEOUT: too slow"


async def test_deadline_travels_as_the_time_that_remains() -> None:
    replica = MemoryReplica("a")
    async with routed(replica) as router:
        now = asyncio.get_running_loop().time()
        await ask(router, deadline=now + 10)
        await ask(router, deadline=now - 10)
        await ask(router)
    timeouts = [stream.timeout_us for stream in replica.streams]
    assert 9e6 < timeouts[0] <= 10e6
    assert timeouts[1:] == [1, 0]


# Sent a second time, or not


@pytest.mark.parametrize("repeatable", [False, True], ids=["once", "repeatable"])
@pytest.mark.parametrize("how", ["rejected", "refused", "lost before it left"])
async def test_request_that_was_not_started_goes_elsewhere(how: str, repeatable: bool) -> None:
    full = MemoryReplica("a", *([reject] if how == "rejected" else []))
    other = MemoryReplica("b")
    async with routed(full, other) as router:
        if how == "refused":
            full.goaway()
        elif how != "rejected":
            full.cut()
        assert await ask(router, repeatable=repeatable) == b"b"
        assert in_flight(router) == [0, 0]
        assert other.requests == [b"request"]
        assert full.requests == ([b"request"] if how == "rejected" else [])


async def test_request_goes_on_until_a_replica_takes_it() -> None:
    replicas = [MemoryReplica(name, reject) for name in "abc"]
    async with routed(*replicas, MemoryReplica("d")) as router:
        assert await ask(router) == b"d"


@pytest.mark.parametrize(
    ("deaths", "repeatable", "outcome", "sent"),
    [
        (1, False, None, 1),
        (1, True, b"b", 2),
        (2, True, None, 2),
        (3, True, None, 2),
    ],
    ids=["not repeatable", "repeated once", "never twice", "does not visit all"],
)
async def test_request_whose_replica_died_is_repeated_once_where_that_is_safe(
    deaths: int,
    repeatable: bool,
    outcome: bytes | None,
    sent: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    scripts: list[list[Act]] = [[die] if i < deaths else [answer] for i in range(3)]
    replicas = [MemoryReplica(name, *script) for name, script in zip("abc", scripts, strict=True)]
    async with routed(*replicas) as router:
        asking = asyncio.ensure_future(ask(router, repeatable=repeatable))
        if outcome is not None:
            assert await asking == outcome
        else:
            with pytest.raises(ReplicaLost, match="killed"), caplog.at_level(logging.WARNING):
                await asking
            assert "of app#Model was lost" in caplog.text
        assert sum(len(replica.requests) for replica in replicas) == sent
        assert in_flight(router) == [0, 0, 0]


async def test_repeated_request_may_still_be_rejected_and_go_elsewhere() -> None:
    replicas = MemoryReplica("a", die), MemoryReplica("b", reject), MemoryReplica("c")
    async with routed(*replicas) as router:
        assert await ask(router, repeatable=True) == b"c"


async def test_replica_that_comes_back_is_used_again(caplog: pytest.LogCaptureFixture) -> None:
    replica = MemoryReplica("a", die)
    async with routed(replica) as router:
        with pytest.raises(ReplicaLost):
            await ask(router)
        asking = asyncio.ensure_future(ask(router))
        await turn()
        assert not asking.done()
        replica.alive.set()
        assert await asking == b"a"


@pytest.mark.parametrize("repeatable", [False, True], ids=["once", "repeatable"])
async def test_reset_by_the_replica_is_the_answer(repeatable: bool) -> None:
    replica = MemoryReplica("a", lambda _, stream: stream.reset(ResetCode.INTERNAL_ERROR, "broke"))
    async with routed(replica) as router:
        with pytest.raises(StreamReset, match="INTERNAL_ERROR: broke"):
            await ask(router, repeatable=repeatable)
        assert in_flight(router) == [0]
        assert len(replica.requests) == 1


async def test_requests_that_are_answered_are_no_load_of_others() -> None:
    """The message that holds an answer still counts its request among the ongoing ones."""
    replica = MemoryReplica("a", hold, hold)
    async with routed(replica, capacity=2) as router:
        asking = [start(router), start(router)]
        await until(lambda: len(replica.streams) == 2)
        replica.ongoing = 2
        for stream in replica.streams:
            answer(replica, stream)
        await asyncio.gather(*asking)
        assert in_flight(router) == [0]
        assert router.balancer.replicas["a"].others == 0


# The queue


async def test_requests_wait_in_the_order_of_arrival() -> None:
    replica = MemoryReplica("a", hold)
    async with routed(replica) as router:
        first = await router.start(TAG, b"first", end=False)
        tasks = [asyncio.ensure_future(ask(router, name)) for name in (b"1", b"2", b"3")]
        await turn()
        first.close()
        await asyncio.gather(*tasks)
    assert replica.requests == [b"first", b"1", b"2", b"3"]


async def test_rejected_requests_wait_for_the_replica_to_speak_and_keep_their_places() -> None:
    replica = MemoryReplica("a", reject, reject, ongoing=5)
    async with routed(replica, capacity=2) as router:
        tasks = [asyncio.ensure_future(ask(router, name)) for name in (b"1", b"2", b"3")]
        await turn()
        assert replica.requests == [b"1", b"2"]
        replica.say_load(1)
        await asyncio.gather(*tasks)
    assert replica.requests == [b"1", b"2", b"1", b"2", b"3"]


async def test_queue_that_is_full_refuses_at_once() -> None:
    async with routed(MemoryReplica("a", hold), max_queued=1) as router:
        call = await router.start(TAG, b"", end=False)
        waiting = start(router)
        await turn()
        with pytest.raises(Overloaded, match=r"'Model' of 'app' has 1 requests waiting"):
            await router.start(TAG, b"", end=True)
        call.close()
        (await waiting).close()


@pytest.mark.parametrize("how", ["start", "start_now"])
async def test_rejected_request_is_refused_where_the_queue_is_full(how: str) -> None:
    """What fills the replica comes from other callers."""
    async with routed(MemoryReplica("a", reject, ongoing=1), max_queued=0) as router:
        failed = None
        if how == "start_now":
            failed = router.start_now(TAG, b"")
            assert failed is not None
            with pytest.raises(StreamError):
                await failed.stream.receive()
        with pytest.raises(Overloaded):
            await router.start(TAG, b"", end=True, failed=failed)
        if failed is not None:
            failed.close()
        assert in_flight(router) == [0]


# Tickets that other callers have


async def test_request_that_is_rejected_after_it_looked_for_a_ticket_has_none() -> None:
    async with routed(MemoryReplica("a", hold, reject), max_queued=5, tickets=0) as router:
        call = await router.start(TAG, b"", end=False)
        waiting = start(router)
        await turn()
        call.close()  # here the slot is free, but another caller takes it
        router.hear_tickets(TicketUpdate(answered=True))
        with pytest.raises(Overloaded):
            await waiting
        assert router.balancer.queued == 0


async def test_queue_without_tickets_asks_once_for_all_that_find_no_place() -> None:
    async with routed(MemoryReplica("a", hold), max_queued=5, tickets=1) as router:
        call = await router.start(TAG, b"", end=False)
        waiting = [start(router) for _ in range(3)]
        await turn()
        assert router.balancer.queued == 1
        assert router.share.take() == TicketRequest(wanted=2)
        assert router.share.take() is None
        router.hear_tickets(TicketUpdate(granted=2, answered=True))
        await turn()
        assert router.balancer.queued == 3
        call.close()
        for task in waiting:
            (await task).close()


async def test_request_is_refused_when_there_are_no_tickets_for_it() -> None:
    async with routed(MemoryReplica("a", hold), max_queued=5, tickets=0) as router:
        call = await router.start(TAG, b"", end=False)
        waiting = start(router)
        await turn()
        assert router.share.take() == TicketRequest(wanted=1)
        router.hear_tickets(TicketUpdate(answered=True))
        with pytest.raises(Overloaded, match=r"'Model' of 'app' has 5 requests waiting"):
            await waiting
        with pytest.raises(Overloaded):  # at once: it is too soon to ask again
            await router.start(TAG, b"", end=True)
        assert router.share.take() is None
        call.close()


async def test_wait_for_tickets_is_bounded_and_takes_a_slot_that_came_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tickets_module, "PATIENCE_S", 0.01)
    async with routed(MemoryReplica("a", hold), max_queued=5, tickets=0) as router:
        call = await router.start(TAG, b"", end=False)
        with pytest.raises(Overloaded):
            await router.start(TAG, b"", end=True)
        assert router.share.seeking == 0
        router.hear_tickets(TicketUpdate(answered=True))
        router.share._pauses_until = 0.0
        waiting = start(router)
        await turn()
        call.close()
        (await waiting).close()


async def test_request_cancelled_while_it_waits_for_tickets_is_forgotten() -> None:
    async with routed(MemoryReplica("a", hold), max_queued=5, tickets=0) as router:
        call = await router.start(TAG, b"", end=False)
        waiting = start(router)
        await turn()
        assert router.share.seeking == 1
        waiting.cancel()
        await asyncio.wait((waiting,))
        assert router.share.seeking == 0
        call.close()


async def test_tickets_called_back_while_requests_wait_leave_these_their_places() -> None:
    async with routed(MemoryReplica("a", hold), max_queued=3) as router:
        call = await router.start(TAG, b"", end=False)
        waiting = [start(router) for _ in range(2)]
        await turn()
        router.hear_tickets(TicketUpdate(called_back=3, keep=1, round=4))
        assert router.share.take() == TicketRequest(returned=1, round=4)
        assert router.balancer.queued == 2
        assert router.balancer.max_queued == 1
        assert router.share.take() is None
        call.close()
        (await waiting[0]).close()
        assert router.share.take() == TicketRequest(returned=1)
        (await waiting[1]).close()
        assert router.share.take() is None
        assert router.share.held == 1


@pytest.mark.parametrize("when", ["waiting", "slot just given"])
async def test_request_cancelled_in_the_queue_is_never_sent(when: str) -> None:
    replica = MemoryReplica("a", hold)
    async with routed(replica) as router:
        call = await router.start(TAG, b"first", end=False)
        cancelled, next_one = start(router, b"cancelled"), start(router, b"next")
        await turn()
        if when == "slot just given":
            call.close()
        cancelled.cancel()
        await asyncio.wait((cancelled,))
        call.close()
        (await next_one).close()
        assert in_flight(router) == [0]
        assert router.balancer.queued == 0
    assert replica.requests == [b"first", b"next"]


async def test_request_cancelled_while_it_is_worked_on_is_reset() -> None:
    replica = MemoryReplica("a", hold)
    async with routed(replica) as router:
        asking = start(router)
        await until(lambda: replica.streams)
        asking.cancel()
        await asyncio.wait((asking,))
        await until(lambda: replica.streams[0].error)
        assert in_flight(router) == [0]
        assert await ask(router) == b"a"


# What the controller says


async def test_new_replica_takes_who_waits() -> None:
    replica = MemoryReplica("a")
    async with routed(replica) as router:
        router.update(make_deployment())
        asking = asyncio.ensure_future(ask(router))
        await turn()
        router.update(make_deployment("a"))
        assert await asking == b"a"


async def test_raised_limit_lets_more_in() -> None:
    replica = MemoryReplica("a", hold)
    async with routed(replica) as router:
        call = await router.start(TAG, b"", end=False)
        asking = asyncio.ensure_future(ask(router))
        await turn()
        router.update(make_deployment("a", capacity=2))
        assert await asking == b"a"
        call.close()


async def test_patience_for_a_holder_is_not_renewed_when_it_rejects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A holder that others keep full says again and again that it has room, and has none."""
    monkeypatch.setattr("serving.routing.router.PATIENCE_S", 0.03)

    def reject_and_speak_of_room(replica: MemoryReplica, stream: Stream) -> None:
        reject(replica, stream)
        replica.script.append(reject_and_speak_of_room)
        replica.say_load(0)

    holder, other = MemoryReplica("a", reject_and_speak_of_room), MemoryReplica("b")
    holder.keys = ("m",)
    async with routed(holder, other) as router:
        assert await ask(router, key="m") == b"b"
        assert len(holder.requests) > 1


async def test_removed_replica_finishes_what_it_has_and_then_its_link_ends() -> None:
    replica = MemoryReplica("a", hold)
    async with routed(replica) as router:
        call = await router.start(TAG, b"", end=False)
        router.update(make_deployment())
        await turn()
        assert replica.links == 1
        replica.streams[0].write(TAG, b"done", end=True)
        assert await call.stream.receive() == Part(TAG, b"done", False, True)
        call.close()
        await until(lambda: replica.links == 0)


async def test_idle_replica_that_is_removed_loses_its_link_at_once() -> None:
    replica = MemoryReplica("a")
    async with routed(replica) as router:
        router.update(make_deployment())
        await until(lambda: replica.links == 0)
        assert router._links == {}


async def test_replica_removed_and_listed_again_keeps_one_link() -> None:
    replica = MemoryReplica("a", hold)
    async with routed(replica) as router:
        call = await router.start(TAG, b"", end=False)
        router.update(make_deployment())
        router.update(make_deployment("a"))
        call.close()
        await until(lambda: replica.links == 1)
        await until(lambda: len(router._links) == 1)
        assert await ask(router) == b"a"


async def test_slot_that_was_given_and_not_wanted_does_not_keep_a_link() -> None:
    replica = MemoryReplica("a", hold)
    async with routed(replica) as router:
        call = await router.start(TAG, b"", end=False)
        waiting = start(router)
        await turn()
        call.close()  # The slot is the next one's from now on.
        router.update(make_deployment())
        waiting.cancel()
        await asyncio.wait((waiting,))
        await until(lambda: replica.links == 0)


async def test_request_for_a_deployment_that_is_gone_is_unavailable() -> None:
    async with routed(MemoryReplica("a", hold)) as router:
        working, waiting = start(router), start(router)
        await turn()
        await router.aclose()
        with pytest.raises(ReplicaLost):
            await working
        with pytest.raises(Unavailable, match="'Model' of 'app' is gone"):
            await waiting
        with pytest.raises(Unavailable):
            await router.start(TAG, b"", end=True)


async def test_repeatable_request_whose_deployment_goes_is_unavailable() -> None:
    async with routed(MemoryReplica("a", hold)) as router:
        working = start(router, repeatable=True)
        await turn()
        await router.aclose()
        with pytest.raises(Unavailable):
            await working


@pytest.mark.parametrize("in_this_turn", ["slot given", "cancelled"])
async def test_router_closes_whatever_its_waiters_do_in_the_same_turn(in_this_turn: str) -> None:
    async with routed(MemoryReplica("a", hold)) as router:
        call = await router.start(TAG, b"", end=False)
        waiting = start(router)
        await turn()
        if in_this_turn == "cancelled":
            waiting.cancel()
        else:
            call.close()
        await router.aclose()
        call.close()
        with pytest.raises((RoutingError, asyncio.CancelledError)):
            await waiting
        assert in_flight(router) == [0]


async def test_who_waits_and_who_comes_hear_why_no_replica_is_to_be_expected() -> None:
    async with routed() as router:
        waiting = start(router)
        await turn()
        router.update(make_deployment(unavailable="it broke"))
        for asked in (waiting, start(router)):
            with pytest.raises(Unavailable, match="'Model' of 'app' has no replica: it broke"):
                await asked

        router.update(make_deployment())
        waiting = start(router)
        await turn()
        assert not waiting.done()
        waiting.cancel()


async def test_wait_for_a_first_replica_is_bounded_and_that_for_a_slot_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(router_module, "MAX_START_S", 0.02)
    replica = MemoryReplica("a", hold)
    async with routed(replica) as router:
        call = await router.start(TAG, b"", end=False)
        waiting = start(router)
        await asyncio.sleep(0.05)
        assert not waiting.done()

        router.update(make_deployment())
        with pytest.raises(Unavailable, match="none came within 0 s"):
            await waiting
        call.close()


async def test_repr_tells_deployment_and_state() -> None:
    async with routed(MemoryReplica("a")) as router:
        assert repr(router) == "<Router app#Model <Balancer [<Replica a 0+0/1>] queued=0>>"


# Shared memory


@pytest.mark.parametrize(("a", "b"), [(False, False), (True, False), (False, True), (True, True)])
async def test_memory_is_shared_where_every_replica_can(a: bool, b: bool) -> None:
    replicas = MemoryReplica("a"), MemoryReplica("b")
    replicas[0].shares_memory, replicas[1].shares_memory = a, b

    async with routed(*replicas) as router:
        assert router.shares_memory == (a and b)


async def test_request_that_shares_memory_goes_to_no_replica_that_cannot() -> None:
    replica = MemoryReplica("a")

    async with routed(replica) as router:
        with pytest.raises(MemoryNotShared):
            await start(router, shares_memory=True)
        assert replica.requests == []
        assert await ask(router) == b"a"


async def test_request_that_shares_memory_goes_to_a_replica_that_can() -> None:
    replica = MemoryReplica("a")
    replica.shares_memory = True

    async with routed(replica) as router:
        assert await ask(router, shares_memory=True) == b"a"
