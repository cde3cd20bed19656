"""The decision about one deployment, and what it does over time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from serving.controller import plan
from serving.controller.model import History, Plan, Replica, ReplicaState, Target

STARTING, RUNNING, STOPPING = ReplicaState.STARTING, ReplicaState.RUNNING, ReplicaState.STOPPING
PROVEN = History(proven=True)
GIVEN_UP = History(failures=plan.MAX_FAILED_STARTS)


def replicas(*states: tuple[str, ReplicaState]) -> list[Replica]:
    """Replicas named r0, r1, … of these versions and states, the first being the oldest."""
    return [
        Replica(f"r{index}", version, state, float(index), float(index))
        for index, (version, state) in enumerate(states)
    ]


def names(steps: Plan) -> tuple[list[str], list[str]]:
    return [s.version for s in steps.start], [s.replica_id for s in steps.stop]


@pytest.mark.parametrize(
    ("target", "running", "starts", "stops"),
    [
        pytest.param(Target("a", 2), [], ["a", "a"], [], id="nothing runs"),
        pytest.param(Target("a", 1), [("a", RUNNING)], [], [], id="as wanted"),
        pytest.param(Target("a", 1), [("a", STARTING)], [], [], id="on the way"),
        pytest.param(Target("a", 1), [("a", STOPPING)], ["a"], [], id="one that leaves"),
        pytest.param(
            Target("a", 1), [("a", RUNNING), ("a", RUNNING)], [], ["r1"], id="youngest goes"
        ),
        pytest.param(
            Target("a", 1), [("a", STARTING), ("a", RUNNING)], [], ["r0"], id="unready goes first"
        ),
        pytest.param(Target("a", 0), [("a", RUNNING)], [], ["r0"], id="none wanted"),
        pytest.param(Target("b", 1), [("a", RUNNING)], ["b"], [], id="new one first"),
        pytest.param(
            Target("b", 1), [("a", RUNNING), ("b", STARTING)], [], [], id="old until new is ready"
        ),
        pytest.param(
            Target("b", 1), [("a", RUNNING), ("b", RUNNING)], [], ["r0"], id="old one leaves"
        ),
        pytest.param(
            Target("b", 2),
            [("a", RUNNING), ("a", RUNNING), ("b", RUNNING), ("b", STARTING)],
            [],
            ["r0"],
            id="old ones leave one by one",
        ),
        pytest.param(
            Target("b", 1), [("a", STARTING), ("b", STARTING)], [], ["r0"], id="old never ready"
        ),
        pytest.param(None, [("a", RUNNING), ("a", STARTING)], [], ["r0", "r1"], id="deleted"),
        pytest.param(None, [("a", STOPPING)], [], [], id="deleted and leaving"),
    ],
)
def test_plan_of_a_version_that_works(
    target: Target | None,
    running: list[tuple[str, ReplicaState]],
    starts: list[str],
    stops: list[str],
) -> None:
    steps = plan.compute(target, {}, replicas(*running), now=100.0)

    assert names(steps) == (starts, stops)
    assert all(start.reason for start in steps.start)
    assert all(stop.reason for stop in steps.stop)


def test_plan_waits_before_it_tries_again() -> None:
    history = History(failures=1, retry_at=10.0)

    early = plan.compute(Target("a", 1), {"a": history}, [], now=9.0)
    late = plan.compute(Target("a", 1), {"a": history}, [], now=10.0)

    assert (names(early), early.wake_at) == (([], []), 10.0)
    assert (names(late), late.wake_at) == ((["a"], []), None)


def test_plan_gives_up_a_version_that_never_worked() -> None:
    assert plan.compute(Target("a", 1), {"a": GIVEN_UP}, [], now=100.0) == Plan()


def test_plan_never_gives_up_a_version_that_worked() -> None:
    history = replace(PROVEN, failures=50, retry_at=5.0)

    assert names(plan.compute(Target("a", 1), {"a": history}, [], now=5.0)) == (["a"], [])


def test_plan_returns_to_the_previous_version() -> None:
    target = Target("b", 2, previous="a")
    running = replicas(("a", RUNNING), ("b", STARTING), ("b", RUNNING))

    steps = plan.compute(target, {"a": PROVEN, "b": GIVEN_UP}, running, now=100.0)

    # One of b serves still, and does so until the second of a is ready.
    assert names(steps) == (["a"], ["r1"])


# Updates


def update(
    count: int, share: float = 0.2, percent: float = 100.0, *, previous: str = "a"
) -> Target:
    return Target("b", count, previous, share, percent)


@pytest.mark.parametrize(
    ("target", "count"),
    [
        pytest.param(update(1), 1, id="one of one"),
        pytest.param(update(4), 1, id="share of less than one"),
        pytest.param(update(10), 2, id="fifth of ten"),
        pytest.param(update(11), 3, id="rounded up"),
        pytest.param(update(10, 1.0), 10, id="all"),
        pytest.param(update(10, 1.0, 25.0), 3, id="percent rounded up"),
        pytest.param(update(10, 0.3, 100.0), 3, id="the lesser share"),
        pytest.param(update(10, 0.3, 10.0), 1, id="the lesser percent"),
        pytest.param(update(10, 1.0, 1.0), 1, id="one always"),
        pytest.param(update(10, 1.0, 0.0), 0, id="none where none may be"),
        pytest.param(update(100, 0.07), 7, id="share that is no binary fraction"),
    ],
)
def test_surge_is_the_lesser_of_both_limits_and_at_least_one_unless_it_is_to_be_none(
    target: Target, count: int
) -> None:
    assert plan.surge(target) == count


@pytest.mark.parametrize(
    ("running", "starts", "stops"),
    [
        pytest.param([("a", RUNNING)] * 5, 2, [], id="two beside five"),
        pytest.param(
            [*[("a", RUNNING)] * 5, *[("b", STARTING)] * 2], 0, [], id="none while they start"
        ),
        pytest.param(
            [*[("a", RUNNING)] * 5, ("b", RUNNING), ("b", STARTING)],
            1,
            ["r0"],
            id="one after another",
        ),
        pytest.param(
            [*[("a", STOPPING)] * 3, *[("a", RUNNING)] * 2, *[("b", RUNNING)] * 3],
            2,
            [],
            id="those that drain do not count",
        ),
        pytest.param([("a", RUNNING)] * 2, 5, [], id="what is missing anyway comes at once"),
        pytest.param(
            [("a", STARTING)] * 5, 5, ["r0", "r1", "r2", "r3", "r4"], id="old never ready"
        ),
    ],
)
def test_update_replaces_as_many_at_a_time_as_it_may(
    running: list[tuple[str, ReplicaState]], starts: int, stops: list[str]
) -> None:
    steps = plan.compute(update(5, 0.4), {"a": PROVEN}, replicas(*running), now=100.0)

    assert names(steps) == (["b"] * starts, stops)


@pytest.mark.parametrize(
    ("count", "running", "starts", "stops"),
    [
        pytest.param(1, [("a", RUNNING)], [], ["r0"], id="one of one leaves"),
        pytest.param(1, [("a", STOPPING)], [], [], id="drains first"),
        pytest.param(1, [], ["b"], [], id="is gone"),
        pytest.param(3, [("a", RUNNING)] * 3, [], ["r0"], id="one of three leaves"),
        pytest.param(
            3, [("a", STOPPING), *[("a", RUNNING)] * 2], [], [], id="one of three drains first"
        ),
        pytest.param(3, [("a", RUNNING)] * 2, ["b"], [], id="one of three is gone"),
        pytest.param(3, [*[("a", RUNNING)] * 2, ("b", STARTING)], [], [], id="no second meanwhile"),
        pytest.param(3, [*[("a", RUNNING)] * 2, ("b", RUNNING)], [], ["r0"], id="the next leaves"),
        pytest.param(3, [("a", RUNNING)], ["a", "b"], [], id="one that was lost, and the new one"),
    ],
)
def test_update_without_surge_replaces_one_after_another_in_its_place(
    count: int, running: list[tuple[str, ReplicaState]], starts: list[str], stops: list[str]
) -> None:
    target = replace(update(count, percent=0.0), previous_replicas=count)

    assert names(plan.compute(target, {"a": PROVEN}, replicas(*running), 100.0)) == (starts, stops)


@pytest.mark.parametrize(
    ("running", "starts", "stops"),
    [
        pytest.param([("b", STARTING)], ["a"], [], id="the only one was lost"),
        pytest.param([("a", STARTING), ("b", STARTING)], [], [], id="its successor stays"),
        pytest.param([("b", RUNNING)], [], [], id="new one ready"),
        pytest.param([("a", STARTING), ("b", RUNNING)], [], ["r0"], id="not needed any more"),
        pytest.param([], ["a", "b"], [], id="nothing runs"),
    ],
)
def test_what_serves_is_replaced_by_the_same_while_none_of_the_new_version_is_ready(
    running: list[tuple[str, ReplicaState]], starts: list[str], stops: list[str]
) -> None:
    target = replace(update(1), previous_replicas=1)

    assert names(plan.compute(target, {"a": PROVEN}, replicas(*running), 100.0)) == (starts, stops)


def test_what_serves_is_replaced_by_the_same_though_the_new_version_waits_to_be_tried() -> None:
    target = replace(update(1), previous_replicas=1)
    histories = {"a": PROVEN, "b": History(failures=1, retry_at=101.0)}

    steps = plan.compute(target, histories, [], 100.0)

    assert names(steps) == (["a"], [])
    assert steps.wake_at == 101.0


def test_replicas_that_fail_together_count_once() -> None:
    history = History()
    for _ in range(4):
        history = plan.after_failure(
            history, started_at=1.0, was_ready=False, error="boom", now=2.0
        )

    assert history.failures == 1
    assert history.retry_at == 2.0 + plan.FIRST_DELAY_S


def test_delay_doubles_up_to_its_limit_and_is_forgotten() -> None:
    history, now, delays = PROVEN, 0.0, []
    for _ in range(12):
        history = plan.after_failure(
            history, started_at=now, was_ready=True, error="crash", now=now + 1
        )
        delays.append(round(history.retry_at - now - 1, 3))
        now = history.retry_at
        history = plan.after_ready(history, now=now)

    assert delays[:4] == [0.0, 0.1, 0.2, 0.4]
    assert delays[-1] == plan.MAX_DELAY_S

    later = now + plan.STABLE_AFTER_S
    history = plan.after_failure(history, started_at=now, was_ready=True, error="crash", now=later)
    assert (history.failures, history.retry_at) == (1, later)


@pytest.mark.parametrize(
    ("history", "now", "failures"),
    [
        (History(failures=3, last_failure_at=1.0, last_ready_at=2.0, proven=True), 11.9, 3),
        (History(failures=3, last_failure_at=1.0, last_ready_at=2.0, proven=True), 12.0, 0),
        # It failed since it was ready last.
        (History(failures=3, last_failure_at=2.0, last_ready_at=1.0, proven=True), 99.0, 3),
        # It was given up: only a deploy has it tried again.
        (History(failures=3, last_failure_at=1.0, last_ready_at=2.0), 99.0, 3),
    ],
)
def test_failures_are_forgotten_once_replicas_stay_ready(
    history: History, now: float, failures: int
) -> None:
    assert plan.after_time(history, now=now).failures == failures


def test_version_is_proven_once_all_of_it_was_ready() -> None:
    assert not plan.is_complete(Target("a", 2), replicas(("a", RUNNING), ("a", STARTING)))
    assert not plan.is_complete(Target("a", 1), replicas(("a", RUNNING), ("b", RUNNING)))
    assert plan.is_complete(Target("a", 1), replicas(("a", RUNNING), ("b", STOPPING)))
    assert plan.after_complete(History(failures=2, error="boom")).proven


# Health


def sick(replica: Replica) -> Replica:
    return replace(replica, failed_checks=plan.MAX_FAILED_CHECKS)


def test_replica_that_fails_three_checks_in_a_row_is_replaced_at_once() -> None:
    (replica,) = replicas(("a", RUNNING))
    for passed in (False, False, True, False, False):
        replica = plan.after_check(replica, passed=passed)
    assert plan.compute(Target("a", 1), {"a": PROVEN}, [replica], now=1.0) == Plan()

    replica = plan.after_check(replica, passed=False)
    steps = plan.compute(Target("a", 1), {"a": PROVEN}, [replica], now=1.0)

    assert names(steps) == (["a"], ["r0"])
    assert steps.stop[0].reason == "3 health checks failed in a row"


def test_sick_replica_is_replaced_after_the_delay_of_its_failures() -> None:
    history = replace(PROVEN, failures=4, retry_at=2.0)

    steps = plan.compute(Target("a", 1), {"a": history}, [sick(*replicas(("a", RUNNING)))], now=1.0)

    assert (names(steps), steps.wake_at) == (([], ["r0"]), 2.0)


def test_sick_replica_takes_no_place_of_a_healthy_one() -> None:
    running = replicas(("a", RUNNING), ("a", RUNNING))

    steps = plan.compute(Target("a", 1), {"a": PROVEN}, [running[0], sick(running[1])], now=1.0)

    assert names(steps) == ([], ["r1"])


# What callers may hope for


@pytest.mark.parametrize(
    ("target", "history", "running", "hopeless"),
    [
        pytest.param(Target("a", 1), History(), [], False, id="about to start"),
        pytest.param(Target("a", 1), History(), [("a", STARTING)], False, id="starts"),
        pytest.param(Target("a", 1), PROVEN, [("a", RUNNING)], False, id="runs"),
        pytest.param(Target("a", 1), PROVEN, [("a", STOPPING)], False, id="is replaced"),
        pytest.param(None, PROVEN, [], True, id="deleted"),
        pytest.param(None, PROVEN, [("a", RUNNING)], False, id="deleted but runs"),
        pytest.param(Target("a", 0), PROVEN, [], True, id="none wanted"),
        pytest.param(Target("a", 0, wakes=True), PROVEN, [], False, id="none until one asks"),
        pytest.param(Target("a", 1), GIVEN_UP, [], True, id="given up"),
        pytest.param(
            Target("a", 1), replace(PROVEN, retry_at=101.0), [], False, id="tried again soon"
        ),
        pytest.param(
            Target("a", 1), replace(PROVEN, retry_at=109.0), [], True, id="tried again late"
        ),
        pytest.param(Target("b", 1, "a"), GIVEN_UP, [], True, id="version before given up too"),
    ],
)
def test_callers_wait_only_for_what_is_to_come_soon(
    target: Target | None, history: History, running: list[tuple[str, ReplicaState]], hopeless: bool
) -> None:
    histories = {"a": history, "b": GIVEN_UP}

    assert plan.is_hopeless(target, histories, replicas(*running), now=100.0) is hopeless


def test_callers_wait_for_the_version_before_one_that_was_given_up() -> None:
    histories = {"a": PROVEN, "b": GIVEN_UP}

    assert not plan.is_hopeless(Target("b", 1, previous="a"), histories, [], now=100.0)


def test_replicas_with_the_least_to_do_go_first() -> None:
    running = [
        replace(replica, ongoing=ongoing)
        for replica, ongoing in zip(replicas(*[("a", RUNNING)] * 4), [2, 0, 5, 1], strict=True)
    ]

    steps = plan.compute(Target("a", 2, wakes=True), {"a": PROVEN}, running, 100.0)

    assert [stop.replica_id for stop in steps.stop] == [
        running[1].replica_id,
        running[3].replica_id,
    ]


# The order of the end


@pytest.mark.parametrize(
    ("calls", "held"),
    [
        pytest.param({"A": {"B"}, "B": set()}, {"B"}, id="callee"),
        pytest.param({"A": set(), "B": set()}, set(), id="its caller has ended"),
        pytest.param({"A": {"B"}, "B": {"C"}, "C": set()}, {"B", "C"}, id="chain"),
        pytest.param({"A": {"A"}}, set(), id="calls itself"),
        pytest.param({"A": {"B"}, "B": {"A"}}, set(), id="circle"),
        pytest.param(
            {"A": {"B"}, "B": {"C"}, "C": {"B", "D"}, "D": set()},
            {"B", "C", "D"},
            id="circle that is called, and calls",
        ),
    ],
)
def test_callee_is_held_while_another_may_call_it(
    calls: dict[str, set[str]], held: set[str]
) -> None:
    assert plan.held(calls) == held


def test_deleted_deployment_that_is_held_is_not_stopped() -> None:
    running = replicas(("a", RUNNING))

    assert plan.compute(None, {}, running, now=1.0, is_held=True) == Plan()
    assert names(plan.compute(None, {}, running, now=1.0)) == ([], ["r0"])


@given(
    st.dictionaries(st.sampled_from("ABCDE"), st.frozensets(st.sampled_from("ABCDE")), min_size=1)
)
def test_any_graph_ends(graph: dict[str, frozenset[str]]) -> None:
    """Whatever calls whatever: something can end, and nothing ends before who calls it, but for
    those that call each other in a circle."""
    left = dict(graph)
    ended: list[str] = []
    while left:
        free = left.keys() - plan.held(left)
        assert free
        for name in free:
            callers = {other for other in left if name in plan._reached(other, left)}
            assert all(other in plan._reached(name, left) for other in callers - {name})
        ended += free
        left = {name: calls for name, calls in left.items() if name not in free}
    assert sorted(ended) == sorted(graph)


# Over time: a deployment, simulated


@dataclass
class World:
    """Carries out plans at once, but for replicas, which take their time; and holds against each
    plan what it must never do."""

    target: Target | None
    histories: dict[str, History] = field(default_factory=dict)
    replicas: dict[str, Replica] = field(default_factory=dict)
    broken: frozenset[str] = frozenset()
    now: float = 0.0
    count: int = 0
    starts: dict[str, int] = field(default_factory=dict)

    def step(self) -> Plan:
        if self.target and plan.is_complete(self.target, self.seen):
            version = self.target.version
            self.histories[version] = plan.after_complete(self.history(version))
            self.target = replace(self.target, previous=None)
        steps = plan.compute(self.target, self.histories, self.seen, self.now)
        healthy_before = self.healthy
        for stop in steps.stop:
            self.become(stop.replica_id, STOPPING)
        for start in steps.start:
            self.start(start.version)
        wanted = self.target.num_replicas if self.target else 0
        in_place = self.target is not None and plan.surge(self.target) == 0
        needed = min(healthy_before, wanted - in_place)
        assert self.healthy >= needed, "stopped a replica that was needed"
        if steps.start:
            assert self.target is not None, "started what is deleted"
            assert len(self.live) <= wanted + plan.surge(self.target), "started too many"
        return steps

    def start(self, version: str) -> None:
        self.count += 1
        self.starts[version] = self.starts.get(version, 0) + 1
        name = f"r{self.count}"
        self.replicas[name] = Replica(name, version, STARTING, self.now, self.now)

    @property
    def seen(self) -> list[Replica]:
        return list(self.replicas.values())

    @property
    def live(self) -> list[Replica]:
        return [replica for replica in self.seen if replica.state is not STOPPING]

    @property
    def healthy(self) -> int:
        return sum(replica.state is RUNNING and not plan.is_sick(replica) for replica in self.seen)

    def history(self, version: str) -> History:
        return self.histories.get(version, History())

    def become(self, name: str, state: ReplicaState) -> None:
        self.replicas[name] = replace(self.replicas[name], state=state, since=self.now)

    def want(self, version: str, count: int, share: float = 1.0, percent: float = 100.0) -> None:
        """As the controller's state does it."""
        previous, served = None, 0
        if self.target:
            current = self.target.version
            worked = self.history(current).proven
            previous = current if worked else self.target.previous
            served = self.target.num_replicas if worked else self.target.previous_replicas
        if plan.has_failed(version, self.histories):
            del self.histories[version]
        previous = None if previous == version else previous
        self.target = Target(version, count, previous, share, percent, previous_replicas=served)

    def scale(self, count: int) -> None:
        if self.target:
            self.target = plan.with_number(self.target, count)

    def delete(self) -> None:
        self.target, self.histories = None, {}

    def advance(self, name: str) -> None:
        """A replica goes on in its life."""
        replica = self.replicas[name]
        if replica.state is STOPPING:
            del self.replicas[name]
        elif replica.state is STARTING and replica.version not in self.broken:
            self.become(name, RUNNING)
            self.histories[replica.version] = plan.after_ready(
                self.history(replica.version), now=self.now
            )
        elif replica.state is STARTING:
            self.crash(name)

    def crash(self, name: str) -> None:
        replica = self.replicas.pop(name)
        if replica.state is not STOPPING and not plan.is_sick(replica):
            self.fail(replica)

    def check(self, name: str, *, passed: bool) -> None:
        replica = self.replicas[name]
        if replica.state is not RUNNING or plan.is_sick(replica):
            return
        self.replicas[name] = replica = plan.after_check(replica, passed=passed)
        if plan.is_sick(replica):
            self.fail(replica)

    def fail(self, replica: Replica) -> None:
        self.histories[replica.version] = plan.after_failure(
            self.history(replica.version),
            started_at=replica.started_at,
            was_ready=replica.state is RUNNING,
            error="crash",
            now=self.now,
        )

    def settle(self) -> None:
        """Lets everything happen that is on its way; fails if that never ends."""
        for _ in range(500):
            steps = self.step()
            moving = [r.replica_id for r in self.seen if r.state is not RUNNING]
            if steps == Plan() and not moving:
                return
            if moving:
                self.now += 0.5
                self.advance(moving[0])
            elif steps.wake_at is not None:
                self.now = max(self.now, steps.wake_at)
        raise AssertionError("never settled")


