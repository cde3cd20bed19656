"""ASGI's ``receive`` and ``send`` for one HTTP request, over its stream.

They keep the rules that uvicorn keeps, so that an application which breaks one hears of it where
it would there: in its own call of ``send``.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

from serving.mux import ResetCode, Stream, StreamError
from serving.replica.refusals import RETRY_AFTER_S, STATUS
from serving.replica.scope import ClientDisconnected, check_status, flatten
from serving.v1.http_pb2 import BODY, CONTINUE, RESPONSE, HttpRequest, HttpResponse

MAX_INLINE_BODY = 32 * 1024
"""Bytes of a body that travel in one message with its head."""

_BAD_NAME = re.compile(b'[\x00-\x1f\x7f()<>@,;:\\[\\]={} \t\\\\"]')
_BAD_VALUE = re.compile(b"[\x00-\x08\x0a-\x1f\x7f]")

Message = dict[str, Any]


class HttpBridge:
    """One HTTP request and its response, as the application sees them."""

    __slots__ = (
        "_body",
        "_chunked",
        "_complete",
        "_expects_continue",
        "_head",
        "_held",
        "_is_head",
        "_length",
        "_more_body",
        "_started",
        "_stream",
    )

    def __init__(self, stream: Stream, request: HttpRequest, *, more_body: bool) -> None:
        self._stream = stream

        # Request state
        self._body: bytes | None = request.body
        self._more_body = more_body
        self._expects_continue = more_body and not request.body and _expects_continue(request)
        self._is_head = request.method == "HEAD"

        # Response state
        self._head: HttpResponse | None = None
        self._held = False
        self._started = False
        self._complete = False
        self._chunked: bool | None = None
        self._length = 0

    @property
    def started(self) -> bool:
        """Whether a response has begun."""
        return self._started

    @property
    def complete(self) -> bool:
        """Whether the response is whole."""
        return self._complete

    async def receive(self) -> Message:
        """The next ASGI message of the request."""
        if self._complete or self._stream.error is not None:
            return {"type": "http.disconnect"}
        if self._expects_continue:
            self._expects_continue = False
            self._stream.write(CONTINUE, b"")
        elif self._body is not None:
            body, self._body = self._body, None
            if body or not self._more_body:
                return {"type": "http.request", "body": body, "more_body": self._more_body}
        if not self._more_body:
            await self._stream.over()
            return {"type": "http.disconnect"}
        self._body = None
        try:
            part = await self._stream.receive()
        except StreamError:
            return {"type": "http.disconnect"}
        if part is None:
            return {"type": "http.disconnect"}
        self._more_body = not part.end
        return {"type": "http.request", "body": part.data, "more_body": self._more_body}

    async def send(self, message: Message) -> None:
        """Takes the next ASGI message of the response. Waits while the client reads too slowly.

        Raises ClientDisconnected once the client is gone, RuntimeError for a message that may not
        come now."""
        if self._stream.error is not None:
            raise ClientDisconnected("the client is gone")
        kind = message["type"]
        if not self._started:
            if kind != "http.response.start":
                raise _unexpected("http.response.start", kind)
            self._start(message)
        elif not self._complete:
            if kind != "http.response.body":
                raise _unexpected("http.response.body", kind)
            self._send_body(bytes(message.get("body", b"")), message.get("more_body", False))
            if self._stream.must_wait:
                await self._stream.drain()
        else:
            raise RuntimeError(
                f"Unexpected ASGI message '{kind}' sent, after response already completed."
            )

    def finish(self, *, failed: bool, refusal: str = "") -> bool:
        """The application has returned, or ``failed`` with an exception: what is missing of the
        response is an answer of 500, or the break of a response that had begun. Tells whether
        anything was.

        A ``refusal`` says that the exception stands for 503: also in place of the 500 that a
        framework had sent before it let the exception through."""
        if self._stream.error is not None:
            return False
        if refusal and (not self._started or (self._held and self._head is not None)):
            self._head = None
            self._answer(STATUS, refusal, b"retry-after", b"%d" % RETRY_AFTER_S)
            return True
        if self._held:
            self._flush_head()
        if self._complete:
            return False
        if self._started:
            self._flush_head()
            self._stream.abort(ResetCode.INTERNAL_ERROR, "the response was not completed")
        else:
            self._answer(500, "Internal Server Error", b"connection", b"close")
        return True

    def _answer(self, status: int, text: str, *headers: bytes) -> None:
        """A whole response of our own."""
        response = plain_response(status, text, *headers)
        self._stream.write(RESPONSE, response.SerializeToString(), end=True)

    def _start(self, message: Message) -> None:
        status = message["status"]
        check_status(status)
        headers = message.get("headers", ())
        for name, value in headers:
            if _BAD_NAME.search(name):
                raise RuntimeError("Invalid HTTP header name.")
            if _BAD_VALUE.search(value):
                raise RuntimeError("Invalid HTTP header value.")
            lowered = name.lower()
            if lowered == b"content-length" and self._chunked is None:
                self._length = int(value.decode())
                self._chunked = False
            elif lowered == b"transfer-encoding" and value.lower() == b"chunked":
                self._length = 0
                self._chunked = True
        if self._chunked is None and not self._is_head and status not in (204, 304):
            self._chunked = True
        self._started = True
        self._head = HttpResponse(status=status, headers=flatten(headers))
        # The head waits for the body that mostly follows at once, but no longer than this turn.
        asyncio.get_running_loop().call_soon(self._flush_head)

    def _send_body(self, data: bytes, more: bool) -> None:
        if self._is_head:
            data = b""
            self._length = 0
        elif not self._chunked:
            if len(data) > self._length:
                raise RuntimeError("Response content longer than Content-Length")
            self._length -= len(data)
        short = not more and self._length != 0
        self._write(data, end=not more and not short)
        if short:
            raise RuntimeError("Response content shorter than Content-Length")
        if not more:
            self._complete = True

    def _write(self, data: bytes, *, end: bool) -> None:
        head = self._head
        if head is None:
            if data or end:
                self._stream.write(BODY, data, end=end)
            return
        if end and head.status == 500 and not self._held and len(data) <= MAX_INLINE_BODY:
            # Until the application has returned or raised, in this turn of the loop: see `finish`.
            head.body, self._held = data, True
            return
        self._head = None
        if len(data) <= MAX_INLINE_BODY:
            head.body = data
            self._stream.write(RESPONSE, head.SerializeToString(), end=end)
        else:
            self._stream.write(RESPONSE, head.SerializeToString())
            self._stream.write(BODY, data, end=end)

    def _flush_head(self) -> None:
        if self._head is not None and self._stream.error is None:
            self._write(self._head.body, end=self._held)


def plain_response(status: int, text: str, *headers: bytes) -> HttpResponse:
    """A response of plain text, whole."""
    body = text.encode()
    return HttpResponse(
        status=status,
        headers=[
            b"content-type",
            b"text/plain; charset=utf-8",
            b"content-length",
            b"%d" % len(body),
            *headers,
        ],
        body=body,
    )


def _expects_continue(request: HttpRequest) -> bool:
    headers = list(request.headers)
    return any(
        name == b"expect" and value.lower() == b"100-continue"
        for name, value in zip(headers[::2], headers[1::2], strict=True)
    )


def _unexpected(expected: str, got: str) -> RuntimeError:
    return RuntimeError(f"Expected ASGI message '{expected}', but got '{got}'.")
