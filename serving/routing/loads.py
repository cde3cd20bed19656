"""What a caller tells the controller: its load, for deployments whose number follows it, and what
its shares of tickets have to say.

The counters are read at each interval of a deployment; requests pay nothing for it. Only one that
has to wait where there is no replica is told of at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from serving.routing.tickets import Share
from serving.v1.controller_pb2 import Load, TicketRequest, WatchRequest

Key = tuple[str, str]

EARLY = 0.1
"""The part of an interval that a report may be early, so that timers need not be exact."""


@dataclass(frozen=True, slots=True)
class Counters:
    """Of one deployment, as they are now."""

    queued: int
    ongoing: int
    # Requests that ever came.
    arrived: int
    # Seconds between two reports.
    interval_s: float


class Reports:
    """Decides what is to be told, to one listener. Pure: the clock is an argument."""

    def __init__(self) -> None:
        self._told: dict[Key, tuple[float, Counters]] = {}

    def due(self, counters: Mapping[Key, Counters], now: float) -> list[Load]:
        """What is to be told now: what is not zero or has become it, at most once an interval; a
        queue that has begun, at once."""
        for key in self._told.keys() - counters.keys():
            del self._told[key]
        loads = []
        for key, count in counters.items():
            # What came before the first report is told by what there is of it.
            nothing = -math.inf, replace(count, queued=0, ongoing=0)
            told_at, told = self._told.setdefault(key, nothing)
            is_active = count.queued > 0 or count.arrived != told.arrived
            begins = count.queued > 0 and not told.queued
            is_due = now - told_at >= (1 - EARLY) * count.interval_s
            is_news = is_active or count.ongoing or told.queued or told.ongoing
            if begins or (is_due and is_news):
                self._told[key] = now, count
                loads.append(_load(key, count, is_active))
        return loads


def _load(key: Key, count: Counters, is_active: bool) -> Load:
    application, deployment = key
    return Load(
        application=application,
        deployment=deployment,
        queued=count.queued,
        ongoing=count.ongoing,
        is_active=is_active,
    )


class Reporter:
    """Tells of loads and tickets for as long as it is iterated over."""

    def __init__(
        self,
        counters: Callable[[], Iterable[tuple[Key, Counters]]],
        shares: Callable[[], Iterable[tuple[Key, Share]]],
    ) -> None:
        self._counters = counters
        self._shares = shares
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """A request waits where there is no replica; there is another deployment to tell of; or a
        share has something to say."""
        self._wake.set()

    def opening(self, watcher: str) -> WatchRequest:
        """The first thing to be told."""
        return WatchRequest(watcher=watcher, tickets=self._tickets(Share.reopen))

    async def requests(self) -> AsyncIterator[WatchRequest]:
        """What is to be told, whenever there is something. It must be sent."""
        loop = asyncio.get_running_loop()
        reports = Reports()
        while True:
            self._wake.clear()
            counters = dict(self._counters())
            loads, tickets = reports.due(counters, loop.time()), self._tickets(Share.take)
            if loads or tickets:
                yield WatchRequest(loads=loads, tickets=tickets)
            interval_s = min((each.interval_s for each in counters.values()), default=None)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval_s):
                    await self._wake.wait()

    def _tickets(self, say: Callable[[Share], TicketRequest | None]) -> list[TicketRequest]:
        requests = []
        for (application, deployment), share in self._shares():
            if (request := say(share)) is not None:
                request.application, request.deployment = application, deployment
                requests.append(request)
        return requests
