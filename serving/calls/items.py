"""The items of a call that streams."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from serving.calls.caller import Caller, Origin, Target
from serving.context import RequestScope

END: Any = object()
"""What comes after the last item."""


class Items:
    """A call that streams, on the caller's loop."""

    def __init__(
        self,
        caller: Caller,
        target: Target,
        origin: Origin,
        arguments: Awaitable[list[Any]] | list[Any],
        scope: RequestScope | None,
    ) -> None:
        self.closed = False
        self._caller = caller
        self._target = target
        self._origin = origin
        self._arguments = arguments
        self._scope = scope
        self._opening: asyncio.Future[Any] | None = None
        self._cancelled = False

    def begin(self) -> None:
        """Opens the call, unless it was closed before."""
        if self.closed:
            return
        self._opening = self._caller.run(self._open())
        if self._scope is not None:
            self._scope.opened(self.close)

    def close(self) -> None:
        """Ends the call; harmless the second time."""
        if self.closed:
            return
        self.closed = self._cancelled = True
        if self._scope is not None:
            self._scope.closed(self.close)
        opening = self._opening
        if opening is None or opening.cancel() or opening.cancelled():
            return
        if opening.exception() is None:
            opening.result().close()

    async def next(self) -> Any:
        """The next item, or END."""
        if self.closed:
            if self._cancelled:
                raise asyncio.CancelledError
            return END
        assert self._opening is not None
        try:
            opening = self._opening
            call = opening.result() if opening.done() else await asyncio.shield(opening)
            item = await self._caller.item(self._target, call)
        except BaseException:
            self.close()
            raise
        if item is None:
            self.close()
            self._cancelled = False
            return END
        return item[0]

    async def _open(self) -> Any:
        arguments = self._arguments
        if not isinstance(arguments, list):
            arguments = await arguments
        return await self._caller.open(self._target, self._origin, arguments)
