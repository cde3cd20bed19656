"""A handler that blocks its event loop."""

from __future__ import annotations

import os
import threading
import time

from starlette.requests import Request

import serving


@serving.deployment(graceful_shutdown_timeout_s=20)
class Blocking:
    """Blocks for as many seconds as the query says, and answers with its process id: below
    /computes by Python code that never lets go, below /deadlocks for ever."""

    async def __call__(self, request: Request) -> int:
        for_s = float(request.query_params.get("for_s", 0))
        match request.url.path:
            case "/computes":
                ends_at = time.monotonic() + for_s
                while time.monotonic() < ends_at:
                    sum(range(1000))
            case "/deadlocks":
                lock = threading.Lock()
                lock.acquire()
                lock.acquire()
            case _:
                time.sleep(for_s)  # noqa: ASYNC251 - the point
        return os.getpid()
