"""The processes below the supervisor: how they start, what they tell on a pipe, who reaps them.

Like the supervisor, this imports only the standard library.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
from typing import Any

from serving import lifeline
from serving.engine.base import Process, ProcessSpec
from serving.engine.local import LocalEngine

_READY_TIMEOUT_S = 60.0
_REAP_AGAIN_S = 0.1
_PR_SET_CHILD_SUBREAPER = 36

# gRPC's event engine passes each message through several threads of its own; its classic poller
# saves a fifth of the time of a lone request (ARCHITECTURE.md has the figures). Its news of every
# connection that ends are no news here. Both are read when grpc is imported, hence set by the
# parent; the user's own choice wins.
_GRPC = {
    "GRPC_EXPERIMENTS": "-event_engine_client,-event_engine_listener",
    "GRPC_VERBOSITY": "ERROR",
}


class StartError(Exception):
    """The cluster cannot start; the message is for the user."""


class Children:
    """Starts processes that hold the lifeline, and reaps those that are nobody else's."""

    def __init__(self, lifeline_fd: int) -> None:
        self._lifeline_fd = lifeline_fd
        self._engine = LocalEngine()
        # Those that are asyncio's to reap.
        self._own: set[int] = set()
        self._starting = 0

    async def start(
        self, module: str, variable: str, settings: dict[str, Any], *fds: int
    ) -> tuple[Process, int]:
        """Starts a child, with its settings in an environment variable; returns it, and the
        descriptor on which it tells that it is ready."""
        read, write = os.pipe()
        env = {
            **_GRPC,
            **os.environ,
            variable: json.dumps(settings | {"ready_fd": write}),
            lifeline.FD_VARIABLE: str(self._lifeline_fd),
        }
        spec = ProcessSpec(module, env=env, pass_fds=(self._lifeline_fd, write, *fds))
        self._starting += 1
        try:
            process = await self._engine.start(spec)
            self._own.add(process.pid)
            return process, read
        except BaseException:
            os.close(read)
            raise
        finally:
            self._starting -= 1
            os.close(write)

    def forget(self, process: Process) -> None:
        """A child has ended."""
        self._own.discard(process.pid)

    def adopt_orphans(self) -> None:
        """Makes this process the parent of those below it whose own parent dies, see prctl(2)."""
        if ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0:
            asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._reap_orphans)

    def _reap_orphans(self) -> None:
        """Frees what is left of replicas whose controller died before them. Our own children are
        asyncio's to reap: one that has ended hides the orphans behind it for a moment."""
        with contextlib.suppress(ChildProcessError):
            while found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if self._starting or found.si_pid in self._own:
                    asyncio.get_running_loop().call_later(_REAP_AGAIN_S, self._reap_orphans)
                    return
                os.waitpid(found.si_pid, os.WNOHANG)


async def until_ready(name: str, process: Process, told: int) -> None:
    """Returns once the child says on `told` that it is ready, and closes that.

    Raises StartError where it says that it cannot, ends, or takes too long.
    """
    try:
        async with asyncio.timeout(_READY_TIMEOUT_S):
            line = await _first_line(told)
            if not line:
                code = await process.wait()
                raise StartError(f"{name} ended with code {code} before it was ready")
    except TimeoutError:
        process.kill()
        raise StartError(f"{name} was not ready within {_READY_TIMEOUT_S:.0f} s") from None
    finally:
        os.close(told)
    if error := json.loads(line).get("error"):
        raise StartError(f"{name} could not start: {error}")


async def _first_line(fd: int) -> bytes:
    """The first line that comes, or nothing where the other end is closed before its end."""
    loop = asyncio.get_running_loop()
    line: asyncio.Future[bytes] = loop.create_future()
    buffer = bytearray()

    def receive() -> None:
        chunk = os.read(fd, 65536)
        buffer.extend(chunk)
        if (b"\n" in chunk or not chunk) and not line.done():
            line.set_result(bytes(buffer) if chunk else b"")

    loop.add_reader(fd, receive)
    try:
        return await line
    finally:
        loop.remove_reader(fd)


async def only_line(fd: int) -> bytes:
    """The one line that is told on `fd`, or nothing where none comes; closes `fd`."""
    try:
        return await _first_line(fd)
    finally:
        os.close(fd)


async def wait_for_end(processes: list[Process], timeout_s: float) -> None:
    """Waits until all ended, or for `timeout_s`."""
    if processes:
        waits = [asyncio.ensure_future(process.wait()) for process in processes]
        _, pending = await asyncio.wait(waits, timeout=timeout_s)
        for wait in pending:
            wait.cancel()
