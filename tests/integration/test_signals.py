"""Serving under what people start it with: a shell script, make, a container."""

from __future__ import annotations

import os
import pty
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psutil
import pytest
import requests

from tests.support.control import (
    DEADLINE_S,
    descendants,
    isolate,
    still_running,
    until,
)

APP = """
    import serving

    @serving.deployment
    def hello(request):
        return "hello"

    app = hello.bind()
    if __name__ == "__main__":
        serving.run(app, blocking=True)
"""
RUN = [sys.executable, "-m", "serving.cli", "run", "app:app"]
NEW_PIDS = ["unshare", "--pid", "--fork", "--mount-proc"]
CTRL_C, HANG_UP = b"\x03", b""
TAKES_ITS_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp("sh", ["sh", "-c", '"$@"; exit', "sh", *sys.argv[1:]])
"""


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> int:
    """Where what is started serves; its application is in app.py of the test's folder."""
    isolate(monkeypatch, tmp_path)
    (tmp_path / "app.py").write_text(textwrap.dedent(APP))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free: int = probe.getsockname()[1]
    monkeypatch.setenv("SERVING_HTTP_PORT", str(free))
    return free


@contextmanager
def terminal(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """Runs a command in a shell of a terminal; gives the shell, and what types into the terminal,
    whose closing hangs up. What the command says goes nowhere."""
    master, slave = pty.openpty()
    with open(master, "wb", buffering=0) as keyboard:
        process = subprocess.Popen(
            [sys.executable, "-c", TAKES_ITS_TERMINAL, *arguments],
            cwd=folder,
            stdin=slave,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(slave)
        try:
            yield process, keyboard
        finally:
            for each in descendants(process.pid):
                each.kill()
            process.kill()
            process.wait()


def answers(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/", timeout=DEADLINE_S).text == "hello"
    except requests.ConnectionError:
        return False


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wrapped(by: str, folder: Path) -> list[str]:
    """A command that runs ours, and would have something to do after it."""
    line = " ".join(RUN)
    if by == "make":
        (folder / "Makefile").write_text(f"serve:\n\t@{line}\n\t@echo done\n")
        return ["make", "serve"]
    (folder / "serve.sh").write_text(f"{line}\necho done\n")
    return ["bash", "serve.sh"]


@pytest.mark.parametrize(
    ("by", "end"),
    [("make", CTRL_C), ("bash", CTRL_C), ("make", HANG_UP)],
    ids=["make, Ctrl-C", "bash, Ctrl-C", "make, hang up"],
)
def test_terminal_ends_what_a_wrapper_started(
    tmp_path: Path, port: int, by: str, end: bytes
) -> None:
    with terminal(tmp_path, *wrapped(by, tmp_path)) as (process, keyboard):
        until(lambda: answers(port))
        started = descendants(process.pid)
        assert len(started) == 6  # the wrapper, the run, and what it started
        if end == HANG_UP:
            keyboard.close()
        else:
            keyboard.write(end)

        assert not still_running(started, within_s=DEADLINE_S)
        process.wait(DEADLINE_S)
    assert not listens(port)


def test_make_that_is_told_to_end_takes_all_along(tmp_path: Path, port: int) -> None:
    with terminal(tmp_path, *wrapped("make", tmp_path)) as (process, _):
        until(lambda: answers(port))
        started = descendants(process.pid)
        (make,) = (each for each in started if each.name() == "make")
        make.terminate()

        assert not still_running(started, within_s=DEADLINE_S)
    assert not listens(port)


def first_of_its_namespace(process: subprocess.Popen[str]) -> psutil.Process:
    """What is PID 1 below `unshare`."""
    return until(lambda: next(iter(psutil.Process(process.pid).children()), None))


@contextmanager
def contained(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*NEW_PIDS, "--kill-child", *arguments],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.skipif(
    subprocess.run([*NEW_PIDS, "true"], capture_output=True, check=False).returncode != 0,
    reason="no new PID namespaces here",
)
@pytest.mark.parametrize("arguments", [RUN, [sys.executable, "app.py"]], ids=["run", "script"])
def test_first_process_of_a_container_hears_its_signal(
    tmp_path: Path, port: int, arguments: list[str]
) -> None:
    """The kernel drops signals that PID 1 has no handler for."""
    with contained(tmp_path, *arguments) as process:
        until(lambda: answers(port))
        first = first_of_its_namespace(process)
        started = [first, *first.children(recursive=True)]
        assert len(started) == 5
        first.terminate()

        assert not still_running(started, within_s=DEADLINE_S)
        process.wait(DEADLINE_S)
    assert not listens(port)
