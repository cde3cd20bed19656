"""Calls of users' gRPC services: a call of an RPC is one of the method of its name."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Coroutine, Mapping
from typing import Any

import grpc
from google.protobuf.descriptor import Descriptor

from serving.aio import is_being_cancelled
from serving.exceptions import RequestCancelledError
from serving.grpc_util import AbortError, GrpcContext
from serving.mux import Stream, StreamError
from serving.mux.session import Part
from serving.replica import hooks
from serving.replica.methods import Method, Methods
from serving.replica.refusals import status_of
from serving.rpc import metadata
from serving.rpc.methods import Method as RpcMethod
from serving.rpc.opening import MAX_INLINE
from serving.v1.controller_pb2 import GrpcSettings
from serving.v1.grpc_pb2 import (
    GRPC_HALF_CLOSE,
    GRPC_MESSAGE,
    GRPC_METADATA,
    GRPC_STATUS,
    GrpcMetadata,
    GrpcRequest,
    GrpcStatus,
)

logger = logging.getLogger("serving.replica")

_OK = grpc.StatusCode.OK


class GrpcHandler:
    """Answers the RPCs of users' services with the methods of one user's object."""

    def __init__(
        self, methods: Methods, rpcs: Mapping[str, RpcMethod], settings: GrpcSettings
    ) -> None:
        self._methods = methods
        self._rpcs = rpcs
        self._max_receive_bytes = settings.max_receive_message_bytes
        self._max_send_bytes = settings.max_send_message_bytes
        self._found: dict[str, _Rpc] = {}

    async def run(self, call: GrpcRequest, stream: Stream) -> None:
        """Answers one call. Raises only what ends the request's task: its own cancellation."""
        context: GrpcContext | None = None
        message: bytes | None = None
        try:
            found = self._found.get(call.method) or self._find(call.method)
            if found.takes_context:
                context = _context(call, stream)
            request = await self._request(found, call, stream)
            work = found.call(request, context)
            del request  # Large, perhaps: the method alone is to hold it.
            if found.streams:
                await self._stream(found, await work, stream, context)
            else:
                message = self._serialized(found, await work, context)
            status = _status(context)
            if message is not None:
                _begin(stream, context)
                if len(message) <= MAX_INLINE:
                    status.message = message
                else:
                    await stream.send(GRPC_MESSAGE, message)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and is_being_cancelled():
                raise
            if stream.error is not None and isinstance(error, RequestCancelledError):
                return  # A thread that waited for the client's next message.
            status = _failure(error, call, context)
        _begin(stream, context)
        stream.write(GRPC_STATUS, status.SerializeToString(), end=True)

    def _find(self, name: str) -> _Rpc:
        if (described := self._rpcs.get(name)) is None:
            raise _Refused(
                grpc.StatusCode.UNIMPLEMENTED,
                f"no function of grpc_servicer_functions adds {name or 'a method without a name'}",
            )
        wanted = name.rpartition("/")[2]
        if wanted in hooks.NAMES:
            raise _Refused(
                grpc.StatusCode.UNIMPLEMENTED,
                f"{wanted!r} is a method that replicas call themselves: {name} needs another name",
            )
        try:
            method = self._methods.find(wanted)
        except AttributeError as error:
            raise _Refused(
                grpc.StatusCode.UNIMPLEMENTED,
                f"deployment {self._methods.deployment!r} has no method "
                f"{wanted!r}, which {name} needs",
                log=str(error),
            ) from None
        found = self._found[name] = _Rpc(described, method)
        return found

    async def _request(self, found: _Rpc, call: GrpcRequest, stream: Stream) -> Any:
        """What the method gets: the message, or what gives the messages."""
        described = found.described
        if described.request_streaming:
            return RequestMessages(described, stream, self._max_receive_bytes)
        if call.HasField("message"):
            return _parsed(described, call.message, self._max_receive_bytes)
        part = await stream.receive(self._max_receive_bytes)
        if part is None or part.tag == GRPC_HALF_CLOSE:
            raise _Refused(
                grpc.StatusCode.UNIMPLEMENTED, f"{call.method} takes one message: none came"
            )
        return _parsed(described, _data(part, self._max_receive_bytes), self._max_receive_bytes)

    async def _stream(
        self, found: _Rpc, items: Any, stream: Stream, context: GrpcContext | None
    ) -> None:
        try:
            async for item in items:
                message = self._serialize(found, item, "yielded")
                _begin(stream, context)
                await stream.send(GRPC_MESSAGE, message)
        finally:
            await items.aclose()

    def _serialized(self, found: _Rpc, result: Any, context: GrpcContext | None) -> bytes | None:
        """The message of a unary answer; None where its status is another than OK: as gRPC has it,
        there is none then, and a method may return what it likes."""
        if context is not None and context.code() not in (None, _OK):
            return None
        return self._serialize(found, result, "returned")

    def _serialize(self, found: _Rpc, value: Any, verb: str) -> bytes:
        expected = found.described.response
        try:
            if expected is not None and not _is_of(value, expected):
                raise TypeError("it is of another type")
            message = found.described.serialize(value)
        except Exception as error:
            wanted = f"a {expected.full_name}" if expected is not None else "what it can serialize"
            raise TypeError(
                f"{found.method.name} {verb} {type(value).__name__!r}, and {found.described.name} "
                f"answers with {wanted}: {error}"
            ) from error
        if len(message) > self._max_send_bytes:
            raise _Refused(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"the response message has {len(message)} bytes, more than max_send_message_bytes "
                f"({self._max_send_bytes}) allows",
            )
        return message


