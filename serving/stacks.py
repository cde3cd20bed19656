"""What a process is doing, as text: where its threads and its asyncio tasks stand, and what of that
is the user's code."""

from __future__ import annotations

import asyncio
import gc
import inspect
import linecache
import os
import re
import sys
import sysconfig
import threading
import traceback
from collections.abc import Iterator
from typing import Any

import serving

_SECTION = re.compile(r"^(?=Thread |<Task |\()", re.MULTILINE)
_FRAME = re.compile(r'^  File "(.+)", line (\S+), in (.+)\n(?:    .*\n)*', re.MULTILINE)
_TASK = re.compile(r"<Task \w+ name=(?P<name>'.*?') ")
_OURS = (
    "<",
    "src/python/grpcio/",
    os.path.join(os.path.dirname(serving.__file__), ""),
    *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib")),
)
_SITE = tuple({sysconfig.get_path(name) for name in ("purelib", "platlib")})
_STEPS = {"async_generator_asend", "async_generator_athrow", "coroutine_wrapper"}
# What serving itself is built on.
_LIBRARIES = re.compile(r".*/site-packages/(anyio|fastapi|grpc|starlette|uvicorn|uvloop)/")


def of_threads() -> str:
    """Where each thread stands."""
    names: dict[int | None, str] = {thread.ident: thread.name for thread in threading.enumerate()}
    return "".join(
        f"Thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in sys._current_frames().items()
    )


def of_tasks(loop: asyncio.AbstractEventLoop) -> str:
    """What each task of the loop waits for, down to the innermost coroutine. Called on the loop."""
    return "".join(
        f"{task!r}\n{''.join(map(_line, _frames(task.get_coro())))}"
        for task in asyncio.all_tasks(loop)
    )


def _line(frame: Any) -> str:
    file, line = frame.f_code.co_filename, frame.f_lineno
    source = linecache.getline(file, line, frame.f_globals).strip() if line else ""
    text = f'  File "{file}", line {line}, in {frame.f_code.co_name}\n'
    return f"{text}    {source}\n" if source else text


def _frames(awaited: Any) -> Iterator[Any]:
    """Of a coroutine and of what it awaits: `Task.get_stack` knows the outermost frame only."""
    while awaited is not None:
        for kind, follows in (("cr", "await"), ("ag", "await"), ("gi", "yieldfrom")):
            if hasattr(awaited, f"{kind}_frame"):
                if (frame := getattr(awaited, f"{kind}_frame")) is not None:
                    yield frame
                awaited = getattr(awaited, f"{kind}_{follows}", None)
                break
        else:  # a step of an async generator does not say of which
            inner = gc.get_referents(awaited) if type(awaited).__name__ in _STEPS else []
            awaited = next(filter(_is_code, inner), None)


def _is_code(found: object) -> bool:
    return inspect.iscoroutine(found) or inspect.isasyncgen(found)


def place_of(text: str) -> str:
    """Where a replica that starts is: the innermost frame of the user's code, in its main thread or
    else in a task; empty where there is none."""
    sections = _SECTION.split(text)
    starting = [each for each in sections if each.startswith("Thread MainThread:")]
    for section in (*starting, *(each for each in sections if each.startswith("<Task "))):
        for file, line, function in reversed(_FRAME.findall(section)):
            if _is_users(file):
                return f"{file}:{line} in {function}"
    return ""


def users(text: str) -> str:
    """What of it is the user's code, and how many threads and tasks do something else, or nothing.

    Code of packages counts only as far as to show that it is in one, where nothing else calls it.
    """
    shown, idle = "", {"thread": 0, "task": 0}
    for section in filter(None, _SECTION.split(text)):
        head = section.partition("\n")[0]
        if head.startswith("("):
            shown += section
        elif frames := _shown(section):
            task = _TASK.match(head)
            shown += f"Task {task['name']}:\n{frames}" if task else f"{head}\n{frames}"
        else:
            idle["task" if head.startswith("<Task ") else "thread"] += 1
    counts = " and ".join(f"{n} {kind}{'s' * (n != 1)}" for kind, n in idle.items() if n)
    where = "beside them" if shown else "none in the user's code"
    return f"{shown}idle: {counts}, {where} (--all shows them)\n" if counts else shown


def _shown(section: str) -> str:
    found = [(match[1], match[0]) for match in _FRAME.finditer(section)]
    frames = [frame for file, frame in found if _is_users(file)]
    packages = [f for file, f in found if not file.startswith(_OURS) and not _LIBRARIES.match(file)]
    return "".join(frames or packages[-1:])


def _is_users(file: str) -> bool:
    return not file.startswith((*_OURS, *_SITE)) and "/site-packages/" not in file
