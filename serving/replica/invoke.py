"""An ``Invoke`` call in the shape of a ``Connect`` call that carries one stream.

What is one of HTTP and what of gRPC differs in its messages only: see the two shapes at the end.
"""

from __future__ import annotations

import asyncio
import io
import os
from typing import Any

import grpc
import grpc.aio

from serving.mux import ResetCode
from serving.mux.session import FRAME_OVERHEAD, MAX_FRAME
from serving.rpc import half_close, metadata
from serving.rpc.opening import head_of
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
from serving.v1.grpc_pb2 import (
    GRPC_HALF_CLOSE,
    GRPC_MESSAGE,
    GRPC_METADATA,
    GRPC_REQUEST,
    GRPC_STATUS,
    GrpcMetadata,
    GrpcRequest,
    GrpcStatus,
)
from serving.v1.http_pb2 import BODY, REQUEST, RESPONSE, HttpRequest, HttpResponse
from serving.v1.replica_pb2 import InvokeResponse

UNBOUNDED_WINDOW = 2**31 - 1
SLICE = MAX_FRAME


class InvokeCall:
    """An ``Invoke`` call, for a `ReplicaConnection`.

    Towards the client gRPC's own flow control is the backpressure, so the stream's window is as
    good as unbounded; towards the handler no more is read than it granted.
    """

    def __init__(self, context: Any) -> None:
        self._context = context
        self._shape: _Shape | None = None
        self._granted = 0
        self._spent = 0
        self._news = asyncio.Event()
        self._rest: memoryview | None = None
        self._all_read = False
        self._status: tuple[grpc.StatusCode, str] | None = None

    async def read(self) -> Any:
        """The client's next frames."""
        if self._shape is None:
            self._shape = await self._read_shape()
            return self._open(self._shape)
        while True:
            if self._spent > UNBOUNDED_WINDOW // 2:
                increment, self._spent = self._spent, 0
                return _frames(type=WINDOW_UPDATE, window_increment=increment)
            if self._granted > SLICE + FRAME_OVERHEAD and not self._all_read:
                return await self._read_slice(self._shape)
            self._news.clear()
            await self._news.wait()

    async def write(self, message: ServerFrames) -> None:
        """Answers the client. Raises InvokeEnded with what ends the stream."""
        for frame in message.frames:
            if frame.type == WINDOW_UPDATE:
                self._granted += frame.window_increment
            elif frame.type == DATA:
                self._spent += len(frame.data) + FRAME_OVERHEAD
                assert self._shape is not None
                await self._shape.answer(frame)
                if frame.end_stream:
                    raise InvokeEnded
            elif frame.type == RESET:
                code = _STATUS_OF_RESET.get(frame.code, grpc.StatusCode.INTERNAL)
                self._status = code, frame.reason
                raise InvokeEnded
            elif frame.type == REJECT:
                self._status = grpc.StatusCode.RESOURCE_EXHAUSTED, "the replica is full"
                raise InvokeEnded
        self._news.set()

    async def finish(self) -> None:
        """Ends the call with the status that the stream's end stands for."""
        if self._status is not None:
            await self._context.abort(*self._status)

    async def _read_shape(self) -> _Shape:
        message: Any = await self._context.read()
        part = "" if message is grpc.aio.EOF else message.WhichOneof("part")
        try:
            if part == "request":
                return _HttpShape(self._context, message.request)
            if part == "call":
                return _GrpcShape(self._context, message.call)
            raise ValueError("the first message must hold a request or a call")
        except ValueError as error:
            await self._refuse(str(error))
            raise

    def _open(self, shape: _Shape) -> ClientFrames:
        self._rest = shape.rest
        remaining_s = self._context.time_remaining()
        return _frames(
            type=OPEN,
            tag=shape.first_tag,
            data=shape.first,
            timeout_us=int(remaining_s * 1e6) if remaining_s else 0,
            window_increment=UNBOUNDED_WINDOW,
        )

    async def _read_slice(self, shape: _Shape) -> ClientFrames:
        if self._rest is None:
            message = await self._context.read()
            if message is grpc.aio.EOF:
                await half_close.awaited(self._context)
                self._all_read = True
                return _frames(type=DATA, tag=shape.end_tag, end_stream=True)
            if message.WhichOneof("part") != shape.part:
                await self._refuse(f"the messages after the first must hold a {shape.part}")
            self._rest = memoryview(getattr(message, shape.part))
        data, rest = self._rest[:SLICE], self._rest[SLICE:]
        self._rest = rest if len(rest) else None
        self._granted -= len(data) + FRAME_OVERHEAD
        more = self._rest is not None and shape.keeps_messages
        return _frames(type=DATA, tag=shape.tag, data=bytes(data), more=more)

    async def _refuse(self, reason: str) -> None:
        await self._context.abort(grpc.StatusCode.INVALID_ARGUMENT, reason)


