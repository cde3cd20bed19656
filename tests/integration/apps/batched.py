"""A deployment whose calls share batches."""

from __future__ import annotations

from collections.abc import AsyncIterator

import serving


@serving.deployment
class Model:
    def __init__(self) -> None:
        self.waiting: list[str] = []
        self.batches: list[list[str]] = []
        self.streamed = 0

    async def __call__(self, name: str) -> str:
        self.waiting.append(name)
        try:
            return await self.in_pairs(name)
        finally:
            self.waiting.remove(name)

    @serving.batch(max_batch_size=2, batch_wait_timeout_s=60)
    async def in_pairs(self, names: list[str]) -> list[str]:
        self.batches.append(names)
        return [name.upper() for name in names]

    @serving.batch(max_batch_size=8, batch_wait_timeout_s=0)
    async def at_once(self, values: list[int]) -> list[int]:
        return [2 * value for value in values]

    @serving.batch(max_batch_size=2, batch_wait_timeout_s=60)
    async def stream(self, sizes: list[int]) -> AsyncIterator[list[bytes]]:
        while True:
            self.streamed += 1
            yield [bytes(size) for size in sizes]

    def seen(self) -> tuple[list[str], list[list[str]], int]:
        return self.waiting, self.batches, self.streamed
