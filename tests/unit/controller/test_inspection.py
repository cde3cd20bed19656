"""Where a replica is, of what it tells of its threads and tasks."""

from __future__ import annotations

import asyncio
import sys
import threading

import pytest

from serving.controller.inspection import place_of
from serving.replica.control import _thread_stacks


def thread(name: str, *files: str) -> str:
    frames = [f'  File "{file}", line {n}, in f{n}\n    code()\n' for n, file in enumerate(files)]
    return f"Thread {name}:\n{''.join(frames)}"


def task(*files: str) -> str:
    frames = [f'  File "{file}", line {n}, in t{n}\n' for n, file in enumerate(files)]
    return f"<Task pending name='x'>\n{''.join(frames)}"


LIBRARY, PACKAGE, OURS = threading.__file__, "/venv/site-packages/torch/x.py", asyncio.__file__


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
    assert place_of(_thread_stacks()) == f"{__file__}:{line} in {sys._getframe().f_code.co_name}"
