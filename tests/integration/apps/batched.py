"""A deployment that batches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import serving


@serving.deployment
class Model:
    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def reconfigure(self, config: dict[str, int]) -> None:
        self.predict.set_max_batch_size(config["max_batch_size"])

    async def __call__(self, value: int) -> Any:
        return await self.predict(value)

    # Batches are full or wait for longer than a test may take: their sizes are not by chance.
    @serving.batch(max_batch_size=4, batch_wait_timeout_s=30)
    async def predict(self, values: list[int]) -> list[Any]:
        return [
            ValueError(f"{value} is negative") if value < 0 else (2 * value, len(values))
            for value in values
        ]

    @serving.batch(max_batch_size=2, batch_wait_timeout_s=30)
    async def count(self, limits: list[int]) -> AsyncIterator[list[Any]]:
        for number in range(max(limits)):
            yield [number if number < limit else StopIteration for limit in limits]

    @serving.batch(max_batch_size=2, batch_wait_timeout_s=30)
    async def wait(self, names: list[str]) -> list[None]:
        (self._folder / f"{names[0]}.begun").touch()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            (self._folder / f"{names[0]}.cancelled").touch()
            raise
        return [None] * len(names)

    @serving.batch(max_batch_size=2, batch_wait_timeout_s=30)
    async def who(self, values: list[int]) -> list[Any]:
        context = serving.get_replica_context()
        return [(context.app_name, context.deployment)] * len(values)
