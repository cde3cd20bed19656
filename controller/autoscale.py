"""How many replicas the load asks for.

Pure: the clock is an argument. Load is what callers say that they have queued and in flight; it is
the same whether replicas take requests or are only starting, and is compared with the replicas that
there are to be, so that those that start count as capacity.

Up: the load of the last `upscale_delay_s` (of the look-back period, where that is shorter) has
asked for more all that time. So what is looked at is the load that asked, not the quiet before it.
Down: less was asked for all through `downscale_delay_s`, or the look-back period and the time of
one aggregate where these are longer, and what was asked for at most in that time is kept. So a load
that comes back within it, in whatever shape, keeps what it needs; one that stays down is followed.
From zero: the first request that is queued is enough, and what joins it changes nothing until a
replica is there. To zero: no request for `downscale_to_zero_delay_s`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass

from serving.config import AutoscalingConfig

_ROUNDING = 1e-9
_GRAINS = 200
"""Moments of a period that are told apart."""


@dataclass(frozen=True)
class Load:
    """What a caller has for a deployment."""

    queued: float = 0.0
    ongoing: float = 0.0
    # Requests came since the last time, even if none is there now.
    is_active: bool = False

    @property
    def total(self) -> float:
        return self.queued + self.ongoing


@dataclass(frozen=True)
class Decision:
    """How many replicas there are to be from now on."""

    target: int
    # Why it is another number than before; empty where it is not.
    reason: str = ""
    # When to ask again though nothing was heard; None: no need.
    wake_at: float | None = None


class Series:
    """A number over time, which stays what it is until it is told anew."""

    def __init__(self, now: float) -> None:
        self._points: deque[tuple[float, float]] = deque([(now, 0.0)])

    @property
    def latest(self) -> float:
        return self._points[-1][1]

    def tell(self, value: float, now: float, *, grain_s: float, kept_s: float) -> None:
        """It is `value` from now on. What is older than `kept_s` is forgotten."""
        points = self._points
        if value == points[-1][1]:
            return
        # One that was told just now is replaced, so that many callers make no more points.
        if len(points) > 1 and now - points[-2][0] < grain_s:
            points.pop()
        points.append((now, value))
        while len(points) > 1 and points[1][0] <= now - kept_s:
            points.popleft()

    def changed_within(self, period_s: float, now: float) -> bool:
        """Whether it was another number at any time of the last period."""
        return len(self._points) > 1 and self._points[-1][0] > now - period_s

    def over(self, period_s: float, now: float, function: str) -> float:
        """What the last period counts as; of one longer than what is known, that part."""
        begin = max(now - period_s, self._points[0][0])
        spans: list[tuple[float, float]] = []
        end = now
        for at, value in reversed(self._points):
            spans.append((max(0.0, end - max(at, begin)), value))
            end = at
            if at <= begin:
                break
        length = sum(duration for duration, _ in spans)
        if length <= 0:
            return self.latest
        if function == "mean":
            return sum(duration * value for duration, value in spans) / length
        choose = max if function == "max" else min
        return choose(value for duration, value in spans if duration > 0)


class Peak:
    """The largest number of the last while, to a grain of it."""

    def __init__(self) -> None:
        # Each is less than those before it: what a later, larger number outdid is forgotten.
        self._points: deque[tuple[float, float]] = deque()

    def over(self, period_s: float, value: float, now: float) -> float:
        """Takes in `value`, which it is now; gives the largest of the last period."""
        points, grain_s = self._points, period_s / _GRAINS
        while points and points[-1][1] <= value:
            points.pop()
        at = math.ceil(now / grain_s) * grain_s
        if not points or points[-1][0] < at:
            points.append((at, value))
        while points[0][0] < now - period_s:
            points.popleft()
        return points[0][1]


class Autoscaler:
    """Decides for one deployment."""

    def __init__(self, config: AutoscalingConfig, now: float) -> None:
        self.config = config
        self._loads: dict[Hashable, Load] = {}
        self._series = Series(now)
        self._idle_since: float | None = now
        # The most that was asked for, all through the time that a step down looks at.
        self._asked = Peak()
        # Since when it was always more, or less, than there is to be.
        self._more_since: float | None = None
        self._less_since: float | None = None

    def __repr__(self) -> str:
        return f"Autoscaler(load={self._series.latest:g}, callers={len(self._loads)})"

    # Load

    @property
    def queued(self) -> float:
        return sum(load.queued for load in self._loads.values())

    @property
    def ongoing(self) -> float:
        return sum(load.ongoing for load in self._loads.values())

    def hear(self, caller: Hashable, load: Load, now: float) -> None:
        """A caller says what it has."""
        if load.total:
            self._loads[caller] = load
        else:
            self._loads.pop(caller, None)
        if load.is_active:
            self._idle_since = now
        self._total(now)

    def forget(self, caller: Hashable, now: float) -> None:
        """A caller is gone, and what it had."""
        if self._loads.pop(caller, None):
            self._total(now)

    def _total(self, now: float) -> None:
        look_back_s = self.config.look_back_period_s
        total = self.queued + self.ongoing
        self._series.tell(total, now, grain_s=look_back_s / _GRAINS, kept_s=look_back_s)
        if total:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now

    def total_over_look_back(self, now: float) -> float:
        """As a policy is told it."""
        config = self.config
        return self._series.over(config.look_back_period_s, now, config.aggregation_function)

    # Decision

    @property
    def period_s(self) -> float:
        """Between two decisions, while something is going on."""
        return max(self.config.metrics_interval_s, self.config.look_back_period_s / _GRAINS)

    @property
    def _rise_s(self) -> float:
        """The time over which the load that leads up is looked at."""
        longest_s = max(self.config.look_back_period_s, self.period_s)
        return min(max(self.config.upscale_delay_s, self.period_s), longest_s)

    @property
    def _fall_s(self) -> float:
        """For how long less must have been asked for."""
        return self._kept_s + self._rise_s

    @property
    def _kept_s(self) -> float:
        """For how long what was asked for is kept: the aggregates of this time are those that
        know nothing of what was before `_fall_s`."""
        config = self.config
        return max(config.downscale_delay_s - self._rise_s, config.look_back_period_s)

    @property
    def _idle_s(self) -> float:
        """How long without requests the last replica stays: at least until all have reported."""
        delay_s = self.config.downscale_to_zero_delay_s
        if delay_s is None:
            delay_s = self.config.downscale_delay_s
        return max(delay_s, 2 * self.period_s)

    def decide(
        self, target: int, now: float, asked: float | None = None, *, running: int = 1
    ) -> Decision:
        """How many replicas there are to be; there were to be `target`, and `running` take
        requests. `asked`: how many a policy asks for, in the place of the load; NaN where it
        failed, then the number stays."""
        if (outside := self._outside(target)) is not None:
            return self._changed(outside, now)
        if target == 0 and self.queued:
            return self._changed(self._woken(), now)
        by_load = asked is None
        if asked is None:
            load = self._series.over(self._rise_s, now, self.config.aggregation_function)
            asked = load / self.config.target_ongoing_requests
        decision = None
        if not math.isnan(asked):
            asked = max(0.0, asked)
            peak = self._asked.over(self._kept_s, asked, now)
            decision = (
                self._up(target, asked, running, by_load, now)
                or self._down(target, asked, peak, by_load, now)
                or self._to_zero(target, by_load, asked, now)
            )
        if decision is not None:
            return self._changed(decision, now)
        return Decision(target, wake_at=self._wake_at(target, by_load, now))

    def _changed(self, decision: Decision, now: float) -> Decision:
        self._more_since = self._less_since = None
        return Decision(decision.target, decision.reason, now + self.period_s)

    def _outside(self, target: int) -> Decision | None:
        config = self.config
        if target < config.min_replicas:
            return Decision(config.min_replicas, f"min_replicas is {config.min_replicas}")
        if target > config.max_replicas:
            return Decision(config.max_replicas, f"max_replicas is {config.max_replicas}")
        return None

    def _woken(self) -> Decision:
        step = max(1, math.ceil(self.config.get_upscaling_factor() - _ROUNDING))
        count = min(step, self.config.max_replicas)
        return Decision(count, "a request waits, and there is no replica")

    def _up(
        self, target: int, asked: float, running: int, by_load: bool, now: float
    ) -> Decision | None:
        config = self.config
        step = config.get_upscaling_factor() * (asked - target)
        count = min(math.ceil(target + step - _ROUNDING), config.max_replicas)
        # What waits for the first replica says nothing of how many are needed.
        if not running or count <= target:
            self._more_since = None
            return None
        if self._more_since is None:
            self._more_since = now
        if now - self._more_since < config.upscale_delay_s - _ROUNDING:
            return None
        if by_load and self._series.latest <= target * config.target_ongoing_requests:
            return None  # what it was is over, and only the mean still tells of it
        what = self._what(asked, by_load, f"{config.aggregation_function} of {self._rise_s:g} s")
        return Decision(count, f"{what} for {config.upscale_delay_s:g} s")

    def _down(
        self, target: int, asked: float, peak: float, by_load: bool, now: float
    ) -> Decision | None:
        config = self.config
        if math.ceil(asked - _ROUNDING) >= target:
            self._less_since = None
            return None
        if self._less_since is None:
            self._less_since = now
        least = max(math.ceil(peak - _ROUNDING), config.min_replicas)
        if not least and not (self._idle_since is not None and self._is_idle(now)):
            least = 1
        if now - self._less_since < self._fall_s - _ROUNDING or least >= target:
            return None
        step = config.get_downscaling_factor() * (target - peak)
        count = max(least, min(target - 1, math.ceil(target - step - _ROUNDING)))
        if not count and by_load:
            return self._to_none()
        span = f"the most in {self._fall_s:g} s"
        if by_load:
            span += f", {config.aggregation_function} of {self._rise_s:g} s"
        return Decision(count, self._what(peak, by_load, span))

    def _to_zero(self, target: int, by_load: bool, asked: float, now: float) -> Decision | None:
        if target != 1 or self.config.min_replicas or not self._is_idle(now):
            return None
        if not by_load and asked:
            return None
        return self._to_none()

    def _to_none(self) -> Decision:
        return Decision(0, f"no request for {self._idle_s:g} s")

    def _is_idle(self, now: float) -> bool:
        since = self._idle_since
        return since is not None and now - since >= self._idle_s - _ROUNDING

    def _what(self, asked: float, by_load: bool, span: str) -> str:
        if not by_load:
            return f"the policy asks for {asked:g} replicas ({span})"
        config = self.config
        requests = asked * config.target_ongoing_requests
        return (
            f"{requests:.1f} requests ({span}), {config.target_ongoing_requests:g} to a replica, "
            f"ask for {math.ceil(asked - _ROUNDING)}"
        )

    def _wake_at(self, target: int, by_load: bool, now: float) -> float | None:
        config = self.config
        is_quiet = (
            by_load
            and not self._series.latest
            and target == config.min_replicas
            and not self._series.changed_within(config.look_back_period_s, now)
        )
        return None if is_quiet else now + self.period_s


def first_target(config: AutoscalingConfig, before: int | None) -> int:
    """How many replicas a deployment begins with that was deployed, or found, with `before`."""
    if before is None:
        return config.first_replicas
    return min(max(before, config.min_replicas), config.max_replicas)
