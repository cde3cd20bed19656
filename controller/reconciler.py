"""The loop that makes what runs into what is wanted.

Everything that happens (a deploy, a replica that reports or ends, a moment that comes) only puts
the application into the queue. A turn takes each from there, asks `plan` for the next steps,
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
import time
from collections.abc import Sequence
from dataclasses import replace

from serving.aio import Tasks
from serving.controller import plan, routes
from serving.controller.events import Events
from serving.controller.model import Plan, Replica, ReplicaState, Start, Stop
from serving.controller.published import deployments_of, route_of
from serving.controller.publisher import Publisher
from serving.controller.queue import Queue
from serving.controller.recovery import Recovered, take_over
from serving.controller.registry import Registry
from serving.controller.replica import ReplicaProcess, Surroundings, new_token
from serving.controller.room import Room
from serving.controller.scaling import Scaling
from serving.controller.state import ApplicationState, DeploymentState
from serving.controller.status import application_status
from serving.controller.statuses import Statuses
from serving.controller.store import Changes, Found, ReplicaRecord, Store, StoreError
from serving.controller.targets import Targets
from serving.v1 import controller_pb2 as pb

log = logging.getLogger("serving.controller")

_RETRY_AFTER_ERROR_S = 1.0


class Reconciler:
    """Has three parts from which it hears what to look at: `targets` takes what is wanted, `events`
    what happens to replicas, `scaling` the load. What comes of it is in `registry` and `statuses`.
    Lives on one event loop; `run` must be running."""

    def __init__(self, around: Surroundings, store: Store, publisher: Publisher) -> None:
        self._around = around
        self._publisher = publisher
        self._tasks = Tasks()
        self._queue = Queue()
        self._idle = asyncio.Event()
        self._room = Room(around.nodes, self._queue)

        self.registry = Registry(store)
        self.statuses = Statuses()
        self.events = Events(self.registry, self._queue, self._room, publisher)
        self.targets = Targets(self.registry, self._queue, self.statuses, self._room, self._tasks)
        self.scaling = Scaling(self.registry, self._queue, self._tasks, around.packages)
        self._actuator = self.events.actuator

    def recover(self, found: Found, recovered: Recovered) -> None:
        """Goes on with what another controller began. Called once, before anything is published;
        afterwards the first turn has been taken."""
        take_over(found, recovered, self.registry, self._room, self.events)
        self._queue.add(*self.registry.applications)
        self._turn(time.monotonic())

    # The loop

    async def run(self) -> None:
        """Turns until it is cancelled."""
        while True:
            await self._queue.wait(self.scaling.wake_at)
            self._turn(time.monotonic())

    def _turn(self, now: float) -> None:
        self.scaling.turn(now)
        try:
            self.registry.save()
        except StoreError as error:
            log.error("%s", error)
        for name in self._room.in_order(self._queue.take(now)):
            state = self.registry.applications.get(name)
            if state is None:
                continue
            try:
                self._reconcile(state, now)
            except Exception:  # of one application: the others must not suffer
                log.exception("application %r cannot be reconciled", name)
                self._queue.add_at(name, now + _RETRY_AFTER_ERROR_S)
        if not self.registry.applications:
            self._idle.set()

    def _reconcile(self, state: ApplicationState, now: float) -> None:
        try:
            self._take_steps(state, now)
            everyone = self.registry.applications.values()
            state.waits_for_route_of = routes.holder(state, everyone)
            if moving := routes.moving_with(state, everyone):
                self._complete(moving)
                self._take_steps(state, now)  # what only the one before it needed may go
            elif state.gives_way:
                before = state.versions[state.serving_generation]
                self.targets.return_to(state, before, application_status(state).message)
            state.problem = ""
        except StoreError as error:  # nothing that was to be done is begun
            log.error("application %r: its next steps wait: %s", state.name, error)
            state.problem = f"its next steps wait: {error}"
            self._queue.add_at(state.name, now + _RETRY_AFTER_ERROR_S)
        self.scaling.follow(state, now)
        self._publish(state, now)
        self._tell_who_waits(state)
        if state.deleting and not state.deployments:
            self._forget(state)
        else:
            self.statuses.note(state)

    def _complete(self, states: Sequence[ApplicationState]) -> None:
        """What is wanted of them is what serves, all at once."""
        self.registry.commit(
            Changes(
                applications=tuple(
                    replace(state.record, serving_generation=state.generation) for state in states
                ),
                versions=tuple(replace(state.version, worked=True) for state in states),
            )
        )
        for state in states:
            state.complete()
            state.waits_for_route_of = None
            self._queue.add(state.name)
            self._publisher.route(state.name, route_of(state))

    def _tell_who_waits(self, state: ApplicationState) -> None:
        """For its route, which it may have left now, or not leave any more."""
        routed = state.routed
        has_failed = not state.deleting and state.has_failed
        now = (routed.route_prefix if routed is not None else None, has_failed)
        if state.told_who_waits != now:
            state.told_who_waits = now
            for other in self.registry.applications.values():
                if other.waits_for_route_of is state:
                    self._queue.add(other.name)

    def _forget(self, state: ApplicationState) -> None:
        self.registry.forget(state)
        self._room.forget(state.name)
        self.statuses.forget(state.name)
        self._queue.wake()  # it is yet to be saved
        log.debug("application %r: deleted", state.name)

    def _publish(self, state: ApplicationState, now: float) -> None:
        route, deployments = route_of(state), deployments_of(state, now)
        revision = self._publisher.publish(state.name, route, deployments)
        generation = state.generation
        serves = state.is_complete and state.serving_generation == generation
        if serves and state.confirming_generation != generation:
            state.confirming_generation = generation
            self._tasks.start(
                self._confirm(state, generation, revision), name=f"confirm {state.name}"
            )

    async def _confirm(self, state: ApplicationState, generation: int, revision: int) -> None:
        await self._publisher.confirmed(revision)
        if state.generation == generation and not state.deleting:
            state.confirmed_generation = generation
            self._queue.add(state.name)

    # Steps

    def _take_steps(self, state: ApplicationState, now: float) -> None:
        """Decides, commits, acts."""
        for name in state.put_in_order(time.time()):
            self.registry.note_deployment(state.name, name)
        plans, starting = self._decide(state, now)
        stopping = [
            state.deployments[name].replicas[stop.replica_id]
            for name, steps in plans.items()
            for stop in steps.stop
        ]
        stopped = (replace(each.record, state=ReplicaState.STOPPING.value) for each in stopping)
        at_s = time.time()
        journals = {
            name: state.deployments[name].journal.planned(steps, at_s)
            for name, steps in plans.items()
            if steps.start or steps.stop
        }
        try:
            self.registry.commit(
                Changes(
                    deployments=state.records(journals),
                    replicas=(*(each.record for each in starting), *stopped),
                )
            )
        except StoreError:
            for replica in starting:
                self._room.release(replica)
            raise
        for name, journal in journals.items():
            state.deployments[name].journal = journal
        for replica in starting:
            self._start(state, replica)
        for replica in stopping:
            self._stop(replica, now)
        self._look_after(state, plans)

    def _decide(
        self, state: ApplicationState, now: float
    ) -> tuple[dict[str, Plan], list[ReplicaProcess]]:
        """The steps for which there is room, and the replicas that they start."""
        held, starting = state.held, []
        for deployment in state.deployments.values():
            if (moment := deployment.forget_failures(now)) is not None:
                self._queue.add_at(state.name, moment)
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
        for name, steps in plans.items():
            found = self._with_room(state, name, steps.start, now)
            plans[name] = replace(steps, start=steps.start[: len(found)])
            starting += found
        busy = {name for name, steps in plans.items() if steps.start or steps.stop}
        for replica in self._room.in_the_way(state, busy):
            name = replica.record.deployment
            stop = Stop(replica.seen.replica_id, "its successor finds no room beside it")
            plans[name] = replace(plans[name], stop=(stop,))
        return plans, starting

    def _with_room(
        self, state: ApplicationState, name: str, steps: Sequence[Start], now: float
    ) -> list[ReplicaProcess]:
        """Replicas for those steps for which the machine has what they ask for. The others are
        decided upon anew when something was given back."""
        deployment = state.deployments[name]
        deployment.shortage = ""
        found: list[ReplicaProcess] = []
        short: set[str] = set()
        for step in steps:
            if step.version in short:
                continue  # it asks for the same
            replica = self._new_replica(state, name, step, now)
            if self._room.take(deployment, replica):
                found.append(replica)
            else:
                short.add(step.version)
        return found

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
        self.registry.hold(replica)
        name = replica.record.deployment
        spec = pb.ReplicaSpec(
            application=state.name,
            replica_id=replica.seen.replica_id,
            deployment=state.deployments[name].spec_to_start(replica.seen.version),
            is_ingress=name == state.spec.ingress,
            route_prefix=state.spec.route_prefix,
        )
        self._actuator.start(replica, spec)

    def _stop(self, replica: ReplicaProcess, now: float) -> None:
        takes_requests = replica.seen.state is ReplicaState.RUNNING
        replica.become(ReplicaState.STOPPING, now)
        self._actuator.stop(replica, takes_requests=takes_requests)

    def _look_after(self, state: ApplicationState, plans: dict[str, Plan]) -> None:
        """What is to be done beside starting and stopping."""
        for name, steps in plans.items():
            deployment = state.deployments[name]
            if steps.wake_at is not None:
                self._queue.add_at(state.name, steps.wake_at)
            if deployment.target is not None:
                self._reconfigure(deployment)
                if deployment.blocked_loop_limit_s is not None:
                    for replica in deployment.ready:
                        self._actuator.watch_loop(replica)
                self._note_given_up(state, name, deployment)
            elif not deployment.replicas:
                self.registry.forget_deployment(state, name)
                self._queue.wake()  # it is yet to be saved

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
            self.registry.note_version(state)
            self._queue.wake()

    # The end

    async def shut_down(self, *, spent_s: float = 0.0) -> None:
        """Ends every application and returns when no replica is left. The store keeps those that
        are to come back.

        `spent_s`: how much of their grace the replicas had already.
        """
        self._idle.clear()
        for replica in self.registry.replicas.values():
            replica.grace_s = max(0.0, replica.grace_s - spent_s)
        self.targets.end_all()
        self._queue.wake()
        await self._idle.wait()
        with contextlib.suppress(StoreError):
            self.registry.save()

    async def aclose(self) -> None:
        """Lets go of everything; replicas run on."""
        await self._actuator.aclose()
        await self._tasks.aclose()
        self.scaling.close()

    async def all_ended(self) -> None:
        """Returns when no replica is left. For replicas that end by themselves."""
        await self._actuator.join()

    def kill(self) -> None:
        """Kills every replica, for when there is no time left."""
        for replica in self.registry.replicas.values():
            replica.kill()
