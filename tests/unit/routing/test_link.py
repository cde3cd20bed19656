"""A link, whatever becomes of its attempts to connect."""

from __future__ import annotations

import asyncio

import pytest

from serving.routing.link import Link


class Attempts(Link):
    """Each attempt ends as the test says; the last one stands for good."""

    def __init__(self, *outcomes: BaseException) -> None:
        super().__init__(
            "unix:/nowhere",
            on_up=lambda: None,
            on_down=lambda: None,
            on_load=lambda ongoing: None,
        )
        self._outcomes = list(outcomes)
        self.stands = asyncio.Event()

    async def _connect_once(self) -> bool:
        if self._outcomes:
            raise self._outcomes.pop(0)
        self.stands.set()
        await asyncio.Event().wait()
        return True


@pytest.mark.parametrize(
    "outcome",
    [ValueError("of a library"), asyncio.CancelledError()],
    ids=["an error that nobody expected", "a call that was cancelled"],
)
async def test_link_connects_again_whatever_ended_an_attempt(outcome: BaseException) -> None:
    link = Attempts(outcome)
    running = asyncio.create_task(link.run())
    try:
        async with asyncio.timeout(5):
            await link.stands.wait()
    finally:
        running.cancel()
        await asyncio.wait((running,))

    assert running.cancelled()
