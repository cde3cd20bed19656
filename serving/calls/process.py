"""The one caller of a process: a replica's own, or one on a thread of its own in a script."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Callable

from serving.calls import local
from serving.calls.caller import Caller
from serving.exceptions import ClusterError
from serving.routing.watch import Directory, watch
from serving.v1.controller_pb2 import WatchUpdate

START_TIMEOUT_S = 10.0

_caller: Caller | None = None
_thread: _Thread | None = None
_lock = threading.Lock()
_find_address: Callable[[], str | None] | None = None


@contextlib.asynccontextmanager
async def calling(controller_address: str, name: str) -> AsyncIterator[Caller]:
    """A caller on the running loop. It asks the controller when it is first used."""
    directory = Directory()
    heard = asyncio.Event()
    caller: Caller
    watching: asyncio.Task[None] | None = None

    async def apply(update: WatchUpdate) -> None:
        directory.apply(update)
        heard.set()

    async def known() -> None:
        nonlocal watching
        if watching is None:
            watching = caller.tasks.start(
                watch(controller_address, name, apply, directory.reporter), name="watch"
            )
        if not heard.is_set():
            await heard.wait()

    caller = Caller(directory, known)
    try:
        yield caller
    finally:
        await caller.aclose()


def use(caller: Caller | None) -> None:
    """Makes it the process's caller (a replica's); None: there is none any more."""
    global _caller
    _caller = caller


def find_cluster_with(address: Callable[[], str | None]) -> None:
    """How a script's caller finds the controller."""
    global _find_address
    _find_address = address


def current(local_key: str = "") -> Caller:
    """The process's caller, which a script starts with its first call; with a key, that of a local
    cluster.

    Raises ClusterError where there is no cluster.
    """
    if local_key:
        return local.caller_of(local_key)
    if _caller is not None:
        return _caller
    return _start_thread()


def close() -> None:
    """Ends a script's caller, and with it what it has open."""
    global _thread, _caller
    with _lock:
        thread, _thread = _thread, None
        if thread is not None:
            _caller = None
            atexit.unregister(close)
            thread.stop()


def _start_thread() -> Caller:
    global _thread, _caller
    with _lock:
        if _caller is None:
            address = _find_address() if _find_address is not None else None
            if address is None:
                raise ClusterError("no cluster runs that a handle could call")
            _thread = _Thread(address)
            _caller = _thread.caller
            atexit.register(close)
        return _caller


class _Thread:
    """An event loop on a thread, for scripts."""

    def __init__(self, address: str) -> None:
        self.caller: Caller
        self._ready = threading.Event()
        self._stop: asyncio.Event
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run(address)), name="serving-handles", daemon=True
        )
        self._thread.start()
        if not self._ready.wait(START_TIMEOUT_S):
            raise ClusterError("the thread that calls deployments did not start")

    def stop(self) -> None:
        self.caller.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _run(self, address: str) -> None:
        self._stop = asyncio.Event()
        async with calling(address, f"driver-{os.getpid()}") as self.caller:
            self._ready.set()
            await self._stop.wait()


def _forget() -> None:
    """In a forked child, which has none of our threads."""
    global _thread, _caller, _lock
    _lock = threading.Lock()
    if _thread is not None:
        _thread = _caller = None


os.register_at_fork(after_in_child=_forget)
