"""ASGI's lifespan protocol, once for each replica (https://asgi.readthedocs.io, "Lifespan")."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

logger = logging.getLogger("serving.replica")

ASGIApp = Callable[..., Awaitable[Any]]


class LifespanFailed(Exception):
    """The application's startup failed; the message is its own traceback."""


class Lifespan:
    """Runs an application's lifespan in a task of its own, so that its context stays open."""

    def __init__(self, app: ASGIApp) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._task: asyncio.Task[None] | None = None
        self._inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue(2)
        self._started = asyncio.Event()
        self._stopped = asyncio.Event()
        self._supported = True
        self._failure: str | None = None

    async def startup(self) -> None:
        """Waits until the application has started. An application that knows no lifespan is
        served without one; one whose startup fails raises LifespanFailed."""
        self._inbox.put_nowait({"type": "lifespan.startup"})
        self._task = asyncio.get_running_loop().create_task(self._run(), name="lifespan")
        await self._started.wait()
        if self._failure is not None:
            raise LifespanFailed(self._failure)

    async def shutdown(self, timeout_s: float) -> None:
        """Lets the application end what it started, for ``timeout_s`` at most."""
        if self._task is None:
            return
        try:
            if self._supported and not self._task.done():
                self._inbox.put_nowait({"type": "lifespan.shutdown"})
                await asyncio.wait_for(self._stopped.wait(), timeout_s)
        except TimeoutError:
            logger.error("the application's shutdown took more than %g s", timeout_s)
        finally:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _run(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        try:
            await self._app(scope, self._inbox.get, self._send)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._supported = False
            if self._started.is_set():
                logger.error("the application's lifespan failed", exc_info=error)
            elif self._failure is None:
                logger.debug("the application knows no lifespan: %r", error)
        finally:
            self._started.set()
            self._stopped.set()

    async def _send(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "lifespan.startup.complete":
            self._started.set()
        elif kind == "lifespan.startup.failed":
            self._failure = message.get("message") or "the application's startup failed"
            self._started.set()
        elif kind == "lifespan.shutdown.complete":
            self._stopped.set()
        elif kind == "lifespan.shutdown.failed":
            logger.error("the application's shutdown failed: %s", message.get("message", ""))
            self._stopped.set()
        else:
            raise RuntimeError(f"Unexpected ASGI message '{kind}' in the lifespan.")
