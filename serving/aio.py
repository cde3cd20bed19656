"""What each asyncio process of the system needs: owned tasks, calls of methods of life, a settled
garbage collector."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import anyio.to_thread

logger = logging.getLogger("serving")


YOUNG_OBJECTS = 10_000


def settle_gc() -> None:
    """Called once a process is ready: what it has made so far stays out of the collector's way,
    and young objects are looked at less often (a proxy spent a tenth of its time there)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])


def is_being_cancelled() -> bool:
    """Whether the current task is, and not just something that it waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def call_hook(hook: Callable[..., Any], *arguments: Any) -> None:
    """Calls a method that a user's object may have, such as `shutdown`: on the loop if it is
    `async`, else in a thread of its own, since requests may have taken those of the handlers."""
    try:
        if inspect.iscoroutinefunction(hook):
            await hook(*arguments)
            return
        limiter = anyio.CapacityLimiter(1)
        result = await anyio.to_thread.run_sync(
            hook, *arguments, abandon_on_cancel=True, limiter=limiter
        )
        if inspect.isawaitable(result):
            await result
    except SystemExit as error:  # it would end the loop, and the replica with it
        raise RuntimeError("the method called sys.exit()") from error


class Tasks:
    """Owns tasks: each is named, one that fails is logged, none outlives :meth:`aclose`."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        """Runs ``work`` as a task of this owner."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def join(self) -> None:
        """Waits until all of it has ended."""
        while self._tasks:
            # Not gather: from Python 3.12 on it does not let the loop turn where all have ended,
            # and so their callbacks, which empty the set, would never run.
            await asyncio.wait(self._tasks)

    async def aclose(self) -> None:
        """Cancels what runs and waits until all of it has ended."""
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("task %s failed", task.get_name(), exc_info=error)
