"""The lifeline: a pipe whose write end only the parent holds.

Every process below inherits the read end, and nobody ever writes. When the parent ends, however it
ends, the kernel closes the write end and each reader sees the end of the file: then it stops too.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable

FD_VARIABLE = "SERVING_LIFELINE_FD"


def inherited_fd() -> int | None:
    """The read end that this process was started with, or None."""
    value = os.environ.get(FD_VARIABLE)
    return int(value) if value else None


def watch(on_lost: Callable[[], object], *, kill_after_s: float) -> None:
    """Calls `on_lost` on a thread of its own once the lifeline is lost.

    `kill_after_s` seconds later the process exits with code 1, whatever it is doing by then.
    Without a lifeline (a process started by hand) this does nothing.
    """
    fd = inherited_fd()
    if fd is None:
        return
    threading.Thread(
        target=_wait, args=(fd, on_lost, kill_after_s), name="lifeline", daemon=True
    ).start()


def _wait(fd: int, on_lost: Callable[[], object], kill_after_s: float) -> None:
    while os.read(fd, 1):  # nobody writes; a stray byte is not the end
        pass
    # A thread of its own keeps the promise even where `on_lost` blocks.
    timer = threading.Timer(kill_after_s, os._exit, (1,))
    timer.daemon = True
    timer.start()
    with contextlib.suppress(RuntimeError):  # its event loop has ended: so will the process
        on_lost()
