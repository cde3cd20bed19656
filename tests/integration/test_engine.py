"""Processes of the local engine, and those that it takes over from an owner that is gone."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.engine.base import ProcessSpec
from serving.engine.local import LocalEngine

WAIT_S = 10.0


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that knows nothing of the engine."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def identity_of(pid: int) -> str:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return f"{pid}@{fields[19]}"


async def test_process_that_was_started_can_be_adopted() -> None:
    engine = LocalEngine()
    started = await engine.start(
        ProcessSpec("timeit", ("-n1", "-r1", "import time; time.sleep(60)"))
    )
    try:
        adopted = engine.adopt(started.identity)

        assert adopted is not None
        assert (adopted.pid, adopted.identity) == (started.pid, started.identity)
        adopted.terminate()
        async with asyncio.timeout(WAIT_S):
            assert await adopted.wait() is None
            assert await started.wait() == -signal.SIGTERM
        adopted.kill()  # harmless now
    finally:
        started.kill()
        await started.wait()


async def test_process_whose_identity_was_not_noted_is_found() -> None:
    engine = LocalEngine()
    spec = ProcessSpec("timeit", ("-n1", "-r1", "import time; time.sleep(61)"))
    started = await engine.start(spec)
    try:
        found = engine.find(spec)

        assert found is not None
        assert found.identity == started.identity
        found.kill()
        await started.wait()
        assert engine.find(spec) is None
    finally:
        started.kill()


async def test_end_of_an_adopted_process_is_seen(child: subprocess.Popen[bytes]) -> None:
    adopted = LocalEngine().adopt(identity_of(child.pid))

    assert adopted is not None
    waiting = asyncio.ensure_future(adopted.wait())
    child.communicate(b"\n")
    async with asyncio.timeout(WAIT_S):
        await waiting


async def test_process_that_has_ended_cannot_be_adopted(child: subprocess.Popen[bytes]) -> None:
    identity = identity_of(child.pid)
    os.kill(child.pid, signal.SIGKILL)
    await asyncio.to_thread(os.waitid, os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

    assert LocalEngine().adopt(identity) is None  # nobody has reaped it
    child.wait()
    assert LocalEngine().adopt(identity) is None


async def test_another_process_of_the_same_number_is_not_adopted(
    child: subprocess.Popen[bytes],
) -> None:
    pid, _, began = identity_of(child.pid).partition("@")

    assert LocalEngine().adopt(f"{pid}@{int(began) - 1}") is None