class RequestMessages:
    """The messages of a call whose request is a stream: for `async for` on the event loop, and for
    a plain `for` in threads. One reader at a time."""

    def __init__(self, described: RpcMethod, stream: Stream, max_bytes: int) -> None:
        self._described = described
        self._stream = stream
        self._max_bytes = max_bytes
        self._ended = False
        self._reading = False
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()

    def __repr__(self) -> str:
        return f"<RequestMessages of {self._described.name}>"

    def __aiter__(self) -> RequestMessages:
        return self

    async def __anext__(self) -> Any:
        if self._reading:
            raise RuntimeError(f"the messages of {self._described.name} have a reader already")
        if self._ended:
            raise StopAsyncIteration
        self._reading = True
        try:
            part = await self._stream.receive(self._max_bytes)
        except StreamError as error:
            raise RequestCancelledError(f"the call has ended: {error}") from None
        finally:
            self._reading = False
        if part is None or part.tag == GRPC_HALF_CLOSE:
            self._ended = True
            raise StopAsyncIteration
        self._ended = part.end
        try:
            return _parsed(self._described, _data(part, self._max_bytes), self._max_bytes)
        except _Refused:
            self._ended = True
            raise

    def __iter__(self) -> RequestMessages:
        return self

    def __next__(self) -> Any:
        if threading.get_ident() == self._loop_thread:
            raise RuntimeError(
                f"the messages of {self._described.name} would block the event loop here: "
                "write `async for`"
            )
        # The wait ends with the stream, however that ends.
        message = asyncio.run_coroutine_threadsafe(anext(self, _END), self._loop).result()
        if message is _END:
            raise StopIteration
        return message


_END: Any = object()


class _Rpc:
    """An RPC, and the user's method that answers it."""

    __slots__ = ("_cure", "described", "method", "streams", "takes_context")

    def __init__(self, described: RpcMethod, method: Method) -> None:
        self.described = described
        self.method = method
        self.streams = described.response_streaming
        self.takes_context = method.takes("grpc_context")
        method.check_takes(
            None,
            **({"grpc_context": None} if self.takes_context else {}),
            cure=f"what answers {described.name} takes the request and, if it likes, grpc_context",
        )
        answer = "a stream of messages: yield them" if self.streams else "one message: return it"
        self._cure = f"{described.name} answers with {answer}"

    def call(self, request: Any, context: GrpcContext | None) -> Coroutine[Any, Any, Any]:
        """What the method returns, or the items that it yields."""
        kwargs = {} if context is None else {"grpc_context": context}
        run = self.method.items if self.streams else self.method.value
        return run((request,), kwargs, cure=self._cure)


