"""What proxies and handles are told: routes, and the replicas that take requests.

The publisher keeps the current table only. For each watcher it remembers which entries changed
since it was last told, so a slow watcher costs no more than the table has entries, and gets all it
missed in one update. Watchers confirm what they act on. The tickets of their queues
(`tickets.Tickets`) travel beside.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping

from serving.controller.tickets import Tickets
from serving.v1 import controller_pb2 as pb

log = logging.getLogger("serving.controller")

CONFIRM_TIMEOUT_S = 2.0
# Within which those who watched the controller before this one are back: they try again every two
# seconds at least.
SETTLE_S = 3.0

_Key = tuple[str, str]


class Watcher:
    """One open watch."""

    def __init__(self, name: str) -> None:
        self.name = name
        # Told nothing yet: the first update is a snapshot.
        self.snapshot_due = True
        self.routes_due = False
        self.due: set[_Key] = set()
        self.wake = asyncio.Event()
        # The revision that it has confirmed.
        self.confirmed = -1
        # It failed to confirm in time, and is not waited for until it does.
        self.lagging = False

    def __repr__(self) -> str:
        return f"Watcher({self.name!r}, confirmed={self.confirmed}, due={len(self.due)})"


class Publisher:
    """The table and its watchers. Lives on one event loop."""

    def __init__(self, epoch: int) -> None:
        """`epoch` is above that of every controller before."""
        self.epoch = epoch
        self.revision = 0

        self._routes: dict[str, pb.Route] = {}
        self._deployments: dict[_Key, pb.Deployment] = {}

        self._watchers: set[Watcher] = set()
        self._progress = asyncio.Event()
        self._tickets: Tickets[Watcher] = Tickets(lambda watcher: watcher.wake.set())

    @property
    def in_sync(self) -> set[str]:
        """The names of the watchers that act on what they were told first, or later."""
        return {watcher.name for watcher in self._watchers if watcher.confirmed >= 0}

    # The table

    def publish(
        self, application: str, route: pb.Route | None, deployments: Mapping[str, pb.Deployment]
    ) -> int:
        """Replaces what is told of one application; returns the revision that holds it."""
        routes_changed = self._replace_route(application, route)
        changed = self._replace(application, deployments)
        if routes_changed or changed:
            self._tell(changed, routes_changed=routes_changed)
        return self.revision

    def route(self, application: str, route: pb.Route | None) -> None:
        """Replaces its route alone. What changes in one turn of the loop comes in one update."""
        if self._replace_route(application, route):
            self._tell(set(), routes_changed=True)

    def _replace_route(self, application: str, route: pb.Route | None) -> bool:
        if self._routes.get(application) == route:
            return False
        if route is None:
            del self._routes[application]
        else:
            self._routes[application] = route
        return True

    def _tell(self, changed: set[_Key], *, routes_changed: bool) -> None:
        self.revision += 1
        for watcher in self._watchers:
            watcher.routes_due |= routes_changed
            watcher.due |= changed
            watcher.wake.set()

    def _replace(self, application: str, deployments: Mapping[str, pb.Deployment]) -> set[_Key]:
        wanted = {(application, name): message for name, message in deployments.items()}
        known = {key for key in self._deployments if key[0] == application}
        changed = {
            key for key in known | wanted.keys() if self._deployments.get(key) != wanted.get(key)
        }
        for key in known:
            del self._deployments[key]
        self._deployments |= wanted
        for key in known - wanted.keys():
            self._tickets.remove(key)
        for key, deployment in wanted.items():
            self._tickets.limit(key, deployment.max_queued_requests)
        return changed

    # Watching

    @contextlib.contextmanager
    def watching(self, name: str, tickets: Iterable[pb.TicketRequest] = ()) -> Iterator[Watcher]:
        """Registers a watcher for as long as the context lasts. `tickets`: those that it has."""
        watcher = Watcher(name)
        self._tickets.hear(watcher, tickets)
        watcher.wake.set()
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)
            self._tickets.forget(watcher)
            self._notify()

    async def updates(self, watcher: Watcher) -> AsyncIterator[pb.WatchUpdate]:
        """A snapshot, then what changed, whenever something did."""
        while True:
            await watcher.wake.wait()
            watcher.wake.clear()
            yield self._take(watcher)

    def _take(self, watcher: Watcher) -> pb.WatchUpdate:
        snapshot, watcher.snapshot_due = watcher.snapshot_due, False
        routes_changed, watcher.routes_due = watcher.routes_due or snapshot, False
        keys, watcher.due = (self._deployments.keys() if snapshot else watcher.due), set()
        return pb.WatchUpdate(
            epoch=self.epoch,
            revision=self.revision,
            snapshot=snapshot,
            routes_changed=routes_changed,
            routes=self._routes.values() if routes_changed else (),
            deployments=[self._deployments[key] for key in keys if key in self._deployments],
            removed=[
                pb.DeploymentKey(application=key[0], name=key[1])
                for key in keys
                if key not in self._deployments
            ],
            tickets=self._tickets.take(watcher),
        )

    # Tickets

    def hear_tickets(self, watcher: Watcher, tickets: Iterable[pb.TicketRequest]) -> None:
        """What a watcher wants and gives back."""
        self._tickets.hear(watcher, tickets)

    async def settle_tickets(self) -> None:
        """Of deployments that are there already nothing is granted that watchers of the controller
        before this one may hold, until they had time to come back."""
        self._tickets.withhold()
        await asyncio.sleep(SETTLE_S)
        self._tickets.release()

    # Confirmation

    def confirm(self, watcher: Watcher, revision: int) -> None:
        """Notes that a watcher acts on a revision and all before it."""
        watcher.confirmed = max(watcher.confirmed, min(revision, self.revision))
        watcher.lagging = False
        self._notify()

    async def confirmed(self, revision: int, *, timeout_s: float = CONFIRM_TIMEOUT_S) -> None:
        """Waits until every watcher acts on a revision.

        One that has not within `timeout_s` is warned about and from then on not waited for until
        it confirms again: a proxy that hangs must not stop all others from being updated.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._behind(revision):
                    await self._progress.wait()
        for watcher in self._behind(revision):
            log.warning("%s did not confirm an update within %s s", watcher.name, timeout_s)
            watcher.lagging = True

    async def unwatched(self, names: set[str], *, timeout_s: float) -> None:
        """Waits until none of these watches any more, or for `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while any(watcher.name in names for watcher in self._watchers):
                    await self._progress.wait()

    def _behind(self, revision: int) -> list[Watcher]:
        return [
            watcher
            for watcher in self._watchers
            if watcher.confirmed < revision and not watcher.lagging
        ]

    def _notify(self) -> None:
        waited_for, self._progress = self._progress, asyncio.Event()
        waited_for.set()
