"""How many replicas the load asks for, on a simulated clock."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from serving.config import AutoscalingConfig
from serving.controller.autoscale import Autoscaler, Decision, Load, Peak, Series, first_target

HOUR_S = 3600.0


def scaler(**options: Any) -> Autoscaler:
    return Autoscaler(AutoscalingConfig(**{"max_replicas": 100, **options}), 0.0)


def simulate(
    autoscaler: Autoscaler,
    load: Callable[[float], float],
    until: float,
    *,
    target: int = 1,
    begin: float = 0.0,
) -> list[tuple[float, Decision]]:
    """One caller that reports each period; gives the changes."""
    changes = []
    ticks = round((until - begin) / autoscaler.period_s)
    for tick in range(ticks):
        now = begin + tick * autoscaler.period_s
        autoscaler.hear("caller", Load(ongoing=load(now)), now)
        decision = autoscaler.decide(target, now)
        if decision.target != target:
            assert decision.reason
            changes.append((now, decision))
        else:
            assert not decision.reason
        target = decision.target
    return changes


def targets(changes: list[tuple[float, Decision]]) -> list[int]:
    return [decision.target for _, decision in changes]


def constant(level: float) -> Callable[[float], float]:
    return lambda now: level


def step(at: float, before: float, after: float) -> Callable[[float], float]:
    return lambda now: before if now < at else after


def spike(at: float, lasting: float, height: float) -> Callable[[float], float]:
    return lambda now: height if at <= now < at + lasting else 2.0


def sawtooth(period: float, height: float) -> Callable[[float], float]:
    return lambda now: height * (now % period) / period


CONFIGS: dict[str, dict[str, float]] = {
    "the defaults": {},
    "delays shorter than the look-back": {"upscale_delay_s": 3, "downscale_delay_s": 5},
    "no delays": {"upscale_delay_s": 0, "downscale_delay_s": 0},
    "delays longer than the look-back": {"upscale_delay_s": 60, "downscale_delay_s": 120},
    "factors": {"upscaling_factor": 0.5, "downscaling_factor": 0.5},
    "a large step": {"upscaling_factor": 2.0, "downscaling_factor": 2.0},
}
LOADS = {
    "constant": constant(20.0),
    "a step up": step(100, 2.0, 40.0),
    "a step down": step(100, 40.0, 4.0),
    "a spike": spike(100, 10, 60.0),
    "a long spike": spike(100, 90, 60.0),
    "a sawtooth": sawtooth(20, 30.0),
    "a slow sawtooth": sawtooth(60, 30.0),
}


@pytest.mark.parametrize("load", LOADS.values(), ids=LOADS)
@pytest.mark.parametrize("name", ["the defaults", "delays longer than the look-back"])
def test_load_settles_in_three_changes_and_then_none_for_an_hour(
    load: Callable[[float], float], name: str
) -> None:
    changes = simulate(scaler(**CONFIGS[name]), load, 2000 + HOUR_S)

    assert len(changes) <= 3
    assert all(when < 2000 for when, _ in changes)


@pytest.mark.parametrize("load", [name for name in LOADS if "sawtooth" not in name])
@pytest.mark.parametrize("name", ["delays shorter than the look-back", "no delays"])
def test_load_settles_in_three_changes_with_short_delays_too(load: str, name: str) -> None:
    changes = simulate(scaler(**CONFIGS[name]), LOADS[load], 2000 + HOUR_S)

    assert len(changes) <= 3
    assert all(when < 300 for when, _ in changes)


@pytest.mark.parametrize("name", ["delays shorter than the look-back", "no delays"])
def test_sawtooth_is_climbed_once_with_short_delays_and_not_given_up_between_its_teeth(
    name: str,
) -> None:
    """So many steps up as the first tooth has room for is what a short `upscale_delay_s` asks."""
    changes = simulate(scaler(**CONFIGS[name]), sawtooth(30, 30.0), 2000 + HOUR_S)

    assert targets(changes) == sorted(targets(changes))
    assert all(when < 60 for when, _ in changes)


def test_load_that_stays_down_for_longer_than_the_fields_say_is_followed() -> None:
    """Each tooth, on purpose: so short a delay asks for that."""
    changes = simulate(scaler(upscale_delay_s=3, downscale_delay_s=5), sawtooth(60, 30.0), HOUR_S)

    assert min(targets(changes[10:])) <= 8
    assert max(targets(changes[10:])) == 14


def test_step_down_keeps_the_most_of_the_whole_delay() -> None:
    """A sawtooth that is slower than the look-back period, after a spike."""

    def load(now: float) -> float:
        return 80.0 if now < 60 else sawtooth(300, 30.0)(now)

    changes = simulate(scaler(), load, 2 * HOUR_S, target=40)

    assert targets(changes) == [15]


@st.composite
def repeating(draw: st.DrawFn) -> tuple[Autoscaler, list[float]]:
    """Any shape that comes again within the time that a step down looks at."""
    autoscaler = scaler(
        look_back_period_s=draw(st.integers(1, 20)),
        upscale_delay_s=draw(st.integers(0, 20)),
        downscale_delay_s=draw(st.integers(0, 60)),
        aggregation_function=draw(st.sampled_from(["mean", "max", "min"])),
    )
    longest = int(autoscaler._kept_s)
    return autoscaler, draw(st.lists(st.floats(0, 20), min_size=1, max_size=longest))


@given(repeating(), st.integers(1, 15))
@settings(max_examples=60, deadline=None)
def test_load_that_comes_back_within_the_delay_settles_whatever_its_shape(
    repeated: tuple[Autoscaler, list[float]], start: int
) -> None:
    autoscaler, levels = repeated
    upscale_delay_s = autoscaler.config.upscale_delay_s
    settled_s = 10 * (2 * len(levels) + upscale_delay_s + 1) + 2 * autoscaler._fall_s

    changes = simulate(
        autoscaler, lambda now: levels[int(now) % len(levels)], settled_s + 300, target=start
    )

    assert all(when < settled_s for when, _ in changes)
    steps = [after - before for before, after in _pairs([start, *targets(changes)])]
    assert sum(step < 0 for step in steps) <= 1
    assert all(step > 0 for step in steps[:-1])
    if upscale_delay_s >= len(levels):
        assert len(changes) <= 3
    assert targets(changes)[-1:] <= [max(1, math.ceil(max(levels) / 2))]


@pytest.mark.parametrize("name", CONFIGS)
def test_constant_load_ends_with_what_it_asks_for(name: str) -> None:
    changes = simulate(scaler(**CONFIGS[name]), constant(19.0), 4 * HOUR_S)

    assert changes[-1][1].target == 10
    assert changes[-1][0] < HOUR_S


def test_step_up_is_taken_in_one_change_after_the_delay() -> None:
    [(when, decision)] = simulate(scaler(), step(100, 2.0, 40.0), HOUR_S)

    assert decision.target == 20
    assert 130 <= when <= 133
    assert decision.reason == ("40.0 requests (mean of 30 s), 2 to a replica, ask for 20 for 30 s")


def test_step_down_is_taken_in_one_change_after_the_delay() -> None:
    [(_, up), (when, down)] = simulate(scaler(), step(1000, 40.0, 5.0), HOUR_S)

    assert (up.target, down.target) == (20, 3)
    assert 1600 <= when <= 1635
    assert down.reason == (
        "5.0 requests (the most in 600 s, mean of 30 s), 2 to a replica, ask for 3"
    )


def test_spike_that_is_shorter_than_the_delay_changes_nothing() -> None:
    assert simulate(scaler(), spike(100, 5, 4.0), HOUR_S) == []


def test_load_that_comes_and_goes_within_the_look_back_keeps_its_replicas() -> None:
    """Up and down again is what a delay shorter than the look-back period invites."""
    autoscaler = scaler(upscale_delay_s=0, downscale_delay_s=1)

    changes = simulate(autoscaler, lambda now: 20.0 if now % 20 < 10 else 0.0, HOUR_S)

    assert targets(changes) == [10]


def test_requests_that_pile_up_while_replicas_start_ask_only_once() -> None:
    """An open loop: 20 requests a second, half a second each, and replicas that take 20 s to
    start; those that start count."""
    autoscaler, target, ready, backlog = scaler(), 1, [(0.0, 1)], 0.0
    changes = []
    for now in range(int(HOUR_S)):
        running = sum(count for at, count in ready if at <= now)
        backlog = max(10.0, backlog + 20 - 4 * running)
        autoscaler.hear("caller", Load(queued=backlog), now)
        decision = autoscaler.decide(target, now)
        if decision.target != target:
            changes.append(decision.target)
            ready.append((now + 20.0, decision.target - target))
            target = decision.target

    assert len(changes) <= 3
    assert target == 5


@given(
    interval=st.floats(0.1, 30),
    look_back=st.floats(0.1, 600),
    up=st.floats(0, 600),
    down=st.floats(0, 600),
    factors=st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)),
    limits=st.tuples(st.integers(0, 5), st.integers(1, 50)),
    target=st.integers(0, 60),
    pauses=st.lists(st.floats(0, 700), max_size=60),
)
@settings(max_examples=100)
def test_no_traffic_never_scales_up(
    interval: float,
    look_back: float,
    up: float,
    down: float,
    factors: tuple[float, float],
    limits: tuple[int, int],
    target: int,
    pauses: list[float],
) -> None:
    autoscaler = scaler(
        min_replicas=min(limits),
        max_replicas=max(limits),
        metrics_interval_s=interval,
        look_back_period_s=look_back,
        upscale_delay_s=up,
        downscale_delay_s=down,
        upscaling_factor=factors[0],
        downscaling_factor=factors[1],
    )
    target, now = max(target, min(limits)), 0.0
    for pause in pauses:
        now += pause
        autoscaler.hear("caller", Load(), now)
        before, target = target, autoscaler.decide(target, now).target
        assert target <= before


@given(
    loads=st.lists(st.tuples(st.floats(0, 30), st.floats(0, 500)), max_size=80),
    up=st.sampled_from([0.0, 5.0, 30.0]),
    down=st.sampled_from([0.0, 5.0, 600.0]),
    function=st.sampled_from(["mean", "max", "min"]),
)
@settings(max_examples=100)
def test_target_stays_within_the_limits_whatever_is_heard(
    loads: list[tuple[float, float]], up: float, down: float, function: str
) -> None:
    autoscaler = scaler(
        min_replicas=2,
        max_replicas=9,
        upscale_delay_s=up,
        downscale_delay_s=down,
        aggregation_function=function,
    )
    target, now = 2, 0.0
    for pause, load in loads:
        now += pause
        autoscaler.hear("caller", Load(queued=load), now)
        decision = autoscaler.decide(target, now)
        assert 2 <= decision.target <= 9
        assert bool(decision.reason) == (decision.target != target)
        target = decision.target


@given(level=st.floats(0.1, 180), start=st.integers(1, 100), name=st.sampled_from(list(CONFIGS)))
@settings(max_examples=60, deadline=None)
def test_constant_load_never_goes_up_and_down_again(level: float, start: int, name: str) -> None:
    """But where a factor makes the step up larger than what is asked for."""
    autoscaler = scaler(**CONFIGS[name], metrics_interval_s=5.0)
    changes = simulate(autoscaler, constant(level), 4 * HOUR_S, target=start)

    directions = [after > before for before, after in _pairs([start, *targets(changes)])]
    turns = sum(one != other for one, other in _pairs(directions))
    assert turns <= (1 if name == "a large step" else 0)
    assert ([start, *targets(changes)])[-1] == max(1, math.ceil(level / 2 - 1e-9))


def _pairs(items: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(items, items[1:], strict=False))


def test_first_queued_request_wakes_at_once_from_zero() -> None:
    autoscaler = scaler(min_replicas=0)
    assert autoscaler.decide(0, 100.0) == Decision(0)

    autoscaler.hear("caller", Load(queued=1), 100.001)

    decision = autoscaler.decide(0, 100.001)
    assert (decision.target, decision.reason) == (1, "a request waits, and there is no replica")


def test_hundred_at_once_from_zero_start_one_wave() -> None:
    """The first replica takes 5 s to start; then it works them off."""
    autoscaler, target = scaler(min_replicas=0, upscale_delay_s=0), 0
    changes = []
    for tick in range(100):
        now = tick / 10
        running = 1 if tick >= 50 else 0
        autoscaler.hear("caller", Load(queued=0 if running else min(100, 1 + 33 * tick)), now)
        decision = autoscaler.decide(target, now, running=running)
        changes += [decision.target] if decision.target != target else []
        target = decision.target

    assert changes == [1]


def test_what_still_runs_on_a_replica_that_leaves_wakes_none() -> None:
    autoscaler = scaler(min_replicas=0)
    autoscaler.hear("caller", Load(ongoing=3), 0.0)

    assert autoscaler.decide(0, 1.0).target == 0


@pytest.mark.parametrize("options", [{}, {"downscale_delay_s": 1, "look_back_period_s": 2}])
def test_last_replica_goes_after_its_own_delay(options: dict[str, float]) -> None:
    autoscaler = scaler(min_replicas=0, downscale_to_zero_delay_s=60, **options)

    changes = simulate(autoscaler, step(10, 1.0, 0.0), 600)

    assert [decision.target for _, decision in changes] == [0]
    assert changes[0][0] == pytest.approx(70, abs=autoscaler.period_s)
    assert changes[0][1].reason == "no request for 60 s"


def test_last_replica_goes_after_the_common_delay_without_one_of_its_own() -> None:
    changes = simulate(scaler(min_replicas=0), step(10, 1.0, 0.0), HOUR_S)

    assert [(when, decision.target) for when, decision in changes] == [(610, 0)]


def test_last_replica_stays_where_min_replicas_says_so() -> None:
    assert simulate(scaler(), step(10, 1.0, 0.0), HOUR_S) == []


def test_last_replica_stays_for_requests_too_short_to_be_seen() -> None:
    autoscaler = scaler(min_replicas=0, downscale_to_zero_delay_s=5)
    for now in range(600):
        autoscaler.hear("caller", Load(is_active=now % 3 == 0), float(now))
        assert autoscaler.decide(1, float(now)).target == 1


def test_load_of_a_caller_that_goes_away_goes_along() -> None:
    autoscaler = scaler()
    autoscaler.hear("one", Load(ongoing=4), 0.0)
    autoscaler.hear("other", Load(queued=6), 0.0)
    assert (autoscaler.queued, autoscaler.ongoing) == (6, 4)

    autoscaler.forget("other", 1.0)

    assert (autoscaler.queued, autoscaler.ongoing) == (0, 4)


def test_new_limits_hold_at_once() -> None:
    autoscaler = scaler(min_replicas=3, max_replicas=5)

    assert autoscaler.decide(1, 0.0).target == 3
    assert autoscaler.decide(9, 0.0).target == 5
    assert autoscaler.decide(9, 0.0).reason == "max_replicas is 5"


@pytest.mark.parametrize(("before", "expected"), [(None, 4), (0, 2), (3, 3), (9, 6)], ids=str)
def test_deployment_begins_with_what_it_had_within_its_limits(
    before: int | None, expected: int
) -> None:
    config = AutoscalingConfig(min_replicas=2, max_replicas=6, initial_replicas=4)
    assert first_target(config, before) == expected


def test_policy_decides_in_the_place_of_the_load() -> None:
    autoscaler = scaler(upscale_delay_s=0, downscale_delay_s=0, look_back_period_s=1)
    autoscaler.hear("caller", Load(ongoing=100), 0.0)

    decision = autoscaler.decide(1, 1.0, asked=2.5)

    assert decision.target == 3
    assert decision.reason.startswith("the policy asks for 2.5 replicas")


def test_policy_that_failed_leaves_the_number() -> None:
    autoscaler = scaler(upscale_delay_s=0)
    autoscaler.hear("caller", Load(ongoing=100), 0.0)

    assert autoscaler.decide(4, 50.0, asked=math.nan).target == 4


def test_policy_is_not_asked_from_zero() -> None:
    autoscaler = scaler(min_replicas=0)
    autoscaler.hear("caller", Load(queued=1), 0.0)

    assert autoscaler.decide(0, 0.0, asked=math.nan).target == 1


def test_nothing_is_to_be_looked_at_again_while_all_is_quiet() -> None:
    autoscaler = scaler()
    autoscaler.hear("caller", Load(ongoing=1), 0.0)
    assert autoscaler.decide(1, 0.0).wake_at == 1.0

    autoscaler.hear("caller", Load(), 10.0)

    assert autoscaler.decide(1, 20.0).wake_at == 21.0
    assert autoscaler.decide(1, 41.0).wake_at is None


@pytest.mark.parametrize(
    ("function", "expected"), [("mean", 3.0), ("max", 6.0), ("min", 2.0)], ids=str
)
def test_series_weighs_by_time_and_not_by_reports(function: str, expected: float) -> None:
    series = Series(0.0)
    series.tell(6.0, 10.0, grain_s=0, kept_s=100)
    for moment in (12.5, 12.6, 12.7):
        series.tell(2.0, moment, grain_s=0, kept_s=100)

    assert series.over(10.0, 20.0, function) == pytest.approx(expected)


def test_series_of_many_reports_stays_small() -> None:
    series = Series(0.0)
    for tick in range(100_000):
        series.tell(float(tick % 7), tick / 1000, grain_s=0.15, kept_s=30)

    assert len(series._points) < 450
    assert series.over(30.0, 100.0, "mean") == pytest.approx(3.0, abs=3.0)


def test_peak_of_the_last_while_is_known_by_few_numbers() -> None:
    peak, told = Peak(), []
    for tick in range(5000):
        value = float((tick * 37) % 101) if tick < 4000 else 5000.0 - tick
        told.append(value)
        found = peak.over(600.0, value, float(tick))
        assert max(told[-601:]) <= found <= max(told[-605:])

    assert len(peak._points) <= 202
