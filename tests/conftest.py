"""What holds for every test: a time limit, and nothing left behind.

A test that leaves a task, a process or a file descriptor fails, and names what it left. Fixtures of
a wider scope (a server that a whole module uses) are checked for processes at the end of the run.

With several workers (`pytest -n`) a test that is marked `alone` runs while no other one does.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import inspect
import os
import time
import uuid
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import grpc.aio
import psutil
import pytest

UNIT_TESTS = Path(__file__).parent / "unit"
UNIT_TIMEOUT_S = 10
# How long what a test has ended may take to be gone.
GRACE_S = 2.0
# Set while a test runs: what the test starts inherits it, and keeps it when its parent dies.
MARK = "SERVING_TEST_MARK"
# Any two files do: what counts is who has locked them.
GATE, TURN = Path(__file__), UNIT_TESTS / "test_package.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if UNIT_TESTS in item.path.parents and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(UNIT_TIMEOUT_S))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    """Waits for the test's turn before anything of it begins, its time limit included."""
    if not hasattr(item.config, "workerinput"):
        return (yield)
    turn = item.config.stash.setdefault(TURN_OF_WORKER, Turn())
    turn.take(fcntl.LOCK_EX if _is_alone(item) else fcntl.LOCK_SH)
    try:
        return (yield)
    finally:
        # Those alone that follow each other do so in one turn: all others had to end for it.
        if not (_is_alone(item) and nextitem is not None and _is_alone(nextitem)):
            turn.give_back()


class Turn:
    """The right to run a test, of this worker: beside those of others, or alone."""

    def __init__(self) -> None:
        self._locked: int | None = None

    def take(self, kind: int) -> None:
        """Waits for it, unless it was kept."""
        if self._locked is not None:
            return
        # Who wants to be alone holds the gate meanwhile, so that it waits for none that came later.
        with open(GATE) as gate:
            fcntl.flock(gate, kind)
            self._locked = os.open(TURN, os.O_RDONLY)
            fcntl.flock(self._locked, kind)

    def give_back(self) -> None:
        if self._locked is not None:
            os.close(self._locked)
            self._locked = None


TURN_OF_WORKER = pytest.StashKey[Turn]()


def _is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


@pytest.fixture(scope="session", autouse=True)
def _no_processes_left_by_the_run() -> Iterator[None]:
    with _no_processes_left():
        yield


@pytest.fixture(scope="session", autouse=True)
def _grpc_ready() -> None:
    """Has gRPC open its own descriptors now, for good, so that they belong to no test."""

    async def hold_poller() -> None:
        grpc.aio.init_grpc_aio()

    asyncio.run(hold_poller())


@pytest.fixture(autouse=True)
def _nothing_left_by_the_test() -> Iterator[None]:
    with _no_files_left(), _no_processes_left():
        yield


@pytest.fixture(autouse=True)
def _no_tasks_left_by_the_test(
    request: pytest.FixtureRequest, _nothing_left_by_the_test: None
) -> None:
    """Watches the loop of a coroutine test, and spares all others the making of one."""
    if inspect.iscoroutinefunction(getattr(request.node, "obj", None)):
        request.getfixturevalue("_no_tasks_left")


@pytest.fixture
async def _no_tasks_left() -> AsyncIterator[None]:
    yield
    if left := asyncio.all_tasks() - {asyncio.current_task()}:
        _, left = await asyncio.wait(left, timeout=GRACE_S)
    assert not left, f"tasks left behind: {left}"


@contextlib.contextmanager
def _no_processes_left() -> Iterator[None]:
    outer = os.environ.get(MARK, "")
    mark = os.environ[MARK] = f"{outer}/{uuid.uuid4()}"
    try:
        yield
    finally:
        os.environ[MARK] = outer
    _, left = psutil.wait_procs(_marked(mark), timeout=GRACE_S)
    names = []
    for process in left:
        # One that has ended and only waits to be reaped by PID 1 is not left.
        with contextlib.suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
            names.append(f"{process.pid}: {' '.join(process.cmdline())}")
            process.kill()
    assert not names, f"processes left behind: {names}"


def _marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK, "").startswith(mark):
                found.append(process)
    return found


@contextlib.contextmanager
def _no_files_left() -> Iterator[None]:
    before = _open_files()
    yield
    deadline = time.monotonic() + GRACE_S
    while left := _open_files() - before:
        gc.collect()
        if time.monotonic() > deadline:
            pytest.fail(f"files left open: {left}")
        time.sleep(0.01)  # gRPC closes its sockets on threads of its own, and tells nobody


def _open_files() -> set[str]:
    """This process's files, sockets and pipes; but not pollers, which gRPC keeps as it likes."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(f"/proc/self/fd/{fd}")
            if not target.startswith("anon_inode:"):
                found.add(f"{fd} -> {target}")
    return found
