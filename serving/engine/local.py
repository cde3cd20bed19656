"""Processes on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

from serving.engine.base import Process, ProcessSpec


class LocalProcess:
    """A child of this process."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self._child = child
        self.identity = _identity(child.pid) or ""

    def __repr__(self) -> str:
        return f"LocalProcess(pid={self.pid}, returncode={self._child.returncode})"

    @property
    def pid(self) -> int:
        return self._child.pid

    async def wait(self) -> int:
        return await self._child.wait()

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        # The child's own methods would reap it first if it ended just now, and asyncio, which waits
        # for it, would find no such process.
        if self._child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


class AdoptedProcess:
    """A process whose parent has ended, or is another. Held by a descriptor of the kernel's, so
    that a later process of the same number is never taken for it."""

    def __init__(self, pid: int, identity: str, pidfd: int) -> None:
        self.pid = pid
        self.identity = identity
        self._pidfd = pidfd
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(pidfd, self._end)

    def __repr__(self) -> str:
        return f"AdoptedProcess(pid={self.pid}, ended={self._ended.is_set()})"

    async def wait(self) -> None:
        await self._ended.wait()

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if not self._ended.is_set():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._ended.set()


class LocalEngine:
    """Starts children of this process with the interpreter that runs it."""

    async def start(self, spec: ProcessSpec) -> LocalProcess:
        child = await asyncio.create_subprocess_exec(
            *_command(spec),
            env={**os.environ, **spec.env},
            pass_fds=tuple(spec.pass_fds),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=spec.output_fd,
            stderr=spec.output_fd,
        )
        return LocalProcess(child)

    def adopt(self, identity: str) -> Process | None:
        pid = int(identity.partition("@")[0])
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return None
        # Looked at while the descriptor holds the process: its number is not given anew meanwhile.
        if _identity(pid) != identity:
            os.close(pidfd)
            return None
        return AdoptedProcess(pid, identity, pidfd)

    def find(self, spec: ProcessSpec) -> Process | None:
        wanted = _command(spec)
        for name in os.listdir("/proc"):
            if name.isdecimal() and _command_line(name) == wanted:
                identity = _identity(int(name))
                return None if identity is None else self.adopt(identity)
        return None


def _command(spec: ProcessSpec) -> list[str]:
    # -P: a module of the user's that lies in the working folder must not stand in for ours.
    return [sys.executable, "-P", "-m", spec.module, *spec.args]


def _command_line(pid: str) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text("utf-8", "surrogateescape").split("\0")[:-1]
    except OSError:  # it ended
        return []


def _identity(pid: int) -> str | None:
    """The process's number, and when it began, in ticks since the machine did (proc(5)); None
    where it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The second field, the name, may hold anything, spaces and parentheses too.
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else f"{pid}@{fields[18]}"