SHARES = st.sampled_from([0.2, 0.5, 1.0])
COUNTS = st.integers(1, 6)
PERCENTS = st.sampled_from([100.0, 0.0])
DEPLOY = st.tuples(st.just("deploy"), st.sampled_from("abc"), COUNTS, SHARES, PERCENTS)
ADVANCE = st.tuples(st.just("advance"), st.integers(0, 9))
SCALE = st.tuples(st.just("scale"), COUNTS)
CRASH = st.tuples(st.just("crash"), st.integers(0, 9))
CHECK = st.tuples(st.just("check"), st.integers(0, 9), st.booleans())
WAIT = st.tuples(st.just("wait"), st.floats(0.0, 30.0))
DELETE = st.tuples(st.just("delete"))
Event = tuple[object, ...]
EVENTS = st.lists(
    st.one_of(DEPLOY, ADVANCE, ADVANCE, SCALE, CRASH, CHECK, CHECK, WAIT, DELETE), max_size=60
)


def happen(world: World, event: Event) -> None:
    kind, *details = event
    present = sorted(world.replicas)
    match kind, details:
        case "deploy", [str(version), int(count), float(share), float(percent)]:
            world.want(version, count, share, percent)
        case "scale", [int(count)]:
            world.scale(count)
        case "delete", []:
            world.delete()
        case "advance", [int(index)] if present:
            world.advance(present[index % len(present)])
        case "crash", [int(index)] if present:
            world.crash(present[index % len(present)])
        case "check", [int(index), bool(passed)] if present:
            world.check(present[index % len(present)], passed=passed)
        case "wait", [float(seconds)]:
            world.now += seconds


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(EVENTS, st.frozensets(st.sampled_from("abc")))
def test_deployment_settles_whatever_happened(events: list[Event], broken: frozenset[str]) -> None:
    """Every step of it is held against what a plan must never do, see `World.step`."""
    world = World(Target("a", 2), broken=broken)
    for event in events:
        happen(world, event)
        world.step()
    world.settle()

    target = world.target
    versions = [replica.version for replica in world.seen]
    if target is None:
        assert not versions
    elif not plan.has_failed(target.version, world.histories):
        assert versions == [target.version] * target.num_replicas
    elif target.previous is not None:
        assert versions == [target.previous] * target.num_replicas
    else:
        assert len(versions) <= target.num_replicas
    assert plan.compute(target, world.histories, world.seen, world.now) == Plan()


