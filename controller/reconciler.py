"""The loop that makes what runs into what is wanted.

Everything that happens (a deploy, a replica that reports or ends, a moment that comes) only marks
the application as dirty. A turn takes each dirty application, asks `plan` for the next steps,
carries them out, publishes what callers may use, and notes the status. Long work (starting and
stopping processes) runs in tasks of the replica that it is about.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from dataclasses import replace

from serving.aio import Tasks
from serving.controller import plan
from serving.controller.model import History, Replica, ReplicaState, Start, Stop
from serving.controller.publisher import Publisher
from serving.controller.replica import ReplicaProcess, Settings, Surroundings, new_token
from serving.controller.state import ApplicationState, DeploymentState
from serving.controller.status import application_status, headline, unavailable
from serving.controller.store import ApplicationRecord, Store
from serving.v1 import controller_pb2 as pb

log = logging.getLogger("serving.controller")

_RETRY_AFTER_ERROR_S = 1.0
# For a replica that said that it cannot start.
_EXIT_TIMEOUT_S = 2.0


class ConflictError(Exception):
    """The route prefix belongs to another application."""


class Reconciler:
    """Owns the state of all applications. Lives on one event loop; `run` must be running."""

    def __init__(self, around: Surroundings, store: Store, publisher: Publisher) -> None:
        self._around = around
        self._store = store
        self._publisher = publisher

        # State
        self._applications: dict[str, ApplicationState] = {}
        self._replicas: dict[str, tuple[ApplicationState, str]] = {}
        self.statuses: dict[str, pb.ApplicationStatus] = {}

        # What to do next
        self._dirty: set[str] = set()
        self._alarms: dict[str, float] = {}
        self._wake = asyncio.Event()
        self._status_changed = asyncio.Event()
        self._idle = asyncio.Event()
        self._tasks = Tasks()

    # What is asked of it

    def deploy(self, spec: pb.ApplicationSpec) -> int:
        """Sets the target of one application; returns its generation.

        The same specification again changes nothing, unless it failed: then it is tried again.
        """
        self._check_route_is_free(spec)
        state = self._applications.get(spec.name)
        if state and not state.deleting and not state.has_failed and _same(state.record.spec, spec):
            return state.record.generation
        generation = state.record.generation + 1 if state else 1
        record = ApplicationRecord(spec, generation, time.time())
        self._store.put(record)
        if state is None:
            state = self._applications[spec.name] = ApplicationState(record)
        state.want(record)
        log.info("application %r: deploying, generation %s", spec.name, generation)
        self._note_status(state)
        self._touch(spec.name)
        return generation

    def _check_route_is_free(self, spec: pb.ApplicationSpec) -> None:
        for other in self._applications.values():
            if other.name == spec.name or other.deleting or not spec.route_prefix:
                continue
            if spec.route_prefix in other.route_prefixes:
                raise ConflictError(
                    f"application {spec.name!r} cannot have the route prefix "
                    f"{spec.route_prefix!r}: application {other.name!r} has it; choose another "
                    f"route_prefix, or serving.delete({other.name!r}) first"
                )

    def delete(self, name: str) -> bool:
        """Stops an application; returns whether there was one."""
        state = self._applications.get(name)
        if state is None or state.deleting:
            return False
        log.info("application %r: deleting", name)
        self._remove(state)
        self._tasks.start(self._tell_what_is_open(state), name=f"what is open in {name}")
        return True

    async def _tell_what_is_open(self, state: ApplicationState) -> None:
        state.waits_for = await self.what_is_open(state)
        if self._applications.get(state.name) is state and state.deleting:
            self._note_status(state)

    async def what_is_open(self, *states: ApplicationState) -> str:
        """Which requests an end has to wait for and how long, in these applications or in all;
        empty where there are none."""
        replicas = [
            replica
            for state in states or self._applications.values()
            for deployment in state.deployments.values()
            for replica in deployment.replicas.values()
        ]
        counts = await asyncio.gather(*(replica.ongoing() for replica in replicas))
        graces = [replica.grace_s for replica, count in zip(replicas, counts, strict=True) if count]
        if not graces:
            return ""
        requests = "1 open request" if sum(counts) == 1 else f"{sum(counts)} open requests"
        return f"waiting up to {max(graces):.0f} s for {requests}"

    def _remove(self, state: ApplicationState) -> None:
        self._store.remove(state.name)
        state.delete()
        self._note_status(state)
        self._touch(state.name)

    def report(self, replica_id: str, error: str) -> None:
        """A replica is ready, or could not start."""
        application, name = self._replicas.get(replica_id, (None, ""))
        if application is None:
            return
        deployment = application.deployments[name]
        replica = deployment.replicas[replica_id]
        if replica.seen.state is not ReplicaState.STARTING:
            return
        now = time.monotonic()
        if error:
            log.warning("%s could not start: %s", replica_id, headline(error))
            replica.error = error
            self._note_failure(deployment, replica, error, now)
            replica.become(ReplicaState.STOPPING, now)
            # It exits by itself after this.
            self._tasks.start(replica.end(_EXIT_TIMEOUT_S), name=f"end {replica_id}")
        else:
            replica.become(ReplicaState.RUNNING, now)
            history = deployment.histories.get(replica.seen.version, History())
            deployment.histories[replica.seen.version] = plan.after_ready(history, now=now)
            health = self._watch_health(application, name, replica)
            self._tasks.start(health, name=f"health of {replica_id}")
        self._touch(application.name)

    async def _watch_health(
        self, state: ApplicationState, name: str, replica: ReplicaProcess
    ) -> None:
        """Asks a replica whether it is well, for as long as it serves."""
        while (deployment := state.deployments.get(name)) is not None:
            options = deployment.spec.options
            if await replica.ends_within(options.health_check_period_s):
                return
            complaint = await replica.check_health(options.health_check_timeout_s)
            if replica.seen.state is not ReplicaState.RUNNING:
                return
            self._note_check(state, deployment, replica, complaint)

    def _note_check(
        self,
        state: ApplicationState,
        deployment: DeploymentState,
        replica: ReplicaProcess,
        complaint: str,
    ) -> None:
        replica.seen = plan.after_check(replica.seen, passed=not complaint)
        if not complaint:
            return
        count = replica.seen.failed_checks
        log.warning(
            "%s failed a health check, %s in a row: %s", replica, count, headline(complaint)
        )
        if plan.is_sick(replica.seen):
            error = f"check_health() failed {count} times in a row: {complaint}"
            self._note_failure(deployment, replica, error, time.monotonic())
            self._touch(state.name)

    # The loop

    async def run(self) -> None:
        """Turns until it is cancelled."""
        while True:
            timeout = min(self._alarms.values(), default=None)
            try:
                async with asyncio.timeout_at(timeout and self._loop_time(timeout)):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            self._turn(time.monotonic())

    @staticmethod
    def _loop_time(moment: float) -> float:
        return asyncio.get_running_loop().time() + moment - time.monotonic()

    def _touch(self, application: str) -> None:
        self._dirty.add(application)
        self._wake.set()

    def _turn(self, now: float) -> None:
        due = {name for name, moment in self._alarms.items() if moment <= now}
        dirty, self._dirty = self._dirty | due, set()
        for name in dirty:
            self._alarms.pop(name, None)
            state = self._applications.get(name)
            if state is None:
                continue
            try:
                self._reconcile(state, now)
            except Exception:  # of one application: the others must not suffer
                log.exception("application %r cannot be reconciled", name)
                self._alarms[name] = now + _RETRY_AFTER_ERROR_S
        if not self._applications:
            self._idle.set()

    def _reconcile(self, state: ApplicationState, now: float) -> None:
        self._take_steps(state, now)
        if state.is_complete and state.serving is not state.record.spec:
            state.complete()
            self._take_steps(state, now)  # what only the one before it needed may go
        self._publish(state, now)
        self._note_status(state)

    def _take_steps(self, state: ApplicationState, now: float) -> None:
        held = state.held
        for name, deployment in list(state.deployments.items()):
            steps = plan.compute(
                deployment.target,
                deployment.histories,
                deployment.seen(),
                now,
                is_held=name in held,
            )
            for start in steps.start:
                self._start(state, name, start, now)
            for stop in steps.stop:
                self._stop(state, name, stop, now)
            if steps.wake_at is not None:
                self._alarms[state.name] = min(
                    steps.wake_at, self._alarms.get(state.name, math.inf)
                )
            if deployment.target is not None:
                self._reconfigure(state, deployment)
            elif not deployment.replicas:
                del state.deployments[name]

    # Steps

    def _start(self, state: ApplicationState, name: str, step: Start, now: float) -> None:
        deployment = state.deployments[name]
        token = new_token()
        replica_id = f"{state.name}#{name}#{token}"
        wanted = deployment.spec_to_start(step.version)
        calls = frozenset(wanted.calls)
        seen = Replica(replica_id, step.version, ReplicaState.STARTING, now, now, calls)
        replica = ReplicaProcess(self._around, seen, token)
        deployment.replicas[replica_id] = replica
        self._replicas[replica_id] = (state, name)
        application = state.record.spec
        spec = pb.ReplicaSpec(
            application=state.name,
            replica_id=replica_id,
            deployment=wanted,
            is_ingress=name == application.ingress,
            route_prefix=application.route_prefix,
        )
        log.debug("%s: starting (%s)", replica_id, step.reason)
        self._tasks.start(self._life(state, name, replica, spec), name=f"run {replica_id}")

    async def _life(
        self, state: ApplicationState, name: str, replica: ReplicaProcess, spec: pb.ReplicaSpec
    ) -> None:
        try:
            code: int | None = await replica.run(spec)
        except Exception as error:  # whatever it was, this replica is no more
            code, replica.error = None, f"its process could not be started: {error}"
        deployment = state.deployments[name]
        now = time.monotonic()
        if replica.seen.state is not ReplicaState.STOPPING:
            served = replica.seen.state is ReplicaState.RUNNING
            when = "while it served" if served else "before it was ready"
            error_text = replica.error or f"the process ended with {_exit_text(code)} {when}"
            log.warning("%s (pid %s): %s", replica.seen.replica_id, replica.pid, error_text)
            self._note_failure(deployment, replica, error_text, now)
        del deployment.replicas[replica.seen.replica_id]
        del self._replicas[replica.seen.replica_id]
        self._touch(state.name)

    def _note_failure(
        self, deployment: DeploymentState, replica: ReplicaProcess, error: str, now: float
    ) -> None:
        seen = replica.seen
        if seen.version in deployment.specs:
            deployment.histories[seen.version] = plan.after_failure(
                deployment.histories.get(seen.version, History()),
                started_at=seen.started_at,
                was_ready=seen.state is ReplicaState.RUNNING,
                error=error,
                now=now,
            )

    def _stop(self, state: ApplicationState, name: str, step: Stop, now: float) -> None:
        deployment = state.deployments[name]
        replica = deployment.replicas[step.replica_id]
        was_ready = replica.seen.state is ReplicaState.RUNNING
        replica.become(ReplicaState.STOPPING, now)
        log.debug("%s: stopping (%s)", step.replica_id, step.reason)

        async def unpublished() -> None:
            # This turn's publishing, which has happened by now, leaves the replica out.
            await self._publisher.confirmed(self._publisher.revision)

        ending = replica.stop(unpublished) if was_ready else replica.end()
        self._tasks.start(ending, name=f"stop {step.replica_id}")

    def _reconfigure(self, state: ApplicationState, deployment: DeploymentState) -> None:
        assert deployment.target is not None
        wanted = deployment.settings
        for replica in deployment.ready:
            is_current = replica.seen.version == deployment.target.version
            if is_current and replica.settings != wanted and not replica.is_reconfiguring:
                replica.is_reconfiguring = True
                self._tasks.start(
                    self._tell(state, deployment, replica, wanted),
                    name=f"reconfigure {replica.seen.replica_id}",
                )

    async def _tell(
        self,
        state: ApplicationState,
        deployment: DeploymentState,
        replica: ReplicaProcess,
        settings: Settings,
    ) -> None:
        """Has a replica take over its settings. One that refuses gets those back that it had; one
        that refuses these too is replaced."""
        error = await replica.reconfigure(settings)
        if error and deployment.settings == settings:
            log.warning("%s did not take its settings: %s", replica, headline(error))
            if deployment.config_error or settings.user_config_json == deployment.previous_config:
                replica.seen = replace(replica.seen, failed_checks=plan.MAX_FAILED_CHECKS)
                self._note_failure(deployment, replica, error, time.monotonic())
            else:
                deployment.config_error = error
        self._touch(state.name)

    # What others see

    def _publish(self, state: ApplicationState, now: float) -> None:
        routed = state.routed
        route = None
        if routed is not None and routed.route_prefix:
            route = pb.Route(
                application=state.name, route_prefix=routed.route_prefix, ingress=routed.ingress
            )
        deployments = {
            name: _published(state.name, name, deployment, now)
            for name, deployment in state.deployments.items()
        }
        revision = self._publisher.publish(state.name, route, deployments)
        generation = state.record.generation
        if state.is_complete and state.confirming_generation != generation:
            state.confirming_generation = generation
            self._tasks.start(
                self._confirm(state, generation, revision), name=f"confirm {state.name}"
            )

    async def _confirm(self, state: ApplicationState, generation: int, revision: int) -> None:
        await self._publisher.confirmed(revision)
        if state.record.generation == generation and not state.deleting:
            state.confirmed_generation = generation
            self._touch(state.name)

    def _note_status(self, state: ApplicationState) -> None:
        if state.deleting and not state.deployments:
            del self._applications[state.name]
            self.statuses.pop(state.name, None)
            log.debug("application %r: deleted", state.name)
        else:
            status = application_status(state)
            if self.statuses.get(state.name) == status:
                return
            self.statuses[state.name] = status
        self.notify_status()

    def notify_status(self) -> None:
        """Wakes those who wait for a change of status."""
        waited_for, self._status_changed = self._status_changed, asyncio.Event()
        waited_for.set()

    async def status_change(self) -> None:
        """Returns when any status changed after the call."""
        await self._status_changed.wait()

    # The end

    async def shut_down(self, *, spent_s: float = 0.0) -> None:
        """Deletes every application and returns when no replica is left.

        `spent_s`: how much of their grace the replicas had already.
        """
        self._idle.clear()
        for replica in self._every_replica():
            replica.grace_s = max(0.0, replica.grace_s - spent_s)
        for state in list(self._applications.values()):
            if not state.deleting:
                self._remove(state)
        self._wake.set()
        await self._idle.wait()

    def kill(self) -> None:
        """Kills every replica, for when there is no time left."""
        for replica in self._every_replica():
            replica.kill()

    def _every_replica(self) -> list[ReplicaProcess]:
        return [
            application.deployments[name].replicas[replica_id]
            for replica_id, (application, name) in self._replicas.items()
        ]


def _same(one: pb.ApplicationSpec, other: pb.ApplicationSpec) -> bool:
    """Whether two specifications ask for the same.

    What a version is a hash of is left out: pickled once more, the same code has other bytes.
    """
    return _without_code(one) == _without_code(other)


def _without_code(spec: pb.ApplicationSpec) -> pb.ApplicationSpec:
    bare = pb.ApplicationSpec(name=spec.name, route_prefix=spec.route_prefix, ingress=spec.ingress)
    for deployment in spec.deployments:
        bare.deployments.add(
            name=deployment.name, options=deployment.options, version=deployment.version
        )
    return bare


def _published(
    application: str, name: str, deployment: DeploymentState, now: float
) -> pb.Deployment:
    options = deployment.spec.options
    return pb.Deployment(
        application=application,
        name=name,
        max_ongoing_requests=options.max_ongoing_requests,
        max_queued_requests=options.max_queued_requests,
        endpoints=[
            pb.Endpoint(replica_id=replica.seen.replica_id, address=replica.address)
            for replica in deployment.ready
        ],
        unavailable=unavailable(deployment, now),
    )


def _exit_text(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
