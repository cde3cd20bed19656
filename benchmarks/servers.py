"""Starting and ending what is measured: uvicorn alone, and serving's processes."""

from __future__ import annotations

import http.client
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from loads import HERE, Scenario

START_DEADLINE_S = 30.0
# What a process's command line says about its part.
ROLES = re.compile(r"serving\.(controller|proxy|replica|supervisor)\b")


@dataclass(frozen=True)
class Server:
    """A running server: its port, and the process that was started first."""

    port: int
    root: psutil.Process

    def processes(self) -> dict[str, psutil.Process]:
        """Its processes by role: "uvicorn", or "proxy", "replica", "script" and so on."""
        found = {}
        for process in [self.root, *self.root.children(recursive=True)]:
            command = " ".join(process.cmdline())
            role = ROLES.search(command)
            name = role[1] if role else "uvicorn" if "-m uvicorn" in command else "script"
            found[name] = process
        return found

    def cpu_s(self) -> dict[str, float]:
        """Seconds of processor time that each process has used."""
        return {role: sum(process.cpu_times()[:2]) for role, process in self.processes().items()}


def uvicorn_command(app: str, port: int, *, access_log: bool = True) -> list[str]:
    """One worker, as `pip install uvicorn[standard]` runs it."""
    return [
        *(sys.executable, "-m", "uvicorn", f"apps:{app}", f"--app-dir={HERE}"),
        *("--loop=uvloop", "--http=httptools", f"--port={port}"),
        *([] if access_log else ["--no-access-log"]),
    ]


def stack_command(scenario: str, port: int, *, access_log: bool = True) -> list[str]:
    """serving's controller, one proxy and one replica."""
    return [
        *(sys.executable, str(HERE / "stack.py"), scenario, f"--port={port}"),
        *([] if access_log else ["--no-access-log"]),
    ]


@contextmanager
def started(command: list[str], port: int, path: str, log: Path) -> Iterator[Server]:
    """Runs `command` until the block ends; what it prints goes to the file `log`.

    `path` answers 200 once the server is ready. The process ends at the end of its standard
    input, or else by SIGTERM.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT
        )
    server = Server(port, psutil.Process(process.pid))
    try:
        _await_answer(server, path, log)
        yield server
    finally:
        _end(process, list(server.processes().values()))


def _end(process: subprocess.Popen[bytes], family: list[psutil.Process]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(1)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait(10)
    finally:
        _, alive = psutil.wait_procs(family, timeout=5)
        for left in alive:
            left.kill()
    if alive:
        raise RuntimeError(f"processes outlived their script: {alive}")


def _await_answer(server: Server, path: str, log: Path) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline:
        if not server.root.is_running() or server.root.status() == psutil.STATUS_ZOMBIE:
            raise RuntimeError(f"the server ended:\n{log.read_text()[-2000:]}")
        try:
            if fetch(server.port, path)[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.02)
    raise RuntimeError(f"no answer in {START_DEADLINE_S:.0f} s:\n{log.read_text()[-2000:]}")


def fetch(port: int, path: str = "/", body: bytes | None = None) -> tuple[int, bytes]:
    """One request on a connection of its own: the status and the body of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("POST" if body else "GET", path, body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def free_port() -> int:
    """A port that nobody held a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def both(scenario: Scenario, folder: Path, *, access_log: bool) -> Iterator[tuple[Server, Server]]:
    """serving and uvicorn alone, both up, for one scenario."""
    ours, theirs = free_port(), free_port()
    stack = stack_command(scenario.name, ours, access_log=access_log)
    alone = uvicorn_command(scenario.app, theirs, access_log=access_log)
    with (
        started(stack, ours, scenario.path, folder / "serving.log") as serving,
        started(alone, theirs, scenario.path, folder / "uvicorn.log") as uvicorn,
    ):
        yield serving, uvicorn
