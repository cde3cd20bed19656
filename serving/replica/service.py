"""The data plane of a replica: ``Connect`` and ``Invoke``."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio

from serving import memory
from serving.context import ReplicaModels
from serving.mux import ReplicaConnection, ResetCode, Stream
from serving.mux.session import FRAME_OVERHEAD, MAX_FRAME
from serving.replica.runner import Runner
from serving.v1.frames_pb2 import (
    DATA,
    OPEN,
    REJECT,
    RESET,
    WINDOW_UPDATE,
    ClientFrames,
    Frame,
    ServerFrames,
)
from serving.v1.http_pb2 import BODY, REQUEST, RESPONSE, HttpResponse
from serving.v1.replica_pb2 import InvokeResponse
from serving.v1.replica_pb2_grpc import ReplicaServicer

UNBOUNDED_WINDOW = 2**31 - 1
SLICE = MAX_FRAME


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
        call = _InvokeCall(context)
        try:
            await self.carry(call)
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the replica is stopping")
        except _InvokeEnded:
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


class _InvokeCall:
    """An ``Invoke`` call in the shape of a ``Connect`` call with one stream.

    Towards the client gRPC's own flow control is the backpressure, so the stream's window is as
    good as unbounded; towards the handler no more is read than it granted.
    """

    def __init__(self, context: Any) -> None:
        self._context = context
        self._opened = False
        self._granted = 0
        self._spent = 0
        self._news = asyncio.Event()
        self._head = b""
        self._rest = b""
        self._all_read = False
        self._status: tuple[grpc.StatusCode, str] | None = None

    async def read(self) -> Any:
        if not self._opened:
            return await self._read_request()
        while True:
            if self._spent > UNBOUNDED_WINDOW // 2:
                increment, self._spent = self._spent, 0
                return _frames(type=WINDOW_UPDATE, window_increment=increment)
            if self._granted > SLICE + FRAME_OVERHEAD and not self._all_read:
                data, self._all_read = await self._read_slice()
                self._granted -= len(data) + FRAME_OVERHEAD
                return _frames(type=DATA, tag=BODY, data=data, end_stream=self._all_read)
            self._news.clear()
            await self._news.wait()

    async def write(self, message: ServerFrames) -> None:
        for frame in message.frames:
            if frame.type == WINDOW_UPDATE:
                self._granted += frame.window_increment
            elif frame.type == DATA:
                self._spent += len(frame.data) + FRAME_OVERHEAD
                await self._write_data(frame)
            elif frame.type == RESET:
                self._end(_STATUS_OF_RESET.get(frame.code, grpc.StatusCode.INTERNAL), frame.reason)
            elif frame.type == REJECT:
                self._end(grpc.StatusCode.RESOURCE_EXHAUSTED, "the replica is full")
        self._news.set()

    async def finish(self) -> None:
        """Ends the call with the status that the stream's end stands for."""
        if self._status is not None:
            await self._context.abort(*self._status)

    async def _read_request(self) -> ClientFrames:
        message: Any = await self._context.read()
        if message is grpc.aio.EOF or message.WhichOneof("part") != "request":
            await self._refuse("the first message must hold a request")
        request = message.request
        if request.websocket:
            await self._refuse("a WebSocket is no request that can be invoked")
        self._opened = True
        # What a frame may hold is the head's; the body follows as that of later messages does.
        self._rest, request.body = request.body, b""
        remaining_s = self._context.time_remaining()
        return _frames(
            type=OPEN,
            tag=REQUEST,
            data=request.SerializeToString(),
            timeout_us=int(remaining_s * 1e6) if remaining_s else 0,
            window_increment=UNBOUNDED_WINDOW,
        )

    async def _read_slice(self) -> tuple[bytes, bool]:
        if not self._rest:
            message = await self._context.read()
            if message is grpc.aio.EOF:
                return b"", True
            if message.WhichOneof("part") != "body":
                await self._refuse("the messages after the first must hold parts of the body")
            self._rest = message.body
        data, self._rest = self._rest[:SLICE], self._rest[SLICE:]
        return data, False

    async def _refuse(self, reason: str) -> None:
        await self._context.abort(grpc.StatusCode.INVALID_ARGUMENT, reason)

    async def _write_data(self, frame: Frame) -> None:
        if frame.tag == RESPONSE:
            self._head += frame.data
            if not frame.more:
                response = HttpResponse.FromString(self._head)
                await self._context.write(InvokeResponse(response=response))
        elif frame.tag == BODY and frame.data:
            await self._context.write(InvokeResponse(body=frame.data))
        if frame.end_stream:
            self._end(None, "")

    def _end(self, code: grpc.StatusCode | None, details: str) -> None:
        if code is not None:
            self._status = code, details
        raise _InvokeEnded


class _InvokeEnded(Exception):
    """The one stream of an ``Invoke`` call has ended."""


def _frames(**fields: Any) -> ClientFrames:
    return ClientFrames(frames=[Frame(stream_id=1, **fields)])


_STATUS_OF_RESET = {
    ResetCode.TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
    ResetCode.CANCEL: grpc.StatusCode.CANCELLED,
    ResetCode.PROTOCOL_ERROR: grpc.StatusCode.INVALID_ARGUMENT,
}
