"""The scenarios, and the load of each: wrk, or echo.py for WebSockets."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Scenario:
    """One row of the results: an application, the request, and the ratio to reach."""

    name: str
    title: str
    # The object in apps.py that uvicorn serves.
    app: str
    path: str = "/"
    body_bytes: int = 0
    websocket: bool = False
    # The ratio to uvicorn alone to reach at 64 connections.
    target: float | None = None


SCENARIOS = [
    Scenario("five", "five-byte answer, ASGI app", "five", target=0.4),
    # A plain callable runs on nothing but serving: beside it stands the ASGI application.
    Scenario("callable", "five-byte answer, plain callable", "five", target=0.4),
    Scenario("fastapi", "FastAPI route", "fastapi", path="/items/42?q=shoes", target=1.0),
    Scenario("stream", "50-chunk stream", "stream", target=0.9),
    Scenario("sse", "50 server-sent events", "sse", target=0.9),
    Scenario("websocket", "WebSocket echo", "echo", websocket=True),
    Scenario("post", "10 KB POST", "post", body_bytes=10_240),
]


@dataclass(frozen=True)
class Sample:
    """One round of load: requests (or messages) a second, and latencies in milliseconds."""

    count: int
    rate: float
    p50_ms: float
    p99_ms: float


class LoadError(Exception):
    """A load met errors: its figures mean nothing."""


def require_wrk() -> None:
    """Ends the program where wrk is missing, saying how to get it."""
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed: `sudo apt-get install wrk` (Debian, Ubuntu)")


def drive(scenario: Scenario, port: int, connections: int, seconds: float) -> Sample:
    """Loads the server at `port` for `seconds` and returns what it answered."""
    command = (
        [sys.executable, str(HERE / "echo.py"), str(port), f"--connections={connections}"]
        + [f"--seconds={seconds}"]
        if scenario.websocket
        else ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s"]
        + ["-s", str(HERE / "load.lua"), f"http://127.0.0.1:{port}{scenario.path}"]
        + (["--", str(scenario.body_bytes)] if scenario.body_bytes else [])
    )
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds + 30, check=False
    )
    if done.returncode:
        raise LoadError(f"{' '.join(command)} failed: {done.stderr or done.stdout}")
    result = json.loads(done.stdout.splitlines()[-1])
    if result["failures"] or not result["count"]:
        raise LoadError(f"{scenario.name} at {connections} connections: {done.stdout}")
    return Sample(
        count=result["count"],
        rate=result["count"] / result["duration_us"] * 1e6,
        p50_ms=result["p50_us"] / 1e3,
        p99_ms=result["p99_us"] / 1e3,
    )
