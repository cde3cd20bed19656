"""Which waiting items make the next batch, and when: decided here, without a clock or a loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, TypeVar

__all__ = ["BatchPolicy", "Entry", "Settings", "Taken"]

BatchSizeFn = Callable[[list[Any]], int]


@dataclass
class Settings:
    """The parameters of `@serving.batch`. Checked whenever one is set."""

    max_batch_size: int = 10
    batch_wait_timeout_s: float = 0.01
    max_concurrent_batches: int = 1
    batch_size_fn: BatchSizeFn | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        _CHECKS[name](name, value)
        super().__setattr__(name, value)

    def copy(self) -> Settings:
        return Settings(**vars(self))


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")


def _check_seconds(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} must be finite and at least 0 (which is: no wait), not {value}")


def _check_size_fn(name: str, value: object) -> None:
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be a function from a list of items to an int, not {value!r}")


_CHECKS: dict[str, Callable[[str, object], None]] = {
    "max_batch_size": _check_count,
    "batch_wait_timeout_s": _check_seconds,
    "max_concurrent_batches": _check_count,
    "batch_size_fn": _check_size_fn,
}


class Entry:
    """An item that waits."""

    __slots__ = ("arrived", "item", "lane")

    def __init__(self, item: Any, arrived: float, lane: str = "") -> None:
        self.item = item
        self.arrived = arrived
        self.lane = lane
        """Only items of one lane share a batch."""


E = TypeVar("E", bound=Entry)


@dataclass
class Taken(Generic[E]):
    """What leaves the queue."""

    batch: list[E] = field(default_factory=list)
    failed: list[tuple[E, Exception]] = field(default_factory=list)
    """Items that fit no batch, or whose size could not be told."""


class _Lane(Generic[E]):
    """Items of one lane in the order they came, the first `filled` of which make the next batch."""

    def __init__(self) -> None:
        self.entries: dict[E, None] = {}
        self.measure_again()

    def measure_again(self) -> None:
        self.filled = 0
        self.full = False

    @property
    def head(self) -> E:
        return next(iter(self.entries))

    def fill(self, settings: Settings, failed: list[tuple[E, Exception]]) -> None:
        """Finds how many of the items make the next batch; each item is looked at once for it."""
        limit = settings.max_batch_size
        if settings.batch_size_fn is None:
            self.filled = min(len(self.entries), limit)
            self.full = self.filled == limit
            return
        while not self.full and self.filled < len(self.entries):
            candidates = list(islice(self.entries, self.filled + 1))
            try:
                size = _size(settings.batch_size_fn, candidates)
                if size > limit and not self.filled:
                    raise RuntimeError(
                        f"an item of size {size} exceeds max_batch_size={limit}: no batch can hold "
                        "it. Raise max_batch_size, or send a smaller item"
                    )
            except Exception as error:
                # Without the last one it could be told: it is that one's fault.
                failed.append((candidates[-1], error))
                del self.entries[candidates[-1]]
                continue
            if size <= limit:
                self.filled += 1
            self.full = size >= limit

    def pop(self) -> list[E]:
        batch = list(islice(self.entries, self.filled))
        for entry in batch:
            del self.entries[entry]
        self.measure_again()
        return batch


def _size(size_fn: BatchSizeFn, entries: list[Any]) -> int:
    size: object = size_fn([entry.item for entry in entries])
    if not isinstance(size, int | float):
        raise TypeError(f"batch_size_fn must return an int, but returned {size!r}")
    return size  # type: ignore[return-value]  # a float does as well


class BatchPolicy(Generic[E]):
    """The items that wait. A batch goes when it is full or when its oldest has waited enough."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lanes: dict[str, _Lane[E]] = {}

    def __len__(self) -> int:
        return sum(len(lane.entries) for lane in self._lanes.values())

    def add(self, entry: E) -> None:
        lane = self._lanes.get(entry.lane)
        if lane is None:
            lane = self._lanes[entry.lane] = _Lane()
        lane.entries[entry] = None

    def discard(self, entry: E) -> None:
        """Takes an item out that is no longer wanted."""
        lane = self._lanes.get(entry.lane)
        if lane is None or entry not in lane.entries:
            return
        del lane.entries[entry]
        lane.measure_again()
        self._drop_if_empty(entry.lane)

    def measure_again(self) -> None:
        """The settings have changed."""
        for lane in self._lanes.values():
            lane.measure_again()

    def take(self, now: float) -> Taken[E]:
        """The next batch, if one is to go at this time: of those, the one that waited longest."""
        taken: Taken[E] = Taken()
        best: _Lane[E] | None = None
        for name, lane in list(self._lanes.items()):
            lane.fill(self._settings, taken.failed)
            if self._drop_if_empty(name):
                continue
            due = lane.full or lane.head.arrived + self._settings.batch_wait_timeout_s <= now
            if due and (best is None or lane.head.arrived < best.head.arrived):
                best = lane
        if best is not None:
            lane_name = best.head.lane
            taken.batch = best.pop()
            self._drop_if_empty(lane_name)
        return taken

    def wake_at(self) -> float | None:
        """When to look again, if nothing happens before; None where nothing waits."""
        if not self._lanes:
            return None
        oldest = min(lane.head.arrived for lane in self._lanes.values())
        return oldest + self._settings.batch_wait_timeout_s

    def _drop_if_empty(self, lane: str) -> bool:
        if self._lanes[lane].entries:
            return False
        del self._lanes[lane]
        return True