@settings(deadline=None)
@given(
    st.lists(st.one_of(DEPLOY, ADVANCE, WAIT), max_size=60),
    COUNTS,
    st.frozensets(st.sampled_from("bc")),
)
def test_update_never_has_fewer_healthy_replicas_than_wanted(
    events: list[Event], count: int, broken: frozenset[str]
) -> None:
    """Nor more than it may: however slow, and whether it works or not."""
    world = World(Target("a", count), broken=broken)
    world.settle()
    for event in events:
        happen(world, (*event[:2], count, event[3], 100.0) if event[0] == "deploy" else event)
        world.step()
        assert world.target is not None
        assert world.healthy >= count
        # One that is replaced by another update meanwhile has what its own limit allowed.
        assert len(world.live) <= 2 * count


@settings(deadline=None)
@given(st.lists(st.one_of(ADVANCE, WAIT), max_size=60), COUNTS, SHARES, st.booleans())
def test_update_never_runs_more_than_its_surge(
    events: list[Event], count: int, share: float, works: bool
) -> None:
    world = World(Target("a", count), broken=frozenset() if works else frozenset("b"))
    world.settle()
    world.want("b", count, share)
    for event in events:
        happen(world, event)
        world.step()
        assert world.target is not None
        starting = [replica for replica in world.live if replica.state is STARTING]
        assert len(world.live) <= count + plan.surge(world.target)
        assert len(starting) <= plan.surge(world.target)


