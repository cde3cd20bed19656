"""Calls of deployments, from one process, on one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, NoReturn

from serving.aio import Tasks
from serving.calls import payload
from serving.calls.errors import decode_error
from serving.calls.shares import Shares, is_large
from serving.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RemoteError,
    ReplicaUnavailableError,
)
from serving.mux import MuxError, ResetCode, StreamReset
from serving.mux.session import Part
from serving.routing.router import (
    Call,
    MemoryNotShared,
    Overloaded,
    ReplicaLost,
    Router,
    Unavailable,
)
from serving.routing.watch import Directory
from serving.v1 import call_pb2 as pb

logger = logging.getLogger("serving.calls")

ANY_SIZE = 2**62


@dataclass(frozen=True, slots=True)
class Target:
    """What is called, and how."""

    deployment: str
    application: str
    method: str
    stream: bool
    timeout_s: float | None
    local_key: str
    """Of the local cluster that the deployment runs in; empty: it has processes of its own."""


class Origin(NamedTuple):
    """What is known of the request that makes the call."""

    request_id: str
    route: str
    application: str
    model_id: str


class Caller:
    """Sends calls to replicas. Everything here runs on its loop."""

    def __init__(self, directory: Directory, known: Callable[[], Awaitable[None]]) -> None:
        """`known` waits until the directory has heard of the deployments that there are."""
        self.loop = asyncio.get_running_loop()
        self.tasks = Tasks()
        self._directory = directory
        self._known = known
        self._knows = False
        self._calls: set[asyncio.Future[Any]] = set()

    def begin(self, target: Target, origin: Origin, arguments: list[Any]) -> asyncio.Future[Any]:
        """Calls a method; gives the future of what it returns or raises. To cancel that is to
        cancel the call.

        Where a replica has room the call leaves at once, and no task has to wait for its answer.
        """
        try:
            request = _encode(target, origin, arguments)
        except Exception as error:  # a method's name that is no text, say
            return self._owned(_failed(self.loop, error))
        if self._knows and not (target.timeout_s or request.key or request.following):
            router = self._directory.router(target.application, target.deployment)
            if router is not None and (call := router.start_now(pb.CALL, request.data)):
                return self._owned(_Answer(self, request, call).future)
        return self.run(self.finish(request))

    async def call(self, target: Target, origin: Origin, arguments: list[Any]) -> Any:
        """Calls a method and gives what it returns, or raises what it raised."""
        return await self.finish(_encode(target, origin, arguments))

    async def open(self, target: Target, origin: Origin, arguments: list[Any]) -> Call:
        """Calls a method that yields; `item` gives what it yields. The call must be closed."""
        request = _encode(target, origin, arguments)
        if target.timeout_s is None:
            return await self._start(request)
        async with asyncio.timeout(target.timeout_s):
            return await self._start(request)

    async def item(self, target: Target, call: Call) -> tuple[Any] | None:
        """The next item, in a tuple of its own, or None after the last."""
        try:
            value = await _value(call, pb.ITEM)
        except MuxError as error:
            _raise_lost(target, error)
        return None if value is _END else (value,)

    def run(self, work: Coroutine[Any, Any, Any]) -> asyncio.Future[Any]:
        """Runs the work of a call as a task of this owner. Its failure is its response's."""
        return self._owned(self.loop.create_task(work))

    def _owned(self, future: asyncio.Future[Any]) -> asyncio.Future[Any]:
        self._calls.add(future)
        future.add_done_callback(self._ended)
        return future

    def _ended(self, future: asyncio.Future[Any]) -> None:
        self._calls.discard(future)
        if not future.cancelled():
            future.exception()  # Nobody may have asked for it.

    async def aclose(self) -> None:
        """Cancels what is open and ends the connections."""
        for task in self._calls:
            task.cancel()
        if self._calls:
            await asyncio.wait(self._calls)
        await self.tasks.aclose()
        await self._directory.aclose()

    async def finish(self, request: _Request, call: Call | None = None) -> Any:
        """What a call gives, from its start, or from where `start_now` and `_Answer` left it."""
        if request.target.timeout_s is None:
            return await self._finish(request, call)
        async with asyncio.timeout(request.target.timeout_s):
            return await self._finish(request, call)

    async def _finish(self, request: _Request, call: Call | None) -> Any:
        if call is None or call.first is None:
            call = await self._start(request, failed=call)
        try:
            return await _value(call, pb.RESULT)
        except MuxError as error:
            _raise_lost(request.target, error)
        finally:
            call.close()

    async def _start(self, request: _Request, failed: Call | None = None) -> Call:
        if not self._knows:
            await self._known()
            self._knows = True
        router = self._router(request.target)
        if request.following and is_large(request.following) and router.shares_memory:
            with Shares() as shares, contextlib.suppress(MemoryNotShared):
                await shares.place(request.following)
                shared = _shared(request, shares)
                call = await self._send(router, shared, failed, shares_memory=True)
                await _answered(call, request.target)
                request.following.clear()
                return call
        call = await self._send(router, request, failed)
        request.following.clear()
        return call

    async def _send(
        self, router: Router, request: _Request, failed: Call | None, shares_memory: bool = False
    ) -> Call:
        target, following = request.target, request.following
        deadline = self.loop.time() + target.timeout_s if target.timeout_s else 0
        try:
            call = await router.start(
                pb.CALL,
                request.data,
                end=not following,
                deadline=deadline,
                key=request.key,
                failed=failed,
                shares_memory=shares_memory,
            )
        except Overloaded as error:
            raise BackPressureError(str(error)) from None
        except Unavailable as error:
            raise DeploymentUnavailableError(str(error)) from None
        except (ReplicaLost, MuxError) as error:
            _raise_lost(target, error)
        try:
            if following:
                await payload.send_following(call.stream, following, end=True)
        except BaseException:
            call.close()
            raise
        return call

    def _router(self, target: Target) -> Router:
        router = self._directory.router(target.application, target.deployment)
        if router is None:
            raise DeploymentUnavailableError(
                f"there is no deployment {target.deployment!r} in application "
                f"{target.application!r}"
            )
        return router


