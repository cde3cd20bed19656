"""Reads a server's ASGI messages without a task of its own.

A request needs its body and, while it is worked on, the news that its client has left; both come
out of ``receive()``. A second task for each request would tell, at a tenth of a proxy's time. So
``receive()`` is stepped by hand: it either has a message at once or waits for one future, which
then is awaited, or watched by a callback.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]


class Receiver:
    """The messages of one request, one at a time. Must be closed."""

    __slots__ = ("_future", "_on_message", "_receive", "_step")

    def __init__(self, receive: Callable[[], Coroutine[Any, Any, Message]]) -> None:
        self._receive = receive
        self._step: Coroutine[Any, Any, Message] | None = None
        self._future: asyncio.Future[Any] | None = None
        self._on_message: Callable[[Message], None] | None = None

    def poll(self) -> Message | None:
        """The next message if it is there, else None: then :meth:`get` or :meth:`watch`."""
        if self._step is None:
            self._step = self._receive()
        try:
            self._future = self._step.send(None)
        except StopIteration as stop:
            self._step = None
            message: Message = stop.value
            return message
        return None

    async def get(self) -> Message:
        """The next message, waited for."""
        if self._step is None and (message := self.poll()) is not None:
            return message
        return await self._resume()

    def watch(self, on_message: Callable[[Message], None]) -> None:
        """Calls ``on_message`` when the next message comes, unless :meth:`close` comes first."""
        if self._step is None and (message := self.poll()) is not None:
            on_message(message)
            return
        assert self._future is not None
        self._on_message = on_message
        self._future.add_done_callback(self._wake)

    def close(self) -> None:
        """Stops waiting. Harmless the second time."""
        if self._step is not None:
            if self._future is not None:
                self._future.remove_done_callback(self._wake)
            self._step.close()
            self._step = self._future = None

    @types.coroutine
    def _resume(self) -> Generator[Any, None, Message]:
        assert self._step is not None
        while True:
            yield self._future  # The task waits for it, as if it had been awaited here.
            try:
                self._future = self._step.send(None)
            except StopIteration as stop:
                self._step = None
                message: Message = stop.value
                return message

    def _wake(self, future: asyncio.Future[Any]) -> None:
        if self._step is None or self._on_message is None or future.cancelled():
            return
        if (message := self.poll()) is not None:
            self._on_message(message)
        elif self._future is not None:
            self._future.add_done_callback(self._wake)