class InvokeEnded(Exception):
    """The one stream of an ``Invoke`` call has ended."""


class _Shape:
    """What a call's messages are, there and on a stream."""

    part: str
    """Of an InvokeRequest: what those after the first hold."""
    tag: int
    """What that is on the stream."""
    end_tag: int
    """Of the frame that ends it."""
    keeps_messages: bool
    """It is not to be cut at other places."""
    first_tag: int
    first: bytes
    """What the stream begins with."""
    rest: memoryview | None
    """What the first InvokeRequest held of what those after it hold."""

    def __init__(self, context: Any) -> None:
        self._context = context

    async def answer(self, frame: Frame) -> None:
        """Tells the client what a DATA frame holds."""
        raise NotImplementedError


class _HttpShape(_Shape):
    part, tag, end_tag, keeps_messages = "body", BODY, BODY, False
    first_tag = REQUEST

    def __init__(self, context: Any, request: HttpRequest) -> None:
        if request.websocket:
            raise ValueError("a WebSocket is no request that can be invoked")
        super().__init__(context)
        self._head = b""
        # What a frame may hold is the head's; the body follows as that of later messages does.
        self.rest = memoryview(request.body) if request.body else None
        request.ClearField("body")
        self.first = request.SerializeToString()

    async def answer(self, frame: Frame) -> None:
        if frame.tag == RESPONSE:
            self._head += frame.data
            if not frame.more:
                response = HttpResponse.FromString(self._head)
                await self._context.write(InvokeResponse(response=response))
        elif frame.tag == BODY and frame.data:
            await self._context.write(InvokeResponse(body=frame.data))


class _GrpcShape(_Shape):
    part, tag, end_tag, keeps_messages = "message", GRPC_MESSAGE, GRPC_HALF_CLOSE, True
    first_tag = GRPC_REQUEST

    def __init__(self, context: Any, call: GrpcRequest) -> None:
        super().__init__(context)
        self._message = io.BytesIO()
        call.request_id = call.request_id or os.urandom(16).hex()
        call.peer = call.peer or context.peer()
        call.metadata.extend(metadata.flatten(context.invocation_metadata()))
        metadata.unflatten(call.metadata)  # The client may have sent anything.
        message = call.message if call.HasField("message") else None
        self.first, inline = head_of(call, message)
        self.rest = None if inline or message is None else memoryview(message)

    async def answer(self, frame: Frame) -> None:
        self._message.write(frame.data)
        if frame.more:
            return
        message, self._message = self._message.getvalue(), io.BytesIO()
        if frame.tag == GRPC_METADATA:
            entries = metadata.unflatten(GrpcMetadata.FromString(message).metadata)
            await self._context.send_initial_metadata(entries)
        elif frame.tag == GRPC_MESSAGE:
            await self._context.write(InvokeResponse(message=message))
        elif frame.tag == GRPC_STATUS:
            await self._end(GrpcStatus.FromString(message))

    async def _end(self, status: GrpcStatus) -> None:
        if status.HasField("message"):
            await self._context.write(InvokeResponse(message=status.message))
        self._context.set_code(status.code)
        self._context.set_details(status.details)
        self._context.set_trailing_metadata(metadata.unflatten(status.trailing_metadata))


def _frames(**fields: Any) -> ClientFrames:
    return ClientFrames(frames=[Frame(stream_id=1, **fields)])


_STATUS_OF_RESET = {
    ResetCode.TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
    ResetCode.CANCEL: grpc.StatusCode.CANCELLED,
    ResetCode.PROTOCOL_ERROR: grpc.StatusCode.INVALID_ARGUMENT,
}
