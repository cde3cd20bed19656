"""Carries decisions out: starts, adopts, reconfigures, checks and stops replicas.

Each replica has a task that lasts as long as its process, and others for what takes time. What they
find is told to the reconciler as facts, which decides what follows.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Protocol

from serving.aio import Tasks
from serving.controller.model import ReplicaState
from serving.controller.publisher import Publisher
from serving.controller.replica import ReplicaProcess, Settings
from serving.v1 import controller_pb2 as pb
from serving.v1.replica_pb2 import DescribeResponse

# For a replica that said that it cannot start.
_EXIT_TIMEOUT_S = 2.0
# Between two questions whether a replica that was adopted is ready.
_READY_PERIOD_S = 1.0
# A start that takes so long is told, and again whenever it has taken twice as long.
_SLOW_START_S = 5.0
# Between two questions whether a replica that has no check_health answers. Seldom, since its end is
# heard of without: with the default timeout, one that hangs is found as soon as if it had one.
LIVENESS_PERIOD_S = 45.0
# Between two questions whether an event loop turns, of the time for which it may not.
_PROBES_EACH = 0.25


class Facts(Protocol):
    """Who is told what happened to replicas."""

    def has_process(self, replica: ReplicaProcess) -> None:
        """Its process was started: its record names it now."""
        ...

    def is_ready(self, replica: ReplicaProcess) -> None:
        """It takes requests."""
        ...

    def is_slow(self, replica: ReplicaProcess, for_s: float, stacks: str) -> None:
        """It has been starting for that long; its stacks, if it tells them."""
        ...

    def has_ended(self, replica: ReplicaProcess, code: int | None) -> None:
        """Its process is gone, with this exit code, or never came to be (`replica.error`)."""
        ...

    def was_checked(self, replica: ReplicaProcess, complaint: str) -> None:
        """Its health was checked; empty: it is well."""
        ...

    def was_reconfigured(self, replica: ReplicaProcess, settings: Settings, error: str) -> None:
        """It was told these settings; empty: it runs with them."""
        ...

    def is_blocked(self, replica: ReplicaProcess, for_s: float, stacks: str) -> None:
        """Its event loop has been blocked for longer than it may."""
        ...

    def blocked_loop_limit_of(self, replica: ReplicaProcess) -> float | None:
        """Seconds for which its event loop may be blocked; None: for any time, or it is gone."""
        ...

    def health_check_of(self, replica: ReplicaProcess) -> tuple[float, float] | None:
        """Seconds between two checks, and that one may take; None: it is of no deployment."""
        ...


class Actuator:
    """The replicas' processes, as far as something is under way with them."""

    def __init__(self, publisher: Publisher, facts: Facts) -> None:
        self._publisher = publisher
        self._facts = facts
        self._tasks = Tasks()

    def start(self, replica: ReplicaProcess, spec: pb.ReplicaSpec) -> None:
        """Starts a replica, and watches it."""
        self._tasks.start(self._run(replica, spec), name=f"run {replica.seen.replica_id}")

    def watch(self, replica: ReplicaProcess) -> None:
        """Watches a replica that was adopted."""
        self._tasks.start(self._wait(replica), name=f"run {replica.seen.replica_id}")
        if replica.seen.state is ReplicaState.STARTING:
            name = f"readiness of {replica.seen.replica_id}"
            self._tasks.start(self._wait_until_ready(replica), name=name)
            self._watch_start(replica)

    def watch_health(self, replica: ReplicaProcess) -> None:
        """Checks the health of a replica for as long as it takes requests."""
        self._tasks.start(self._check(replica), name=f"health of {replica.seen.replica_id}")

    def watch_loop(self, replica: ReplicaProcess) -> None:
        """Watches whether the event loop of a replica turns, for as long as it has a limit."""
        if not replica.loop_is_watched:
            replica.loop_is_watched = True
            self._tasks.start(self._watch_loop(replica), name=f"loop of {replica.seen.replica_id}")

    def stop(self, replica: ReplicaProcess, *, takes_requests: bool) -> None:
        """Ends a replica: one that takes requests once these are done."""

        async def unpublished() -> None:
            # This turn's publishing, which has happened by now, leaves the replica out.
            await self._publisher.confirmed(self._publisher.revision)

        ending = replica.stop(unpublished) if takes_requests else replica.end()
        self._tasks.start(ending, name=f"stop {replica.seen.replica_id}")

    def expect_end(self, replica: ReplicaProcess) -> None:
        """Ends a replica that said it cannot start, and is about to end by itself."""
        self._tasks.start(replica.end(_EXIT_TIMEOUT_S), name=f"end {replica.seen.replica_id}")

    def reconfigure(self, replica: ReplicaProcess, settings: Settings) -> None:
        """Has a replica take over settings, unless it is busy with others."""
        if replica.is_reconfiguring:
            return
        replica.is_reconfiguring = True
        self._tasks.start(
            self._tell(replica, settings), name=f"reconfigure {replica.seen.replica_id}"
        )

    async def join(self) -> None:
        """Waits until nothing is under way any more: the processes have ended."""
        await self._tasks.join()

    async def aclose(self) -> None:
        """Lets go of all replicas; what runs goes on."""
        await self._tasks.aclose()

    async def _run(self, replica: ReplicaProcess, spec: pb.ReplicaSpec) -> None:
        try:
            await replica.start(spec)
        except Exception as error:  # whatever it was, this replica is no more
            replica.error = f"its process could not be started: {error}"
            self._end(replica, None)
            return
        self._facts.has_process(replica)
        self._watch_start(replica)
        await self._wait(replica)

    async def _wait(self, replica: ReplicaProcess) -> None:
        self._end(replica, await replica.wait())

    async def _wait_until_ready(self, replica: ReplicaProcess) -> None:
        """It may have told the controller before this one, and does not tell again."""
        while replica.seen.state is ReplicaState.STARTING:
            answer = await replica.describe(_READY_PERIOD_S)
            if answer is not None and answer.state == DescribeResponse.READY:
                self._facts.is_ready(replica)
            elif await replica.ends_within(_READY_PERIOD_S):
                return

    def _watch_start(self, replica: ReplicaProcess) -> None:
        self._tasks.start(self._tell_slowness(replica), name=f"start of {replica.seen.replica_id}")

    async def _tell_slowness(self, replica: ReplicaProcess) -> None:
        began, after_s = replica.seen.started_at, _SLOW_START_S
        while not await replica.ends_within(max(0.0, began + after_s - time.monotonic())):
            if replica.seen.state is not ReplicaState.STARTING:
                return
            told = await replica.stacks()
            taken_s = time.monotonic() - began
            if replica.seen.state is ReplicaState.STARTING:
                self._facts.is_slow(replica, taken_s, told.text)
            after_s = 2 * max(after_s, taken_s)

    def _end(self, replica: ReplicaProcess, code: int | None) -> None:
        replica.has_ended()
        self._facts.has_ended(replica, code)

    async def _check(self, replica: ReplicaProcess) -> None:
        # Those that were started together are not all asked together.
        share = random.random()
        while (times := self._facts.health_check_of(replica)) is not None:
            period_s, timeout_s = times
            if not replica.has_check:
                period_s = max(period_s, LIVENESS_PERIOD_S)
            if await replica.ends_within(period_s * share):
                return
            had_check = replica.has_check
            complaint = await replica.check_health(timeout_s)
            share = 1.0 if replica.has_check is had_check else random.random()
            if replica.seen.state is not ReplicaState.RUNNING:
                return
            self._facts.was_checked(replica, complaint)

    async def _watch_loop(self, replica: ReplicaProcess) -> None:
        clock = asyncio.get_running_loop().time
        answered_at = clock()
        try:
            while (limit_s := self._facts.blocked_loop_limit_of(replica)) is not None:
                if await replica.ends_within(limit_s * _PROBES_EACH):
                    return
                lag_s = await replica.loop_lag_s(limit_s)
                if lag_s is None:  # not even its control thread runs: something holds the GIL
                    lag_s = clock() - answered_at
                else:
                    answered_at = clock()
                if lag_s > limit_s:
                    told = await replica.stacks()
                    self._facts.is_blocked(replica, lag_s, told.text or told.error)
                    return
        finally:
            replica.loop_is_watched = False

    async def _tell(self, replica: ReplicaProcess, settings: Settings) -> None:
        error = await replica.reconfigure(settings)
        self._facts.was_reconfigured(replica, settings, error)
