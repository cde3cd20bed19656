"""What the controller knows: the target of each application beside what runs for it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from serving.controller import plan
from serving.controller.model import History, Replica, ReplicaState, Target
from serving.controller.replica import ReplicaProcess, Settings, settings_of
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
    # What `reconfigure` raised for the wanted user_config, and the one that serves on instead.
    config_error: str = ""
    previous_config: str = ""

    @property
    def spec(self) -> pb.DeploymentSpec:
        """The newest specification, whose limits apply; of a deleted deployment the last."""
        version = self.target.version if self.target else next(reversed(self.specs))
        return self.specs[version]

    @property
    def settings(self) -> Settings:
        """What its replicas are to run with: the user_config before, where the wanted one was
        refused."""
        settings = settings_of(self.spec.options)
        if self.config_error:
            return replace(settings, user_config_json=self.previous_config)
        return settings

    def spec_to_start(self, version: str) -> pb.DeploymentSpec:
        """The specification for a new replica."""
        if self.target is None or version != self.target.version:
            return self.specs[version]
        return _with_config(self.specs[version], self.settings.user_config_json)

    def seen(self) -> list[Replica]:
        """Its replicas as the planner sees them."""
        return [replica.seen for replica in self.replicas.values()]

    @property
    def has_failed(self) -> bool:
        if self.target is None:
            return False
        return bool(self.config_error) or plan.has_failed(self.target.version, self.histories)

    @property
    def is_complete(self) -> bool:
        return (
            self.target is not None
            and plan.is_complete(self.target, self.seen())
            and self.is_configured
        )

    @property
    def is_configured(self) -> bool:
        """Whether those that take requests run with the wanted user_config."""
        wanted = self.spec.options.user_config_json
        return all(
            replica.settings is not None and replica.settings.user_config_json == wanted
            for replica in self.ready
        )

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
        return self.serving if self.serving is not None else self.record.spec

    @property
    def held(self) -> set[str]:
        """The deployments that others, or what is left of them, may still call."""
        return plan.held(
            {
                name: frozenset().union(*(replica.calls for replica in state.seen()))
                for name, state in self.deployments.items()
            }
        )

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
    previous, before, config = None, state.target, ""
    if state.target is not None:
        config = state.settings.user_config_json
        worked = state.histories.get(state.target.version, History()).proven
        previous = state.target.version if worked else state.target.previous
    if previous == spec.version:
        previous = None
    if plan.has_failed(spec.version, state.histories):
        del state.histories[spec.version]  # asked for again: try again
    state.config_error, state.previous_config = "", config
    state.target = Target(spec.version, spec.options.num_replicas, previous)
    kept = {version: state.specs[version] for version in state.specs if version == previous}
    if before is not None and before.version in kept:
        kept[before.version] = _with_config(kept[before.version], config)
    state.specs = {**kept, spec.version: spec}
    state.histories = {v: h for v, h in state.histories.items() if v in state.specs}


def _with_config(spec: pb.DeploymentSpec, config: str) -> pb.DeploymentSpec:
    if spec.options.user_config_json == config:
        return spec
    other = pb.DeploymentSpec()
    other.CopyFrom(spec)
    other.options.user_config_json = config
    return other
