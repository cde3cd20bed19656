"""Deployments that pass large arrays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np

import serving
from serving.handle import DeploymentHandle


@serving.deployment
class Arrays:
    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    async def __call__(self, value: Any) -> Any:
        return value

    async def doubled_in_place(self, array: Any) -> Any:
        array *= 2
        return array

    async def swapped(self, one: Any, *, other: Any) -> dict[str, Any]:
        return {"one": other, "other": [one, "and", 1]}

    async def shifted(self, array: Any, count: int) -> AsyncIterator[Any]:
        for number in range(count):
            yield array + number

    async def hold(self, array: Any) -> None:
        """Marks that it began, and that it was cancelled."""
        (self._folder / "begun").write_text(str(array.nbytes))
        try:
            await asyncio.Event().wait()
        finally:
            (self._folder / "cancelled").touch()


@serving.deployment
class Relay:
    def __init__(self, arrays: DeploymentHandle[Any]) -> None:
        self._arrays = arrays

    async def through(self, size: int) -> bool:
        array = np.random.default_rng(1).integers(0, 256, size, np.uint8)
        return bool(np.array_equal(await self._arrays.remote(array), array))

    async def hold(self, size: int) -> None:
        await self._arrays.hold.remote(np.ones(size, np.uint8))
