"""What the controller knows: the target of each application beside what runs for it."""

from __future__ import annotations

from dataclasses import dataclass, field

from serving.controller import plan
from serving.controller.model import History, Replica, ReplicaState, Target
from serving.controller.replica import ReplicaProcess
from serving.controller.store import ApplicationRecord
from serving.v1 import controller_pb2 as pb


@dataclass
class DeploymentState:
    """One deployment of one application."""

    # None: to be stopped.
    target: Target | None
    # By version: the wanted one and the one before it.
    specs: dict[str, pb.DeploymentSpec]
    histories: dict[str, History] = field(default_factory=dict)
    replicas: dict[str, ReplicaProcess] = field(default_factory=dict)

    @property
    def spec(self) -> pb.DeploymentSpec:
        """The newest specification, whose limits apply; of a deleted deployment the last."""
        version = self.target.version if self.target else next(reversed(self.specs))
        return self.specs[version]

    def seen(self) -> list[Replica]:
        """Its replicas as the planner sees them."""
        return [replica.seen for replica in self.replicas.values()]

    @property
    def has_failed(self) -> bool:
        return self.target is not None and plan.has_failed(self.target.version, self.histories)

    @property
    def is_complete(self) -> bool:
        return self.target is not None and plan.is_complete(self.target, self.seen())

    @property
    def ready(self) -> list[ReplicaProcess]:
        """Those that take requests."""
        return [
            replica
            for replica in self.replicas.values()
            if replica.seen.state is ReplicaState.RUNNING
        ]


@dataclass
class ApplicationState:
    """One application. `record` is what is wanted, `serving` what was wanted when all was ready."""

    record: ApplicationRecord
    serving: pb.ApplicationSpec | None = None
    deployments: dict[str, DeploymentState] = field(default_factory=dict)
    deleting: bool = False
    # The generation of which every proxy knows that it is complete; and that of which we wait for
    # them to confirm it.
    confirmed_generation: int = 0
    # What its end waits for, in words.
    waits_for: str = ""
    confirming_generation: int = 0

    @property
    def name(self) -> str:
        return self.record.spec.name

    @property
    def has_failed(self) -> bool:
        return any(deployment.has_failed for deployment in self.wanted)

    @property
    def is_complete(self) -> bool:
        return not self.deleting and all(deployment.is_complete for deployment in self.wanted)

    @property
    def route_prefixes(self) -> set[str]:
        """Those that it has, or is to have."""
        return {spec.route_prefix for spec in (self.record.spec, self.serving) if spec}

    @property
    def wanted(self) -> list[DeploymentState]:
        """The deployments that the newest specification names."""
        return [self.deployments[spec.name] for spec in self.record.spec.deployments]

    @property
    def routed(self) -> pb.ApplicationSpec | None:
        """Whose route is published: what serves, until the new one is complete."""
        if self.deleting:
            return None
        if self.serving is not None:
            return self.serving
        # Nothing served before: early requests wait for the first replica, but not for ever.
        return None if self.has_failed else self.record.spec

    def want(self, record: ApplicationRecord) -> None:
        """Takes over a new specification."""
        self.record = record
        self.deleting = False
        for spec in record.spec.deployments:
            state = self.deployments.get(spec.name)
            if state is None or state.target is None:
                replicas = state.replicas if state else {}
                state = DeploymentState(None, {}, replicas=replicas)
                self.deployments[spec.name] = state
            _want(state, spec)
        if self.serving is None:
            self._drop_unwanted()

    def complete(self) -> None:
        """Everything wanted is ready: what served before is not needed any more."""
        self.serving = self.record.spec
        for state in self.wanted:
            assert state.target is not None
            version = state.target.version
            state.target = Target(version, state.target.num_replicas)
            state.specs = {version: state.specs[version]}
            history = state.histories.get(version, History())
            state.histories = {version: plan.after_complete(history)}
        self._drop_unwanted()

    def delete(self) -> None:
        self.deleting = True
        self.waits_for = ""
        self.serving = None
        for state in self.deployments.values():
            state.target = None

    def _drop_unwanted(self) -> None:
        wanted = {spec.name for spec in self.record.spec.deployments}
        for name, state in self.deployments.items():
            if name not in wanted:
                state.target = None


def _want(state: DeploymentState, spec: pb.DeploymentSpec) -> None:
    previous = None
    if state.target is not None:
        worked = state.histories.get(state.target.version, History()).proven
        previous = state.target.version if worked else state.target.previous
    if previous == spec.version:
        previous = None
    if plan.has_failed(spec.version, state.histories):
        del state.histories[spec.version]  # asked for again: try again
    state.target = Target(spec.version, spec.options.num_replicas, previous)
    kept = {version: state.specs[version] for version in state.specs if version == previous}
    state.specs = {**kept, spec.version: spec}
    state.histories = {v: h for v, h in state.histories.items() if v in state.specs}
