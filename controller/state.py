"""What the controller knows: the target of each application beside what runs for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from serving.controller import plan
from serving.controller.journal import Journal
from serving.controller.model import History, Replica, ReplicaState, Target
from serving.controller.replica import ReplicaProcess, Settings, settings_of
from serving.controller.scaled import Scaled, target_of
from serving.controller.store import (
    ApplicationRecord,
    DeploymentRecord,
    LoadedApplication,
    VersionRecord,
)
from serving.v1 import controller_pb2 as pb

KEPT_VERSIONS = 10
"""Versions of an application that can be returned to."""


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
    journal: Journal = Journal()
    # Where the number of replicas follows the load.
    scaled: Scaled | None = None
    # What of the machine replicas that are to start wait for, in words.
    shortage: str = ""

    @property
    def spec(self) -> pb.DeploymentSpec:
        """The newest specification, whose limits apply; of a deleted deployment the last."""
        version = self.target.version if self.target else next(reversed(self.specs))
        return self.specs[version]

    @property
    def settings(self) -> Settings:
        """What its replicas are to run with: the user_config before, where the wanted one was
        refused, or has to wait."""
        settings = settings_of(self.spec.options)
        waits = self.target and self.target.is_held_back and self.target.previous is None
        if self.config_error or waits:
            return replace(settings, user_config_json=self.previous_config)
        return settings

    @property
    def blocked_loop_limit_s(self) -> float | None:
        """For how long the event loop of a replica may be blocked; None: for any time."""
        options = self.spec.options
        has_one = options.HasField("blocked_loop_timeout_s")
        return options.blocked_loop_timeout_s if has_one else None

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
    def is_ahead(self) -> bool:
        """Whether some of its new version runs."""
        assert self.target is not None
        return self.target.previous is not None and any(
            each.version == self.target.version and each.state is not ReplicaState.STOPPING
            for each in self.seen()
        )

    @property
    def reached_target(self) -> Target:
        """What is wanted of it, and whether that was reached."""
        assert self.target is not None
        return plan.after_reached(self.target) if self.is_complete else self.target

    def take_turn(self, target: Target, at_s: float) -> bool:
        """Takes over what holds it back now; returns whether that is a decision to tell."""
        before, self.target = self.target, target
        assert before is not None
        if self.is_complete:
            return False
        if target.goes_back and not before.goes_back and not self.has_failed:
            text = "go back to the version before: another deployment could not be updated"
        elif target.waits_for and not before.waits_for:
            text = f"wait: {waiting(target)}"
        else:
            return False
        self.journal = self.journal.decided(text, at_s)
        return True

    def forget_failures(self, now: float) -> float | None:
        """Those that a time without any has made old; returns when to look again."""
        self.histories = {
            version: plan.after_time(history, now=now)
            for version, history in self.histories.items()
        }
        moments = (plan.stable_at(each) for each in self.histories.values() if each.failures)
        return min((moment for moment in moments if now < moment < math.inf), default=None)

    @property
    def is_waking(self) -> bool:
        """Whether it has no replica because nobody asked for one until now."""
        if self.target is None or not self.target.wakes or self.ready:
            return False
        return not self.histories.get(self.target.version, History()).failures

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
    """One application: what is wanted of it, and what was wanted when all was ready last."""

    name: str
    # By generation: the wanted one, that which serves, and what can be returned to.
    versions: dict[int, VersionRecord] = field(default_factory=dict)
    # Of the version that is wanted.
    generation: int = 0
    # Of the version that was complete last; 0: none.
    serving_generation: int = 0
    deployments: dict[str, DeploymentState] = field(default_factory=dict)
    # Nothing of it is to run any more.
    deleting: bool = False
    # The next cluster in this state folder is to bring it back, if this one ends.
    comes_back: bool = True
    # Why its record could not be read; then nothing else is known of it.
    broken: str = ""
    # Why its next steps have to wait.
    problem: str = ""
    # The generation of which every proxy knows that it is complete; and that of which we wait for
    # them to confirm it.
    confirmed_generation: int = 0
    confirming_generation: int = 0
    # Another application that still serves its route prefix, and moves on to one of its own.
    waits_for_route_of: ApplicationState | None = None
    # What those that wait for this one's route were told last: the prefix, and whether it failed.
    told_who_waits: tuple[str | None, bool] = (None, False)
    # What its end waits for, in words.
    waits_for: str = ""

    @property
    def version(self) -> VersionRecord:
        """What is wanted."""
        return self.versions[self.generation]

    @property
    def spec(self) -> pb.ApplicationSpec:
        """What is wanted."""
        return self.version.spec

    @property
    def serving(self) -> pb.ApplicationSpec | None:
        """What was wanted when all was ready last."""
        version = self.versions.get(self.serving_generation)
        return version.spec if version is not None else None

    @property
    def record(self) -> ApplicationRecord:
        """What the store keeps of it, beside its versions."""
        return ApplicationRecord(
            self.name, self.generation, self.serving_generation, deleting=not self.comes_back
        )

    @property
    def has_failed(self) -> bool:
        return bool(self.broken) or any(deployment.has_failed for deployment in self.wanted)

    @property
    def is_complete(self) -> bool:
        return not (self.deleting or self.broken) and all(
            deployment.is_complete for deployment in self.wanted
        )

    @property
    def lost_its_route(self) -> bool:
        """Whether it waits in vain: who has its route could not be updated."""
        other = self.waits_for_route_of
        return other is not None and other.has_failed and self.is_complete

    @property
    def gives_way(self) -> bool:
        """Whether what is wanted failed, and is to be what serves, by itself. What was returned to
        once gives way to nothing: it worked."""
        return (
            not (self.deleting or self.broken or self.version.instead_of)
            and self.comes_back
            and self.spec.auto_rollback
            and self.serving is not None
            and self.has_failed
        )

    @property
    def route_prefixes(self) -> set[str]:
        """Those that it has, or is to have."""
        return {spec.route_prefix for spec in (self.spec, self.serving) if spec}

    @property
    def wanted(self) -> list[DeploymentState]:
        """The deployments that the newest specification names."""
        return [self.deployments[spec.name] for spec in self.spec.deployments]

    @property
    def routed(self) -> pb.ApplicationSpec | None:
        """Whose route is published: what serves, until the new one is complete."""
        if self.deleting or self.broken:
            return None
        if self.serving is not None:
            return self.serving
        return None if self.waits_for_route_of is not None else self.spec

    @property
    def held(self) -> set[str]:
        """The deployments that others, or what is left of them, may still call."""
        return plan.held(
            {
                name: frozenset().union(*(replica.calls for replica in state.seen()))
                for name, state in self.deployments.items()
            }
        )

    @property
    def outlived(self) -> list[int]:
        """The generations that are too old to be kept beside a new one."""
        old = sorted(self.versions.keys() - {self.serving_generation, self.generation})
        return old[: max(0, len(old) + 1 - KEPT_VERSIONS)]

    def want(self, version: VersionRecord) -> None:
        """Takes over a new specification."""
        for generation in self.outlived:
            del self.versions[generation]
        self.versions[version.generation] = version
        self.generation = version.generation
        self.deleting, self.comes_back = False, True
        self.broken = ""
        for spec in version.spec.deployments:
            state = self.deployments.get(spec.name)
            if state is None or state.target is None:
                before = state or DeploymentState(None, {})
                state = DeploymentState(None, {}, replicas=before.replicas, journal=before.journal)
                self.deployments[spec.name] = state
            _want(state, spec)
        if self.serving is None:
            self._drop_unwanted()

    def put_in_order(self, at_s: float) -> list[str]:
        """Has an update go from the callees to the callers, or back; returns the deployments whose
        journal tells more now."""
        serving = self.serving
        if serving is None or self.serving_generation == self.generation or self.deleting:
            return []
        calls = {spec.name: frozenset(spec.calls) for spec in self.spec.deployments}
        wanted = {name: self.deployments[name] for name in calls}
        ordered = plan.in_order(
            {name: state.reached_target for name, state in wanted.items()},
            calls,
            served={spec.name for spec in serving.deployments},
            failed={name for name, state in wanted.items() if state.has_failed},
            ahead={name for name, state in wanted.items() if state.is_ahead},
        )
        return [name for name, state in wanted.items() if state.take_turn(ordered[name], at_s)]

    def complete(self) -> None:
        """Everything wanted is ready: what served before is not needed any more."""
        self.serving_generation = self.generation
        self.versions[self.generation] = replace(self.version, worked=True)
        for state in self.wanted:
            assert state.target is not None
            version = state.target.version
            state.target = plan.after_update(state.target)
            state.specs = {version: state.specs[version]}
            history = state.histories.get(version, History())
            # No replica proves nothing.
            if state.target.num_replicas:
                history = plan.after_complete(history)
            state.histories = {version: history}
        self._drop_unwanted()

    def delete(self) -> None:
        """It ends, for good."""
        self.comes_back = False
        self.end()

    def end(self) -> None:
        """It ends with its cluster."""
        self.deleting = True
        self.waits_for = ""
        self.serving_generation = 0
        for state in self.deployments.values():
            state.target = None

    def records(self, journals: Mapping[str, Journal]) -> tuple[DeploymentRecord, ...]:
        """What is to be kept of deployments with these journals, of those that are wanted."""
        return tuple(
            DeploymentRecord(self.name, name, state.target.num_replicas, journal)
            for name, journal in journals.items()
            if (state := self.deployments[name]).target is not None
        )

    def found(self, record: DeploymentRecord) -> None:
        """What had become of a deployment: there are to be as many replicas as its load had led
        to."""
        state = self.deployments.get(record.name)
        if state is None or state.target is None:
            return
        state.journal = record.journal
        if state.target.wakes:
            count = target_of(state.spec.options, record.num_replicas)
            state.target = plan.with_number(state.target, count)

    def _drop_unwanted(self) -> None:
        wanted = {spec.name for spec in self.spec.deployments}
        for name, state in self.deployments.items():
            if name not in wanted:
                state.target = None


def found_application(found: LoadedApplication) -> ApplicationState:
    """An application as the controller before this one left it, without its replicas."""
    record = found.record
    state = ApplicationState(record.name)
    if found.broken:
        nothing = VersionRecord(pb.ApplicationSpec(name=record.name), record.generation, 0.0)
        state.want(nothing)
        state.broken = found.broken
        return state
    versions = {version.generation: version for version in found.versions}
    if (serving := versions.get(record.serving_generation)) is not None:
        state.want(serving)
        state.complete()
    if record.generation != record.serving_generation:
        state.want(versions[record.generation])
    state.versions = versions
    for name, error in state.version.errors.items():
        if (deployment := state.deployments.get(name)) is not None and deployment.target:
            given_up = History(failures=plan.MAX_FAILED_STARTS, error=error)
            deployment.histories[deployment.target.version] = given_up
    for deployment_record in found.deployments:
        state.found(deployment_record)
    if record.deleting:
        state.delete()
    return state


def _want(state: DeploymentState, spec: pb.DeploymentSpec) -> None:
    previous, served, before, config, worked = None, 0, state.target, "", False
    if state.target is not None:
        config = _config_of(state, spec.version)
        worked = state.histories.get(state.target.version, History()).proven
        previous = state.target.version if worked else state.target.previous
        served = state.target.num_replicas if worked else state.target.previous_replicas
    if previous == spec.version:
        previous = None
    kept = {
        version: _with_config(one, _config_of(state, version))
        for version, one in state.specs.items()
        if version == previous
    }
    if (history := state.histories.get(spec.version)) is not None:
        state.histories[spec.version] = plan.after_deploy(history)
    state.config_error, state.previous_config = "", config
    before_count = before.num_replicas if before and before.wakes else None
    target = _target(spec, previous, before_count)
    is_same = worked and previous is None and config == spec.options.user_config_json
    state.target = replace(target, previous_replicas=served if previous else 0, is_reached=is_same)
    state.specs = {**kept, spec.version: spec}
    state.histories = {v: h for v, h in state.histories.items() if v in state.specs}


def _config_of(state: DeploymentState, version: str) -> str:
    """The user_config with which replicas of a version run, as far as that is known."""
    if state.target is not None and version == state.target.version:
        return state.settings.user_config_json
    return state.specs[version].options.user_config_json if version in state.specs else ""


def waiting(target: Target) -> str:
    """What the update of a deployment waits for, in words."""
    names = ", ".join(repr(name) for name in sorted(target.waits_for))
    return f"{names} {'is' if len(target.waits_for) == 1 else 'are'} to be updated first"


def _target(spec: pb.DeploymentSpec, previous: str | None, before: int | None) -> Target:
    """`before`: how many replicas the load has led to."""
    options = spec.options
    return Target(
        spec.version,
        target_of(options, before),
        previous,
        options.rolling_update_percentage,
        options.max_surge_percent,
        wakes=bool(options.autoscaling_config_json),
    )


def _with_config(spec: pb.DeploymentSpec, config: str) -> pb.DeploymentSpec:
    if spec.options.user_config_json == config:
        return spec
    other = pb.DeploymentSpec()
    other.CopyFrom(spec)
    other.options.user_config_json = config
    return other
