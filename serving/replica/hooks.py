"""The methods by which the user's object takes part in its replica's life.

`reconfigure`, `check_health`, `shutdown` and `__del__`: `async` ones run on the event loop, others
in a thread of their own, so that requests go on meanwhile.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import traceback
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from types import TracebackType
from typing import Any

import anyio

from serving.aio import call_hook

logger = logging.getLogger("serving.replica")

NAMES = frozenset(("reconfigure", "check_health", "shutdown"))
"""Methods that the replica calls itself, so that no client is to."""
SLICES = 10
"""The time of a check is counted in so many slices. A loop that is blocked loses one of them,
however long it is: what blocks it is another's fault, and busy is not unhealthy."""
LAST_S = 1.0
"""What `__del__` has at least, where `shutdown` took all the time."""


class Unhealthy(Exception):
    """`check_health` failed before the replica was ready; the message says how."""


class Hooks:
    """The methods of life of one object. They see the context variables of its constructor."""

    def __init__(self, instance: Any) -> None:
        """To be made where the constructor ran."""
        self._instance = instance
        self._context = copy_context()
        self._check: asyncio.Task[str] | None = None
        self._reconfiguring = asyncio.Lock()

    async def reconfigure(self, user_config: Any) -> None:
        """Applies a `user_config`; raises what the method raises. One at a time."""
        hook = self._find("reconfigure")
        if hook is None:
            raise TypeError(
                "the deployment has a user_config, but no method reconfigure(user_config) that "
                "takes it: add one, or leave user_config out"
            )
        async with self._reconfiguring:
            await self._start(call_hook(hook, user_config), "reconfigure")

    @property
    def has_check(self) -> bool:
        """Whether the object can be asked whether it is well."""
        return self._find("check_health") is not None

    async def check_health(self, timeout_s: float) -> str:
        """Asks the object whether it is well; gives what is wrong, or nothing.

        One that does not return is not asked a second time meanwhile: it is unhealthy.
        """
        hook = self._find("check_health")
        if hook is None:
            return ""
        if self._check is None:
            self._check = self._start(_complaint(hook), "check_health")
        check = self._check
        for _ in range(SLICES):
            done, _ = await asyncio.wait((check,), timeout=timeout_s / SLICES)
            if done:
                self._check = None
                return "" if check.cancelled() else check.result()
        return f"check_health() has not returned within {timeout_s:g} s"

    async def end(self, timeout_s: float) -> None:
        """`shutdown`, then `__del__`, each at most once. Failures are logged."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        if self._check is not None:
            self._check.cancel()
        if (hook := self._find("shutdown")) is not None:
            await self._finish(hook, timeout_s)
        if (hook := self._find("__del__")) is not None:
            _never_again(self._instance)
            await self._finish(hook, max(LAST_S, deadline - loop.time()))

    async def _finish(self, hook: Callable[..., Any], timeout_s: float) -> None:
        name = getattr(hook, "__name__", "shutdown")
        try:
            async with asyncio.timeout(timeout_s):
                await self._start(call_hook(hook), name)
        except TimeoutError:
            logger.error("%s() of the deployment did not end within %.1f s", name, timeout_s)
        except Exception:
            logger.exception("%s() of the deployment failed", name)

    def _find(self, name: str) -> Callable[..., Any] | None:
        if inspect.isroutine(self._instance):
            return None
        hook = getattr(self._instance, name, None)
        return hook if callable(hook) else None

    def _start(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        loop = asyncio.get_running_loop()
        return loop.create_task(work, name=name, context=self._context.copy())


async def _complaint(hook: Callable[..., Any]) -> str:
    try:
        await call_hook(hook)
    except Exception as error:
        return user_traceback(error)
    return ""


def _never_again(instance: Any) -> None:
    """Keeps the interpreter from calling `__del__` of an object once more when it lets it go."""
    kind: Any = type(instance)
    spent = getattr(kind.__dict__.get("__del__"), "spent", None)
    if spent is None:
        spent = set()
        kind.__del__ = _finalizer(kind.__del__, spent)
    spent.add(id(instance))


def _finalizer(finalize: Callable[[Any], Any], spent: set[int]) -> Callable[[Any], None]:
    def __del__(self: Any) -> None:
        if id(self) in spent:
            spent.discard(id(self))
        else:
            finalize(self)

    __del__.spent = spent  # type: ignore[attr-defined]
    return __del__


_OURS = tuple(
    os.path.abspath(path) + os.sep
    for path in (os.path.dirname(os.path.dirname(__file__)), os.path.dirname(anyio.__file__))
)


def user_traceback(error: BaseException) -> str:
    """The traceback from the first frame that is the user's on."""
    trace: TracebackType | None = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OURS):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace))
