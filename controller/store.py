"""Where the target state and the registry of replicas are kept.

What is wanted, every version of it, what was started for it, and why. The controller commits a
decision before it acts on it, each in one transaction, so that one that is killed at any instant
finds in the store all that it may have begun.

`MemoryStore` is for tests; `serving.controller.sqlite` has the one that lasts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from serving.controller.journal import Journal
from serving.v1 import controller_pb2 as pb

_Record = TypeVar("_Record")


class StoreError(Exception):
    """The store cannot be read or written; nothing of what was to be written is there."""


@dataclass(frozen=True)
class VersionRecord:
    """A specification that was deployed."""

    spec: pb.ApplicationSpec
    # Rises with each deploy of the application.
    generation: int
    # Seconds since the epoch.
    deployed_at: float
    # All of it was ready at the same time once.
    worked: bool = False
    # Why deployments of it were given up, by their names.
    errors: Mapping[str, str] = field(default_factory=dict)
    # The generation that was taken back for this one; 0: none, this one was deployed.
    instead_of: int = 0
    # To what it was taken back, and why.
    note: str = ""


@dataclass(frozen=True)
class ApplicationRecord:
    """What is wanted of one application."""

    name: str
    # Of the version that is wanted.
    generation: int
    # Of the version that was complete last, which serves until the wanted one is; 0: none yet.
    serving_generation: int = 0
    deleting: bool = False


@dataclass(frozen=True)
class DeploymentRecord:
    """What has become of a deployment, beside what is wanted of it."""

    application: str
    name: str
    # How many replicas there are to be: what its load has led to, where it follows that.
    num_replicas: int
    journal: Journal = Journal()


@dataclass(frozen=True)
class ReplicaRecord:
    """A replica that was, or is about to be, started."""

    replica_id: str
    application: str
    deployment: str
    version: str
    # Names its sockets and files.
    token: str
    # Seconds since the epoch.
    started_at: float
    # STARTING, RUNNING or STOPPING.
    state: str = "STARTING"
    # The engine's identity of its process; empty until it is known.
    process: str = ""


@dataclass(frozen=True)
class LoadedApplication:
    """An application as it was found, with its versions, oldest first."""

    record: ApplicationRecord
    versions: tuple[VersionRecord, ...]
    # What of it cannot be read, in words; empty where all is well.
    broken: str = ""
    deployments: tuple[DeploymentRecord, ...] = ()


@dataclass(frozen=True)
class Found:
    """All that a store holds."""

    applications: tuple[LoadedApplication, ...] = ()
    replicas: tuple[ReplicaRecord, ...] = ()


@dataclass(frozen=True)
class Changes:
    """What one decision changes."""

    applications: tuple[ApplicationRecord, ...] = ()
    versions: tuple[VersionRecord, ...] = ()
    # Of an application, by generation.
    removed_versions: tuple[tuple[str, int], ...] = ()
    deployments: tuple[DeploymentRecord, ...] = ()
    # Of an application, by name.
    removed_deployments: tuple[tuple[str, str], ...] = ()
    # With their versions and deployments.
    removed_applications: tuple[str, ...] = ()
    replicas: tuple[ReplicaRecord, ...] = ()
    removed_replicas: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return any(vars(self).values())


class Store(Protocol):
    """The target state and the registry. What was committed is there after any crash."""

    def next_epoch(self) -> int:
        """A number above all that were given before."""
        ...

    def load(self) -> Found:
        """All that is there. Raises StoreError; what is wrong with one application is told with
        that one."""
        ...

    def commit(self, changes: Changes) -> None:
        """Makes all of the changes, or raises StoreError and makes none."""
        ...

    def close(self) -> None: ...


@dataclass
class MemoryStore:
    """A store that lasts as long as its object: for tests."""

    epoch: int = 0
    applications: dict[str, ApplicationRecord] = field(default_factory=dict)
    versions: dict[tuple[str, int], VersionRecord] = field(default_factory=dict)
    deployments: dict[tuple[str, str], DeploymentRecord] = field(default_factory=dict)
    replicas: dict[str, ReplicaRecord] = field(default_factory=dict)

    def next_epoch(self) -> int:
        self.epoch += 1
        return self.epoch

    def load(self) -> Found:
        found = [
            LoadedApplication(
                record,
                _of(self.versions, record.name),
                deployments=_of(self.deployments, record.name),
            )
            for _, record in sorted(self.applications.items())
        ]
        return Found(tuple(found), tuple(self.replicas.values()))

    def commit(self, changes: Changes) -> None:
        for name in changes.removed_applications:
            self.applications.pop(name, None)
            self.versions = {k: v for k, v in self.versions.items() if k[0] != name}
            self.deployments = {k: v for k, v in self.deployments.items() if k[0] != name}
        for record in changes.applications:
            self.applications[record.name] = record
        for version in changes.versions:
            self.versions[version.spec.name, version.generation] = version
        for key in changes.removed_versions:
            self.versions.pop(key, None)
        for deployment_key in changes.removed_deployments:
            self.deployments.pop(deployment_key, None)
        for deployment in changes.deployments:
            self.deployments[deployment.application, deployment.name] = deployment
        for replica_id in changes.removed_replicas:
            self.replicas.pop(replica_id, None)
        for replica in changes.replicas:
            self.replicas[replica.replica_id] = replica

    def close(self) -> None:
        """Nothing to give back."""


def _of(records: Mapping[tuple[str, Any], _Record], application: str) -> tuple[_Record, ...]:
    return tuple(records[key] for key in sorted(records) if key[0] == application)
