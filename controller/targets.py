"""What is wanted: applications are deployed, rolled back and deleted.

Each is committed before it is so, and refused where it cannot be; what follows from it is for a
turn of the reconciler.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from serving.aio import Tasks
from serving.controller.inspection import what_is_open
from serving.controller.queue import Queue
from serving.controller.registry import Registry
from serving.controller.room import Room
from serving.controller.state import ApplicationState
from serving.controller.statuses import Statuses
from serving.controller.store import Changes, StoreError, VersionRecord
from serving.v1 import controller_pb2 as pb

log = logging.getLogger("serving.controller")


class ConflictError(Exception):
    """The route prefix belongs to another application."""


class NoVersionError(Exception):
    """There is no application of that name, or no version of it to return to."""


class Targets:
    """Sets what is wanted of applications."""

    def __init__(
        self, registry: Registry, queue: Queue, statuses: Statuses, room: Room, tasks: Tasks
    ) -> None:
        self._registry = registry
        self._queue = queue
        self._statuses = statuses
        self._room = room
        self._tasks = tasks

    def deploy(self, *specs: pb.ApplicationSpec, alone: bool = False) -> dict[str, int]:
        """Sets the targets of applications; returns their generations. `alone`: all others are
        deleted.

        The same specification again changes nothing, unless it failed: then it is tried again.
        Raises ConflictError, TooLargeError, or StoreError where they cannot be kept: then nothing
        was changed.
        """
        names = {spec.name for spec in specs}
        leaving = [
            state
            for state in self._registry.applications.values()
            if alone and state.name not in names and _can_be_deleted(state)
        ]
        self._check_routes_are_free(specs, leaving)
        for spec in specs:
            self._room.check(spec)
        now_s = time.time()
        states = [self._registry.applications.get(spec.name) for spec in specs]
        changes = [
            (state or ApplicationState(spec.name), spec)
            for state, spec in zip(states, specs, strict=True)
            if state is None or state.deleting or state.has_failed or not _same(state.spec, spec)
        ]
        self._set(
            [(state, VersionRecord(spec, state.generation + 1, now_s)) for state, spec in changes],
            leaving,
        )
        for state, _ in changes:
            log.info("application %r: deploying, generation %s", state.name, state.generation)
        return {name: self._registry.applications[name].generation for name in names}

    def roll_back(self, name: str, generation: int) -> int:
        """Takes back the version `generation`, which is wanted: then the last one before it that
        worked is. Returns the generation after this; again the same changes nothing.

        Raises NoVersionError, ConflictError, or StoreError: then nothing was changed.
        """
        state = self._registry.applications.get(name)
        if state is None or state.deleting or state.broken:
            known = ", ".join(self._registry.applications) or "none"
            raise NoVersionError(f"no application {name!r} to roll back; there are: {known}")
        if state.version.instead_of == generation:
            return state.generation
        if state.generation != generation:
            raise NoVersionError(
                f"application {name!r} is at generation {state.generation} by now, not at "
                f"{generation}: look at its status, and roll it back again if that is still wanted"
            )
        self.return_to(state, _last_that_worked(state), "as was asked for")
        return state.generation

    def return_to(self, state: ApplicationState, version: VersionRecord, why: str) -> None:
        """Wants an older version again. Raises ConflictError or StoreError."""
        self._check_routes_are_free([version.spec])
        taken_back, deployed = state.generation, _moment(version.deployed_at)
        note = (
            f"rolled back from generation {taken_back} to what generation {version.generation} "
            f"was, deployed at {deployed}: {why}"
        )
        generation = taken_back + 1
        wanted = VersionRecord(
            version.spec, generation, time.time(), instead_of=taken_back, note=note
        )
        self._set([(state, wanted)])
        log.warning("application %r: %s", state.name, note.partition("\n")[0])

    def _set(
        self,
        wanted: Sequence[tuple[ApplicationState, VersionRecord]],
        leaving: Sequence[ApplicationState] = (),
    ) -> None:
        """One decision: these are wanted, and those are to end. Raises StoreError."""
        records = [
            replace(state.record, generation=version.generation, deleting=False)
            for state, version in wanted
        ]
        records += [replace(state.record, deleting=True) for state in leaving]
        self._registry.save()
        self._registry.commit(
            Changes(
                applications=tuple(records),
                versions=tuple(version for _, version in wanted),
                removed_versions=tuple(
                    (state.name, old) for state, _ in wanted for old in state.outlived
                ),
            )
        )
        for state in leaving:
            self._remove(state)
        for state, version in wanted:
            self._registry.applications[state.name] = state
            state.want(version)
            self._statuses.note(state)
            self._queue.add(state.name)

    def _check_routes_are_free(
        self, specs: Sequence[pb.ApplicationSpec], leaving: Sequence[ApplicationState] = ()
    ) -> None:
        """Of applications that neither change nor leave with these, which may exchange theirs."""
        names = {spec.name for spec in specs} | {state.name for state in leaving}
        owners = {
            prefix: other.name
            for other in self._registry.applications.values()
            if other.name not in names and not other.deleting
            for prefix in other.route_prefixes
        }
        for spec in specs:
            owner = owners.setdefault(spec.route_prefix, spec.name)
            if spec.route_prefix and owner != spec.name:
                raise ConflictError(
                    f"application {spec.name!r} cannot have the route prefix "
                    f"{spec.route_prefix!r}: application {owner!r} has it; choose another "
                    f"route_prefix, or serving.delete({owner!r}) first"
                )

    def delete(self, name: str) -> bool:
        """Stops an application; returns whether there was one. Raises StoreError."""
        state = self._registry.applications.get(name)
        if state is None or not _can_be_deleted(state):
            return False
        self._set([], [state])
        return True

    async def _tell_what_is_open(self, state: ApplicationState) -> None:
        state.waits_for = await what_is_open(
            replica
            for deployment in state.deployments.values()
            for replica in deployment.replicas.values()
        )
        if self._registry.applications.get(state.name) is state and state.deleting:
            self._statuses.note(state)

    def _remove(self, state: ApplicationState) -> None:
        log.info("application %r: deleting", state.name)
        state.delete()
        self._statuses.note(state)
        self._queue.add(state.name)
        self._tasks.start(self._tell_what_is_open(state), name=f"what is open in {state.name}")

    # The end of the cluster

    def forget_all(self) -> None:
        """No application is to come back when the cluster has ended; until then they run."""
        applications = self._registry.applications.values()
        try:
            self._registry.commit(
                Changes(
                    applications=tuple(replace(each.record, deleting=True) for each in applications)
                )
            )
        except StoreError as error:  # tried again as each of them ends
            log.error("%s", error)
        for state in applications:
            state.comes_back = False

    def end_all(self) -> None:
        """Every application ends. The store keeps those that are to come back."""
        for state in self._registry.applications.values():
            if not state.deleting:
                state.end()
                self._statuses.note(state)
                self._queue.add(state.name)


def _can_be_deleted(state: ApplicationState) -> bool:
    """What ends with its cluster is still kept to come back."""
    return not state.deleting or state.comes_back


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
