"""One thing done in several ways, by turns, and what the rounds found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

import psutil
from loads import Sample

WARM_UP_S = 0.5


@dataclass(frozen=True)
class Way:
    """One way to do a thing: a round of it, and the processes that work on it."""

    name: str
    load: Callable[[int, float], Sample]
    processes: dict[str, psutil.Process] = field(default_factory=dict)

    def cpu_s(self) -> dict[str, float]:
        return {role: sum(each.cpu_times()[:2]) for role, each in self.processes.items()}


@dataclass
class Comparison:
    """One thing done in several ways: the first is looked at, the others are its yardsticks."""

    name: str
    title: str
    concurrency: int
    ways: list[Way]
    figure: str = "rate"
    """What the ratios are of."""
    target: float | None = None
    """Of the ratio to the second way, and negative where less is better."""
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    cpu_us: dict[str, dict[str, float]] = field(default_factory=dict)
    """Microseconds of processor time each, by way and process."""

    def run(self, seconds: float, rounds: int) -> None:
        """Does it in each way by turns."""
        used = {way.name: dict.fromkeys(way.processes, 0.0) for way in self.ways}
        for way in self.ways:
            way.load(self.concurrency, WARM_UP_S)
            self.samples[way.name] = []
        for number in range(rounds):
            turn = number % len(self.ways)
            for way in self.ways[turn:] + self.ways[:turn]:
                before = way.cpu_s()
                self.samples[way.name].append(way.load(self.concurrency, seconds))
                for role, after in way.cpu_s().items():
                    used[way.name][role] += after - before[role]
        for name, samples in self.samples.items():
            count = sum(sample.count for sample in samples)
            self.cpu_us[name] = {role: s / count * 1e6 for role, s in used[name].items()}

    def ratios(self, yardstick: Way) -> list[float]:
        pairs = self._pairs(self.figure, yardstick)
        return [ours / other for ours, other in pairs]

    def differences(self, figure: str, yardstick: Way) -> list[float]:
        return [ours - other for ours, other in self._pairs(figure, yardstick)]

    def _pairs(self, figure: str, yardstick: Way) -> list[tuple[float, float]]:
        """Of the rounds: the figure of the way that is looked at, and the yardstick's."""
        pairs = zip(self.samples[self.ways[0].name], self.samples[yardstick.name], strict=True)
        return [(getattr(ours, figure), getattr(other, figure)) for ours, other in pairs]


def show(found: Comparison) -> str:
    """For the terminal."""
    lines = [f"{found.title}, {found.concurrency} at a time"]
    for way in found.ways:
        samples = found.samples[way.name]
        cpu = " ".join(f"{role} {us:.0f}" for role, us in found.cpu_us[way.name].items())
        lines.append(
            f"  {way.name:22}{median(s.rate for s in samples):8,.0f}/s"
            f"  p50 {median(s.p50_ms for s in samples):.3f} ms  cpu us: {cpu or '-'}"
        )
        if way is not found.ways[0]:
            ratios = found.ratios(way)
            lines[-1] += f"  {found.figure} x {median(ratios):.2f}"
            lines[-1] += f" ({min(ratios):.2f}-{max(ratios):.2f})"
    return "\n".join(lines)
