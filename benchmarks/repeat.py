"""One call again and again, several at a time: for handles and for what stands beside them."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Awaitable, Callable
from statistics import quantiles

from loads import Sample

ITEMS = 50
"""Of a call that streams."""
BODY = b"hello"
"""What is sent and comes back."""


async def repeat(call: Callable[[], Awaitable[None]], concurrency: int, seconds: float) -> Sample:
    """Keeps `concurrency` calls under way for `seconds`."""
    latencies = array("d")
    began = time.perf_counter()
    deadline = began + seconds

    async def ask() -> None:
        while (sent_at := time.perf_counter()) < deadline:
            await call()
            latencies.append(time.perf_counter() - sent_at)

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(ask())
    rate = len(latencies) / (time.perf_counter() - began)
    cuts = quantiles(latencies, n=100)
    return Sample(len(latencies), rate, cuts[49] * 1e3, cuts[98] * 1e3)
