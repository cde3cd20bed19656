"""A handler that blocks its event loop."""

from __future__ import annotations

import os
import time

from starlette.requests import Request

import serving


@serving.deployment(graceful_shutdown_timeout_s=20)
class Blocking:
    """Blocks for as many seconds as the query says, and answers with its process id."""

    async def __call__(self, request: Request) -> int:
        time.sleep(float(request.query_params.get("for_s", 0)))  # noqa: ASYNC251 - the point
        return os.getpid()
