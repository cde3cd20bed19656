"""The statuses of all applications, and who waits for one to change."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping

from serving.controller.state import ApplicationState
from serving.controller.status import application_status
from serving.v1 import controller_pb2 as pb


class Statuses(Mapping[str, pb.ApplicationStatus]):
    """By name of the application, as last noted."""

    def __init__(self) -> None:
        self._statuses: dict[str, pb.ApplicationStatus] = {}
        self._changed = asyncio.Event()

    def __getitem__(self, name: str) -> pb.ApplicationStatus:
        return self._statuses[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._statuses)

    def __len__(self) -> int:
        return len(self._statuses)

    def note(self, state: ApplicationState) -> None:
        """How an application is now."""
        status = application_status(state)
        if self._statuses.get(state.name) != status:
            self._statuses[state.name] = status
            self.notify()

    def forget(self, name: str) -> None:
        """It is gone."""
        self._statuses.pop(name, None)
        self.notify()

    def notify(self) -> None:
        """Wakes those who wait, for what is told beside the applications."""
        waited_for, self._changed = self._changed, asyncio.Event()
        waited_for.set()

    async def change(self) -> None:
        """Returns when any status changed after the call."""
        await self._changed.wait()
