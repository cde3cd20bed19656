"""Tasks that have an owner."""

from __future__ import annotations

import asyncio

import pytest

from serving.aio import Tasks
from tests.support.mux import turn


async def test_close_ends_every_task_and_waits_for_it() -> None:
    ended: list[str] = []

    async def work(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(name)

    tasks = Tasks()
    for name in "ab":
        tasks.start(work(name), name=name)
    await turn()
    await tasks.aclose()
    assert sorted(ended) == ["a", "b"]
    assert len(tasks) == 0


async def test_close_ends_tasks_that_others_start_as_they_end() -> None:
    tasks = Tasks()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            tasks.start(asyncio.sleep(3600), name="late")

    tasks.start(work(), name="work")
    await turn()
    await tasks.aclose()
    assert len(tasks) == 0


async def test_close_ends_though_a_task_has_ended_in_this_very_turn() -> None:
    async def nothing() -> None:
        pass

    tasks = Tasks()
    task = tasks.start(nothing(), name="quick")
    await asyncio.sleep(0)
    assert task.done()
    assert len(tasks) == 1  # its callback has not run yet
    await tasks.aclose()
    assert len(tasks) == 0


async def test_join_waits_for_the_end_of_all() -> None:
    tasks = Tasks()
    task = tasks.start(asyncio.sleep(0, "result"), name="short")
    await tasks.join()
    assert task.result() == "result"
    assert len(tasks) == 0


async def test_task_that_fails_is_logged_by_its_name(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ValueError("no")

    tasks = Tasks()
    tasks.start(fail(), name="doomed")
    await tasks.join()
    assert "task doomed failed" in caplog.text
    assert "ValueError: no" in caplog.text


async def test_task_that_is_cancelled_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    tasks = Tasks()
    tasks.start(asyncio.sleep(3600), name="cancelled").cancel()
    await tasks.join()
    assert caplog.text == ""
