"""What a process tells of its threads and tasks, and what of that is the user's code."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator

import pytest

import serving.stacks
from serving.stacks import of_tasks, of_threads, place_of, users


def thread(name: str, *files: str) -> str:
    frames = [f'  File "{file}", line {n}, in f{n}\n    code()\n' for n, file in enumerate(files)]
    return f"Thread {name}:\n{''.join(frames)}"


def task(*files: str) -> str:
    frames = [f'  File "{file}", line {n}, in t{n}\n' for n, file in enumerate(files)]
    return f"<Task pending name='x' coro=<f()>>\n{''.join(frames)}"


LIBRARY, OURS = threading.__file__, serving.stacks.__file__
PACKAGE = "/venv/site-packages/torch/x.py"


@pytest.mark.parametrize(
    ("stacks", "place"),
    [
        pytest.param("", "", id="nothing-told"),
        pytest.param(thread("MainThread", OURS, "/a.py"), "/a.py:1 in f1", id="innermost"),
        pytest.param(
            thread("MainThread", "/a.py", PACKAGE, LIBRARY), "/a.py:0 in f0", id="library"
        ),
        pytest.param(thread("MainThread", "/a.py", "<frozen x>"), "/a.py:0 in f0", id="import"),
        pytest.param(
            thread("T", "/t.py") + thread("MainThread", OURS) + thread("control", "/c.py"),
            "",
            id="other-threads",
        ),
        pytest.param(
            thread("MainThread", OURS) + thread("control", "/c.py") + task(OURS, "/a.py"),
            "/a.py:1 in t1",
            id="a-task",
        ),
        pytest.param(thread("MainThread", "/a.py") + task("/b.py"), "/a.py:0 in f0", id="both"),
    ],
)
def test_place_is_the_innermost_of_the_users_frames(stacks: str, place: str) -> None:
    assert place_of(stacks) == place


def test_place_is_found_in_real_stacks() -> None:
    line = sys._getframe().f_lineno + 1
    assert place_of(of_threads()) == f"{__file__}:{line} in {sys._getframe().f_code.co_name}"


async def test_task_tells_all_that_it_awaits_down_to_the_innermost() -> None:
    async def inner(reached: asyncio.Event) -> None:
        reached.set()
        await asyncio.Event().wait()

    async def generated(reached: asyncio.Event) -> AsyncIterator[int]:
        await inner(reached)
        yield 1

    async def outer(reached: asyncio.Event) -> None:
        async for _ in generated(reached):
            pass

    reached = asyncio.Event()
    waiting = asyncio.create_task(outer(reached), name="the task")
    await reached.wait()
    try:
        text = of_tasks(asyncio.get_running_loop())
    finally:
        waiting.cancel()
    (told,) = (each for each in users(text).split("Task ") if each.startswith("'the task'"))
    names = [line.rpartition(" in ")[2] for line in told.splitlines() if "  File" in line]
    assert names[:3] == ["outer", "generated", "inner"]
    assert "    await asyncio.Event().wait()\n" in told
    assert asyncio.__file__.removesuffix("__init__.py") not in told


IDLE = "2 threads and 1 task"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("", "", id="nothing-told"),
        pytest.param(
            thread("MainThread", LIBRARY, OURS) + thread("control", OURS) + task(OURS),
            f"idle: {IDLE}, none in the user's code (--all shows them)\n",
            id="idle",
        ),
        pytest.param(
            thread("MainThread", OURS) + thread("w", LIBRARY) + task(OURS, "/a.py") + task(OURS),
            f"Task 'x':\n  File \"/a.py\", line 1, in t1\nidle: {IDLE}, beside them "
            "(--all shows them)\n",
            id="a-task",
        ),
        pytest.param(
            thread("w", LIBRARY, "/a.py", PACKAGE),
            'Thread w:\n  File "/a.py", line 1, in f1\n    code()\n',
            id="users-frames-alone",
        ),
        pytest.param(
            task(OURS, PACKAGE, PACKAGE, "/venv/site-packages/anyio/x.py"),
            f"Task 'x':\n  File \"{PACKAGE}\", line 2, in t2\n",
            id="an-application-that-is-a-package",
        ),
        pytest.param(
            thread("MainThread", "/a.py") + "(the event loop is blocked: no stacks of tasks)\n",
            'Thread MainThread:\n  File "/a.py", line 0, in f0\n    code()\n'
            "(the event loop is blocked: no stacks of tasks)\n",
            id="blocked",
        ),
    ],
)
def test_users_code_is_shown_and_the_rest_counted(text: str, shown: str) -> None:
    assert users(text) == shown
