"""All applications with their replicas, and what of it the store does not have yet."""

from __future__ import annotations

from dataclasses import dataclass, field

from serving.controller.packages import digests
from serving.controller.replica import ReplicaProcess
from serving.controller.state import ApplicationState, DeploymentState
from serving.controller.store import (
    Changes,
    DeploymentRecord,
    ReplicaRecord,
    Store,
    VersionRecord,
)


@dataclass
class News:
    """What happened to whom, each told as it is now."""

    versions: dict[tuple[str, int], VersionRecord] = field(default_factory=dict)
    removed_applications: dict[str, None] = field(default_factory=dict)
    # Of applications, by name. What is to be told of them is found out when it is told.
    deployments: dict[tuple[str, str], None] = field(default_factory=dict)
    removed_deployments: dict[tuple[str, str], None] = field(default_factory=dict)
    replicas: dict[str, ReplicaRecord] = field(default_factory=dict)
    removed_replicas: dict[str, None] = field(default_factory=dict)

    def remove_application(self, name: str) -> None:
        """It is gone, and what was to be told of it."""
        self.versions = {key: version for key, version in self.versions.items() if key[0] != name}
        self.removed_applications[name] = None

    def changes(self, deployments: tuple[DeploymentRecord, ...]) -> Changes:
        """As a store takes them."""
        return Changes(
            deployments=deployments,
            removed_deployments=tuple(self.removed_deployments),
            versions=tuple(self.versions.values()),
            removed_applications=tuple(self.removed_applications),
            replicas=tuple(self.replicas.values()),
            removed_replicas=tuple(self.removed_replicas),
        )


class Registry:
    """Two ways lead into the store: `commit`, for what is decided, before it is done; and `note`
    with those beside it, for what merely happened, which goes with the next `save`."""

    def __init__(self, store: Store) -> None:
        self.applications: dict[str, ApplicationState] = {}
        self.replicas: dict[str, ReplicaProcess] = {}
        self._store = store
        self._news = News()

    def application_of(self, replica: ReplicaProcess) -> ApplicationState:
        return self.applications[replica.record.application]

    def deployment_of(self, replica: ReplicaProcess) -> DeploymentState:
        return self.application_of(replica).deployments[replica.record.deployment]

    def hold(self, replica: ReplicaProcess) -> None:
        """There is one more replica; its deployment is known."""
        self.deployment_of(replica).replicas[replica.seen.replica_id] = replica
        self.replicas[replica.seen.replica_id] = replica

    def drop(self, replica: ReplicaProcess) -> None:
        """Its process is gone."""
        replica_id = replica.seen.replica_id
        del self.replicas[replica_id]
        del self.deployment_of(replica).replicas[replica_id]
        self._news.replicas.pop(replica_id, None)
        self.note_end(replica_id)

    def forget(self, state: ApplicationState) -> None:
        """Nothing of an application runs any more."""
        del self.applications[state.name]
        if not state.comes_back:
            self._news.remove_application(state.name)

    def forget_deployment(self, state: ApplicationState, name: str) -> None:
        """Nothing of a deployment runs any more, which is not wanted."""
        del state.deployments[name]
        if not state.deleting:  # else the store has it for as long as its application
            self._news.removed_deployments[state.name, name] = None

    # The store

    def commit(self, changes: Changes) -> None:
        """Keeps what is decided. Raises StoreError: then it must not be done."""
        if changes:
            self._store.commit(changes)

    def note(self, replica: ReplicaProcess) -> None:
        """Something happened to a replica."""
        self._news.replicas[replica.seen.replica_id] = replica.record

    def note_end(self, replica_id: str) -> None:
        """A replica of the store is no more."""
        self._news.removed_replicas[replica_id] = None

    def note_deployment(self, application: str, name: str) -> None:
        """There is something new in the journal of a deployment, or another number of replicas."""
        self._news.deployments[application, name] = None

    def note_version(self, state: ApplicationState) -> None:
        """It is known how the wanted version of an application goes."""
        self._news.versions[state.name, state.generation] = state.version

    def save(self) -> None:
        """Keeps what happened. Raises StoreError: then it is kept for the next time."""
        noted = (record for key in self._news.deployments for record in self._records(*key))
        self.commit(self._news.changes(tuple(noted)))
        self._news = News()

    def _records(self, application: str, name: str) -> tuple[DeploymentRecord, ...]:
        state = self.applications.get(application)
        if state is None or name not in state.deployments:
            return ()
        return state.records({name: state.deployments[name].journal})

    def packages_in_use(self) -> set[str]:
        """Those that may be started with, or run."""
        versions = (
            version.spec
            for state in self.applications.values()
            for version in state.versions.values()
        )
        running = [replica.spec.deployment for replica in self.replicas.values()]
        return digests(running).union(*(digests(spec.deployments) for spec in versions))
