"""Notices that the event loop does not turn, from a thread beside it, and says where it hangs."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback

logger = logging.getLogger("serving.replica")

PERIOD_S = 1.0


class Watchdog:
    """Asks the loop for a sign of life each second; logs once where it has been blocked for
    longer. Busy is not dead: nothing is ended."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Must be made on the loop's own thread."""
        self._loop = loop
        self._loop_thread = threading.get_ident()
        self._turned = threading.Event()
        self._asked_at_s = time.monotonic()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        self._turned.set()
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stopping.set()
        self._thread.join()

    @property
    def lag_s(self) -> float:
        """Seconds for which the loop has owed a sign of life; 0 where it owes none."""
        return 0.0 if self._turned.is_set() else time.monotonic() - self._asked_at_s

    def _watch(self) -> None:
        reported = False
        while not self._stopping.wait(PERIOD_S):
            if not self._turned.is_set():
                if not reported:
                    self._report()
                    reported = True
                continue
            reported = False
            self._turned.clear()
            self._asked_at_s = time.monotonic()
            try:
                self._loop.call_soon_threadsafe(self._turned.set)
            except RuntimeError:
                return  # The loop has ended.

    def _report(self) -> None:
        frame = sys._current_frames().get(self._loop_thread)
        stack = "".join(traceback.format_stack(frame)) if frame else ""
        logger.warning(
            "the event loop has been blocked for %.1f s; other requests wait. Code that blocks"
            " belongs into a `def` handler, which runs in a thread. It is here:\n%s",
            self.lag_s,
            stack,
        )
