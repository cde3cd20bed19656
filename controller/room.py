"""Which replicas find room on the machines, and who waits for some."""

from __future__ import annotations

import logging
from collections.abc import Sequence, Set

from serving.controller import plan
from serving.controller.queue import Queue
from serving.controller.replica import ReplicaProcess
from serving.controller.resources import Ledger, Node, Shortage, request_of
from serving.controller.state import ApplicationState, DeploymentState
from serving.v1 import controller_pb2 as pb

log = logging.getLogger("serving.controller")

_HOW_TO_GO_ON = (
    ". The one that serves has it, and leaves once the new one is ready; with max_surge_percent=0 "
    "it leaves first, and none serves meanwhile"
)


class TooLargeError(Exception):
    """A replica would find no room on any machine, whatever else ends."""


class Room:
    """Applications of which replicas wait are looked at again when something was given back."""

    def __init__(self, nodes: Sequence[Node], queue: Queue) -> None:
        self._ledger = Ledger(nodes)
        self._queue = queue
        # Those that have waited longest first.
        self._waiting: dict[str, None] = {}

    def check(self, spec: pb.ApplicationSpec) -> None:
        """Raises TooLargeError where a replica asks for more than there can be."""
        for deployment in spec.deployments:
            reason = self._ledger.impossible(request_of(spec.name, deployment))
            if reason:
                raise TooLargeError(
                    f"application {spec.name!r}: deployment {deployment.name!r} asks for more than "
                    f"any machine has, for each replica {reason}; change its ray_actor_options, or "
                    "start the cluster with other node_options"
                )

    def take(self, deployment: DeploymentState, replica: ReplicaProcess) -> bool:
        """Gives a replica that is to start what it asks for; False where there is too little,
        which its deployment then tells."""
        spec = deployment.spec_to_start(replica.seen.version)
        request = request_of(replica.record.application, spec)
        granted = self._ledger.grant(replica.seen.replica_id, request)
        if isinstance(granted, Shortage):
            deployment.shortage = granted.reason
            return False
        replica.grant = granted
        return True

    def hold(self, replica: ReplicaProcess) -> None:
        """A replica that was adopted keeps what it has."""
        if replica.grant is not None:
            self._ledger.hold(replica.seen.replica_id, replica.grant)

    def release(self, replica: ReplicaProcess) -> None:
        """A replica that was to start does not."""
        self._ledger.release(replica.seen.replica_id)

    def give_back(self, replica: ReplicaProcess) -> None:
        """A replica has ended: who waits may have what it had."""
        self.release(replica)
        self._queue.add(*self._waiting)

    def forget(self, application: str) -> None:
        """It waits for nothing."""
        self._waiting.pop(application, None)

    def in_order(self, names: Set[str]) -> list[str]:
        """Applications, those that wait before all others."""
        waiting = [name for name in self._waiting if name in names]
        return [*waiting, *(names - self._waiting.keys())]

    def in_the_way(self, state: ApplicationState, busy: Set[str]) -> list[ReplicaProcess]:
        """Replicas of older versions that leave before their successors are there, which find no
        room beside them; of deployments of which nothing else starts or stops (`busy`)."""
        leaving = []
        for name, deployment in state.deployments.items():
            if not deployment.shortage or deployment.target is None or name in busy:
                continue
            version = plan.serving_version(deployment.target, deployment.histories)
            request = request_of(state.name, deployment.spec_to_start(version))
            first = plan.to_make_room(deployment.target, version, deployment.seen())
            outdated = [each.replica_id for each in deployment.seen() if each.version != version]
            if not self._ledger.fits_without(request, outdated):
                continue
            if first is not None:
                log.info("%s leaves first: its successor needs %s", first, deployment.shortage)
                leaving.append(deployment.replicas[first])
                deployment.target = plan.after_making_room(
                    deployment.target, first, deployment.seen()
                )
            elif deployment.target.num_replicas == len(deployment.replicas) == 1:
                deployment.shortage += _HOW_TO_GO_ON
        self._note_waiting(state, made_room=bool(leaving))
        return leaving

    def _note_waiting(self, state: ApplicationState, *, made_room: bool) -> None:
        if made_room:  # what is given back is for its own
            self._waiting = {state.name: None, **self._waiting}
        elif any(deployment.shortage for deployment in state.deployments.values()):
            self._waiting.setdefault(state.name)
        else:
            self._waiting.pop(state.name, None)
