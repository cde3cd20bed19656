"""Holding code that runs in another process until the test lets it go."""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Gate:
    """A lock on a file. While the test keeps it closed, all others wait to pass; else they pass."""

    path: Path

    @contextmanager
    def closed(self) -> Iterator[Callable[[], None]]:
        """Yields what opens it before the block ends."""
        with ExitStack() as stack:
            file = stack.enter_context(self.path.open("w"))
            fcntl.flock(file, fcntl.LOCK_EX)
            yield stack.close

    def pass_through(self) -> None:
        with self.path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH)

    async def pass_through_async(self) -> None:
        await asyncio.to_thread(self.pass_through)
