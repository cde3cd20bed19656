"""Has gRPC calls that come close upon each other leave for their replicas together."""

from __future__ import annotations

import asyncio

TURNS = 16
"""Turns of the event loop within which others may join."""


class Gathering:
    """Where a call waits for others, while there are some under way.

    gRPC tells a server of one call at a time, and of the next some turns of the loop later, however
    many are there: each would travel in a message of its own, and so would its answer. A busy loop
    has work in these turns; an idle one runs through them at once.
    """

    def __init__(self) -> None:
        self._leaving: asyncio.Event | None = None

    async def join(self) -> None:
        """Waits until all who join meanwhile leave, in the same turn."""
        if self._leaving is None:
            self._leaving = asyncio.Event()
            self._turn(TURNS)
        await self._leaving.wait()

    def _turn(self, left: int) -> None:
        if left:
            asyncio.get_running_loop().call_soon(self._turn, left - 1)
            return
        leaving, self._leaving = self._leaving, None
        assert leaving is not None
        leaving.set()
