"""Keeps one connection to one replica, through losses, until it is closed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio

from serving import memory
from serving.aio import is_being_cancelled
from serving.mux import CallerConnection, ClientCall, ProtocolError, channel_options
from serving.v1.replica_pb2_grpc import ReplicaStub

logger = logging.getLogger("serving.routing")

FIRST_BACKOFF_S = 0.05
MAX_BACKOFF_S = 2.0
CONNECT_TIMEOUT_S = 5.0


class Link:
    """The connection to one address. ``connection`` is None while there is none."""

    def __init__(
        self,
        address: str,
        *,
        on_up: Callable[[], None],
        on_down: Callable[[], None],
        on_load: Callable[[int], None],
        on_holdings: Callable[[frozenset[str]], None] = lambda keys: None,
    ) -> None:
        self.address = address
        self.connection: CallerConnection | None = None
        self.tried = asyncio.Event()
        """Set once the first attempt to connect has ended, well or not."""
        self._offers_memory = address.startswith("unix:")
        self._on_up = on_up
        self._on_down = on_down
        self._on_load = on_load
        self._on_holdings = on_holdings

    def __repr__(self) -> str:
        return f"<Link {self.address} {'up' if self.connection else 'down'}>"

    async def run(self) -> None:
        """Connects, and again whenever the connection is lost, with jittered backoff. Runs until
        it is cancelled; then the connection's open streams fail."""
        backoff_s = FIRST_BACKOFF_S
        while True:
            try:
                if await self._connect_once():
                    backoff_s = FIRST_BACKOFF_S
            except asyncio.CancelledError:
                if is_being_cancelled():
                    raise
                # Only the call was, which ended while something of it was waited for.
            except Exception:  # whatever it was: without a link the replica would get no request
                logger.exception("connection to %s failed", self.address)
            await asyncio.sleep(backoff_s * random.uniform(0.5, 1.5))
            backoff_s = min(backoff_s * 2, MAX_BACKOFF_S)

    @contextlib.asynccontextmanager
    async def _calling(self) -> AsyncIterator[ClientCall]:
        """The call that a connection is carried by."""
        async with grpc.aio.insecure_channel(self.address, options=channel_options()) as channel:
            with memory.offering() if self._offers_memory else contextlib.nullcontext("") as offer:
                yield ReplicaStub(channel).Connect(
                    metadata=((memory.OFFER_KEY, offer),) if offer else ()
                )

    async def _agree(self, call: Any, connection: CallerConnection) -> bool:
        """Finds out whether the ends can read each other's memory. False where only the replica
        can, which believes that both do: then another connection must be made, with no offer."""
        if not self._offers_memory:
            return True
        offer = memory.offer_in(await call.initial_metadata())
        connection.session.shares_memory = bool(offer) and memory.accept(offer)
        self._offers_memory = connection.session.shares_memory or not offer
        return self._offers_memory

    async def _connect_once(self) -> bool:
        """Carries one connection to its end; tells whether it ever stood."""
        async with self._calling() as call:
            connection = CallerConnection(
                call, on_load=self._on_load, on_holdings=self._on_holdings
            )
            running = asyncio.ensure_future(connection.run())
            standing = asyncio.ensure_future(connection.ready.wait())
            stood = False
            try:
                await asyncio.wait(
                    (running, standing),
                    timeout=CONNECT_TIMEOUT_S,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if standing.done() and not running.done() and await self._agree(call, connection):
                    stood = True
                    self.connection = connection
                    self._on_up()
                    self.tried.set()
                    await asyncio.wait((running,))
            finally:
                self.connection = None
                self.tried.set()
                if stood:
                    self._on_down()
                running.cancel()
                standing.cancel()
                (outcome, _) = await asyncio.gather(running, standing, return_exceptions=True)
                self._log_end(outcome)
            return stood

    def _log_end(self, outcome: BaseException | None) -> None:
        if isinstance(outcome, ProtocolError):
            logger.error("connection to %s ended: %s", self.address, outcome)
        elif isinstance(outcome, grpc.RpcError):
            logger.debug("connection to %s ended: %s", self.address, outcome)
        elif outcome is not None and not isinstance(outcome, asyncio.CancelledError):
            logger.error("connection to %s failed", self.address, exc_info=outcome)
