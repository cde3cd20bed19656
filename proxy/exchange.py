"""What a request has, however it came: a clock, what may cut it off, and what it holds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from serving.mux import ResetCode
from serving.proxy.access_log import Entry
from serving.routing.router import Call
from serving.routing.routes import Route

if TYPE_CHECKING:
    from serving.proxy.app import Proxy


class Exchange:
    """One request and its response, in the server's task. Whoever runs it releases it."""

    __slots__ = (
        "_call",
        "_deadline",
        "_interrupted",
        "_loop",
        "_model_id",
        "_proxy",
        "_request_id",
        "_route",
        "_started_at",
        "_task",
        "_timer",
        "_upload",
    )

    def __init__(self, proxy: Proxy, request_id: str, model_id: str) -> None:
        self._proxy = proxy
        self._loop = asyncio.get_running_loop()
        self._request_id = request_id
        self._model_id = model_id
        self._started_at = time.perf_counter()
        self._route: Route | None = None
        self._call: Call | None = None

        # What can interrupt it
        self._task: asyncio.Task[Any] | None = None
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._upload: asyncio.Task[None] | None = None
        self._interrupted: ResetCode | None = None

    def _start_clock(self, timeout_s: float | None) -> None:
        """From here on the current task can be interrupted, and is after ``timeout_s``."""
        self._task = asyncio.current_task()
        if timeout_s is not None:
            self._deadline = self._loop.time() + timeout_s
            self._timer = self._loop.call_at(self._deadline, self._interrupt, ResetCode.TIMEOUT)

    def _interrupt(self, code: ResetCode) -> None:
        if self._interrupted is None and self._task is not None:
            self._interrupted = code
            self._task.cancel()

    def _start_upload(self, work: Coroutine[Any, Any, None]) -> None:
        self._upload = self._proxy.tasks.start(work, name="upload")

    async def _release(self) -> None:
        """Gives back all that the request has taken."""
        self._task = None  # From here on nothing interrupts it.
        if self._timer is not None:
            self._timer.cancel()
        if self._call is not None:
            self._call.close(self._interrupted or ResetCode.CANCEL)
        if self._upload is not None:
            self._upload.cancel()
            await asyncio.wait((self._upload,))

    def _stamp(self, route: str) -> dict[str, str]:
        """What a line of the log tells of the request."""
        return {
            "serving_request_id": self._request_id,
            "serving_route": route,
            "serving_application": self._route.application if self._route else "",
            "serving_model_id": self._model_id,
        }

    @property
    def _prefix(self) -> str:
        """The route prefix; empty where none matched."""
        return self._route.prefix if self._route else ""

    def _log(self, route: str, method: str, path: str, status: int | str) -> None:
        """Tells the access log of the request's end."""
        if self._proxy.access_log is not None:
            self._proxy.access_log.add(
                Entry(
                    time.time(),
                    self._route.application if self._route else "-",
                    route,
                    method,
                    path,
                    status,
                    time.perf_counter() - self._started_at,
                    self._request_id,
                    self._model_id,
                )
            )
