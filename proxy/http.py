"""One HTTP request: to a replica, and its response back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from serving.mux import ResetCode, StreamError
from serving.mux.session import Part
from serving.proxy.errors import (
    CANCELLED_BY_REPLICA,
    CLIENT_LEFT,
    HANDLER_FAILED,
    TIMED_OUT,
    UNAVAILABLE,
    Failure,
    ResponseBroken,
    failure_of,
)
from serving.proxy.exchange import Exchange
from serving.proxy.protocol import DEPARTURE, Departure
from serving.proxy.receiver import Message, Receiver
from serving.proxy.requests import RequestHead, flatten_scope
from serving.routing.router import Call, RoutingError
from serving.v1.http_pb2 import BODY, CONTINUE, REQUEST, RESPONSE, HttpResponse

if TYPE_CHECKING:
    from serving.proxy.app import Proxy

logger = logging.getLogger("serving.proxy")

REPEATABLE = frozenset(("GET", "HEAD", "OPTIONS"))


class HttpExchange(Exchange):
    """One request and its response. :meth:`run` is the whole of its life, in the server's task."""

    __slots__ = ("_departure", "_head", "_receiver", "_scope", "_send", "_status")

    def __init__(
        self,
        proxy: Proxy,
        scope: dict[str, Any],
        receive: Callable[[], Any],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        self._head = RequestHead(scope)
        super().__init__(proxy, self._head.request_id, self._head.model_id)
        self._scope = scope
        self._departure: Departure = scope[DEPARTURE]
        self._receiver = Receiver(receive)
        self._send = send
        # What the access log tells: that of the head that was sent, or of what cut it off.
        self._status = 0

    async def run(self) -> None:
        """Serves the request. Raises ResponseBroken where its response cannot be completed."""
        try:
            await self._serve_or_fail()
        except asyncio.CancelledError:
            if self._interrupted is None or self._task is None:
                self._status = CANCELLED_BY_REPLICA.status  # The server ends, and it has not.
                raise
            self._task.uncancel()
            if self._interrupted == ResetCode.TIMEOUT:
                await self._fail(TIMED_OUT)
            else:
                self._status = CLIENT_LEFT
        finally:
            await self._close()

    async def _serve_or_fail(self) -> None:
        try:
            await self._serve()
        except (RoutingError, StreamError) as error:
            await self._fail(failure_of(error))
        except ResponseBroken:
            raise
        except Exception:
            logger.exception("request failed in the proxy", extra=self._stamp(self._prefix))
            await self._fail(HANDLER_FAILED)

    async def _serve(self) -> None:
        route = self._route = self._proxy.match(self._scope)
        if route is None:
            await self._fail(self._proxy.no_route())
            return
        router = self._proxy.directory.router(route.application, route.ingress)
        if router is None:
            await self._fail(UNAVAILABLE)
            return
        self._start_clock(self._proxy.options.request_timeout_s)
        self._departure.watch(self._depart)
        body, complete = self._first_body()
        request = flatten_scope(self._scope, self._head, route, body)
        call = self._call = await router.start(
            REQUEST,
            request.SerializeToString(),
            end=complete,
            repeatable=complete and self._scope["method"] in REPEATABLE,
            deadline=self._deadline,
            key=self._head.model_id,
        )
        if not complete and not self._head.expects_continue:
            self._start_upload(self._send_upload(call))
        await self._relay(call)

    def _first_body(self) -> tuple[bytes, bool]:
        """The body as far as it has arrived, and whether that is all of it. A client that waits
        for `100 Continue` is not asked for it before the handler asks."""
        if self._head.expects_continue:
            return b"", False
        message = self._receiver.poll()
        if message is None or message["type"] != "http.request":
            return b"", False
        return message["body"], not message["more_body"]

    async def _relay(self, call: Call) -> None:
        """Passes the response on, each chunk as it comes."""
        part = call.first or await call.stream.receive()
        while part is not None and part.tag == CONTINUE:
            if self._upload is None:
                self._start_upload(self._send_upload(call))
            part = await call.stream.receive()
        if part is None or part.tag != RESPONSE or part.more:
            raise RuntimeError(
                f"the replica's answer does not begin with a response: {part!r:.200}"
            )
        response = HttpResponse.FromString(part.data)
        self._status = response.status
        await self._send(
            {
                "type": "http.response.start",
                "status": response.status,
                "headers": self._head.answer_headers(response.headers),
            }
        )
        await self._send_body(response.body, part)
        while not part.end:
            part = await call.stream.receive()
            if part is None:
                raise RuntimeError("the replica's answer has no end")
            if part.tag == BODY:
                await self._send_body(part.data, part)

    async def _send_body(self, data: bytes, part: Part) -> None:
        if data or part.end:
            await self._send(
                {"type": "http.response.body", "body": data, "more_body": not part.end}
            )

    async def _fail(self, failure: Failure) -> None:
        """Tells the client of a failure, or breaks off the response that had begun."""
        has_begun, self._status = bool(self._status), failure.status
        if has_begun:
            raise ResponseBroken(failure.text)
        body = failure.text.encode()
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(body)),
            *failure.headers,
            (b"x-request-id", self._head.request_id.encode()),
        ]
        if failure.status in (408, 500):
            headers.append((b"connection", b"close"))
        await self._send(
            {"type": "http.response.start", "status": failure.status, "headers": headers}
        )
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    def _depart(self) -> None:
        self._interrupt(ResetCode.CANCEL)

    async def _send_upload(self, call: Call) -> None:
        """Sends the rest of the body as fast as the handler reads it."""
        more = True
        while more:
            message = await self._receiver.get()
            if message["type"] == "http.disconnect":
                return  # The departure of the client interrupts the whole.
            more = message["more_body"]
            await call.stream.send(BODY, message["body"], end=not more)

    async def _close(self) -> None:
        self._departure.unwatch(self._depart)
        await self._release()
        self._receiver.close()
        method, path = self._scope["method"], self._scope["raw_path"].decode("latin-1")
        self._log(self._prefix or "-", method, path, self._status)