class _Request(NamedTuple):
    """A call as it is sent."""

    target: Target
    key: str
    data: bytes
    following: list[memoryview]
    """Copies of the arguments' buffers, until they are sent."""


def _encode(target: Target, origin: Origin, arguments: list[Any]) -> _Request:
    message = pb.Call(
        method=target.method,
        stream=target.stream,
        request_id=origin.request_id,
        route=origin.route,
        application=origin.application,
        multiplexed_model_id=origin.model_id,
    )
    following = payload.encode(arguments, message.arguments)
    return _Request(target, origin.model_id, message.SerializeToString(), following)


def _shared(request: _Request, shares: Shares) -> _Request:
    """The same, with what stands in shared memory announced as such."""
    message = pb.Call.FromString(request.data)
    rest = payload.share(message.arguments, request.following, shares.places)
    return request._replace(data=message.SerializeToString(), following=rest)


async def _answered(call: Call, target: Target) -> None:
    """Waits until the replica answers: then it has certainly read what is shared with it."""
    try:
        if call.first is None:
            call.first = await call.stream.receive()
    except BaseException as error:
        call.close()
        if isinstance(error, MuxError):
            _raise_lost(target, error)
        raise


class _Answer:
    """The future of a call that was sent at once. A value that comes in one frame is given to it
    as it arrives; all else is the work of a task."""

    __slots__ = ("_call", "_caller", "_request", "future")

    def __init__(self, caller: Caller, request: _Request, call: Call) -> None:
        self.future: asyncio.Future[Any] = caller.loop.create_future()
        self.future.add_done_callback(self._ended)
        self._caller = caller
        self._request = request
        self._call = call
        call.stream.on_answer(self._arrived)

    def _arrived(self) -> None:
        future, call = self.future, self._call
        if future.done():
            return  # It was cancelled in this very turn of the loop.
        part = call.first = call.stream.session.read(call.stream)
        try:
            if part is not None and part.tag == pb.RESULT and part.end:
                message = pb.Payload.FromString(part.data)
                if message.pickled and not message.buffers:
                    future.set_result(payload.loads([message.pickled]))
                    return
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the user's, whose value it is: not the connection's
            future.set_exception(
                error if not isinstance(error, StopIteration) else RuntimeError(str(error))
            )
            return
        self._finish()

    def _finish(self) -> None:
        future = self.future
        task = self._caller.run(self._caller.finish(self._request, self._call))
        future.add_done_callback(lambda _: task.cancel())
        task.add_done_callback(partial(_pass_on, future))

    def _ended(self, future: asyncio.Future[Any]) -> None:
        if future.cancelled():
            self._call.close()


def _failed(loop: asyncio.AbstractEventLoop, error: Exception) -> asyncio.Future[Any]:
    future = loop.create_future()
    future.set_exception(error)
    return future


def _pass_on(future: asyncio.Future[Any], task: asyncio.Future[Any]) -> None:
    if future.done():
        return
    if task.cancelled():
        future.cancel()
    elif (error := task.exception()) is not None:
        future.set_exception(error)
    else:
        future.set_result(task.result())


_END: Any = object()


async def _value(call: Call, tag: int) -> Any:
    """The next result or item; `_END` after the last."""
    part, call.first = call.first, None
    if part is None:
        part = await call.stream.receive(max_bytes=ANY_SIZE)
    elif part.more:
        rest = await call.stream.receive(max_bytes=ANY_SIZE)
        part = Part(part.tag, part.data + rest.data, False, rest.end) if rest else None
    if part is not None and part.tag == pb.ITEM == tag and not part.data:
        return _END
    if part is None or part.tag not in (tag, pb.ERROR):
        raise RemoteError("the replica answered with what is no result of a call")
    if part.tag == pb.ERROR:
        raise decode_error(part.data)
    message = pb.Payload.FromString(part.data)
    if message.pickled and not message.buffers:
        return payload.loads([message.pickled])
    return payload.loads(await payload.receive(call.stream, message))


def _raise_lost(target: Target, error: Exception) -> NoReturn:
    if isinstance(error, StreamReset):
        if error.code == ResetCode.TIMEOUT:
            raise TimeoutError(f"{target.deployment}.{target.method}: its time is over") from None
        if error.code not in (ResetCode.CANCEL, ResetCode.INTERNAL_ERROR):
            raise RemoteError(f"{target.deployment}.{target.method}: {error}") from None
    raise ReplicaUnavailableError(
        f"the replica of {target.deployment!r} that worked on {target.method!r} was lost: {error}"
    ) from None
