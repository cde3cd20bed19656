"""Three deployments, each of which calls the next."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import serving
from serving.calls import local, process
from serving.handle import DeploymentHandle
from tests.support.gate import Gate

Handle = DeploymentHandle[Any]
ITEM = bytes(64 * 1024)
MAX_ONGOING = 150
THREADS = 8


@serving.deployment(max_ongoing_requests=MAX_ONGOING)
class Link:
    """One of a chain: what it is asked for, it asks the next one for."""

    def __init__(self, name: str, folder: str, following: Handle | None = None) -> None:
        self._name = name
        self._folder = Path(folder)
        self._next = following
        self._counts: Counter[str] = Counter()
        self._made = 0

    # Requests that end only if they are cancelled.

    async def hold(self) -> None:
        self._counts["started"] += 1
        try:
            if self._next is not None:
                await self._next.hold.remote()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self._counts["cancelled"] += 1
            raise
        finally:
            self._counts["ended"] += 1

    async def counts(self) -> dict[str, int]:
        """What became of them."""
        return {name: self._counts[name] for name in ("started", "cancelled", "ended")}

    async def open_calls(self) -> int:
        return open_calls()

    # Streams.

    async def items(self) -> AsyncIterator[bytes]:
        try:
            if self._next is None:
                while True:
                    self._made += 1
                    yield ITEM
            else:
                async for item in self._next.options(stream=True).items.remote():
                    yield item
        finally:
            (self._folder / f"{self._name}.ended").touch()

    def items_in_thread(self) -> Iterator[bytes]:
        while True:
            self._made += 1
            yield ITEM

    async def made(self) -> int:
        made: int = self._made if self._next is None else await self._next.made.remote()
        return made

    # Shields.

    async def save(self, gate: str) -> None:
        await asyncio.shield(self._saved(Gate(Path(gate))))

    async def _saved(self, gate: Gate) -> None:
        (self._folder / "saving").touch()
        await gate.pass_through_async()
        (self._folder / "saved").touch()

    async def shield_a_call(self) -> None:
        assert self._next is not None
        await asyncio.shield(self._next.wait.remote())

    async def wait(self) -> None:
        (self._folder / "waiting").touch()
        try:
            await asyncio.Event().wait()
        finally:
            (self._folder / "waited").touch()

    # Plain calls.

    async def __call__(self, value: int) -> int:
        return value + 1

    def pass_gate(self, gate: str) -> str:
        (self._folder / "passing").touch()
        Gate(Path(gate)).pass_through()
        return "passed"

    async def try_orders(self) -> int:
        assert self._next is not None
        return await try_orders(self._next)

    def try_threads(self) -> int:
        assert self._next is not None
        return try_threads(self._next)


@serving.deployment
class Holder:
    """Its deployments came as attributes of an object."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def __call__(self, value: int) -> list[int]:
        first, *others = self._parts.handles()
        return [await handle.remote(value) for handle in (first, *others)]


class Parts:
    def __init__(self, one: Any, others: dict[str, Any]) -> None:
        self.one = one
        self.others = others

    def handles(self) -> list[Handle]:
        return [self.one, *self.others.values()]


def open_calls() -> int:
    """Calls of this process that run or wait, as its caller and its routers count them."""
    caller = process.current(local.current_key())
    balancers = [router.balancer for router in caller._directory._routers.values()]
    in_flight = sum(one.inflight for each in balancers for one in each.replicas.values())
    return len(caller._calls) + in_flight + sum(each.queued for each in balancers)


async def try_orders(link: Handle) -> int:
    """Awaits responses that depend on each other in all orders, together, and twice."""
    tries = 0
    for order in itertools.permutations(range(3)):
        chain = [link.remote(0)]
        chain.append(link.remote(chain[0]))
        chain.append(link.remote(chain[1]))
        for index in order:
            assert await chain[index] == index + 1
        assert await asyncio.gather(*chain, *chain) == [1, 2, 3, 1, 2, 3]
        tries += 1
    unawaited = link.remote(0)
    assert await link.remote([unawaited, unawaited][1]) == 2
    return tries


def try_threads(link: Handle) -> int:
    """The same from many threads, each with a loop of its own, all with one handle; and one
    response awaited by all of them."""
    shared = link.remote(6)
    outcomes: list[Any] = []

    async def on_a_loop() -> None:
        try:
            outcomes.append((await try_orders(link), await shared, await shared))
        except BaseException as error:
            outcomes.append(error)

    threads = [threading.Thread(target=asyncio.run, args=(on_a_loop(),)) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [(6, 7, 7)] * THREADS, outcomes
    assert shared.result() == 7
    return len(outcomes)
