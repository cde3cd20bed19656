"""The data plane of a replica: ``Connect`` and ``Invoke``."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio

from serving import memory
from serving.context import ReplicaModels
from serving.mux import ReplicaConnection, Stream, server_options
from serving.mux.session import MAX_FRAME
from serving.replica.invoke import InvokeCall, InvokeEnded
from serving.replica.runner import Runner
from serving.v1.controller_pb2 import GrpcSettings
from serving.v1.replica_pb2_grpc import ReplicaServicer

GRPC_DEFAULT_LIMIT = 4 * 1024 * 1024
GRPC_MAX_LIMIT = 2**31 - 1


def data_server_options(settings: GrpcSettings) -> list[tuple[str, Any]]:
    """Options of a server of the data plane: a message of a user's service may come in one piece,
    with `Invoke`."""
    # What is around it has its place, too, so that a little too much is told by who knows why.
    needed = settings.max_receive_message_bytes + MAX_FRAME
    limit = min(max(needed, GRPC_DEFAULT_LIMIT), GRPC_MAX_LIMIT)
    return [*server_options(), ("grpc.max_receive_message_length", limit)]


class DataService(ReplicaServicer):
    """Carries callers' connections to the runner, and tells callers of the models held here."""

    def __init__(self, runner: Runner, models: ReplicaModels) -> None:
        self._runner = runner
        self._models = models
        models.on_change = self._push_holdings
        self._connections: set[ReplicaConnection] = set()
        self._draining = False

    async def Connect(self, _: Any, context: Any) -> None:
        """Many requests of one caller, on one call."""
        offered = memory.offer_in(context.invocation_metadata())
        if not (offered and memory.accept(offered)):
            await self.carry(context)
            return
        with memory.offering() as offer:
            await context.send_initial_metadata(((memory.OFFER_KEY, offer),))
            await self.carry(context, shares_memory=True)

    async def Invoke(self, _: Any, context: Any) -> None:
        """One request on one call: the same streams, translated."""
        call = InvokeCall(context)
        try:
            await self.carry(call)
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the replica is stopping")
        except InvokeEnded:
            await call.finish()

    def goaway(self, reason: str) -> None:
        """Takes no further requests; connections end as their last streams do."""
        self._draining = True
        for connection in list(self._connections):
            connection.goaway(reason)

    def _push_holdings(self) -> None:
        for connection in self._connections:
            connection.push_holdings()

    async def carry(self, call: Any, *, shares_memory: bool = False) -> None:
        """One caller's connection, to its end."""

        def admit(stream: Stream) -> None:
            self._runner.admit(connection, stream)

        connection = ReplicaConnection(
            call,
            admit,
            ongoing=lambda: self._runner.ongoing,
            holdings=lambda: self._models.ids,
        )
        connection.session.shares_memory = shares_memory
        self._connections.add(connection)
        try:
            if self._draining:
                connection.goaway("the replica is stopping")
            await connection.run()
        finally:
            self._connections.discard(connection)
