"""What is remembered of a deployment for those who ask why: its last decisions and failures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from serving.controller.model import Plan
from serving.v1 import controller_pb2 as pb

KEPT_DECISIONS = 20
KEPT_FAILURES = 5
MAX_ERROR_LENGTH = 4000
"""Characters of one error that are kept: its beginning says what went wrong."""


@dataclass(frozen=True)
class Journal:
    """Of one deployment, a value: what is added gives another one, so that it can be committed
    before it is taken over. Times are seconds since the epoch."""

    decisions: tuple[pb.Decision, ...] = ()
    failures: tuple[pb.ReplicaFailure, ...] = ()

    def decided(self, text: str, at_s: float) -> Journal:
        """With a decision, in words."""
        decisions = (*self.decisions, pb.Decision(at_s=at_s, text=text))
        return replace(self, decisions=decisions[-KEPT_DECISIONS:])

    def planned(self, plan: Plan, at_s: float) -> Journal:
        """With the steps of a plan; those of one kind and reason are one decision."""
        journal = self
        starting = Counter((step.version, step.reason) for step in plan.start)
        for (version, reason), count in starting.items():
            text = f"start {_replicas(count)} of version {version}: {reason}"
            journal = journal.decided(text, at_s)
        stopping: dict[str, list[str]] = {}
        for step in plan.stop:
            stopping.setdefault(step.reason, []).append(step.replica_id.rpartition("#")[2])
        for reason, names in stopping.items():
            text = f"stop {_replicas(len(names))} ({', '.join(names)}): {reason}"
            journal = journal.decided(text, at_s)
        return journal

    def failed(self, replica_id: str, error: str, at_s: float) -> Journal:
        """With the reason why a replica failed."""
        failure = pb.ReplicaFailure(
            at_s=at_s, replica_id=replica_id, error=error[:MAX_ERROR_LENGTH]
        )
        return replace(self, failures=(*self.failures, failure)[-KEPT_FAILURES:])


def _replicas(count: int) -> str:
    return "1 replica" if count == 1 else f"{count} replicas"
