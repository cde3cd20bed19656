"""A controller that many proxies and handles listen to."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

import serving
from serving import api
from serving.aio import Tasks
from serving.routing.watch import Directory, watch
from serving.v1.controller_pb2 import WatchUpdate
from tests.support.cluster import Cluster
from tests.support.control import DEADLINE_S

WATCHERS = 20
TOLD_WITHIN_S = 1.0


# It starts no process: what is left is the way of a deploy to those who listen.
@serving.deployment(autoscaling_config={"min_replicas": 0, "max_replicas": 1})
def sleeps(request: Any) -> str:
    return "awake"


class Listener:
    """Notes when it heard of which route prefixes."""

    def __init__(self) -> None:
        self.heard_at: dict[str, float] = {}
        self._heard = asyncio.Event()

    async def apply(self, update: WatchUpdate) -> None:
        for route in update.routes:
            self.heard_at.setdefault(route.route_prefix, time.monotonic())
        self._heard.set()

    async def hears_of(self, route_prefix: str) -> float:
        """When it did."""
        async with asyncio.timeout(DEADLINE_S):
            while route_prefix not in self.heard_at:
                self._heard.clear()
                await self._heard.wait()
        return self.heard_at[route_prefix]


@pytest.mark.alone
async def test_deploy_is_known_to_twenty_watchers_within_a_second(cluster: Cluster) -> None:
    address = api._address()
    assert address is not None
    listeners = [Listener() for _ in range(WATCHERS)]
    tasks = Tasks()
    try:
        with cluster.running(sleeps.bind(), "/first"):
            for number, each in enumerate(listeners):
                name, reporter = f"listener-{number}", Directory().reporter
                tasks.start(watch(address, name, each.apply, reporter), name=name)
            for each in listeners:
                await each.hears_of("/first")

            began = time.monotonic()
            await asyncio.to_thread(
                serving.run, sleeps.bind(), name="second", route_prefix="/second"
            )
            heard = [await each.hears_of("/second") for each in listeners]
            assert max(heard) - began < TOLD_WITHIN_S
            await asyncio.to_thread(serving.delete, "second")
    finally:
        await tasks.aclose()
