"""Replicas in memory, and links to them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from serving.mux import CallerConnection, Stream
from serving.mux.testing import Connected, connected
from serving.routing.router import Router
from serving.v1.controller_pb2 import Deployment, Endpoint
from tests.support.mux import TAG, until

Act = Callable[["MemoryReplica", Stream], None]


def answer(replica: MemoryReplica, stream: Stream) -> None:
    stream.write(TAG, replica.name.encode(), end=True)


def hold(replica: MemoryReplica, stream: Stream) -> None:
    stream.session.accept(stream)


def reject(replica: MemoryReplica, stream: Stream) -> None:
    stream.session.reject(stream)


def die(replica: MemoryReplica, stream: Stream) -> None:
    replica.die()


class MemoryReplica:
    """A replica that does with its next requests what ``script`` says, and answers the rest."""

    def __init__(self, name: str, *script: Act, ongoing: int = 0) -> None:
        self.name = name
        self.script = list(script)
        self.ongoing = ongoing
        self.keys: tuple[str, ...] = ()
        self.shares_memory = False
        self.requests: list[bytes] = []
        self.streams: list[Stream] = []
        self.connection: Connected | None = None
        self.links = 0
        self.alive = asyncio.Event()
        self.alive.set()
        self.dead = asyncio.Event()

    def on_open(self, stream: Stream) -> None:
        part = stream.session.read(stream)
        assert part is not None
        self.requests.append(part.data)
        self.streams.append(stream)
        act = self.script.pop(0) if self.script else answer
        act(self, stream)

    def say_load(self, ongoing: int) -> None:
        """Tells its caller how many requests it works on."""
        assert self.connection is not None
        self.ongoing = ongoing
        self.connection.replica.push_load()

    def say_keys(self, *keys: str) -> None:
        """Tells its caller what it holds."""
        self.keys = keys
        if self.connection is not None:
            self.connection.replica.push_holdings()

    def goaway(self) -> None:
        assert self.connection is not None
        self.connection.replica.goaway("draining")

    def cut(self) -> None:
        """Ends the connection, of which its link hears later."""
        assert self.connection is not None
        self.connection.caller.session.close("cut")

    def die(self) -> None:
        """Ends the connection; the link waits for ``alive``."""
        assert self.connection is not None
        self.connection.call.lose("killed")
        self.alive.clear()
        self.dead.set()


class MemoryLink:
    """Has the shape of ``serving.routing.link.Link``."""

    def __init__(
        self,
        replica: MemoryReplica,
        *,
        on_up: Callable[[], None],
        on_down: Callable[[], None],
        on_load: Callable[[int], None],
        on_holdings: Callable[[frozenset[str]], None] = lambda keys: None,
    ) -> None:
        self.connection: CallerConnection | None = None
        self._replica = replica
        self._on_up = on_up
        self._on_down = on_down
        self._on_load = on_load
        self._on_holdings = on_holdings

    async def run(self) -> None:
        replica = self._replica
        replica.links += 1
        try:
            while True:
                await replica.alive.wait()
                replica.dead.clear()
                await self._connect_once()
        finally:
            replica.links -= 1

    async def _connect_once(self) -> None:
        replica = self._replica
        async with connected(
            replica.on_open,
            on_load=self._on_load,
            ongoing=lambda: replica.ongoing,
            on_holdings=self._on_holdings,
            holdings=lambda: replica.keys,
        ) as connection:
            replica.connection = connection
            self.connection = connection.caller
            self.connection.session.shares_memory = replica.shares_memory
            self._on_up()
            try:
                await replica.dead.wait()
                await until(lambda: connection.caller.session.closed)
            finally:
                self.connection = None
                self._on_down()


def make_deployment(
    *names: str,
    capacity: int = 1,
    max_queued: int = -1,
    application: str = "app",
    unavailable: str = "",
) -> Deployment:
    """A deployment whose replicas are found at their names."""
    return Deployment(
        application=application,
        name="Model",
        max_ongoing_requests=capacity,
        max_queued_requests=max_queued,
        endpoints=[Endpoint(replica_id=name, address=name) for name in names],
        unavailable=unavailable,
    )


def preferring(*replicas: MemoryReplica) -> Router:
    """A router that reaches them, and prefers the first that has room."""
    known = {replica.name: replica for replica in replicas}

    def make_link(address: str, **on: Any) -> Any:
        return MemoryLink(known[address], **on)

    router = Router("app", "Model", make_link=make_link)
    router.balancer._choose = lambda: next(  # type: ignore[method-assign]
        (replica for replica in router.balancer.replicas.values() if replica.has_room), None
    )
    return router
