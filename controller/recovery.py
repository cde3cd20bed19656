"""Finds what the controller before this one has left running.

Each replica in the store is looked for: its process through the engine, and what it is by asking
itself. One that is alive and does not answer is taken for what it was when it was last recorded: it
may be busy, and the callers that it has must not lose it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from serving.controller.events import Events
from serving.controller.model import Replica, ReplicaState
from serving.controller.registry import Registry
from serving.controller.replica import ReplicaProcess, Surroundings
from serving.controller.room import Room
from serving.controller.state import ApplicationState, DeploymentState, found_application
from serving.controller.store import Found, ReplicaRecord, VersionRecord
from serving.v1 import controller_pb2 as pb
from serving.v1.replica_pb2 import DescribeResponse

log = logging.getLogger("serving.controller")

ANSWER_TIMEOUT_S = 1.0
_STATES = {
    DescribeResponse.STARTING: ReplicaState.STARTING,
    DescribeResponse.READY: ReplicaState.RUNNING,
    DescribeResponse.DRAINING: ReplicaState.STOPPING,
}


@dataclass(frozen=True)
class Recovered:
    """What became of the replicas in the store."""

    replicas: tuple[ReplicaProcess, ...] = ()
    # The ids of those that have ended.
    gone: tuple[str, ...] = ()


async def find_replicas(around: Surroundings, records: Sequence[ReplicaRecord]) -> Recovered:
    """Adopts every replica that runs."""
    found = await asyncio.gather(*(_find(around, record) for record in records))
    adopted = tuple(replica for replica in found if replica is not None)
    alive = {replica.seen.replica_id for replica in adopted}
    gone = tuple(record.replica_id for record in records if record.replica_id not in alive)
    if records:
        log.info("adopted %d replicas; %d have ended", len(adopted), len(gone))
    return Recovered(adopted, gone)


async def _find(around: Surroundings, record: ReplicaRecord) -> ReplicaProcess | None:
    now = time.monotonic()
    started_at = now - max(0.0, time.time() - record.started_at)
    recorded = ReplicaState(record.state)
    seen = Replica(record.replica_id, record.version, recorded, started_at, now)
    replica = ReplicaProcess(around, record, seen)
    if not replica.adopt():
        replica.has_ended()
        return None
    answer = await replica.describe(ANSWER_TIMEOUT_S)
    if answer is not None and recorded is not ReplicaState.STOPPING:
        replica.become(_STATES[answer.state], now)
    return replica


def take_over(
    found: Found, recovered: Recovered, registry: Registry, room: Room, events: Events
) -> None:
    """The applications of the store, and the replicas that were adopted, are this controller's
    from now on."""
    for loaded in found.applications:
        state = registry.applications[loaded.record.name] = found_application(loaded)
        if state.broken:
            log.error("application %r does not load: %s", state.name, state.broken)
    for replica_id in recovered.gone:
        registry.note_end(replica_id)
    for replica in recovered.replicas:
        _make_known(replica, registry.applications)
        registry.hold(replica)
        registry.note(replica)
        room.hold(replica)
        events.actuator.watch(replica)
        if replica.seen.state is ReplicaState.RUNNING:
            events.takes_requests(replica)
        elif replica.seen.state is ReplicaState.STOPPING:
            events.actuator.stop(replica, takes_requests=True)


def _make_known(replica: ReplicaProcess, applications: dict[str, ApplicationState]) -> None:
    """Its deployment may be wanted no more, and the record of its application be gone before its
    own."""
    record = replica.record
    state = applications.get(record.application)
    if state is None:
        state = applications[record.application] = ApplicationState(record.application)
        nothing = pb.ApplicationSpec(name=record.application)
        state.want(VersionRecord(nothing, 0, 0.0))
        state.delete()
    if record.deployment not in state.deployments:
        spec = replica.spec.deployment
        state.deployments[record.deployment] = DeploymentState(None, {record.version: spec})
