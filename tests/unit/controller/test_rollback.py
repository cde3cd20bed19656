"""Versions that are taken back: because somebody asks for it, or by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from serving.controller.recovery import find_replicas
from serving.controller.targets import ConflictError, NoVersionError
from tests.support.plane import FakeProcess, Plane


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    plane = Plane(tmp_path)
    loop = asyncio.create_task(plane.reconciler.run())
    try:
        yield plane
    finally:
        loop.cancel()
        await plane.reconciler.aclose()


async def running(plane: Plane, version: str, **fields: Any) -> FakeProcess:
    """Deploys a version and waits until nothing else runs."""
    plane.deploy(version, **fields)
    return await only(plane, version)


async def only(plane: Plane, version: str) -> FakeProcess:
    (process,) = await plane.ready(version)
    await plane.until(
        lambda: plane.engine.running == [process] and plane.status().status == "RUNNING"
    )
    return process


async def fail_update(plane: Plane) -> None:
    for _ in range(3):
        await plane.until(lambda: len(plane.engine.running) == 2)
        await plane.fail('  File "model.py", line 7, in load\nValueError: no model')
        await plane.until(lambda: len(plane.engine.running) == 1)


async def test_version_before_serves_again(plane: Plane) -> None:
    await running(plane, "v1")
    await running(plane, "v2")

    assert plane.reconciler.targets.roll_back("app", 2) == 3
    await only(plane, "v1")

    status = plane.status()
    assert (status.generation, status.instead_of) == (3, 2)
    assert status.message.startswith("rolled back from generation 2 to what generation 1 was, dep")
    assert status.message.endswith(": as was asked for")


async def test_request_that_is_sent_again_takes_back_no_second_version(plane: Plane) -> None:
    for version in ("v1", "v2", "v3"):
        await running(plane, version)

    assert [plane.reconciler.targets.roll_back("app", 3) for _ in range(2)] == [4, 4]
    await only(plane, "v2")
    with pytest.raises(NoVersionError, match="at generation 4 by now, not at 2"):
        plane.reconciler.targets.roll_back("app", 2)


async def test_failed_update_is_taken_back_without_a_start(plane: Plane) -> None:
    process = await running(plane, "v1")
    plane.deploy("v2")
    await fail_update(plane)
    await plane.until(lambda: plane.status().status == "UPDATE_FAILED")

    plane.reconciler.targets.roll_back("app", 2)
    await plane.until(lambda: plane.status().status == "RUNNING")

    assert plane.engine.running == [process]


async def test_versions_that_never_worked_or_are_the_same_are_passed_over(plane: Plane) -> None:
    await running(plane, "v1")
    await running(plane, "v2")
    plane.deploy("v3")
    await fail_update(plane)
    await plane.until(lambda: plane.status().status == "UPDATE_FAILED")
    plane.reconciler.targets.roll_back("app", 3)
    await only(plane, "v2")

    plane.reconciler.targets.roll_back("app", 4)
    await only(plane, "v1")


async def test_error_names_the_versions_that_there_are(plane: Plane) -> None:
    with pytest.raises(NoVersionError, match="no application 'app' to roll back; there are: none"):
        plane.reconciler.targets.roll_back("app", 1)
    await running(plane, "v1")
    with pytest.raises(NoVersionError, match="at generation 1, and before it there is none"):
        plane.reconciler.targets.roll_back("app", 1)
    plane.deploy("v2")
    await fail_update(plane)
    plane.deploy("v1")
    with pytest.raises(
        NoVersionError,
        match=r"generation 1, deployed at .*, is the same; generation 2, .*, never worked",
    ):
        plane.reconciler.targets.roll_back("app", 3)


async def test_rollback_to_a_route_that_another_has_by_now_is_refused(plane: Plane) -> None:
    await running(plane, "v1", prefix="/old")
    await running(plane, "v2", prefix="/new")
    plane.deploy("v1", name="other", prefix="/old")

    with pytest.raises(ConflictError, match="application 'other' has it"):
        plane.reconciler.targets.roll_back("app", 2)
    assert plane.status().generation == 2


async def test_update_that_fails_is_taken_back_by_itself_where_asked_for(plane: Plane) -> None:
    process = await running(plane, "v1")
    plane.deploy("v2", auto_rollback=True)
    await fail_update(plane)
    await plane.until(lambda: plane.status().instead_of == 2)
    await plane.until(lambda: plane.status().status == "RUNNING")

    message = plane.status().message
    assert message.startswith("rolled back from generation 2 to what generation 1 was")
    assert "could not start, 3 times in a row: ValueError: no model" in message
    assert 'File "model.py", line 7' in message
    assert plane.engine.running == [process]
    assert len(plane.engine.started) == 4

    # It stays visible until something else is wanted, and what failed may be tried again.
    assert plane.deploy("v1") == 3
    assert plane.status().message == message
    assert plane.deploy("v2", auto_rollback=True) == 4
    await only(plane, "v2")
    assert plane.status().message == ""


async def test_first_version_that_fails_has_nothing_to_return_to(plane: Plane) -> None:
    plane.deploy("v1", auto_rollback=True)
    for _ in range(3):
        await plane.fail("boom")
        await plane.until(lambda: not plane.engine.running)
    await plane.until(lambda: plane.status().status == "DEPLOY_FAILED")

    assert plane.status().generation == 1


async def test_next_controller_knows_what_was_rolled_back(plane: Plane) -> None:
    await running(plane, "v1")
    plane.deploy("v2", auto_rollback=True)
    await fail_update(plane)
    await plane.until(lambda: plane.status().instead_of == 2)
    message = plane.status().message

    await plane.reconciler.aclose()
    found = plane.store.load()
    plane.anew()
    plane.reconciler.recover(found, await find_replicas(plane.around, found.replicas))
    assert plane.status().message == message
