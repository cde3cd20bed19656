"""An update of several deployments: it goes from the callees to the callers, or back."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from serving.controller import plan
from serving.controller.model import Plan, ReplicaState, Target
from tests.unit.controller.test_plan import PROVEN, World

RUNNING = ReplicaState.RUNNING
CHAIN = {"Front": {"Middle"}, "Middle": {"Price"}, "Price": set[str]()}
EVERYONE = frozenset(CHAIN)


def held(calls: dict[str, set[str]], **given: Any) -> tuple[dict[str, set[str]], set[str]]:
    """What each deployment waits for, and those that go back."""
    reached = given.pop("reached", set())
    targets = {
        name: Target("b", 1, "a", previous_replicas=1, is_reached=name in reached) for name in calls
    }
    every: dict[str, Any] = {"served": set(calls), "failed": set(), "ahead": set()}
    found = plan.in_order(targets, calls, **{**every, **given})
    waits = {name: set(target.waits_for) for name, target in found.items() if target.waits_for}
    return waits, {name for name, target in found.items() if target.goes_back}


@pytest.mark.parametrize(
    ("calls", "given", "waits", "back"),
    [
        pytest.param(
            CHAIN,
            {},
            {"Front": {"Middle", "Price"}, "Middle": {"Price"}},
            set(),
            id="callees first",
        ),
        pytest.param(CHAIN, {"reached": {"Price"}}, {"Front": {"Middle"}}, set(), id="one by one"),
        pytest.param(
            CHAIN, {"reached": {"Middle"}}, {"Front": {"Price"}, "Middle": {"Price"}}, set(),
            id="through one that stays",
        ),
        pytest.param(CHAIN, {"reached": {"Middle", "Price"}}, {}, set(), id="callers last"),
        pytest.param(CHAIN, {"served": {"Price"}}, {}, set(), id="new ones at once"),
        pytest.param(CHAIN, {"failed": {"Price"}}, {}, EVERYONE, id="callee fails"),
        pytest.param(
            CHAIN,
            {"reached": {"Middle", "Price"}, "failed": {"Front"}, "ahead": EVERYONE},
            {},
            {"Front"},
            id="caller fails, its callees stay for what runs of it",
        ),
        pytest.param(
            CHAIN,
            {"reached": {"Middle", "Price"}, "failed": {"Front"}, "ahead": {"Middle", "Price"}},
            {},
            {"Front", "Middle"},
            id="then they go back in turn",
        ),
        pytest.param({"A": {"B"}, "B": {"A"}}, {}, {}, set(), id="circle"),
        pytest.param({"A": {"A"}}, {}, {}, set(), id="calls itself"),
        pytest.param({"A": {"else"}}, {}, {}, set(), id="calls what is not there"),
    ],
)  # fmt: skip
def test_update_goes_from_callees_to_callers_and_back_the_other_way(
    calls: dict[str, set[str]],
    given: dict[str, set[str]],
    waits: dict[str, set[str]],
    back: set[str],
) -> None:
    assert held(calls, **given) == (waits, back)


def test_what_waits_keeps_the_version_before_in_its_number() -> None:
    world = World(Target("a", 2), histories={"a": PROVEN})
    world.settle()
    world.want("b", 5)
    assert world.target is not None
    world.target = replace(world.target, waits_for=frozenset({"Price"}))
    assert world.step() == Plan()

    world.crash(next(iter(world.replicas)))
    world.settle()
    assert [replica.version for replica in world.seen] == ["a", "a"]


# Over time: an application, simulated


@dataclass
class Application:
    """Deployments that call each other, each a world of its own; held at each step against what an
    update must never do."""

    calls: dict[str, set[str]]
    broken: frozenset[str]
    count: int
    worlds: dict[str, World] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.calls:
            world = World(Target("a", self.count))
            world.settle()
            world.broken = frozenset("b" if name in self.broken else "")
            self.worlds[name] = world

    def update(self) -> None:
        for world in self.worlds.values():
            world.want("b", self.count)

    @property
    def targets(self) -> dict[str, Target]:
        return {name: world.target for name, world in self.worlds.items() if world.target}

    @property
    def failed(self) -> set[str]:
        return {
            name
            for name, target in self.targets.items()
            if plan.has_failed(target.version, self.worlds[name].histories)
        }

    def runs(self, name: str, version: str) -> bool:
        return any(each.version == version for each in self.worlds[name].live)

    def step(self) -> None:
        reached = {
            name: plan.after_reached(target)
            if plan.is_complete(target, self.worlds[name].seen)
            else target
            for name, target in self.targets.items()
        }
        ahead = {name for name in self.calls if self.runs(name, "b")}
        ordered = plan.in_order(
            reached, self.calls, served=set(self.calls), failed=self.failed, ahead=ahead
        )
        for name, world in self.worlds.items():
            world.target = ordered[name]
            steps = plan.compute(world.target, world.histories, world.seen, world.now)
            for stop in steps.stop:
                world.become(stop.replica_id, ReplicaState.STOPPING)
            for start in steps.start:
                self.check_start(name, start.version)
                world.start(start.version)

    def check_start(self, name: str, version: str) -> None:
        """Nothing new starts beside what it calls of the version before."""
        if version == "b":
            assert not self.calls[name] & self.failed
            assert all(self.worlds[callee].starts.get("b") for callee in self.calls[name])
            assert all(not self.runs(callee, "a") for callee in self.calls[name])

    def advance(self, index: int) -> None:
        moving = [
            (world, each.replica_id)
            for world in self.worlds.values()
            for each in world.seen
            if each.state is not RUNNING
        ]
        for world in self.worlds.values():
            world.now += 0.5
        if moving:
            world, name = moving[index % len(moving)]
            world.advance(name)


GRAPHS = st.fixed_dictionaries(
    {name: st.sets(st.sampled_from("ABCD"[index + 1 :] or "D")) for index, name in enumerate("ABC")}
).map(lambda graph: {**graph, "D": set[str]()})


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    GRAPHS,
    st.frozensets(st.sampled_from("ABCD"), max_size=2),
    st.integers(1, 3),
    st.lists(st.integers(0, 9), max_size=40),
)
def test_application_is_updated_or_left_as_a_whole(
    calls: dict[str, set[str]], broken: frozenset[str], count: int, order: list[int]
) -> None:
    application = Application(calls, broken, count)
    application.update()
    for index in [*order, *[0] * 400]:
        application.step()
        application.advance(index)

    expected = "a" if broken else "b"
    versions = {
        name: [each.version for each in world.seen] for name, world in application.worlds.items()
    }
    assert versions == dict.fromkeys(calls, [expected] * count)
