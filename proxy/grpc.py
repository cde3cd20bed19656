"""One gRPC call of a user's service: to a replica, and its answer back. Messages are passed on as
the bytes that they are."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import grpc.aio
from grpc import StatusCode

from serving.mux import StreamError
from serving.mux.session import Part
from serving.proxy.errors import (
    HANDLER_FAILED,
    TIMED_OUT,
    UNAVAILABLE,
    Failure,
    failure_of,
    unknown_application,
)
from serving.proxy.exchange import Exchange
from serving.proxy.requests import fit_request_id
from serving.routing.router import Call, RoutingError
from serving.rpc import half_close
from serving.rpc.metadata import Metadata, capped, flatten, unflatten
from serving.rpc.opening import head_of
from serving.v1.grpc_pb2 import (
    GRPC_HALF_CLOSE,
    GRPC_MESSAGE,
    GRPC_METADATA,
    GRPC_REQUEST,
    GRPC_STATUS,
    GrpcMetadata,
    GrpcMethod,
    GrpcRequest,
    GrpcStatus,
)

if TYPE_CHECKING:
    from serving.proxy.app import Proxy

logger = logging.getLogger("serving.proxy")

APPLICATION = "application"
MODEL_ID = "multiplexed_model_id"
REQUEST_ID = "request_id"

_CODES = {code.value[0]: code for code in StatusCode}


class GrpcExchange(Exchange):
    """One call and its answer. :meth:`run` is the whole of its life, in the server's task, which
    is cancelled when the client cancels the call, or leaves."""

    __slots__ = (
        "_application",
        "_code",
        "_context",
        "_details",
        "_metadata",
        "_method",
        "_trailers",
    )

    def __init__(self, proxy: Proxy, method: GrpcMethod, context: Any) -> None:
        metadata: Metadata = context.invocation_metadata()
        self._application = request_id = model_id = ""
        for key, value in metadata:
            if key == REQUEST_ID:
                request_id = str(value)
            elif key == MODEL_ID:
                model_id = str(value)
            elif key == APPLICATION:
                self._application = str(value)
        super().__init__(proxy, fit_request_id(request_id.encode()), model_id)
        self._method = method
        self._context = context
        self._metadata = metadata
        # The status. The access log tells the code.
        self._code = StatusCode.UNKNOWN
        self._details = ""
        self._trailers: Metadata = ()

    async def run(self, message: bytes | None = None) -> bytes:
        """Serves the call, whose one request ``message`` is; None: its requests are to be read. The
        answer to a method that has but one is returned."""
        try:
            answer = await self._serve_or_fail(message)
        except asyncio.CancelledError:
            if self._interrupted is None or self._task is None:
                self._code = self._code_of_cancelling()
                raise
            self._task.uncancel()
            answer = self._fail(TIMED_OUT)
        finally:
            name = self._method.name
            self._log(name, "gRPC", name, self._code.name)
            await self._release()
        await self._tell_status()
        return answer

    async def refuse(self, code: StatusCode, details: str) -> None:
        """Answers a call that no method is there for."""
        self._set_status(code, details)
        self._log("-", "gRPC", self._method.name, code.name)
        await self._tell_status()

    async def _serve_or_fail(self, message: bytes | None) -> bytes:
        try:
            return await self._serve(message)
        except (RoutingError, StreamError) as error:
            return self._fail(failure_of(error))
        except grpc.aio.InternalError as error:
            # Nothing can be written any more: the call has ended, and we are about to hear so.
            raise asyncio.CancelledError from error
        except Exception:
            logger.exception("call failed in the proxy", extra=self._stamp(self._method.name))
            return self._fail(HANDLER_FAILED)

    async def _serve(self, message: bytes | None) -> bytes:
        directory = self._proxy.directory
        route = self._route = directory.routes.named(self._application)
        if route is None:
            return self._fail(unknown_application(self._application, directory.routes.applications))
        router = directory.router(route.application, route.ingress)
        if router is None:
            return self._fail(UNAVAILABLE)
        self._start_clock(self._time_s())
        request = GrpcRequest(
            method=self._method.name,
            metadata=flatten(self._metadata),
            peer=self._context.peer(),
            request_id=self._request_id,
            application=route.application,
            multiplexed_model_id=self._model_id,
        )
        head, inline = head_of(request, message)
        if router.ongoing:
            await self._proxy.gathering.join()
        call = self._call = await router.start(
            GRPC_REQUEST,
            head,
            end=inline,
            deadline=self._deadline,
            key=self._model_id,
        )
        if message is None:
            self._start_upload(self._send_upload(call))
        elif not inline:
            call.stream.write(GRPC_MESSAGE, message, end=True)
        return await self._relay(call)

    async def _relay(self, call: Call) -> bytes:
        """Passes the answer on, each message as it comes."""
        answer = b""
        part = call.first or await call.stream.receive()
        while part is not None:
            data = await self._whole(call, part) if part.more else part.data
            if part.tag == GRPC_STATUS:
                return await self._finish(GrpcStatus.FromString(data), answer)
            if part.tag == GRPC_MESSAGE:
                if self._method.response_streaming:
                    await self._context.write(data)
                else:
                    answer = data
            elif part.tag == GRPC_METADATA:
                metadata = GrpcMetadata.FromString(data).metadata
                await self._context.send_initial_metadata(unflatten(metadata))
            part = await call.stream.receive()
        raise RuntimeError("the replica's answer has no status")

    async def _whole(self, call: Call, part: Part) -> bytes:
        """A message of several parts. How large it may be, the replica sees to."""
        chunks = [part.data]
        while part.more:
            following = await call.stream.receive()
            if following is None:
                raise RuntimeError("the replica's answer ends within a message")
            part = following
            chunks.append(part.data)
        return b"".join(chunks)

    async def _finish(self, status: GrpcStatus, answer: bytes) -> bytes:
        if status.HasField("message"):
            answer = status.message
            if self._method.response_streaming:
                await self._context.write(answer)
        code = _CODES.get(status.code, StatusCode.UNKNOWN)
        self._set_status(code, status.details, status.trailing_metadata)
        return answer

    def _fail(self, failure: Failure) -> bytes:
        """Tells the client of a failure, in place of what is missing of the answer."""
        details = failure.details
        if failure is HANDLER_FAILED:
            details = f"{details} (request id {self._request_id})"
        elif failure is TIMED_OUT and (limit_s := self._proxy.grpc_options.request_timeout_s):
            # A client whose own time is over has said so itself, and does not see this.
            details = f"the call took longer than {limit_s:g} s (request_timeout_s)"
        self._set_status(failure.code, details)
        return b""

    def _set_status(self, code: StatusCode, details: str, flat: Sequence[bytes] = ()) -> None:
        self._code = code
        self._details = capped(details)
        self._trailers = unflatten(flat) if flat else ()
        if not any(key == REQUEST_ID for key, _ in self._trailers):
            self._trailers += ((REQUEST_ID, self._request_id),)

    async def _tell_status(self) -> None:
        if self._code is not StatusCode.OK:
            # The server would send an empty message before a status that is only set, and no
            # client would call again by its retry policy: to it the answer has begun.
            await self._context.abort(self._code, self._details, self._trailers)
        self._context.set_trailing_metadata(self._trailers)
        if self._details:
            self._context.set_details(self._details)

    def _time_s(self) -> float | None:
        """What is left of the client's time, or of the proxy's own."""
        remaining_s: float | None = self._context.time_remaining()
        limit_s = self._proxy.grpc_options.request_timeout_s
        if remaining_s is None or limit_s is None:
            return remaining_s if limit_s is None else limit_s
        return min(remaining_s, limit_s)

    def _code_of_cancelling(self) -> StatusCode:
        """Why the server cancelled the task."""
        in_time = self._context.time_remaining() != 0
        return StatusCode.CANCELLED if in_time else TIMED_OUT.code

    async def _send_upload(self, call: Call) -> None:
        """Passes the requests on, as fast as the handler reads them."""
        while (message := await self._context.read()) is not grpc.aio.EOF:
            await call.stream.send(GRPC_MESSAGE, message)
        await half_close.awaited(self._context)
        call.stream.write(GRPC_HALF_CLOSE, b"", end=True)
