"""Runs requests: admission, one task for each, and what becomes of it when it ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

import anyio.to_thread
from google.protobuf.message import DecodeError, Message
from starlette.requests import ClientDisconnect
from starlette.websockets import WebSocketDisconnect

from serving.aio import is_being_cancelled
from serving.context import RequestScope, enter_request
from serving.mux import ReplicaConnection, ResetCode, Stream
from serving.mux.session import Part
from serving.replica.calls import CallHandler
from serving.replica.grpc import GrpcHandler
from serving.replica.http import HttpBridge
from serving.replica.refusals import refusal_of
from serving.replica.scope import ClientDisconnected, build_scope
from serving.replica.websocket import WebSocketBridge
from serving.v1.call_pb2 import CALL, Call
from serving.v1.grpc_pb2 import GRPC_REQUEST, GrpcRequest
from serving.v1.http_pb2 import REQUEST, HttpRequest

logger = logging.getLogger("serving.replica")

ASGIApp = Callable[..., Awaitable[Any]]
Answer = Coroutine[Any, Any, None]
M = TypeVar("M", bound=Message)


class Runner:
    """The requests of one replica. Never more than ``max_ongoing`` at a time."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_ongoing: int,
        state: dict[str, Any],
        calls: CallHandler | None = None,
        rpcs: GrpcHandler | None = None,
        application: str = "",
    ) -> None:
        """``state`` is what the application's lifespan left; each request gets a copy. ``calls``
        answers calls through handles, and ``rpcs`` those of users' gRPC services."""
        self.max_ongoing = max_ongoing
        self._app = app
        self._state = state
        self._calls = calls
        self._rpcs = rpcs
        self._begin = {
            REQUEST: self._begin_http,
            CALL: self._begin_call,
            GRPC_REQUEST: self._begin_rpc,
        }
        self._application = application
        self._tasks: dict[asyncio.Task[None], tuple[Stream, RequestScope]] = {}
        self._turned_away: set[ReplicaConnection] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def ongoing(self) -> int:
        """Requests whose handlers run."""
        return len(self._tasks)

    def admit(self, connection: ReplicaConnection, stream: Stream) -> None:
        """Starts a request, or rejects it where there is no room."""
        if len(self._tasks) >= self.max_ongoing:
            self._turned_away.add(connection)
            connection.session.reject(stream)
            return
        connection.session.accept(stream)
        scope = RequestScope(application=self._application)
        task = asyncio.get_running_loop().create_task(self._run(stream, scope))
        self._tasks[task] = stream, scope
        self._idle.clear()
        task.add_done_callback(partial(self._done, stream, scope))
        stream.on_early_end(partial(_cancel, task, scope))

    def resize(self, max_ongoing: int) -> None:
        """Takes ``max_ongoing`` requests at a time from now on, and tells who was rejected."""
        self.max_ongoing = max_ongoing
        self._tell_turned_away()

    async def drain(self, grace_s: float) -> None:
        """Waits until no request runs; after ``grace_s`` those left are cancelled, and their
        clients told that the replica is stopping."""
        try:
            await asyncio.wait_for(self._idle.wait(), grace_s)
        except TimeoutError:
            if not self._tasks:
                return
            logger.warning("requests cancelled at the end of the grace: %d", self.ongoing)
            for task, (stream, scope) in self._tasks.items():
                stream.reset(ResetCode.CANCEL, "the replica is stopping")
                _cancel(task, scope)
            await asyncio.wait(self._tasks, timeout=1.0)

    async def _run(self, stream: Stream, scope: RequestScope) -> None:
        enter_request(scope)
        if stream.timeout_us:
            async with _time_limit(stream, scope):
                await self._serve(stream, scope)
        else:
            await self._serve(stream, scope)

    async def _serve(self, stream: Stream, scope: RequestScope) -> None:
        part = await stream.receive()
        try:
            if part is None or part.more:
                raise ValueError("a stream begins with a message of one frame")
            answer = self._begin.get(part.tag, self._begin_http)(part, stream, scope)
        except ValueError as error:
            stream.reset(ResetCode.PROTOCOL_ERROR, str(error))
            return
        await answer

    # What a stream begins with: each gives the work that answers it, and raises ValueError.

    def _begin_http(self, part: Part, stream: Stream, scope: RequestScope) -> Answer:
        request = _parse(part)
        scope.request_id = request.request_id
        scope.route = request.route
        scope.model_id = request.multiplexed_model_id
        bridge: HttpBridge | WebSocketBridge
        if request.websocket:
            bridge = WebSocketBridge(stream)
        else:
            bridge = HttpBridge(stream, request, more_body=not part.end)
        return self._call(request, stream, bridge)

    def _begin_call(self, part: Part, stream: Stream, scope: RequestScope) -> Answer:
        call = _parse_message(Call, part)
        scope.request_id = call.request_id
        scope.route = call.route
        scope.application = call.application
        scope.model_id = call.multiplexed_model_id
        assert self._calls is not None
        return self._calls.run(call, stream)

    def _begin_rpc(self, part: Part, stream: Stream, scope: RequestScope) -> Answer:
        call = _parse_message(GrpcRequest, part)
        if len(call.metadata) % 2:
            raise ValueError("metadata comes in pairs of key and value")
        scope.request_id = call.request_id
        scope.route = call.method
        scope.application = call.application or scope.application
        scope.model_id = call.multiplexed_model_id
        assert self._rpcs is not None
        return self._rpcs.run(call, stream)

    async def _call(
        self, request: HttpRequest, stream: Stream, bridge: HttpBridge | WebSocketBridge
    ) -> None:
        scope = build_scope(request, self._state)
        # Not the exception itself: this frame is part of its traceback, so that it would keep
        # itself, and with it the handler's frames and open generators.
        failed, refusal = True, ""
        try:
            await self._app(scope, bridge.receive, bridge.send)
            failed = False
        except BaseException as raised:
            if isinstance(raised, asyncio.CancelledError) and is_being_cancelled():
                raise
            if refusal := refusal_of(raised):
                logger.warning("request %s was refused: %s", request.request_id, raised)
            elif not _is_departure(raised, stream):
                logger.error(
                    "request failed: %s %s",
                    request.method or "WebSocket",
                    scope["path"],
                    exc_info=raised,
                )
        finally:
            if bridge.finish(failed=failed, refusal=refusal) and not failed:
                logger.error(
                    "the application returned without completing its response: %s %s",
                    request.method or "WebSocket",
                    scope["path"],
                )

    def _done(self, stream: Stream, scope: RequestScope, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        scope.end()
        # A cancelled task keeps its traceback, and that the stream: without this cut, what the
        # handler left open (a generator) would stay so until the collector comes by.
        stream.on_early_end(None)
        if not self._tasks:
            self._idle.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            enter_request(scope)  # for the log: this is a context of the callback's own
            logger.error("a request's task failed", exc_info=error)
        self._tell_turned_away()

    def _tell_turned_away(self) -> None:
        while self._turned_away:
            self._turned_away.pop().push_load()


def _parse(part: Part) -> HttpRequest:
    """The request that a stream begins with. Raises ValueError where it is none."""
    if part.tag != REQUEST:
        raise ValueError(f"a stream does not begin with a message of kind {part.tag}")
    request = _parse_message(HttpRequest, part)
    if not (request.method or request.websocket):
        raise ValueError("a request has a method")
    if not request.raw_path:
        raise ValueError("a request has a path")
    if len(request.headers) % 2:
        raise ValueError("headers come in pairs of name and value")
    return request


def _parse_message(kind: type[M], part: Part) -> M:
    try:
        return kind.FromString(part.data)
    except DecodeError as error:
        raise ValueError(f"malformed {kind.__name__}: {error}") from None


def _cancel(task: asyncio.Task[None], scope: RequestScope) -> None:
    """Cancels the calls that a request has made, and its task: at once, or, while that waits for a
    thread, when the thread has ended.

    Nothing stops a thread; a task that left it behind would free the slot that it still fills.
    (anyio's own shield holds against its own cancelling, not against asyncio's.)
    """
    scope.cancel_calls()
    waits_for: asyncio.Future[Any] | None = task._fut_waiter  # type: ignore[attr-defined]
    in_threads = anyio.to_thread.current_default_thread_limiter().statistics().borrowers
    if waits_for is not None and task in in_threads:
        waits_for.add_done_callback(lambda _: task.cancel())
    else:
        task.cancel()


def _is_departure(error: BaseException, stream: Stream) -> bool:
    """Whether the handler only says that its client has left."""
    left = stream.error is not None or stream.receive_ended
    return left and isinstance(error, (ClientDisconnected, ClientDisconnect, WebSocketDisconnect))


class _time_limit:
    """Cancels the current task when the stream's time is over, and tells the caller why."""

    def __init__(self, stream: Stream, scope: RequestScope) -> None:
        self._stream = stream
        self._scope = scope
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._stream.timeout_us / 1e6, self._expire, task)

    async def __aexit__(self, *_: object) -> None:
        assert self._timer is not None
        self._timer.cancel()

    def _expire(self, task: asyncio.Task[Any]) -> None:
        self._stream.reset(ResetCode.TIMEOUT, "the request's time is over")
        _cancel(task, self._scope)
