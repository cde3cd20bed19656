"""What the rounds of one load found, of both servers."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from loads import Sample, Scenario


@dataclass
class Comparison:
    """What the rounds of one scenario at one number of connections found."""

    scenario: Scenario
    connections: int
    access_log: bool
    serving: list[Sample] = field(default_factory=list)
    uvicorn: list[Sample] = field(default_factory=list)
    # Microseconds of processor time a request, by process.
    cpu_us: dict[str, float] = field(default_factory=dict)

    @property
    def ratios(self) -> list[float]:
        return [a.rate / b.rate for a, b in zip(self.serving, self.uvicorn, strict=True)]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def added_ms(self) -> float:
        """How much later than from uvicorn alone the median answer comes."""
        pairs = zip(self.serving, self.uvicorn, strict=True)
        return statistics.median(a.p50_ms - b.p50_ms for a, b in pairs)
