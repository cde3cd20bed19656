"""Calls of deployments, from one process, on one event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

from serving.aio import Tasks
from serving.calls import payload
from serving.calls.errors import decode_error
from serving.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RemoteError,
    ReplicaUnavailableError,
)
from serving.mux import MuxError, ResetCode, StreamReset
from serving.mux.session import Part
from serving.routing.router import Call, Overloaded, ReplicaLost, Router, Unavailable
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
        self._calls: set[asyncio.Task[Any]] = set()

    async def call(self, target: Target, origin: Origin, arguments: list[Any]) -> Any:
        """Calls a method and gives what it returns, or raises what it raised."""
        if target.timeout_s is None:
            return await self._answer(target, origin, arguments)
        async with asyncio.timeout(target.timeout_s):
            return await self._answer(target, origin, arguments)

    async def open(self, target: Target, origin: Origin, arguments: list[Any]) -> Call:
        """Calls a method that yields; `item` gives what it yields. The call must be closed."""
        if target.timeout_s is None:
            return await self._start(target, origin, arguments)
        async with asyncio.timeout(target.timeout_s):
            return await self._start(target, origin, arguments)

    async def item(self, target: Target, call: Call) -> tuple[Any] | None:
        """The next item, in a tuple of its own, or None after the last."""
        try:
            value = await _value(call, pb.ITEM)
        except MuxError as error:
            _raise_lost(target, error)
        return None if value is _END else (value,)

    def run(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Runs the work of a call as a task of this owner. Its failure is its response's."""
        task = self.loop.create_task(work)
        self._calls.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._calls.discard(task)
        if not task.cancelled():
            task.exception()  # Nobody may have asked for it.

    async def aclose(self) -> None:
        """Cancels what is open and ends the connections."""
        for task in self._calls:
            task.cancel()
        if self._calls:
            await asyncio.wait(self._calls)
        await self.tasks.aclose()
        await self._directory.aclose()

    async def _answer(self, target: Target, origin: Origin, arguments: list[Any]) -> Any:
        call = await self._start(target, origin, arguments)
        try:
            return await _value(call, pb.RESULT)
        except MuxError as error:
            _raise_lost(target, error)
        finally:
            call.close()

    async def _start(self, target: Target, origin: Origin, arguments: list[Any]) -> Call:
        await self._known()
        request = pb.Call(
            method=target.method,
            stream=target.stream,
            request_id=origin.request_id,
            route=origin.route,
            application=origin.application,
            multiplexed_model_id=origin.model_id,
        )
        following = payload.encode(arguments, request.arguments)
        deadline = self.loop.time() + target.timeout_s if target.timeout_s else 0
        try:
            call = await self._router(target).start(
                pb.CALL,
                request.SerializeToString(),
                end=not following,
                deadline=deadline,
                key=origin.model_id,
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
