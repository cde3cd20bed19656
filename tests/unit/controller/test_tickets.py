"""Tickets of queues: the controller's accounts and the callers' shares, whatever happens."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from serving.controller.tickets import Tickets
from serving.routing.balancer import Balancer, Waiter
from serving.routing.tickets import PAUSE_S, Share
from serving.v1 import controller_pb2 as pb

KEY = "app", "Model"


class Caller:
    """A caller, and the two directions of its watch."""

    def __init__(self, name: int, limit: int) -> None:
        self.name = name
        self.balancer = Balancer()
        self.share = Share(self.balancer, lambda: None)
        self.waiters: list[Waiter] = []
        self.up: deque[pb.TicketRequest] = deque()
        self.down: deque[list[pb.TicketUpdate]] = deque()
        self.share.resize(limit)

    def __repr__(self) -> str:
        return f"<Caller {self.name} {self.share!r} {self.balancer!r}>"

    def arrives(self, now: float) -> bool:
        """A request comes; returns whether it waits, or might."""
        if self.balancer.is_full:
            may_come = self.share.ask(now)
            self.share.seeking += may_come
            return may_come
        self.waiters.append(self.balancer.enqueue(self.balancer.arrive(), lambda: None))
        return True

    def leaves(self) -> None:
        self.balancer.abandon(self.waiters.pop(0))
        self.share.left()

    def say(self, request: pb.TicketRequest | None) -> None:
        if request is not None:
            request.application, request.deployment = KEY
            self.up.append(request)

    def reopen(self) -> None:
        self.up.clear()
        self.down.clear()
        self.say(self.share.reopen())


class World:
    """A controller and its callers."""

    def __init__(self, limit: int, callers: int) -> None:
        self.limit = limit
        self.now = 0.0
        self.made = 0
        self.callers: list[Caller] = []
        self.start_controller()
        for _ in range(callers):
            self.join()

    def start_controller(self) -> None:
        self.tickets: Tickets[Caller] = Tickets(lambda caller: None)
        self.tickets.limit(KEY, self.limit)

    def join(self) -> Caller:
        self.made += 1
        self.callers.append(Caller(self.made, self.limit))
        return self.callers[-1]

    def say(self, caller: Caller) -> None:
        caller.say(caller.share.take())

    def hear(self, caller: Caller) -> None:
        if caller.up:
            self.tickets.hear(caller, [caller.up.popleft()])

    def tell(self, caller: Caller) -> None:
        if update := self.tickets.take(caller):
            caller.down.append(update)

    def listen(self, caller: Caller) -> None:
        if caller.down:
            for update in caller.down.popleft():
                caller.share.hear(update, self.now)
            caller.share.seeking = 0

    def restart(self) -> None:
        self.start_controller()
        self.tickets.withhold()
        for caller in self.callers:
            caller.reopen()

    def run(self) -> None:
        """Until nobody has anything to say, which is soon."""
        for _ in range(50):
            is_quiet = True
            for caller in self.callers:
                self.say(caller)
                is_quiet &= not caller.up
                self.hear(caller)
                self.tell(caller)
                is_quiet &= not caller.down
                self.listen(caller)
            if is_quiet:
                return
        raise AssertionError("they have no end of things to say")

    def fill(self, caller: Caller, count: int) -> int:
        """So many requests come to one caller, one after another; returns how many wait."""
        before = len(caller.waiters)
        for _ in range(count):
            self.now += 2 * PAUSE_S
            if caller.balancer.is_full and caller.arrives(self.now):
                self.run()
            if not caller.balancer.is_full:
                assert caller.arrives(self.now)
        return len(caller.waiters) - before


def world(limit: int, callers: int) -> World:
    made = World(limit, callers)
    made.run()
    return made


def held(of: World) -> list[int]:
    return [caller.share.held for caller in of.callers]


def test_caller_that_is_alone_has_all_without_asking() -> None:
    one = world(5, 1)
    assert held(one) == [5]
    (caller,) = one.callers
    for _ in range(5):
        assert caller.arrives(0.0)
    assert not caller.arrives(0.0)
    assert caller.share.take() is None


@pytest.mark.parametrize(
    ("limit", "callers", "expected"),
    [(6, 2, [3, 3]), (5, 2, [3, 2]), (1, 2, [1, 0]), (0, 2, [0, 0]), (-1, 2, [0, 0])],
)
def test_callers_begin_with_fair_shares(limit: int, callers: int, expected: list[int]) -> None:
    assert held(world(limit, callers)) == expected


def test_caller_gets_what_others_do_not_use() -> None:
    two = world(6, 2)
    assert two.fill(two.callers[0], 10) == 6
    assert held(two) == [6, 0]


@pytest.mark.parametrize("limit", [1, 2, 5, 7])
def test_queues_hold_the_limit_together_whoever_comes_first(limit: int) -> None:
    three = world(limit, 3)
    assert sum(three.fill(caller, limit // 2 + 1) for caller in three.callers) == limit
    assert [three.fill(caller, 2) for caller in three.callers] == [0, 0, 0]


def test_caller_that_took_all_gives_the_fair_share_back_as_its_queue_shortens() -> None:
    two = world(6, 2)
    first, second = two.callers
    two.fill(first, 6)
    assert two.fill(second, 1) == 0
    for _ in range(4):
        first.leaves()
        two.run()
    assert held(two) == [3, 3]


def test_tickets_of_a_caller_that_is_lost_go_to_the_others() -> None:
    two = world(6, 2)
    lost = two.callers.pop(0)
    two.tickets.forget(lost)
    two.run()
    assert held(two) == [6]


def test_lower_limit_lets_those_stay_who_wait() -> None:
    two = world(6, 2)
    for caller in two.callers:
        assert two.fill(caller, 3) == 3
    two.limit = 2
    two.tickets.limit(KEY, 2)
    for caller in two.callers:
        caller.share.resize(2)
    two.run()
    assert [caller.balancer.queued for caller in two.callers] == [3, 3]
    assert [caller.balancer.is_full for caller in two.callers] == [True, True]
    for caller in two.callers:
        while caller.waiters:
            caller.leaves()
    two.run()
    assert held(two) == [1, 1]


def test_new_controller_grants_nothing_that_an_absent_caller_may_hold() -> None:
    two = world(6, 2)
    two.restart()
    first, second = two.callers
    second_says, second.up = second.up, deque()
    assert two.fill(first, 6) == 3
    second.up = second_says
    two.run()
    assert held(two) == [3, 3]
    two.tickets.release()
    assert two.fill(first, 3) == 3


def test_new_controller_gives_out_what_nobody_claims() -> None:
    two = world(6, 2)
    two.callers.pop()
    two.restart()
    two.run()
    assert held(two) == [3]
    two.tickets.release()
    two.run()
    assert held(two) == [6]


def test_deployment_that_comes_back_before_its_callers_hear_of_it_goes_on() -> None:
    one = world(4, 1)
    one.tickets.remove(KEY)
    one.tickets.limit(KEY, 5)
    one.callers[0].share.resize(5)
    one.run()
    assert held(one) == [5]


def test_caller_that_hears_of_the_end_of_a_deployment_has_none_of_its_tickets() -> None:
    one = world(4, 1)
    one.tickets.remove(KEY)
    assert one.tickets.take(one.callers[0]) == []
    one.tickets.limit(KEY, 4)
    one.callers.clear()
    one.join()
    one.run()
    assert held(one) == [4]


class Whatever(RuleBasedStateMachine):
    """Messages are late, callers come, go and come back, the controller is killed."""

    @initialize(limit=st.integers(0, 6), callers=st.integers(1, 3))
    def begin(self, limit: int, callers: int) -> None:
        self.world = World(limit, callers)
        # No limit was lowered, and no caller came back that was thought to be gone.
        self.is_strict = True

    def one(self, index: int) -> Caller:
        return self.world.callers[index % len(self.world.callers)]

    @rule(index=st.integers(0, 5))
    def arrives(self, index: int) -> None:
        self.one(index).arrives(self.world.now)

    @rule(index=st.integers(0, 5))
    def leaves(self, index: int) -> None:
        if self.one(index).waiters:
            self.one(index).leaves()

    @rule(index=st.integers(0, 5), what=st.sampled_from(["say", "hear", "tell", "listen"]))
    def passes(self, index: int, what: str) -> None:
        getattr(self.world, what)(self.one(index))

    @rule()
    def time_passes(self) -> None:
        self.world.now += PAUSE_S

    @precondition(lambda self: len(self.world.callers) < 4)
    @rule()
    def joins(self) -> None:
        self.world.join()

    @precondition(lambda self: len(self.world.callers) > 1)
    @rule(index=st.integers(0, 5))
    def dies(self, index: int) -> None:
        caller = self.one(index)
        self.world.callers.remove(caller)
        self.world.tickets.forget(caller)

    @rule(index=st.integers(0, 5))
    def is_lost_and_back(self, index: int) -> None:
        caller = self.one(index)
        self.world.tickets.forget(caller)
        caller.reopen()
        self.is_strict = False

    @rule(limit=st.integers(-1, 6))
    def limit_changes(self, limit: int) -> None:
        self.is_strict &= 0 <= self.world.limit <= limit
        self.world.limit = limit
        self.world.tickets.limit(KEY, limit)
        for caller in self.world.callers:
            caller.share.resize(limit)

    @rule()
    def controller_is_killed(self) -> None:
        self.world.restart()

    @precondition(lambda self: not any(caller.up for caller in self.world.callers))
    @rule()
    def all_are_back(self) -> None:
        self.world.tickets.release()

    @invariant()
    def accounts_are_never_below_what_callers_have(self) -> None:
        pool = self.world.tickets._pools[KEY]
        for caller in self.world.callers:
            account = pool.accounts.get(caller)
            news = self.world.tickets._news.get(caller, {})
            granted = [*news.values(), *(each for some in caller.down for each in some)]
            coming = sum(update.granted for update in granted)
            going = sum(each.returned - each.held for each in caller.up)
            assert (account.held if account else 0) == caller.share.held + coming + going

    @invariant()
    def no_more_wait_than_the_limit(self) -> None:
        if self.is_strict:
            queued = sum(caller.balancer.queued for caller in self.world.callers)
            assert queued <= self.world.limit

    def teardown(self) -> None:
        """Once all has been said: the number holds, and nothing of it is lost."""
        made = self.world
        made.run()
        made.tickets.release()
        made.run()
        for caller in made.callers:
            while caller.waiters:
                caller.leaves()
        made.run()
        if made.limit >= 0:
            assert sum(held(made)) <= made.limit
            for caller in made.callers:
                assert made.fill(caller, 7) == (made.limit if caller is made.callers[0] else 0)


Whatever.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestWhatever = Whatever.TestCase
