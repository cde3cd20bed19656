"""Reads a server's ASGI messages without a task of its own.

The body of most requests has arrived when the request is taken up, and then travels with its head.
So ``receive()`` is stepped by hand: it gives a message at once, or waits for a future, which is
then awaited by whoever wants the rest.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]


class Receiver:
    """The messages of one request, one at a time. Must be closed."""

    __slots__ = ("_future", "_receive", "_step")

    def __init__(self, receive: Callable[[], Coroutine[Any, Any, Message]]) -> None:
        self._receive = receive
        self._step: Coroutine[Any, Any, Message] | None = None
        self._future: asyncio.Future[Any] | None = None

    def poll(self) -> Message | None:
        """The next message if it is there, else None: then :meth:`get`."""
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

    def close(self) -> None:
        """Stops waiting. Harmless the second time."""
        if self._step is not None:
            self._step.close()
            self._step = self._future = None

    @types.coroutine
    def _resume(self) -> Generator[Any, None, Message]:
        assert self._step is not None
        while True:
            try:
                yield self._future  # The task waits for it, as if it had been awaited here.
            except BaseException:
                self.close()
                raise
            try:
                self._future = self._step.send(None)
            except StopIteration as stop:
                self._step = None
                message: Message = stop.value
                return message
