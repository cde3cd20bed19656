"""Which applications are to be looked at: at once, or when a moment comes."""

from __future__ import annotations

import asyncio
import math
import time


class Queue:
    """Names of applications. One that is added again is still there once, and of two moments the
    earlier counts. What happened to them is not kept: who looks at one sees how it is now."""

    def __init__(self) -> None:
        self._dirty: set[str] = set()
        self._moments: dict[str, float] = {}
        self._wake = asyncio.Event()

    def add(self, *names: str) -> None:
        """They are to be looked at now."""
        self._dirty.update(names)
        self.wake()

    def add_at(self, name: str, moment: float) -> None:
        """It is to be looked at then, though nothing may happen to it."""
        self._moments[name] = min(moment, self._moments.get(name, math.inf))

    def wake(self) -> None:
        """Something else is to be done, whatever is in the queue."""
        self._wake.set()

    def take(self, now: float) -> set[str]:
        """Those that are to be looked at now; they are in the queue no more."""
        due = {name for name, moment in self._moments.items() if moment <= now}
        taken, self._dirty = self._dirty | due, set()
        for name in taken:
            self._moments.pop(name, None)
        return taken

    async def wait(self, until: float | None) -> None:
        """Returns when somebody added to the queue or woke it, or one of the moments or `until`
        has come."""
        moment = min(self._moments.values(), default=math.inf)
        if until is not None:
            moment = min(moment, until)
        try:
            async with asyncio.timeout(None if moment == math.inf else moment - time.monotonic()):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()
