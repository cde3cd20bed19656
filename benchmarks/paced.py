"""Event streams at a pace, read over HTTP: how late each event comes after it was made."""

from __future__ import annotations

import asyncio
import time
from array import array
from dataclasses import dataclass
from statistics import quantiles

from repeat import ITEMS

PREFIX = b"data: "


@dataclass(frozen=True)
class Lateness:
    """Milliseconds: of the first event from the request, and of every event from its making."""

    first_p50: float
    p50: float
    p99: float
    rate: float
    """Events a second."""


async def read_streams(port: int, path: str, streams: int, pause_s: float) -> Lateness:
    """Reads `streams` streams at once, each of `ITEMS` events, and each again when it has ended.
    Their beginnings are spread over the length of one, as independent clients' are."""
    firsts, late = array("d"), array("d")
    began = time.perf_counter()

    async def client(delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        for _ in range(2):
            await read()

    async def read() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        asked_at = time.perf_counter()
        target = f"{path}?pause_s={pause_s}"
        writer.write(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        seen = 0
        while seen < ITEMS:
            line = await reader.readline()
            if not line:
                raise RuntimeError(f"{path}: {seen} of {ITEMS} events came")
            if line.startswith(PREFIX):
                now = time.perf_counter()
                if not seen:
                    firsts.append(now - asked_at)
                late.append(now - float(line[len(PREFIX) :]))
                seen += 1
        writer.close()
        await writer.wait_closed()

    async with asyncio.TaskGroup() as group:
        for number in range(streams):
            group.create_task(client(ITEMS * pause_s * number / streams))
    rate = len(late) / (time.perf_counter() - began)
    cuts = quantiles(late, n=100)
    return Lateness(_p50(firsts) * 1e3, cuts[49] * 1e3, cuts[98] * 1e3, rate)


def _p50(values: array[float]) -> float:
    return sorted(values)[len(values) // 2]