@settings(deadline=None)
@given(
    st.lists(st.one_of(DEPLOY, ADVANCE, ADVANCE, WAIT), max_size=60),
    COUNTS,
    st.frozensets(st.sampled_from("bc")),
)
def test_update_without_surge_never_runs_more_than_wanted_and_lacks_one_at_most(
    events: list[Event], count: int, broken: frozenset[str]
) -> None:
    """Those that finish their requests included: each is gone before its successor starts."""
    world = World(Target("a", count, max_surge_percent=0.0), broken=broken)
    world.settle()
    for event in events:
        happen(world, (*event[:2], count, event[3], 0.0) if event[0] == "deploy" else event)
        world.step()
        assert world.healthy >= count - 1
        assert len(world.seen) <= count


@settings(deadline=None)
@given(
    st.lists(st.one_of(ADVANCE, ADVANCE, CRASH, SCALE, WAIT), max_size=60),
    COUNTS,
    SHARES,
    PERCENTS,
    st.booleans(),
)
def test_version_that_serves_keeps_its_number_until_one_of_the_new_is_ready(
    events: list[Event], count: int, share: float, percent: float, works: bool
) -> None:
    """Whatever is lost of it, and however the new one fares: one that crashes is started again
    once its delay is over."""
    world = World(Target("a", count), broken=frozenset() if works else frozenset("b"))
    world.settle()
    world.want("b", count, share, percent)
    for event in events:
        if event[0] == "scale" and percent == 0.0:
            continue  # those that leave for it are in the way of others
        happen(world, event)
        world.step()
        assert world.target is not None
        on_trial = world.target.previous == "a" and not any(
            each.version == "b" and each.state is RUNNING for each in world.seen
        )
        if on_trial and world.now >= world.history("a").retry_at:
            serving = sum(each.version == "a" for each in world.live)
            # In place, those that finish their requests hold the room of their successors.
            missing = 1 + len(world.seen) - len(world.live) if percent == 0.0 else 0
            assert serving >= world.target.num_replicas - missing


@given(st.integers(1, 5))
def test_broken_version_is_tried_a_bounded_number_of_times(count: int) -> None:
    world = World(Target("a", count), broken=frozenset("a"))
    world.settle()

    assert not world.replicas
    assert world.starts["a"] <= plan.MAX_FAILED_STARTS * count


def test_deleted_deployment_leaves_nothing() -> None:
    world = World(Target("a", 3))
    world.settle()
    world.delete()
    world.settle()

    assert not world.replicas