class _Refused(Exception):
    """A call that ends with a status of ours."""

    def __init__(self, code: grpc.StatusCode, details: str, *, log: str = "") -> None:
        """``log`` is what the log says in the place of ``details``."""
        super().__init__(log or details)
        self.code = code
        self.details = details


def _context(call: GrpcRequest, stream: Stream) -> GrpcContext:
    clock = asyncio.get_running_loop().time
    deadline = clock() + stream.timeout_us / 1e6 if stream.timeout_us else None
    return GrpcContext(call, deadline=deadline, clock=clock)


def _data(part: Part, max_bytes: int) -> bytes:
    """What a message of the client holds."""
    if part.tag != GRPC_MESSAGE:
        raise _Refused(
            grpc.StatusCode.INTERNAL, f"a part of kind {part.tag} where a message was expected"
        )
    if part.more:
        raise _too_large(f"more than {max_bytes}", max_bytes)
    return part.data


def _parsed(described: RpcMethod, data: bytes, max_bytes: int) -> Any:
    if len(data) > max_bytes:
        raise _too_large(str(len(data)), max_bytes)
    try:
        return described.deserialize(data)
    except Exception as error:
        raise _Refused(
            grpc.StatusCode.INTERNAL, f"the request of {described.name} cannot be parsed: {error}"
        ) from error


def _too_large(size: str, max_bytes: int) -> _Refused:
    return _Refused(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        f"a request message has {size} bytes, more than max_receive_message_bytes ({max_bytes}) "
        "allows",
    )


def _is_of(value: Any, expected: Descriptor) -> bool:
    """Whether it is a message of that type, if of another pool, too."""
    found = getattr(value, "DESCRIPTOR", None)
    return found is expected or getattr(found, "full_name", "") == expected.full_name


def _begin(stream: Stream, context: GrpcContext | None) -> None:
    """Sends the initial metadata, once, where there is any."""
    if context is not None and (entries := context.begin()):
        flat = metadata.flatten(entries)
        stream.write(GRPC_METADATA, GrpcMetadata(metadata=flat).SerializeToString())


def _status(context: GrpcContext | None) -> GrpcStatus:
    """As the method set it."""
    status = GrpcStatus()
    if context is None:
        return status
    if (code := context.code()) is not None:
        status.code = code.value[0]
    status.details = metadata.capped(context.details())
    if trailers := context.trailing_metadata():
        kept = metadata.fitted(trailers)
        if len(kept) < len(trailers):
            left_out = sorted({key for key, _ in trailers} - {key for key, _ in kept})
            logger.warning(
                "trailing metadata of %d bytes is more than a client takes (%d): left out %s",
                metadata.size(trailers),
                metadata.MAX_TRAILERS,
                ", ".join(left_out),
            )
        status.trailing_metadata.extend(metadata.flatten(kept))
    return status


def _failure(error: BaseException, call: GrpcRequest, context: GrpcContext | None) -> GrpcStatus:
    """The status of a call that ends with an exception: what the method set, else what the
    exception stands for."""
    is_set = context is not None and context.code() not in (None, _OK)
    if isinstance(error, _Refused):
        code, details = error.code, error.details
        logger.warning("call of %s was refused: %s", call.method, error)
    elif refusal := status_of(error):
        code, details = refusal
        logger.warning("call of %s was refused: %s", call.method, error)
    else:
        code, details = (
            grpc.StatusCode.INTERNAL,
            f"Internal Server Error (request id {call.request_id})",
        )
        if not (is_set and isinstance(error, AbortError)):
            logger.error("call of %s failed", call.method, exc_info=error)
    status = _status(context)
    if not is_set:
        status.code, status.details = code.value[0], metadata.capped(details)
    return status
