"""Ctrl-C and SIGTERM: heard where they may end a wait, held back where they may not.

Only the main thread runs the handlers of signals: elsewhere nothing here does anything.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

# An interrupt came, and may have been raised where nobody caught it: Python drops what is raised
# in a destructor.
_interrupted = False


@contextmanager
def interruptible() -> Iterator[None]:
    """Lets SIGTERM, and SIGINT even where a shell had it ignored, end a wait as Ctrl-C does."""
    global _interrupted

    def interrupt(number: int, frame: FrameType | None) -> None:
        global _interrupted
        _interrupted = True
        raise KeyboardInterrupt

    _interrupted = False
    with _handled_by(interrupt):
        yield


def raise_if_interrupted() -> None:
    """Raises KeyboardInterrupt where one came since `interruptible` began. For the begin of a
    long wait."""
    if _interrupted:
        raise KeyboardInterrupt


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Holds both signals back until the context ends; their handlers run then."""
    arrived: list[int] = []
    try:
        with _handled_by(lambda number, frame: arrived.append(number)):
            yield
    finally:
        for number in arrived:
            signal.raise_signal(number)


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, previous in before.items():
            # None: it was set by something other than Python, and cannot be set again from here.
            signal.signal(number, signal.SIG_DFL if previous is None else previous)
