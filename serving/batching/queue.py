"""The calls of one batched function on one event loop: they wait, run in batches, get answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from contextvars import Context, copy_context
from typing import Any

from serving.aio import Tasks
from serving.batching.policy import BatchPolicy, Entry, Settings
from serving.context import RequestScope, current_request, enter_request, get_multiplexed_model_id
from serving.exceptions import BackPressureError, RequestCancelledError

__all__ = ["Batch", "BatchQueue", "Call"]


MAX_UNREAD = 16
"""Items of a stream that its reader may be behind; then its whole batch waits for it."""
MAX_LAG_S = 10.0
"""How long, in all, the others wait for one reader."""
MAX_JOINED = 8 * 1024
"""Characters of the request ids that a batch is known by."""

Execute = Callable[["Batch"], Coroutine[Any, Any, None]]
"""Runs a batch and gives its calls their outcomes. It comes with each call, and so does
what it holds: an idle queue keeps no instance alive."""


class Call(Entry):
    """One call: an item with the caller that waits for it."""

    __slots__ = (
        *("arguments", "batch", "context", "ended", "execute", "future", "items", "patience_s"),
        *("read", "scope"),
    )

    def __init__(
        self,
        item: Any,
        arguments: dict[str, Any],
        execute: Execute,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(item, loop.time(), get_multiplexed_model_id())
        self.arguments = arguments
        self.execute = execute
        self.context: Context = copy_context()
        self.scope = current_request()
        self.batch: Batch | None = None
        self.ended = False
        """It has had its outcome, or nobody wants it any more."""
        self.future: asyncio.Future[Any] = loop.create_future()
        # For a stream: what has come and is not read yet. The future says how the stream ended.
        self.items: asyncio.Queue[Any] = asyncio.Queue()
        self.read = asyncio.Event()
        """Set when its reader has taken an item, or wants no more."""
        self.patience_s = MAX_LAG_S

    @property
    def behind(self) -> bool:
        """Its reader has as many items before it as it may have."""
        return not self.ended and self.items.qsize() >= MAX_UNREAD

    def put(self, item: Any) -> None:
        """The next item of its stream."""
        if not self.ended:
            self.items.put_nowait((item,))

    def succeed(self, result: Any = None) -> None:
        if self._end():
            self.future.set_result(result)

    def fail(self, error: BaseException) -> None:
        if isinstance(error, StopIteration):
            # A future cannot hold it: a coroutine could not raise it.
            wrapped = RuntimeError("the batched function answered an item with StopIteration")
            wrapped.__cause__ = error
            error = wrapped
        if self._end():
            self.future.set_exception(error)

    def abandon(self) -> None:
        """Its caller has gone."""
        self.ended = True
        self.read.set()
        if self.future.done() and not self.future.cancelled():
            self.future.exception()  # marks it as seen
        self.future.cancel()

    def _end(self) -> bool:
        if self.ended:
            return False
        self.ended = True
        self.items.put_nowait(None)
        return not self.future.done()


class Batch:
    """Calls that run together."""

    def __init__(self, calls: list[Call], queued: Callable[[], int]) -> None:
        """`queued` tells how many calls wait for a batch."""
        self.calls = calls
        self._queued = queued
        self.scope = _scope(calls)
        self.task: asyncio.Task[None] | None = None

    @property
    def over(self) -> bool:
        """Nobody waits for more of it."""
        return all(call.ended for call in self.calls)

    def fail(self, error: BaseException) -> None:
        for call in self.calls:
            call.fail(error)

    async def readers(self) -> None:
        """Waits until each stream has room for an item. A reader that others have waited for too
        long is left behind; one that nobody waits for may take its time."""
        loop = asyncio.get_running_loop()
        for call in self.calls:
            while call.behind:
                call.read.clear()
                began = loop.time()
                try:
                    async with asyncio.timeout(call.patience_s):
                        await call.read.wait()
                except TimeoutError:
                    if self._others_wait(call):
                        call.fail(_left_behind())
                if self._others_wait(call):
                    call.patience_s -= loop.time() - began
                else:
                    call.patience_s = MAX_LAG_S

    def _others_wait(self, call: Call) -> bool:
        return self._queued() > 0 or not all(one.ended for one in self.calls if one is not call)


def _left_behind() -> BackPressureError:
    return BackPressureError(
        f"this reader left {MAX_UNREAD} items unread while others waited for it, {MAX_LAG_S:g} s "
        "in all: its batch went on without it"
    )


def _scope(calls: list[Call]) -> RequestScope:
    """A batch is a request of its own. The logs, and those that it calls, know it by the ids of all
    that it works for."""
    origins = [call.scope for call in calls if call.scope is not None]
    return RequestScope(
        _joined(origin.request_id for origin in origins),
        _joined(origin.route for origin in origins),
        _joined(origin.application for origin in origins),
        calls[0].lane,
    )


def _joined(names: Iterable[str]) -> str:
    """The names that differ, with commas; as many as the head of a call has room for."""
    room, kept = MAX_JOINED, []
    for name in dict.fromkeys(names):
        room -= len(name) + 1
        if room < 0:
            kept.append("…")
            break
        if name:
            kept.append(name)
    return ",".join(kept)


class BatchQueue:
    """Lets calls wait, and runs them in batches."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        loop: asyncio.AbstractEventLoop,
        *,
        interruptible: bool = True,
    ) -> None:
        self.loop = loop
        self._name = name
        self._settings = settings
        self._interruptible = interruptible
        self._policy: BatchPolicy[Call] = BatchPolicy(settings)
        self._running: set[Batch] = set()
        self._tasks = Tasks()
        self._timer: asyncio.Handle | None = None
        self._timer_at = 0.0

    # Callers.

    async def call(self, item: Any, arguments: dict[str, Any], execute: Execute) -> Any:
        """One item's result."""
        call = self._submit(item, arguments, execute)
        try:
            return await call.future
        finally:
            self._leave(call)

    async def stream(
        self, item: Any, arguments: dict[str, Any], execute: Execute
    ) -> AsyncGenerator[Any, None]:
        """One item's stream."""
        call = self._submit(item, arguments, execute)
        try:
            while (entry := await call.items.get()) is not None:
                call.read.set()
                yield entry[0]
            await call.future
        finally:
            self._leave(call)

    def settings_changed(self) -> None:
        """To be called in the loop."""
        self._policy.measure_again()
        self._set_timer_anew()
        self._pump(self.loop.time())

    # The queue.

    def _submit(self, item: Any, arguments: dict[str, Any], execute: Execute) -> Call:
        call = Call(item, arguments, execute, self.loop)
        self._policy.add(call)
        # A full batch goes at once. Another goes with the timer even if it need not wait: calls
        # that are made in the same turn of the loop then share it.
        self._pump(float("-inf"))
        return call

    def _leave(self, call: Call) -> None:
        """The caller has its outcome, or has gone."""
        if call.ended and call.future.done():
            call.abandon()
            return
        call.abandon()
        if call.batch is None:
            self._policy.discard(call)
            self._set_timer_anew()
        elif call.batch.over and (task := call.batch.task) is not None:
            call.batch.scope.cancel_calls()
            # A thread cannot be stopped: its batch keeps its place until it ends.
            if self._interruptible:
                task.cancel()

    def _pump(self, now: float) -> None:
        """Starts the batches that are to go."""
        while len(self._running) < self._settings.max_concurrent_batches:
            taken = self._policy.take(now)
            for call, error in taken.failed:
                call.fail(error)
            if not taken.batch:
                break
            self._start(Batch(taken.batch, self._policy.__len__))
        self._set_timer_anew()

    def _start(self, batch: Batch) -> None:
        self._running.add(batch)
        for call in batch.calls:
            call.batch = batch
        batch.task = (
            batch.calls[0]
            .context.copy()
            .run(self._tasks.start, self._run(batch), name=f"batch of {self._name}")
        )
        batch.task.add_done_callback(lambda task: self._ended(batch))

    async def _run(self, batch: Batch) -> None:
        enter_request(batch.scope)
        try:
            await batch.calls[0].execute(batch)
        except Exception as error:
            batch.fail(error)

    def _ended(self, batch: Batch) -> None:
        # Not in the task itself: one that is cancelled before its first step runs nothing.
        batch.fail(RequestCancelledError(f"the batch of {self._name} was cancelled"))
        self._running.discard(batch)
        batch.scope.end()
        self._pump(self.loop.time())

    # The timer.

    def _set_timer_anew(self) -> None:
        """It runs only where a place is free: the end of a batch looks for the next anyway."""
        at = self._policy.wake_at()
        if len(self._running) >= self._settings.max_concurrent_batches:
            at = None
        if self._timer is not None:
            if self._timer_at == at:
                return
            self._timer.cancel()
            self._timer = None
        if at is not None:
            self._timer_at = at
            self._timer = self.loop.call_at(at, self._on_timer, at)

    def _on_timer(self, at: float) -> None:
        self._timer = None
        # A loop may call a little early.
        self._pump(max(at, self.loop.time()))
