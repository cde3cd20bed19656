"""What is remembered of a deployment for those who ask why: its last decisions and failures."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from serving.controller.model import Plan
from serving.v1 import controller_pb2 as pb

KEPT_DECISIONS = 20
KEPT_FAILURES = 5
MAX_ERROR_LENGTH = 4000
"""Characters of one error that are kept: its beginning says what went wrong."""


@dataclass
class Journal:
    """Of one deployment, in memory. Times are seconds since the epoch."""

    decisions: deque[pb.Decision] = field(default_factory=lambda: deque(maxlen=KEPT_DECISIONS))
    failures: deque[pb.ReplicaFailure] = field(default_factory=lambda: deque(maxlen=KEPT_FAILURES))

    def decided(self, text: str, at_s: float) -> None:
        """Notes a decision, in words."""
        self.decisions.append(pb.Decision(at_s=at_s, text=text))

    def planned(self, plan: Plan, at_s: float) -> None:
        """Notes the steps of a plan; those of one kind and reason are one decision."""
        starting = Counter((step.version, step.reason) for step in plan.start)
        for (version, reason), count in starting.items():
            self.decided(f"start {_replicas(count)} of version {version}: {reason}", at_s)
        stopping: dict[str, list[str]] = {}
        for step in plan.stop:
            stopping.setdefault(step.reason, []).append(step.replica_id.rpartition("#")[2])
        for reason, names in stopping.items():
            self.decided(f"stop {_replicas(len(names))} ({', '.join(names)}): {reason}", at_s)

    def failed(self, replica_id: str, error: str, at_s: float) -> None:
        """Notes why a replica failed."""
        self.failures.append(
            pb.ReplicaFailure(at_s=at_s, replica_id=replica_id, error=error[:MAX_ERROR_LENGTH])
        )


def _replicas(count: int) -> str:
    return "1 replica" if count == 1 else f"{count} replicas"
