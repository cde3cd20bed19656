"""uvicorn's HTTP protocol, with three things changed for a proxy.

*Writes are gathered.* uvicorn writes the head of a response and each chunk of it by itself; a
write to a TCP socket costs about ten microseconds, a third of a proxy's time for a small request.
What is written in one turn of the event loop goes out in one write at its end. The bytes, and so
the boundaries of HTTP chunks, stay as they are.

*The head of a request is bounded, and so are trailers.* httptools collects header lines for as long
as a client sends them; a flood of them would be a flood of memory. Trailers are dropped: uvicorn
would append them to the headers, where they could pass for what a client may not say there.

*A body that is shorter than declared is an error*, not just a client that left.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

DEPARTURE = "serving.departure"
"""The key of a scope under which the client's :class:`Departure` lies."""
MAX_HEAD = 64 * 1024
"""Bytes of request line and headers, beyond the read of the socket in which they begin."""
MAX_GATHERED = 64 * 1024
"""Bytes that wait for the end of the turn, at most."""


class Departure:
    """The end of a client's connection, and who is to hear of it. ASGI tells of it by `receive`,
    which would take a task for each request, and cannot be asked while a client waits for
    `100 Continue`."""

    def __init__(self) -> None:
        self._happened = False
        self._callbacks: set[Callable[[], None]] = set()

    def watch(self, callback: Callable[[], None]) -> None:
        """Calls ``callback`` when the client leaves; now, if it has left."""
        if self._happened:
            callback()
        else:
            self._callbacks.add(callback)

    def unwatch(self, callback: Callable[[], None]) -> None:
        """Does so no more. Harmless the second time."""
        self._callbacks.discard(callback)

    def happen(self) -> None:
        """The client has left."""
        self._happened = True
        while self._callbacks:
            self._callbacks.pop()()


class ProxyProtocol(HttpToolsProtocol):
    """One client's connection. Answers 400 to a head, or trailers, that do not end within
    ``MAX_HEAD``, and to a body that ends before its end."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_fields = False
        self._fields_size: int | None = None
        self._departure = Departure()
        # Set once the next response is to be the last.
        self._when_left: Callable[[], None] | None = None

    def leave(self, when_left: Callable[[], None]) -> None:
        """Makes the next response the last, and has it say so. One that has begun cannot any more:
        it is that of the request after it. Calls `when_left` when the connection has ended."""
        self._when_left = when_left
        if self.cycle and not self.cycle.response_started and not self.pipeline:
            self.cycle.keep_alive = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(GatheringTransport(transport))  # type: ignore[arg-type]

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._departure.happen()
        if self._when_left is not None:
            self._when_left()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_fields:
            if self._fields_size is None:  # They began somewhere in this data.
                self._fields_size = 0
                return
            self._fields_size += len(data)
            if self._fields_size > MAX_HEAD and not self.transport.is_closing():
                self.send_400_response("Request header fields are too large.")

    def eof_received(self) -> None:
        cycle = self.cycle
        if cycle and cycle.more_body and not cycle.response_started and not self.pipeline:
            self.send_400_response("The request's body is shorter than declared.")

    def on_message_begin(self) -> None:
        self._begin_fields()
        super().on_message_begin()
        self.scope[DEPARTURE] = self._departure  # type: ignore[literal-required]

    def on_headers_complete(self) -> None:
        self._in_fields = False
        super().on_headers_complete()
        if self._when_left is not None and self.cycle is not None:
            self.cycle.keep_alive = False

    def on_chunk_header(self) -> None:
        """A chunk begins. Behind the last one, which is empty, come the trailers."""
        self._begin_fields()
        self.headers = deque(maxlen=0)  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        self._in_fields = False
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_fields = False
        super().on_message_complete()

    def _begin_fields(self) -> None:
        self._in_fields = True
        self._fields_size = None


class GatheringTransport:
    """A transport that writes once for each turn of the event loop; all else is the transport's
    own."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._pieces: list[bytes] = []
        self._size = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Writes ``data`` behind what was written before, at the end of this turn at the
        latest."""
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(data)
        self._size += len(data)
        if self._size > MAX_GATHERED:
            self._flush()

    def close(self) -> None:
        """Closes the connection once what was written has left."""
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def _flush(self) -> None:
        if self._pieces:
            pieces, self._pieces, self._size = self._pieces, [], 0
            self._transport.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))
