"""One WebSocket: its messages to a replica and back, its close in both directions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.utils import ClientDisconnected

from serving.mux import Stream, StreamError
from serving.mux.session import Part
from serving.proxy.errors import (
    CANCELLED_BY_REPLICA,
    CLIENT_LEFT,
    UNAVAILABLE,
    Failure,
    failure_of,
)
from serving.proxy.exchange import Exchange
from serving.proxy.receiver import Message
from serving.proxy.requests import RequestHead, flatten_scope
from serving.routing.router import Call, RoutingError
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
SERVICE_RESTART = 1012
SWITCHING_PROTOCOLS = 101
MAX_MESSAGE = 2**31
"""Bytes of a handler's message, which is sent to the client as one."""


class WebSocketExchange(Exchange):
    """One WebSocket, from its handshake to its close, in the server's task."""

    def __init__(
        self,
        proxy: Proxy,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        self._head = RequestHead(scope)
        super().__init__(proxy, self._head.request_id, self._head.model_id)
        self._scope = scope
        self._receive = receive
        self._send = send
        self._standing: asyncio.Future[Stream] = self._loop.create_future()

        # Response
        self._status = 0
        self._client_left = False
        self._closed = False

    async def run(self) -> None:
        """Serves the WebSocket."""
        await self._receive()  # websocket.connect
        self._start_clock(None)  # However long it stands, no time of the proxy's ends it.
        self._start_upload(self._upwards())
        try:
            call = self._call = await self._start()
            if call is not None:
                self._standing.set_result(call.stream)
                await self._relay(call.stream)
        except (RoutingError, StreamError) as error:
            await self._fail(failure_of(error))
        except asyncio.CancelledError:
            if self._call is not None or not self._client_left:
                raise
        finally:
            await self._release()
            path = self._scope["raw_path"].decode("latin-1")
            status = CLIENT_LEFT if self._client_left and not self._status else self._status
            self._log(self._prefix or "-", "WS", path, status)

    async def _start(self) -> Call | None:
        route = self._route = self._proxy.match(self._scope)
        if route is None:
            await self._fail(self._proxy.no_route())
            return None
        router = self._proxy.directory.router(route.application, route.ingress)
        if router is None:
            await self._fail(UNAVAILABLE)
            return None
        request = flatten_scope(self._scope, self._head, route, b"")
        return await router.start(
            REQUEST, request.SerializeToString(), end=False, key=self._head.model_id
        )

    async def _relay(self, stream: Stream) -> None:
        """Passes the handler's messages on until its end. The client's own end only travels
        upwards: the handler hears of it and ends in its own time."""
        while (part := await stream.receive(MAX_MESSAGE)) is not None:
            if not (self._client_left or self._closed):
                try:
                    await self._downwards(part)
                except ClientDisconnected:
                    self._client_left = True  # Who reads for it hears the same, and tells how.
            if part.end:
                break

    async def _upwards(self) -> None:
        """Passes the client's messages on, until it leaves. One that leaves before a replica has
        taken it is not brought to any."""
        message = await self._receive()
        if message["type"] == "websocket.disconnect" and not self._standing.done():
            if not self._status:
                self._leave_queue()
            return
        stream = await self._standing
        while message["type"] != "websocket.disconnect":
            text = message.get("text")
            if text is not None:
                await stream.send(TEXT, text.encode())
            else:
                await stream.send(BINARY, message["bytes"])
            message = await self._receive()
        self._client_left = True
        close = WebSocketClose(code=message.get("code") or 1005, reason=message.get("reason"))
        stream.write(CLOSE, close.SerializeToString(), end=True)

    def _leave_queue(self) -> None:
        self._client_left = True
        assert self._task is not None
        self._task.cancel()

    async def _downwards(self, part: Part) -> None:
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
            restarting = failure is CANCELLED_BY_REPLICA
            code = SERVICE_RESTART if restarting else INTERNAL_ERROR
            await self._close(code, failure.text[:120])
            return
        body = failure.text.encode()
        flat = [item for pair in failure.headers for item in pair]
        await self._refuse(HttpResponse(status=failure.status, headers=flat, body=body), end=True)
