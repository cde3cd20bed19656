"""One HTTP request of a client in this process, and its response, as a server would carry them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from serving.proxy.protocol import DEPARTURE, Departure

MAX_WAITING = 64 * 1024
"""Bytes that wait for their reader, each way, at most; one message may be larger."""


class Head(NamedTuple):
    """How a response begins."""

    status: int
    headers: list[tuple[bytes, bytes]]


class ResponseLost(Exception):
    """The response will not come, or not to its end."""


class Exchange:
    """A request that the proxy's application works on. Everything here runs on the cluster's loop;
    `run` in a task of its own, all else is what the client does."""

    def __init__(self, app: Callable[..., Awaitable[None]], scope: dict[str, Any]) -> None:
        # Connection
        self._app = app
        self._scope = scope
        self._departure = Departure()
        self._has_left = False
        self._change = asyncio.Event()

        # Request
        self._body: deque[tuple[bytes, bool]] = deque()
        self._body_size = 0

        # Response
        self._head: Head | None = None
        self._chunks: deque[bytes] = deque()
        self._chunks_size = 0
        self._has_no_body = scope["method"] == "HEAD"
        self._is_complete = False
        self._is_taken = False
        self._failure: BaseException | None = None
        self._is_over = False

    def __repr__(self) -> str:
        return f"<Exchange {self._scope['method']} {self._scope['path']} {self._head}>"

    async def run(self) -> None:
        """Serves the request until the application has done with it, and its client has the
        response."""
        try:
            await self._app({**self._scope, DEPARTURE: self._departure}, self._receive, self._send)
        except Exception as error:  # as a server, which closes the connection
            self._failure = error
        finally:
            self._is_over = True
            self._changed()
        while self._is_complete and not (self._is_taken or self._has_left):
            await self._news()

    # What the client does.

    def offer(self, data: bytes, *, more: bool) -> None:
        """Gives a part of the body, at once."""
        self._body.append((data, more))
        self._body_size += len(data)
        self._changed()

    async def feed(self, data: bytes, *, more: bool) -> bool:
        """Gives a part of the body once the parts before it have been read, more or less. False
        where nobody wants it any more."""
        while self._body_size > MAX_WAITING and not self._is_done:
            await self._news()
        if not self._is_done:
            self.offer(data, more=more)
        return not self._is_done

    async def head(self) -> Head:
        """The beginning of the response. Raises ResponseLost where none comes."""
        while self._head is None:
            if self._is_over:
                raise ResponseLost("Server disconnected without sending a response.")
            await self._news()
        return self._head

    async def chunk(self) -> bytes | None:
        """The next part of the response's body, as it was sent; None after the last. Raises
        ResponseLost where it has no end."""
        while not self._chunks:
            if self._is_complete:
                self._is_taken = True
                self._changed()
                return None
            if self._is_over or self._has_left:
                raise ResponseLost(
                    "peer closed connection without sending complete message body"
                ) from self._failure
            await self._news()
        chunk = self._chunks.popleft()
        self._chunks_size -= len(chunk)
        self._changed()
        return chunk

    def leave(self) -> None:
        """The client wants no more. Harmless at the end, and the second time."""
        if not self._has_left:
            self._has_left = True
            self._departure.happen()
            self._changed()

    # What the application does.

    async def _receive(self) -> dict[str, Any]:
        while not self._body and not self._is_done:
            await self._news()
        if not self._body or self._has_left:
            return {"type": "http.disconnect"}
        data, more = self._body.popleft()
        self._body_size -= len(data)
        self._changed()
        return {"type": "http.request", "body": data, "more_body": more}

    async def _send(self, message: dict[str, Any]) -> None:
        if self._has_left:
            return
        if message["type"] == "http.response.start":
            self._head = Head(message["status"], list(message.get("headers", ())))
        else:
            data = b"" if self._has_no_body else message.get("body", b"")
            if data:
                self._chunks.append(bytes(data))
                self._chunks_size += len(data)
            self._is_complete = not message.get("more_body", False)
        self._changed()
        while self._chunks_size > MAX_WAITING and not self._has_left:
            await self._news()

    @property
    def _is_done(self) -> bool:
        return self._has_left or self._is_complete or self._is_over

    async def _news(self) -> None:
        await self._change.wait()

    def _changed(self) -> None:
        waited_for, self._change = self._change, asyncio.Event()
        waited_for.set()
