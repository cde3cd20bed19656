"""Processes on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys

from serving.engine.base import ProcessSpec


class LocalProcess:
    """A child of this process."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self._child = child

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


class LocalEngine:
    """Starts children of this process with the interpreter that runs it."""

    async def start(self, spec: ProcessSpec) -> LocalProcess:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            # A module of the user's that lies in the working folder must not stand in for ours.
            "-P",
            "-m",
            spec.module,
            *spec.args,
            env={**os.environ, **spec.env},
            pass_fds=tuple(spec.pass_fds),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=spec.output_fd,
            stderr=spec.output_fd,
        )
        return LocalProcess(child)
