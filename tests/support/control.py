"""For tests of the control plane: a cluster of their own, and waiting for the world to change."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, TypeVar

import psutil
import pytest
import requests

import serving

T = TypeVar("T")
DEADLINE_S = 20.0


@contextlib.contextmanager
def own_cluster(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, autostart: bool = True
) -> Iterator[None]:
    """No cluster but the one that the test starts, on a free port; it ends with the test."""
    isolate(monkeypatch, tmp_path)
    try:
        if autostart:
            serving.start()
        yield
    finally:
        serving.shutdown()


def isolate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hides the clusters of others from what the test starts."""
    monkeypatch.delenv("SERVING_ADDRESS", raising=False)
    monkeypatch.setenv("SERVING_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("SERVING_HTTP_PORT", "0")
    monkeypatch.setenv("SERVING_ADMIN_PORT", "0")
    monkeypatch.delenv("SERVING_ADMIN_TOKEN", raising=False)


def get(path: str = "/") -> requests.Response:
    """Asks the cluster over HTTP, on a connection of its own."""
    return requests.get(f"http://127.0.0.1:{serving.status().http_port}{path}", timeout=DEADLINE_S)


def until(condition: Callable[[], T | Literal[False] | None], *, within_s: float = DEADLINE_S) -> T:
    """Waits for the condition to be true and returns its value."""
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not true within {within_s} s: {condition}"
        time.sleep(0.02)
    return value


def replica_pids() -> set[int]:
    """The replica processes below this one."""
    return {
        process.pid for process in descendants(os.getpid()) if "serving.replica" in command(process)
    }


def descendants(pid: int) -> list[psutil.Process]:
    """The processes that a process started, and those that these did."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def still_running(
    processes: list[psutil.Process], *, within_s: float = 0.0
) -> list[psutil.Process]:
    """Those that have not ended by then. One that only waits to be reaped by PID 1 has ended."""
    deadline = time.monotonic() + within_s
    while left := [process for process in processes if not _has_ended(process)]:
        if time.monotonic() >= deadline:
            break
        time.sleep(0.02)
    return left


def _has_ended(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return not process.is_running() or bool(process.status() == psutil.STATUS_ZOMBIE)
    return True


def command(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


@contextlib.contextmanager
def script(
    path: Path, *arguments: str, stdin: int | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Runs a Python script; ends it with the context if it still runs."""
    process = subprocess.Popen(
        [sys.executable, str(path), *arguments],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=path.parent,
    )
    with process, ended(process):
        yield process


@contextlib.contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """Ends the process with the context, as Ctrl-C does, where it still runs."""
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """Reads lines of the process up to the one with the text, and returns that one."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if text in line:
            return line
    raise AssertionError(f"{text!r} never came: {''.join(seen)}")
