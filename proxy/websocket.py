"""One WebSocket: its messages to a replica and back, its close in both directions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from serving.mux import ResetCode, Stream, StreamError
from serving.mux.session import Part
from serving.proxy.access_log import Entry
from serving.proxy.errors import CLIENT_LEFT, NO_ROUTE, UNAVAILABLE, Failure, failure_of
from serving.proxy.receiver import Message
from serving.proxy.requests import RequestHead, flatten_scope
from serving.routing.router import Call, RoutingError
from serving.routing.routes import Route
from serving.v1.http_pb2 import (
    ACCEPT,
    BINARY,
    BODY,
    CLOSE,
    REQUEST,
    RESPONSE,
    TEXT,
    HttpResponse,
    WebSocketAccept,
    WebSocketClose,
)

if TYPE_CHECKING:
    from serving.proxy.app import Proxy

NORMAL_CLOSURE = 1000
INTERNAL_ERROR = 1011
SWITCHING_PROTOCOLS = 101


class WebSocketExchange:
    """One WebSocket, from its handshake to its close, in the server's task."""

    def __init__(
        self,
        proxy: Proxy,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        # Connection
        self._proxy = proxy
        self._scope = scope
        self._receive = receive
        self._send = send
        self._head = RequestHead(scope)
        self._route: Route | None = None
        self._started_at = time.perf_counter()

        # Response
        self._status = 0
        self._client_left = False
        self._closed = False

    async def run(self) -> None:
        """Serves the WebSocket."""
        call: Call | None = None
        try:
            await self._receive()  # websocket.connect
            call = await self._start()
            if call is not None:
                await self._exchange(call.stream)
        except (RoutingError, StreamError) as error:
            await self._fail(failure_of(error))
        finally:
            if call is not None:
                call.close(ResetCode.CANCEL)
            self._log()

    async def _start(self) -> Call | None:
        route = self._route = self._proxy.match(self._scope)
        if route is None:
            await self._fail(NO_ROUTE)
            return None
        router = self._proxy.directory.router(route.application, route.ingress)
        if router is None:
            await self._fail(UNAVAILABLE)
            return None
        request = flatten_scope(self._scope, self._head, route, b"")
        return await router.start(REQUEST, request.SerializeToString(), end=False)

    async def _exchange(self, stream: Stream) -> None:
        """Passes messages both ways until the handler's end. The client's own end only travels
        on: the handler hears of it and ends in its own time."""
        upwards = self._proxy.tasks.start(self._upwards(stream), name="websocket upwards")
        try:
            while (part := await stream.receive()) is not None:
                await self._downwards(part)
                if part.end:
                    break
        finally:
            upwards.cancel()
            await asyncio.wait((upwards,))

    async def _upwards(self, stream: Stream) -> None:
        while not stream.receive_ended:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                self._client_left = True
                close = WebSocketClose(
                    code=message.get("code") or 1005, reason=message.get("reason")
                )
                stream.write(CLOSE, close.SerializeToString(), end=True)
                return
            text = message.get("text")
            if text is not None:
                await stream.send(TEXT, text.encode())
            else:
                await stream.send(BINARY, message["bytes"])

    async def _downwards(self, part: Part) -> None:
        if self._client_left or self._closed:
            return
        tag = part.tag
        if tag == TEXT:
            await self._send({"type": "websocket.send", "text": part.data.decode()})
        elif tag == BINARY:
            await self._send({"type": "websocket.send", "bytes": part.data})
        elif tag == ACCEPT:
            await self._accept(WebSocketAccept.FromString(part.data))
        elif tag == CLOSE:
            close = WebSocketClose.FromString(part.data)
            await self._close(close.code or NORMAL_CLOSURE, close.reason)
        elif tag == RESPONSE:
            await self._refuse(HttpResponse.FromString(part.data), part.end)
        elif tag == BODY:
            await self._send_body(part.data, part.end)

    async def _accept(self, accept: WebSocketAccept) -> None:
        self._status = SWITCHING_PROTOCOLS
        await self._send(
            {
                "type": "websocket.accept",
                "subprotocol": accept.subprotocol or None,
                "headers": self._head.answer_headers(accept.headers),
            }
        )

    async def _close(self, code: int, reason: str) -> None:
        self._closed = True
        self._status = self._status or 403
        await self._send({"type": "websocket.close", "code": code, "reason": reason})

    async def _refuse(self, response: HttpResponse, end: bool) -> None:
        self._status = response.status
        headers = self._head.answer_headers(response.headers)
        await self._send(
            {
                "type": "websocket.http.response.start",
                "status": response.status,
                "headers": headers,
            }
        )
        await self._send_body(response.body, end)

    async def _send_body(self, data: bytes, end: bool) -> None:
        await self._send(
            {"type": "websocket.http.response.body", "body": data, "more_body": not end}
        )

    async def _fail(self, failure: Failure) -> None:
        if self._client_left or self._closed:
            return
        if self._status and self._status != SWITCHING_PROTOCOLS:
            return  # A refusal that was not completed: the server drops the connection.
        if self._status:
            await self._close(INTERNAL_ERROR, failure.text[:120])
            return
        body = failure.text.encode()
        flat = [item for pair in failure.headers for item in pair]
        await self._refuse(HttpResponse(status=failure.status, headers=flat, body=body), end=True)

    def _log(self) -> None:
        if self._proxy.access_log is None:
            return
        route = self._route
        status = CLIENT_LEFT if self._client_left and not self._status else self._status
        self._proxy.access_log.add(
            Entry(
                time.time(),
                route.application if route else "-",
                route.prefix if route else "-",
                "WS",
                self._scope["raw_path"].decode("latin-1"),
                status,
                time.perf_counter() - self._started_at,
                self._head.request_id,
            )
        )
