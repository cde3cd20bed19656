"""Runs requests: admission, one task for each, and what becomes of it when it ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.message import DecodeError
from starlette.requests import ClientDisconnect
from starlette.websockets import WebSocketDisconnect

from serving.mux import ReplicaConnection, ResetCode, Stream
from serving.replica.http import HttpBridge
from serving.replica.scope import ClientDisconnected, build_scope
from serving.replica.websocket import WebSocketBridge
from serving.v1.http_pb2 import REQUEST, HttpRequest

logger = logging.getLogger("serving.replica")

ASGIApp = Callable[..., Awaitable[Any]]


class Runner:
    """The requests of one replica. Never more than ``max_ongoing`` at a time."""

    def __init__(self, app: ASGIApp, *, max_ongoing: int, state: dict[str, Any]) -> None:
        """``state`` is what the application's lifespan left; each request gets a copy."""
        self.max_ongoing = max_ongoing
        self._app = app
        self._state = state
        self._tasks: set[asyncio.Task[None]] = set()
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
        task = asyncio.get_running_loop().create_task(self._run(stream))
        self._tasks.add(task)
        self._idle.clear()
        task.add_done_callback(self._done)
        stream.on_early_end(task.cancel)

    async def drain(self, grace_s: float) -> None:
        """Waits until no request runs; after ``grace_s`` those left are cancelled."""
        try:
            await asyncio.wait_for(self._idle.wait(), grace_s)
        except TimeoutError:
            logger.warning("%d requests were cancelled at the end of the grace", self.ongoing)
            for task in list(self._tasks):
                task.cancel()
            await asyncio.wait(self._tasks, timeout=1.0)

    async def _run(self, stream: Stream) -> None:
        part = await stream.receive()
        if part is None or part.tag != REQUEST or part.more:
            stream.reset(ResetCode.PROTOCOL_ERROR, "a stream begins with a REQUEST")
            return
        try:
            request = HttpRequest.FromString(part.data)
        except DecodeError as error:
            stream.reset(ResetCode.PROTOCOL_ERROR, f"malformed HttpRequest: {error}")
            return
        bridge: HttpBridge | WebSocketBridge
        if request.websocket:
            bridge = WebSocketBridge(stream)
        else:
            bridge = HttpBridge(stream, request, more_body=not part.end)
        if stream.timeout_us:
            async with _time_limit(stream):
                await self._call(request, stream, bridge)
        else:
            await self._call(request, stream, bridge)

    async def _call(
        self, request: HttpRequest, stream: Stream, bridge: HttpBridge | WebSocketBridge
    ) -> None:
        scope = build_scope(request, self._state)
        error: BaseException | None = None
        try:
            await self._app(scope, bridge.receive, bridge.send)
        except asyncio.CancelledError as cancelled:
            error = cancelled
            raise
        except BaseException as raised:
            error = raised
            if not _is_departure(raised, stream):
                logger.error(
                    "request %s failed: %s %s",
                    request.request_id,
                    request.method or "WebSocket",
                    scope["path"],
                    exc_info=raised,
                )
            if not isinstance(raised, Exception):
                raise
        finally:
            bridge.finish(error)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not self._tasks:
            self._idle.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a request's task failed", exc_info=error)
        while self._turned_away:
            self._turned_away.pop().push_load()


def _is_departure(error: BaseException, stream: Stream) -> bool:
    """Whether the handler only says that its client has left."""
    left = stream.error is not None or stream.receive_ended
    return left and isinstance(error, (ClientDisconnected, ClientDisconnect, WebSocketDisconnect))


class _time_limit:
    """Cancels the current task when the stream's time is over, and tells the caller why."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
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
        task.cancel()
