"""What happens to replicas: what they report, and what the actuator finds.

It is noted in their state, and their application is to be looked at.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace

from serving import stacks as texts
from serving.controller import plan
from serving.controller.actuator import Actuator
from serving.controller.model import History, ReplicaState
from serving.controller.publisher import Publisher
from serving.controller.queue import Queue
from serving.controller.registry import Registry
from serving.controller.replica import ReplicaProcess, Settings
from serving.controller.room import Room
from serving.controller.status import headline, headline_first

log = logging.getLogger("serving.controller")


class Events:
    """The actuator's `Facts`. It is here because some of them have it act at once."""

    def __init__(self, registry: Registry, queue: Queue, room: Room, publisher: Publisher) -> None:
        self.actuator = Actuator(publisher, self)
        self._registry = registry
        self._queue = queue
        self._room = room

    # Its life

    def has_process(self, replica: ReplicaProcess) -> None:
        self._registry.note(replica)
        self._queue.add(replica.record.application)

    def report(self, replica_id: str, error: str) -> bool:
        """A replica is ready, or could not start; returns whether it is wanted."""
        replica = self._registry.replicas.get(replica_id)
        if replica is None:
            return False
        if replica.seen.state is not ReplicaState.STARTING:
            return replica.seen.state is ReplicaState.RUNNING
        if error:
            log.warning("%s could not start: %s", replica_id, headline(error))
            replica.error = error
            self._note_failure(replica, error)
            self._become(replica, ReplicaState.STOPPING)
            self.actuator.expect_end(replica)
        else:
            self._become(replica, ReplicaState.RUNNING)
            self.takes_requests(replica)
        self._queue.add(replica.record.application)
        return not error

    def is_ready(self, replica: ReplicaProcess) -> None:
        self.report(replica.seen.replica_id, "")

    def is_slow(self, replica: ReplicaProcess, for_s: float, stacks: str) -> None:
        place = texts.place_of(stacks)
        replica.slowness = f"has been starting for {for_s:.0f} s{place and f': it is at {place}'}"
        log.warning("%s %s", replica.seen.replica_id, replica.slowness)
        self._queue.add(replica.record.application)

    def takes_requests(self, replica: ReplicaProcess) -> None:
        """It does from now on, or was found to do so."""
        deployment, version = self._registry.deployment_of(replica), replica.seen.version
        history = deployment.histories.get(version, History())
        history = plan.after_ready(history, now=time.monotonic())
        target = deployment.target
        if target and target.wakes and not target.previous:
            history = plan.after_complete(history)  # it may never have as many as it had wanted
        deployment.histories[version] = history
        self.actuator.watch_health(replica)

    def _become(self, replica: ReplicaProcess, state: ReplicaState) -> None:
        replica.become(state, time.monotonic())
        self._registry.note(replica)

    def has_ended(self, replica: ReplicaProcess, code: int | None) -> None:
        if replica.seen.state is not ReplicaState.STOPPING:
            served = replica.seen.state is ReplicaState.RUNNING
            when = "while it served" if served else "before it was ready"
            error = replica.error or f"the process ended{_exit_text(code)} {when}"
            log.warning("%s (pid %s): %s", replica.seen.replica_id, replica.pid, error)
            self._note_failure(replica, error)
        self._registry.drop(replica)
        self._room.give_back(replica)
        self._queue.add(replica.record.application)

    # Its health

    def health_check_of(self, replica: ReplicaProcess) -> tuple[float, float] | None:
        if replica.seen.replica_id not in self._registry.replicas:
            return None
        options = self._registry.deployment_of(replica).spec.options
        return options.health_check_period_s, options.health_check_timeout_s

    def was_checked(self, replica: ReplicaProcess, complaint: str) -> None:
        replica.seen = plan.after_check(replica.seen, passed=not complaint)
        if not complaint:
            return
        count = replica.seen.failed_checks
        log.warning(
            "%s failed a health check, %s in a row: %s", replica, count, headline(complaint)
        )
        if plan.is_sick(replica.seen):
            error = f"health checks failed {count} times in a row: {complaint}"
            self._note_failure(replica, error)
            self._queue.add(replica.record.application)

    def blocked_loop_limit_of(self, replica: ReplicaProcess) -> float | None:
        known = replica.seen.replica_id in self._registry.replicas
        if not known or replica.seen.state is not ReplicaState.RUNNING:
            return None
        return self._registry.deployment_of(replica).blocked_loop_limit_s

    def is_blocked(self, replica: ReplicaProcess, for_s: float, stacks: str) -> None:
        limit_s = self.blocked_loop_limit_of(replica)
        if limit_s is None:  # it was stopped meanwhile, or may be blocked
            return
        fault = f"its event loop was blocked for {for_s:.1f} s, and may be for {limit_s:g} s"
        log.warning("%s is replaced: %s. What it does:\n%s", replica, fault, stacks)
        replica.seen = replace(replica.seen, fault=fault)
        self._note_failure(replica, fault)
        self._queue.add(replica.record.application)

    # Its settings

    def was_reconfigured(self, replica: ReplicaProcess, settings: Settings, error: str) -> None:
        """One that refuses its settings gets those back that it had; one that refuses these too
        is replaced."""
        if replica.seen.replica_id not in self._registry.replicas:
            return
        deployment = self._registry.deployment_of(replica)
        if error and deployment.settings == settings:
            log.warning("%s did not take its settings: %s", replica, headline(error))
            if deployment.config_error or settings.user_config_json == deployment.previous_config:
                replica.seen = replace(replica.seen, fault="it did not take its settings")
                self._note_failure(replica, error)
            else:
                deployment.config_error = error
        self._queue.add(replica.record.application)

    def _note_failure(self, replica: ReplicaProcess, error: str) -> None:
        seen, deployment = replica.seen, self._registry.deployment_of(replica)
        reason = headline_first(error)
        deployment.journal = deployment.journal.failed(seen.replica_id, reason, time.time())
        self._registry.note_deployment(replica.record.application, replica.record.deployment)
        if seen.version in deployment.specs:
            deployment.histories[seen.version] = plan.after_failure(
                deployment.histories.get(seen.version, History()),
                started_at=seen.started_at,
                was_ready=seen.state is ReplicaState.RUNNING,
                error=error,
                now=time.monotonic(),
            )


def _exit_text(code: int | None) -> str:
    if code is None:  # only its parent knows, which was another controller
        return ""
    return f" with signal {-code}" if code < 0 else f" with exit code {code}"
