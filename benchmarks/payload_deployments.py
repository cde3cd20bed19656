"""Deployments that pass arrays to each other and tell how long it took."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import numpy as np

import serving
from serving import memory
from serving.handle import DeploymentHandle

SMALL = b"x" * 1000


@serving.deployment
class Echo:
    """Gives back what it gets."""

    async def __call__(self, value: Any) -> Any:
        return value


@serving.deployment
class Relay:
    """A replica that sends arrays to another."""

    def __init__(self, echo: DeploymentHandle[Any], share: bool) -> None:
        if not share:
            memory.offering = lambda: contextlib.nullcontext("")
        self._echo = echo

    async def round_trips(self, size: int, count: int) -> list[float]:
        """Seconds that each of `count` arrays took there and back, one after the other."""
        array = np.ones(size, np.uint8)
        await self._echo.remote(array)
        found = []
        for _ in range(count):
            begun = time.perf_counter()
            received = await self._echo.remote(array)
            found.append(time.perf_counter() - begun)
            assert received.nbytes == size
        return found

    async def small_calls(self, size: int, seconds: float) -> list[float]:
        """Seconds that each small call took while arrays of `size` went there and back, one after
        the other; of size 0: none did."""
        array = np.ones(size, np.uint8)
        deadline = time.perf_counter() + seconds

        async def load() -> None:
            while time.perf_counter() < deadline:
                await self._echo.remote(array)

        found = []
        async with asyncio.TaskGroup() as group:
            if size:
                group.create_task(load())
            while (begun := time.perf_counter()) < deadline:
                await self._echo.remote(SMALL)
                found.append(time.perf_counter() - begun)
        return found
