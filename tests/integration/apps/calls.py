"""Deployments that are called through handles."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import serving
from serving.context import current_request
from tests.support.gate import Gate


class OwnError(Exception):
    """A user's exception, with a constructor of its own."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail


class UnpicklableError(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("not to be pickled")


@serving.deployment
class Model:
    async def __init__(self, folder: str = "") -> None:  # type: ignore[misc]
        await asyncio.sleep(0)
        self._folder = Path(folder)

    async def __call__(self, value: Any = None, *, plus: Any = None) -> Any:
        return value if plus is None else value + plus

    def in_thread(self, value: Any) -> tuple[Any, bool]:
        return value, threading.current_thread() is threading.main_thread()

    async def count(self, limit: int) -> AsyncIterator[int]:
        for number in range(limit):
            yield number

    def count_in_thread(self, limit: int) -> Iterator[int]:
        yield from range(limit)

    async def fail(self, kind: str) -> None:
        raise OwnError(7, "seven") if kind == "own" else UnpicklableError("holds a lock")

    async def fail_after(self, limit: int) -> AsyncIterator[int]:
        for number in range(limit):
            yield number
        raise OwnError(limit, "later")

    async def wait(self, name: str) -> None:
        """Marks that it began, and that it was cancelled."""
        (self._folder / f"{name}.begun").touch()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            (self._folder / f"{name}.cancelled").touch()
            raise

    async def endless(self, name: str) -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 1000
                await asyncio.sleep(0)
        finally:
            (self._folder / f"{name}.cancelled").touch()

    def die(self) -> None:
        os._exit(3)

    def context(self) -> tuple[str, str, str]:
        replica, request = serving.get_replica_context(), current_request()
        assert request is not None
        return replica.app_name, replica.deployment, request.request_id

    def pass_gate(self, path: str) -> str:
        Gate(Path(path)).pass_through()
        return "passed"

    async def shutdown(self) -> None:
        (self._folder / "shutdown").touch()


@serving.deployment
def double(value: int) -> int:
    return 2 * value
