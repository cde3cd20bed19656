"""What serving costs before the first request: time to start, and memory when idle."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from loads import HERE, SCENARIOS
from servers import free_port, stack_command, started, uvicorn_command

STARTS = 7
# Idle for so long before memory is read.
SETTLE_S = 2.0
MIB = 1024 * 1024


@dataclass(frozen=True)
class Start:
    """Seconds from the start of a process to its first answer."""

    title: str
    times_s: list[float]

    @property
    def median_s(self) -> float:
        return statistics.median(self.times_s)


@dataclass(frozen=True)
class Memory:
    """MiB by process, for one application."""

    title: str
    rss: dict[str, float]
    pss: dict[str, float]


def start_times(starts: int = STARTS) -> list[Start]:
    """Scripts with serving.run and a request in them; uvicorn alone for scale. Interleaved."""
    runs = {
        "plain callable, serving": lambda: _script_s("plain.py"),
        "five-byte ASGI app, uvicorn alone": lambda: _uvicorn_s("five", "/"),
        "FastAPI, serving": lambda: _script_s("with_fastapi.py"),
        "FastAPI, uvicorn alone": lambda: _uvicorn_s("fastapi", "/items/1"),
    }
    times: dict[str, list[float]] = {title: [] for title in runs}
    for _ in range(starts):
        for title, run in runs.items():
            times[title].append(run())
    return [Start(title, values) for title, values in times.items()]


def _script_s(script: str) -> float:
    command = [sys.executable, str(HERE / "scripts" / script), str(free_port())]
    started_at = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        while line := process.stdout.readline():
            if b"hello" in line:
                elapsed_s = time.perf_counter() - started_at
                process.communicate(timeout=20)
                return elapsed_s
        _, errors = process.communicate(timeout=20)
    raise RuntimeError(f"{script} gave no answer:\n{errors.decode()[-2000:]}")


def _uvicorn_s(app: str, path: str) -> float:
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        started_at = time.perf_counter()
        with started(uvicorn_command(app, port), port, path, Path(folder) / "log"):
            return time.perf_counter() - started_at


def memory() -> list[Memory]:
    """Every process of serving with one idle replica, after its first answer."""
    found = []
    for scenario in SCENARIOS:
        if scenario.name not in ("callable", "five", "fastapi"):
            continue
        port = free_port()
        command = stack_command(scenario.name, port)
        with (
            tempfile.TemporaryDirectory() as folder,
            started(command, port, scenario.path, Path(folder) / "log") as server,
        ):
            time.sleep(SETTLE_S)
            usage = {r: p.memory_full_info() for r, p in server.processes().items()}
            found.append(
                Memory(
                    scenario.title,
                    rss={role: info.rss / MIB for role, info in usage.items()},
                    pss={role: info.pss / MIB for role, info in usage.items()},
                )
            )
    return found
