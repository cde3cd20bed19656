"""The loop that makes what runs into what is wanted.

Everything that happens (a deploy, a replica that reports or ends, a moment that comes) only marks
the application as dirty. A turn takes each dirty application, asks `plan` for the next steps,
commits them to the store, has the actuator carry them out, publishes what callers may use, and
notes the status.

What is decided is committed before it is done; what merely happened (a process is there, a replica
is ready or has ended) is committed with the next turn: a controller that is killed before finds out
again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Coroutine, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from serving.aio import Tasks
from serving.config import AutoscalingContext
from serving.controller import plan
from serving.controller.actuator import Actuator
from serving.controller.autoscale import Decision
from serving.controller.model import History, Plan, Replica, ReplicaState, Start, Target
from serving.controller.packages import digests
from serving.controller.policy import PolicyProcess
from serving.controller.publisher import Publisher
from serving.controller.recovery import Recovered
from serving.controller.replica import ReplicaProcess, Settings, Surroundings, new_token
from serving.controller.resources import Ledger, Shortage, request_of
from serving.controller.scaling import Key, Scaled, Scaling
from serving.controller.state import ApplicationState, DeploymentState, found_application
from serving.controller.status import application_status, headline, headline_first, unavailable
from serving.controller.store import (
    Changes,
    Found,
    ReplicaRecord,
    Store,
    StoreError,
    VersionRecord,
)
from serving.v1 import controller_pb2 as pb

log = logging.getLogger("serving.controller")

_RETRY_AFTER_ERROR_S = 1.0


class ConflictError(Exception):
    """The route prefix belongs to another application."""


class NoVersionError(Exception):
    """There is no application of that name, or no version of it to return to."""


class TooLargeError(Exception):
    """A replica would find no room on any machine, whatever else ends."""


@dataclass
class News:
    """What happened to whom, each told as it is now."""

    versions: dict[tuple[str, int], VersionRecord] = field(default_factory=dict)
    removed_applications: dict[str, None] = field(default_factory=dict)
    replicas: dict[str, ReplicaRecord] = field(default_factory=dict)
    removed_replicas: dict[str, None] = field(default_factory=dict)

    def remove_application(self, name: str) -> None:
        """It is gone, and what was to be told of it."""
        self.versions = {key: version for key, version in self.versions.items() if key[0] != name}
        self.removed_applications[name] = None

    def changes(self) -> Changes:
        """As a store takes them."""
        return Changes(
            versions=tuple(self.versions.values()),
            removed_applications=tuple(self.removed_applications),
            replicas=tuple(self.replicas.values()),
            removed_replicas=tuple(self.removed_replicas),
        )


class Reconciler:
    """Owns the state of all applications. Lives on one event loop; `run` must be running."""

    def __init__(self, around: Surroundings, store: Store, publisher: Publisher) -> None:
        self._around = around
        self._store = store
        self._publisher = publisher
        self._actuator = Actuator(publisher, self)
        self._scaling = Scaling()
        self._tasks = Tasks()

        # State
        self._applications: dict[str, ApplicationState] = {}
        self._replicas: dict[str, tuple[ApplicationState, str]] = {}
        self._ledger = Ledger(around.nodes)
        # Applications of which replicas wait for room, those that have waited longest first.
        self._waiting: dict[str, None] = {}
        self.statuses: dict[str, pb.ApplicationStatus] = {}

        # What to do next
        self._dirty: set[str] = set()
        self._alarms: dict[str, float] = {}
        self._wake = asyncio.Event()
        self._status_changed = asyncio.Event()
        self._idle = asyncio.Event()

        # What happened since the last commit
        self._news = News()

    # What is asked of it

    def deploy(self, spec: pb.ApplicationSpec) -> int:
        """Sets the target of one application; returns its generation.

        The same specification again changes nothing, unless it failed: then it is tried again.
        Raises ConflictError, TooLargeError, or StoreError where it cannot be kept: then nothing was
        changed.
        """
        self._check_route_is_free(spec)
        self._check_machine_suffices(spec)
        state = self._applications.get(spec.name)
        if state and not state.deleting and not state.has_failed and _same(state.spec, spec):
            return state.generation
        state = state or ApplicationState(spec.name)
        self._want(state, VersionRecord(spec, state.generation + 1, time.time()))
        log.info("application %r: deploying, generation %s", spec.name, state.generation)
        return state.generation

    def roll_back(self, name: str, generation: int) -> int:
        """Takes back the version `generation`, which is wanted: then the last one before it that
        worked is. Returns the generation after this; again the same changes nothing.

        Raises NoVersionError, ConflictError, or StoreError: then nothing was changed.
        """
        state = self._applications.get(name)
        if state is None or state.deleting or state.broken:
            known = ", ".join(self._applications) or "none"
            raise NoVersionError(f"no application {name!r} to roll back; there are: {known}")
        if state.version.instead_of == generation:
            return state.generation
        if state.generation != generation:
            raise NoVersionError(
                f"application {name!r} is at generation {state.generation} by now, not at "
                f"{generation}: look at its status, and roll it back again if that is still wanted"
            )
        self._return_to(state, _last_that_worked(state), "as was asked for")
        return state.generation

    def _return_to(self, state: ApplicationState, version: VersionRecord, why: str) -> None:
        self._check_route_is_free(version.spec)
        taken_back, deployed = state.generation, _moment(version.deployed_at)
        note = (
            f"rolled back from generation {taken_back} to what generation {version.generation} "
            f"was, deployed at {deployed}: {why}"
        )
        generation = taken_back + 1
        self._want(
            state,
            VersionRecord(version.spec, generation, time.time(), instead_of=taken_back, note=note),
        )
        log.warning("application %r: %s", state.name, note.partition("\n")[0])

    def _want(self, state: ApplicationState, version: VersionRecord) -> None:
        self._save_news()
        self._store.commit(
            Changes(
                applications=(
                    replace(state.record, generation=version.generation, deleting=False),
                ),
                versions=(version,),
                removed_versions=tuple((state.name, old) for old in state.outlived),
            )
        )
        self._applications[state.name] = state
        state.want(version)
        self._note_status(state)
        self._touch(state.name)

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

    def _check_machine_suffices(self, spec: pb.ApplicationSpec) -> None:
        for deployment in spec.deployments:
            reason = self._ledger.impossible(request_of(spec.name, deployment))
            if reason:
                raise TooLargeError(
                    f"deployment {deployment.name!r} asks for more than any machine has, for each "
                    f"replica {reason}; change its ray_actor_options, or start the cluster with "
                    "other node_options"
                )

    def delete(self, name: str) -> bool:
        """Stops an application; returns whether there was one. Raises StoreError."""
        state = self._applications.get(name)
        if state is None or (state.deleting and not state.comes_back):
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

    async def stacks(self, application: str, replica: str) -> list[pb.ReplicaStacks]:
        """What replicas are doing now: all of them, an application's, or one, by its id or by the
        end of that."""
        asked = [
            each
            for each in self._every_replica()
            if application in ("", each.record.application)
            and (not replica or f"#{each.seen.replica_id}".endswith(f"#{replica}"))
        ]
        return await asyncio.gather(*(each.stacks() for each in asked))

    def _remove(self, state: ApplicationState) -> None:
        self._store.commit(Changes(applications=(replace(state.record, deleting=True),)))
        state.delete()
        self._note_status(state)
        self._touch(state.name)

    def report(self, replica_id: str, error: str) -> bool:
        """A replica is ready, or could not start; returns whether it is wanted."""
        application, name = self._replicas.get(replica_id, (None, ""))
        if application is None:
            return False
        deployment = application.deployments[name]
        replica = deployment.replicas[replica_id]
        if replica.seen.state is not ReplicaState.STARTING:
            return replica.seen.state is ReplicaState.RUNNING
        now = time.monotonic()
        if error:
            log.warning("%s could not start: %s", replica_id, headline(error))
            replica.error = error
            self._note_failure(deployment, replica, error, now)
            self._become(replica, ReplicaState.STOPPING, now)
            self._actuator.expect_end(replica)
        else:
            self._takes_requests(deployment, replica, now)
        self._touch(application.name)
        return not error

    def _takes_requests(
        self, deployment: DeploymentState, replica: ReplicaProcess, now: float
    ) -> None:
        self._become(replica, ReplicaState.RUNNING, now)
        history = deployment.histories.get(replica.seen.version, History())
        history = plan.after_ready(history, now=now)
        target = deployment.target
        if target and target.wakes and not target.previous:
            history = plan.after_complete(history)  # it may never have as many as it had wanted
        deployment.histories[replica.seen.version] = history
        self._actuator.watch_health(replica)

    def _become(self, replica: ReplicaProcess, state: ReplicaState, now: float) -> None:
        replica.become(state, now)
        self._news.replicas[replica.seen.replica_id] = replica.record

    # What the actuator tells

    def has_process(self, replica: ReplicaProcess) -> None:
        self._news.replicas[replica.seen.replica_id] = replica.record
        self._touch(replica.record.application)

    def is_ready(self, replica: ReplicaProcess) -> None:
        self.report(replica.seen.replica_id, "")

    def has_ended(self, replica: ReplicaProcess, code: int | None) -> None:
        state, name = self._replicas.pop(replica.seen.replica_id)
        deployment = state.deployments[name]
        if replica.seen.state is not ReplicaState.STOPPING:
            served = replica.seen.state is ReplicaState.RUNNING
            when = "while it served" if served else "before it was ready"
            error = replica.error or f"the process ended{_exit_text(code)} {when}"
            log.warning("%s (pid %s): %s", replica.seen.replica_id, replica.pid, error)
            self._note_failure(deployment, replica, error, time.monotonic())
        del deployment.replicas[replica.seen.replica_id]
        self._release(replica)
        self._news.replicas.pop(replica.seen.replica_id, None)
        self._news.removed_replicas[replica.seen.replica_id] = None
        self._touch(state.name)

    def health_check_of(self, replica: ReplicaProcess) -> tuple[float, float] | None:
        state, name = self._replicas.get(replica.seen.replica_id, (None, ""))
        if state is None:
            return None
        options = state.deployments[name].spec.options
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
            state, name = self._replicas[replica.seen.replica_id]
            error = f"check_health() failed {count} times in a row: {complaint}"
            self._note_failure(state.deployments[name], replica, error, time.monotonic())
            self._touch(state.name)

    def blocked_loop_limit_of(self, replica: ReplicaProcess) -> float | None:
        state, name = self._replicas.get(replica.seen.replica_id, (None, ""))
        if state is None or replica.seen.state is not ReplicaState.RUNNING:
            return None
        return _blocked_loop_limit(state.deployments[name].spec.options)

    def is_blocked(self, replica: ReplicaProcess, for_s: float, stacks: str) -> None:
        limit_s = self.blocked_loop_limit_of(replica)
        if limit_s is None:  # it was stopped meanwhile, or may be blocked
            return
        fault = f"its event loop was blocked for {for_s:.1f} s, and may be for {limit_s:g} s"
        log.warning("%s is replaced: %s. What it does:\n%s", replica, fault, stacks)
        replica.seen = replace(replica.seen, fault=fault)
        state, name = self._replicas[replica.seen.replica_id]
        self._note_failure(state.deployments[name], replica, fault, time.monotonic())
        self._touch(state.name)

    def was_reconfigured(self, replica: ReplicaProcess, settings: Settings, error: str) -> None:
        """One that refuses its settings gets those back that it had; one that refuses these too
        is replaced."""
        state, name = self._replicas.get(replica.seen.replica_id, (None, ""))
        if state is None:
            return
        deployment = state.deployments[name]
        if error and deployment.settings == settings:
            log.warning("%s did not take its settings: %s", replica, headline(error))
            if deployment.config_error or settings.user_config_json == deployment.previous_config:
                replica.seen = replace(replica.seen, fault="it did not take its settings")
                self._note_failure(deployment, replica, error, time.monotonic())
            else:
                deployment.config_error = error
        self._touch(state.name)

    def _note_failure(
        self, deployment: DeploymentState, replica: ReplicaProcess, error: str, now: float
    ) -> None:
        seen = replica.seen
        deployment.journal.failed(seen.replica_id, headline_first(error), time.time())
        if seen.version in deployment.specs:
            deployment.histories[seen.version] = plan.after_failure(
                deployment.histories.get(seen.version, History()),
                started_at=seen.started_at,
                was_ready=seen.state is ReplicaState.RUNNING,
                error=error,
                now=now,
            )

    # The loop

    async def run(self) -> None:
        """Turns until it is cancelled."""
        while True:
            moments = [*self._alarms.values(), self._scaling.wake_at]
            timeout = min((each for each in moments if each is not None), default=None)
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
        for key in self._scaling.due(now):
            self._scale(key, now)
        due = {name for name, moment in self._alarms.items() if moment <= now}
        dirty, self._dirty = self._dirty | due, set()
        try:
            self._save_news()
        except StoreError as error:  # kept for the next turn
            log.error("%s", error)
        for name in self._in_order(dirty):
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

    def _in_order(self, names: set[str]) -> list[str]:
        """Those that wait for room before all others."""
        waiting = [name for name in self._waiting if name in names]
        return [*waiting, *(names - self._waiting.keys())]

    def _save_news(self) -> None:
        if changes := self._news.changes():
            self._store.commit(changes)
            self._news = News()

    def _reconcile(self, state: ApplicationState, now: float) -> None:
        try:
            self._take_steps(state, now)
            if state.is_complete and state.serving_generation != state.generation:
                self._complete(state)
                self._take_steps(state, now)  # what only the one before it needed may go
            elif state.gives_way:
                before = state.versions[state.serving_generation]
                self._return_to(state, before, application_status(state).message)
            state.problem = ""
        except StoreError as error:  # nothing that was to be done is begun
            log.error("application %r: its next steps wait: %s", state.name, error)
            state.problem = f"its next steps wait: {error}"
            self._alarms[state.name] = now + _RETRY_AFTER_ERROR_S
        self._follow_load(state, now)
        self._publish(state, now)
        self._note_status(state)

    def _complete(self, state: ApplicationState) -> None:
        self._store.commit(
            Changes(
                applications=(replace(state.record, serving_generation=state.generation),),
                versions=(replace(state.version, worked=True),),
            )
        )
        state.complete()

    def _take_steps(self, state: ApplicationState, now: float) -> None:
        """Decides, commits, acts."""
        held = state.held
        plans = {
            name: plan.compute(
                deployment.target,
                deployment.histories,
                deployment.seen(),
                now,
                is_held=name in held,
            )
            for name, deployment in state.deployments.items()
        }
        starting = [
            replica
            for name, steps in plans.items()
            for replica in self._with_room(state, name, steps.start, now)
        ]
        stopping = [
            state.deployments[name].replicas[stop.replica_id]
            for name, steps in plans.items()
            for stop in steps.stop
        ]
        busy = {each.record.deployment for each in (*starting, *stopping)}
        stopping += self._in_the_way(state, busy)
        stopped = (replace(each.record, state=ReplicaState.STOPPING.value) for each in stopping)
        try:
            self._commit(Changes(replicas=(*(each.record for each in starting), *stopped)))
        except StoreError:
            for replica in starting:
                self._ledger.release(replica.seen.replica_id)
            raise
        for name, steps in plans.items():
            state.deployments[name].journal.planned(steps, time.time())
        for replica in starting:
            self._start(state, replica)
        for replica in stopping:
            self._stop(replica, now)
        self._look_after(state, plans)

    def _commit(self, changes: Changes) -> None:
        if changes:
            self._store.commit(changes)

    def _look_after(self, state: ApplicationState, plans: dict[str, Plan]) -> None:
        """What is to be done beside starting and stopping."""
        for name, steps in plans.items():
            deployment = state.deployments[name]
            if steps.wake_at is not None:
                self._alarms[state.name] = min(
                    steps.wake_at, self._alarms.get(state.name, math.inf)
                )
            if deployment.target is not None:
                self._reconfigure(deployment)
                if _blocked_loop_limit(deployment.spec.options) is not None:
                    for replica in deployment.ready:
                        self._actuator.watch_loop(replica)
                self._note_given_up(state, name, deployment)
            elif not deployment.replicas:
                del state.deployments[name]

    def packages_in_use(self) -> set[str]:
        """Those that may be started with, or run."""
        versions = (
            version.spec
            for state in self._applications.values()
            for version in state.versions.values()
        )
        running = [replica.spec.deployment for replica in self._every_replica()]
        return digests(running).union(*(digests(spec.deployments) for spec in versions))

    # Steps

    def _with_room(
        self, state: ApplicationState, name: str, steps: Sequence[Start], now: float
    ) -> list[ReplicaProcess]:
        """Replicas for those steps for which the machine has what they ask for. The others are
        decided upon anew when something was given back."""
        deployment = state.deployments[name]
        deployment.shortage = ""
        found: list[ReplicaProcess] = []
        for step in steps:
            replica = self._new_replica(state, name, step, now)
            request = request_of(state.name, deployment.spec_to_start(step.version))
            granted = self._ledger.grant(replica.seen.replica_id, request)
            if isinstance(granted, Shortage):
                deployment.shortage = granted.reason
                break  # the rest asks for the same
            replica.grant = granted
            found.append(replica)
        return found

    def _in_the_way(self, state: ApplicationState, busy: set[str]) -> list[ReplicaProcess]:
        """Replicas of older versions that leave before their successors are there, which find no
        room beside them; of deployments of which nothing else starts or stops."""
        leaving = []
        for name, deployment in state.deployments.items():
            if not deployment.shortage or deployment.target is None or name in busy:
                continue
            version = plan.serving_version(deployment.target, deployment.histories)
            request = request_of(state.name, deployment.spec_to_start(version))
            first = plan.to_make_room(deployment.target, version, deployment.seen())
            outdated = [each.replica_id for each in deployment.seen() if each.version != version]
            if first is not None and self._ledger.fits_without(request, outdated):
                log.info("%s leaves first: its successor needs %s", first, deployment.shortage)
                leaving.append(deployment.replicas[first])
        self._note_waiting(state, made_room=bool(leaving))
        return leaving

    def _note_waiting(self, state: ApplicationState, *, made_room: bool) -> None:
        if made_room:  # what is given back is for its own
            self._waiting = {state.name: None, **self._waiting}
        elif any(deployment.shortage for deployment in state.deployments.values()):
            self._waiting.setdefault(state.name)
        else:
            self._waiting.pop(state.name, None)

    def _release(self, replica: ReplicaProcess) -> None:
        self._ledger.release(replica.seen.replica_id)
        for name in self._waiting:
            self._touch(name)

    def _new_replica(
        self, state: ApplicationState, name: str, step: Start, now: float
    ) -> ReplicaProcess:
        token = new_token()
        replica_id = f"{state.name}#{name}#{token}"
        calls = frozenset(state.deployments[name].spec_to_start(step.version).calls)
        seen = Replica(replica_id, step.version, ReplicaState.STARTING, now, now, calls)
        record = ReplicaRecord(replica_id, state.name, name, step.version, token, time.time())
        log.debug("%s: starting (%s)", replica_id, step.reason)
        return ReplicaProcess(self._around, record, seen)

    def _start(self, state: ApplicationState, replica: ReplicaProcess) -> None:
        name = replica.record.deployment
        deployment = state.deployments[name]
        self._hold(state, replica)
        spec = pb.ReplicaSpec(
            application=state.name,
            replica_id=replica.seen.replica_id,
            deployment=deployment.spec_to_start(replica.seen.version),
            is_ingress=name == state.spec.ingress,
            route_prefix=state.spec.route_prefix,
        )
        self._actuator.start(replica, spec)

    def _hold(self, state: ApplicationState, replica: ReplicaProcess) -> None:
        state.deployments[replica.record.deployment].replicas[replica.seen.replica_id] = replica
        self._replicas[replica.seen.replica_id] = (state, replica.record.deployment)

    def _stop(self, replica: ReplicaProcess, now: float) -> None:
        takes_requests = replica.seen.state is ReplicaState.RUNNING
        replica.become(ReplicaState.STOPPING, now)
        self._actuator.stop(replica, takes_requests=takes_requests)

    def _reconfigure(self, deployment: DeploymentState) -> None:
        assert deployment.target is not None
        wanted = deployment.settings
        for replica in deployment.ready:
            if replica.seen.version != deployment.target.version:
                continue
            replica.grace_s = deployment.spec.options.graceful_shutdown_timeout_s
            if replica.settings != wanted:
                self._actuator.reconfigure(replica, wanted)

    def _note_given_up(
        self, state: ApplicationState, name: str, deployment: DeploymentState
    ) -> None:
        """So that a controller that comes after this one does not try it all again."""
        assert deployment.target is not None
        version = state.version
        if name not in version.errors and plan.has_failed(
            deployment.target.version, deployment.histories
        ):
            error = deployment.histories[deployment.target.version].error
            version = replace(version, errors={**version.errors, name: error})
            state.versions[state.generation] = version
            self._news.versions[state.name, state.generation] = version
            self._wake.set()

    # How many replicas the load asks for

    def hear_loads(self, caller: Hashable, loads: Iterable[pb.Load]) -> None:
        """A caller tells what it has queued and in flight."""
        if self._scaling.hear(caller, loads, time.monotonic()):
            self._wake.set()

    def forget_loads(self, caller: Hashable) -> None:
        """A caller is gone."""
        self._scaling.forget(caller, time.monotonic())

    def _follow_load(self, state: ApplicationState, now: float) -> None:
        specs = {name: each.spec for name, each in state.deployments.items() if each.target}
        self._scaling.follow(state.name, specs, now)
        for name, deployment in state.deployments.items():
            deployment.scaled = self._scaling.scaled.get((state.name, name))

    def _scale(self, key: Key, now: float, asked: float | None = None) -> None:
        """Asks for the number of replicas of one deployment."""
        deployment = self._applications[key[0]].deployments[key[1]]
        target, scaled = deployment.target, deployment.scaled
        if target is None or scaled is None:
            return
        running = len(deployment.ready)
        if scaled.policy is not None and asked is None and target.num_replicas:
            context = scaled.context(key, running, target.num_replicas, now)
            self._ask(key, scaled, self._ask_policy(key, scaled, scaled.policy, context))
            return
        decision = self._scaling.decide(key, target.num_replicas, running, now, asked)
        if decision.target < target.num_replicas:
            self._ask(key, scaled, self._scale_in(key, deployment, target, decision))
        elif decision.reason:
            self._set_number(key, deployment, target, decision)

    def _ask(self, key: Key, scaled: Scaled, work: Coroutine[None, None, None]) -> None:
        """Finds out what a decision needs. Until then no other is made for that deployment."""

        async def ask() -> None:
            try:
                await work
            finally:
                scaled.is_busy = False
                self._wake.set()

        scaled.is_busy = True
        self._tasks.start(ask(), name="scale {}#{}".format(*key))

    async def _ask_policy(
        self, key: Key, scaled: Scaled, policy: PolicyProcess, context: AutoscalingContext
    ) -> None:
        answer = await policy.ask(context)
        if scaled.policy is not policy or self._scaling.scaled.get(key) is not scaled:
            return  # it is another one's turn
        scaled.is_busy = False
        if answer.error != scaled.policy_error:
            scaled.policy_error = answer.error
            if answer.error:
                log.warning("the autoscaling policy of %s#%s failed: %s", *key, answer.error)
            self._touch(key[0])
        self._scale(key, time.monotonic(), answer.asked)

    async def _scale_in(
        self, key: Key, deployment: DeploymentState, target: Target, decision: Decision
    ) -> None:
        """The emptiest replicas are to go."""
        ready = deployment.ready
        counts = await asyncio.gather(*(replica.ongoing() for replica in ready))
        for replica, count in zip(ready, counts, strict=True):
            replica.seen = replace(replica.seen, ongoing=count)
        if deployment.target == target and (decision.target or not any(counts)):
            self._set_number(key, deployment, target, decision)

    def _set_number(
        self, key: Key, deployment: DeploymentState, target: Target, decision: Decision
    ) -> None:
        before, after = target.num_replicas, decision.target
        log.info("%s#%s: from %d to %d replicas: %s", *key, before, after, decision.reason)
        assert deployment.scaled is not None
        now_s = time.time()
        deployment.journal.decided(f"scale from {before} to {after}: {decision.reason}", now_s)
        if after > before:
            deployment.scaled.scaled_up_at = now_s
        else:
            deployment.scaled.scaled_down_at = now_s
        deployment.target = replace(target, num_replicas=after)
        self._touch(key[0])

    # What another controller began

    def recover(self, found: Found, recovered: Recovered) -> None:
        """Takes over the applications of the store, and the replicas that were adopted. Called
        once, before anything is published; afterwards the first turn has been taken."""
        now = time.monotonic()
        for loaded in found.applications:
            state = self._applications[loaded.record.name] = found_application(loaded)
            if state.broken:
                log.error("application %r does not load: %s", state.name, state.broken)
        for replica_id in recovered.gone:
            self._news.removed_replicas[replica_id] = None
        for replica in recovered.replicas:
            self._take_over(replica, now)
        for state in self._applications.values():
            state.keep_number()
        self._dirty.update(self._applications)
        self._turn(now)

    def _take_over(self, replica: ReplicaProcess, now: float) -> None:
        record = replica.record
        state = self._applications.get(record.application)
        if state is None:  # its application's record is gone before its own
            state = self._applications[record.application] = ApplicationState(record.application)
            nothing = pb.ApplicationSpec(name=record.application)
            state.want(VersionRecord(nothing, 0, 0.0))
            state.delete()
        if record.deployment not in state.deployments:
            spec = replica.spec.deployment
            state.deployments[record.deployment] = DeploymentState(None, {record.version: spec})
        deployment = state.deployments[record.deployment]
        self._hold(state, replica)
        if replica.grant is not None:
            self._ledger.hold(record.replica_id, replica.grant)
        self._news.replicas[record.replica_id] = record
        self._actuator.watch(replica)
        if replica.seen.state is ReplicaState.RUNNING:
            self._takes_requests(deployment, replica, now)
        elif replica.seen.state is ReplicaState.STOPPING:
            self._actuator.stop(replica, takes_requests=True)

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
        generation = state.generation
        if state.is_complete and state.confirming_generation != generation:
            state.confirming_generation = generation
            self._tasks.start(
                self._confirm(state, generation, revision), name=f"confirm {state.name}"
            )

    async def _confirm(self, state: ApplicationState, generation: int, revision: int) -> None:
        await self._publisher.confirmed(revision)
        if state.generation == generation and not state.deleting:
            state.confirmed_generation = generation
            self._touch(state.name)

    def _note_status(self, state: ApplicationState) -> None:
        if state.deleting and not state.deployments:
            del self._applications[state.name]
            self._waiting.pop(state.name, None)
            if not state.comes_back:
                self._news.remove_application(state.name)
            self._wake.set()
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

    def forget_all(self) -> None:
        """No application is to come back when the cluster has ended; until then they run."""
        try:
            self._store.commit(
                Changes(
                    applications=tuple(
                        replace(state.record, deleting=True)
                        for state in self._applications.values()
                    )
                )
            )
        except StoreError as error:  # tried again as each of them ends
            log.error("%s", error)
        for state in self._applications.values():
            state.comes_back = False

    async def shut_down(self, *, spent_s: float = 0.0) -> None:
        """Ends every application and returns when no replica is left. The store keeps those that
        are to come back.

        `spent_s`: how much of their grace the replicas had already.
        """
        self._idle.clear()
        for replica in self._every_replica():
            replica.grace_s = max(0.0, replica.grace_s - spent_s)
        for state in list(self._applications.values()):
            if not state.deleting:
                state.end()
                self._note_status(state)
                self._touch(state.name)
        self._wake.set()
        await self._idle.wait()
        with contextlib.suppress(StoreError):
            self._save_news()

    async def aclose(self) -> None:
        """Lets go of everything; replicas run on."""
        await self._actuator.aclose()
        await self._tasks.aclose()
        self._scaling.close()

    async def all_ended(self) -> None:
        """Returns when no replica is left. For replicas that end by themselves."""
        await self._actuator.join()

    def kill(self) -> None:
        """Kills every replica, for when there is no time left."""
        for replica in self._every_replica():
            replica.kill()

    def _every_replica(self) -> list[ReplicaProcess]:
        return [
            application.deployments[name].replicas[replica_id]
            for replica_id, (application, name) in self._replicas.items()
        ]


def _blocked_loop_limit(options: pb.DeploymentOptions) -> float | None:
    has_one = options.HasField("blocked_loop_timeout_s")
    return options.blocked_loop_timeout_s if has_one else None


def _last_that_worked(state: ApplicationState) -> VersionRecord:
    """The last version that worked and is not the same as what is wanted."""
    before = [version for _, version in sorted(state.versions.items())][:-1]
    for version in reversed(before):
        if version.worked and not _same(version.spec, state.spec):
            return version
    told = "".join(
        f"; generation {version.generation}, deployed at {_moment(version.deployed_at)}, "
        f"{'is the same' if version.worked else 'never worked'}"
        for version in before
    )
    raise NoVersionError(
        f"application {state.name!r} has no version to return to: it is at generation "
        f"{state.generation}, and before it there is {told[2:] or 'none'}"
    )


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _same(one: pb.ApplicationSpec, other: pb.ApplicationSpec) -> bool:
    """Whether two specifications ask for the same.

    What a version is a hash of is left out: pickled once more, the same code has other bytes.
    """
    return _without_code(one) == _without_code(other)


def _without_code(spec: pb.ApplicationSpec) -> pb.ApplicationSpec:
    bare = pb.ApplicationSpec(
        name=spec.name,
        route_prefix=spec.route_prefix,
        ingress=spec.ingress,
        auto_rollback=spec.auto_rollback,
        config_json=spec.config_json,
    )
    for deployment in spec.deployments:
        bare.deployments.add(
            name=deployment.name, options=deployment.options, version=deployment.version
        )
    return bare


def _published(
    application: str, name: str, deployment: DeploymentState, now: float
) -> pb.Deployment:
    options, scaled = deployment.spec.options, deployment.scaled
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
        load_interval_s=scaled.autoscaler.config.metrics_interval_s if scaled else 0,
    )


def _exit_text(code: int | None) -> str:
    if code is None:  # only its parent knows, which was another controller
        return ""
    return f" with signal {-code}" if code < 0 else f" with exit code {code}"
