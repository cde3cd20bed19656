"""Where the target state is kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from serving.v1 import controller_pb2 as pb


@dataclass(frozen=True)
class ApplicationRecord:
    """What is wanted of one application, and since when."""

    spec: pb.ApplicationSpec
    generation: int
    # Seconds since the epoch.
    deployed_at: float


class Store(Protocol):
    """The target state. What was put is there after a crash, as far as the store promises that."""

    def put(self, record: ApplicationRecord) -> None: ...

    def remove(self, name: str) -> None: ...

    def all(self) -> Iterable[ApplicationRecord]: ...


class MemoryStore:
    """Keeps the target state for as long as the controller lives."""

    def __init__(self) -> None:
        self._records: dict[str, ApplicationRecord] = {}

    def put(self, record: ApplicationRecord) -> None:
        self._records[record.spec.name] = record

    def remove(self, name: str) -> None:
        self._records.pop(name, None)

    def all(self) -> Iterable[ApplicationRecord]:
        return tuple(self._records.values())
