"""Processes that are killed at random, one or two at a time, under load.

Each request that was accepted has one definite answer: a response, whole, or the end of its
connection where its proxy was killed; none hangs, and none that is not repeatable is executed
twice. The system is whole again within seconds. When the supervisor is killed everything is gone,
and comes back with the next one.

CHAOS_SEED repeats a run as far as the choice of victims and moments goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import psutil
import pytest
import requests
from starlette.requests import Request
from starlette.responses import StreamingResponse

import serving
from tests.support.control import (
    DEADLINE_S,
    command,
    descendants,
    isolate,
    still_running,
    until,
)

WHOLE_WITHIN_S = 5.0
GONE_WITHIN_S = 2.0
REPLICAS = 3
PROXIES = 2
START = """
import sys
from serving.cluster import ClusterSettings, start_detached
from serving.config import HTTPOptions, LoggingConfig
http = HTTPOptions(port=int(sys.argv[1]), num_proxies=int(sys.argv[2]))
start_detached(ClusterSettings(http, LoggingConfig()))
"""


@serving.deployment(num_replicas=REPLICAS)
class Worker:
    """Notes what it executes, and takes long enough to be killed meanwhile."""

    def __init__(self, notes: str) -> None:
        self.notes = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def __call__(self, request: Request) -> str | StreamingResponse:
        if request.url.path == "/stream":
            return StreamingResponse(self.stream())
        name = request.url.path.rpartition("/")[2]
        os.write(self.notes, f"{request.method} {name}\n".encode())
        await asyncio.sleep(random.uniform(0.0, 0.05))
        return name

    async def stream(self) -> AsyncIterator[str]:
        for number in range(10):
            yield f"{number} "
            await asyncio.sleep(0.005)
        yield "end"


class Client(threading.Thread):
    """Asks again and again on a kept connection, and notes each answer."""

    def __init__(self, url: str, ask: Callable[[requests.Session, str, str], str], name: str):
        super().__init__(name=name)
        self._url, self._ask = url, ask
        self._ended = threading.Event()
        # By the request's own name.
        self.answers: dict[str, str] = {}

    def run(self) -> None:
        with requests.Session() as session:
            for number in itertools.count():
                if self._ended.is_set():
                    return
                self._one(session, f"{self.name}-{number}")

    def _one(self, session: requests.Session, name: str) -> None:
        began = time.monotonic()
        try:
            answer = self._ask(session, self._url, name)
        except requests.Timeout:
            answer = "no answer"
        except requests.ConnectionError as error:
            if "refused" in str(error):  # nothing listens: it was not accepted
                self._ended.wait(0.01)
                return
            answer = "cut"
        except requests.RequestException:
            answer = "cut"
        self.answers[name] = answer
        if time.monotonic() - began > DEADLINE_S:
            self.answers[name] = "no answer"

    def end(self) -> None:
        self._ended.set()
        self.join()


def ask_get(session: requests.Session, url: str, name: str) -> str:
    return _told(session.get(f"{url}/{name}", timeout=DEADLINE_S), name)


def ask_post(session: requests.Session, url: str, name: str) -> str:
    return _told(session.post(f"{url}/{name}", data=b"x" * 1000, timeout=DEADLINE_S), name)


def ask_stream(session: requests.Session, url: str, name: str) -> str:
    answer = session.get(f"{url}/stream", timeout=DEADLINE_S)
    return _told(answer, "0 1 2 3 4 5 6 7 8 9 end")


def _told(answer: requests.Response, expected: str) -> str:
    if answer.status_code == 200:
        return "200" if answer.text == expected else f"200 with {answer.text!r}"
    return str(answer.status_code)


class World:
    """A cluster that stays, whatever becomes of its supervisor."""

    def __init__(self, folder: Path) -> None:
        self._state = folder / "state"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]

    def start(self) -> None:
        arguments = [sys.executable, "-c", START, str(self.port), str(PROXIES)]
        subprocess.run(arguments, check=True, timeout=DEADLINE_S)

    @property
    def supervisor(self) -> psutil.Process:
        return psutil.Process(json.loads((self._state / "cluster.json").read_text())["pid"])

    def of(self, kind: str) -> list[psutil.Process]:
        """The processes of a kind that run."""
        if kind == "supervisor":
            return [self.supervisor]
        below = descendants(self.supervisor.pid)
        return [each for each in below if f"-m serving.{kind}" in command(each)]

    def is_whole(self) -> bool:
        with contextlib.suppress(requests.RequestException):
            status = serving.status()
            application = status.applications["default"]
            states = application.deployments["Worker"].replica_states
            return (
                application.status == "RUNNING"
                and states == {"RUNNING": REPLICAS}
                and all(proxy == "HEALTHY" for proxy in status.proxies.values())
                and len(self.of("replica")) == REPLICAS
                and len(self.of("proxy")) == PROXIES
                and requests.get(f"http://127.0.0.1:{self.port}/is-whole", timeout=1).ok
            )
        return False

    def kill(self, victims: list[psutil.Process]) -> None:
        """Kills them, and waits for the system to be whole again."""
        for victim in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
        until(lambda: not still_running(victims))
        until(self.is_whole, within_s=WHOLE_WITHIN_S)

    def kill_supervisor(self) -> None:
        """Everything goes with it; the next one brings the applications back."""
        everyone = [self.supervisor, *descendants(self.supervisor.pid)]
        everyone[0].kill()
        left = still_running(everyone, within_s=GONE_WITHIN_S)
        assert not left, f"not gone {GONE_WITHIN_S} s after the supervisor: {left}"
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", self.port))
        self.start()
        until(self.is_whole)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[World]:
    isolate(monkeypatch, tmp_path)
    world = World(tmp_path)
    world.start()
    try:
        yield world
    finally:
        serving.shutdown()


@pytest.fixture
def chance() -> Iterator[random.Random]:
    """Whatever a test does with it can be repeated."""
    seed = int(os.environ.get("CHAOS_SEED") or random.randrange(2**32))
    try:
        yield random.Random(seed)
    finally:
        sys.stderr.write(f"CHAOS_SEED={seed}\n")  # shown where the test fails


@pytest.mark.alone
@pytest.mark.parametrize(
    "duration_s",
    [
        pytest.param(10.0, id="10 s"),
        pytest.param(60.0, id="60 s", marks=[pytest.mark.soak, pytest.mark.timeout(300)]),
    ],
)
def test_requests_have_definite_answers_whoever_is_killed(
    world: World, chance: random.Random, tmp_path: Path, duration_s: float
) -> None:
    notes = tmp_path / "notes"
    serving.run(Worker.bind(str(notes)))
    url = f"http://127.0.0.1:{world.port}"
    clients = [
        Client(url, ask, f"{kind}{number}")
        for kind, ask in (("get", ask_get), ("post", ask_post), ("stream", ask_stream))
        for number in range(2)
    ]
    for client in clients:
        client.start()
    killed: Counter[str] = Counter()
    try:
        ends_at = time.monotonic() + duration_s
        while time.monotonic() < ends_at:
            time.sleep(chance.uniform(0.0, 0.5))
            kinds = chance.choice(VICTIMS)
            killed.update(kinds)
            if kinds == ("supervisor",):
                world.kill_supervisor()
            else:
                world.kill([chance.choice(world.of(kind)) for kind in kinds])
    finally:
        for client in clients:
            client.end()
    answers = {name: told for client in clients for name, told in client.answers.items()}
    executed = Counter(notes.read_text().split("\n"))
    assert_definite(answers, executed, killed)


VICTIMS = [
    ("replica",),
    ("replica",),
    ("proxy",),
    ("controller",),
    ("controller", "replica"),
    ("controller", "proxy"),
    ("proxy", "replica"),
    ("supervisor",),
]


def assert_definite(answers: dict[str, str], executed: Counter[str], killed: Counter[str]) -> None:
    kinds = {name: name.rstrip("0123456789").rstrip("-").rstrip("0123456789") for name in answers}
    told = Counter(f"{kinds[name]} {answer}" for name, answer in answers.items())
    allowed = {
        "get": {"200"},
        # Lost with its replica, and not to be repeated.
        "post": {"200", "502"},
        "stream": {"200"},
    }
    for name, answer in answers.items():
        may_be_cut = kinds[name] == "stream" or killed.keys() & {"proxy", "supervisor"}
        expected = allowed[kinds[name]] | ({"cut"} if may_be_cut else set())
        assert answer in expected, f"{name}: {answer}; in all {dict(told)}, killed {dict(killed)}"
        if kinds[name] == "post":
            times = executed[f"POST {name}"]
            assert times == 1 if answer == "200" else times <= 1, f"{name}: {answer}, {times} times"
    assert min(told[f"{kind} 200"] for kind in allowed) > 20, dict(told)
