"""What the planner sees and says: values, without processes, clocks or messages."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum


class ReplicaState(Enum):
    """Where a replica is in its life."""

    STARTING = "STARTING"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"


@dataclass(frozen=True)
class Replica:
    """A replica process, as far as decisions go."""

    replica_id: str
    version: str
    state: ReplicaState
    # When it was started, and when it last changed its state. Seconds, monotonic.
    started_at: float
    since: float
    # The deployments of its application that it may call.
    calls: frozenset[str] = frozenset()
    # Health checks that failed in a row.
    failed_checks: int = 0
    # Why it is to be replaced though it runs and is not asked any more; empty: it is not.
    fault: str = ""
    # Requests that it works on, when last heard.
    ongoing: int = 0


@dataclass(frozen=True)
class Target:
    """What is wanted of one deployment."""

    version: str
    num_replicas: int
    # The version that served before. It goes on doing so until all of the new one is ready, and for
    # good where the new one cannot start.
    previous: str | None = None
    # How many replicas an update replaces at a time: the share of all, and how many percent of all
    # may run above their number. The lesser holds, and one always may, unless the latter is 0.
    rolling_update_percentage: float = 1.0
    max_surge_percent: float = 100.0
    # The first request brings a replica, where there is to be none.
    wakes: bool = False
    # How many replicas of the version before are to run while none of the new one is ready.
    previous_replicas: int = 0
    # It had as many replicas as wanted, all of this version and configured, or nothing of it was to
    # change: those that call it may be updated.
    is_reached: bool = False
    # The deployments that it calls and that are to be updated before it; until then, and where it
    # goes back, the version before serves.
    waits_for: frozenset[str] = frozenset()
    # Another deployment of its application could not be updated.
    goes_back: bool = False

    @property
    def is_held_back(self) -> bool:
        return self.goes_back or bool(self.waits_for)


@dataclass(frozen=True)
class History:
    """How starting one version went so far."""

    # Failures in a row. Replicas that were started together and fail together count once.
    failures: int = 0
    last_failure_at: float = -math.inf
    retry_at: float = -math.inf
    last_ready_at: float = -math.inf
    # As many replicas as wanted were ready at the same time, once: the version works.
    proven: bool = False
    # Of the last failure.
    error: str = ""


@dataclass(frozen=True)
class Start:
    """Start a replica."""

    version: str
    reason: str


@dataclass(frozen=True)
class Stop:
    """Stop a replica, letting it finish its requests."""

    replica_id: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """The next steps of one deployment; empty once it is as wanted."""

    start: tuple[Start, ...] = ()
    stop: tuple[Stop, ...] = ()
    # When to look again though nothing happened; None: no need.
    wake_at: float | None = field(default=None)
