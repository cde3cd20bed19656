"""What the controller does of an update of several deployments."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serving.v1 import controller_pb2 as pb
from tests.support.plane import FakeProcess, Plane, spec


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    plane = Plane(tmp_path)
    loop = asyncio.create_task(plane.reconciler.run())
    plane.reconciler.targets.deploy(two("f1", "p1"))
    await plane.ready("f1")
    await plane.ready("p1")
    await plane.until(lambda: plane.status().status == "RUNNING")
    try:
        yield plane
    finally:
        async with asyncio.timeout(5):
            await plane.reconciler.shut_down()
        loop.cancel()


def two(
    front: str, price: str, config: str = "", *, auto_rollback: bool = False
) -> pb.ApplicationSpec:
    """D calls Price."""
    application = spec(front, auto_rollback=auto_rollback)
    application.deployments.add().CopyFrom(application.deployments[0])
    caller, callee = application.deployments
    caller.calls.append("Price")
    caller.options.user_config_json = config
    callee.name, callee.version = "Price", price
    return application


def running(plane: Plane) -> set[str]:
    return {process.replica.deployment.version for process in plane.engine.running}


def new(plane: Plane, version: str) -> list[FakeProcess]:
    return [p for p in plane.engine.running if p.replica.deployment.version == version]


async def fail(plane: Plane, version: str) -> None:
    for _ in range(3):
        await plane.until(lambda: new(plane, version))
        (process,) = new(plane, version)
        plane.reconciler.events.report(process.replica.replica_id, "ValueError: none")
        process.exit(1)


def told(plane: Plane) -> list[str]:
    return [method for method, request in plane.engine.asked if method == "Reconfigure"]


async def test_user_config_of_a_caller_waits_for_its_callee(plane: Plane) -> None:
    plane.reconciler.targets.deploy(two("f1", "p2", "2"))
    await plane.until(lambda: new(plane, "p2"))
    assert "deployment 'D' waits: 'Price' is to be updated first" in plane.status().message
    assert not told(plane)

    await plane.ready("p2")
    await plane.until(lambda: plane.status().status == "RUNNING")
    assert told(plane) == ["Reconfigure"]


async def test_callee_that_was_updated_goes_back_where_its_caller_fails(plane: Plane) -> None:
    plane.reconciler.targets.deploy(two("f2", "p2"))
    await plane.ready("p2")
    await fail(plane, "f2")

    await plane.until(lambda: new(plane, "p1"))
    await plane.ready("p1")
    await plane.until(lambda: running(plane) == {"f1", "p1"})
    assert plane.status().status == "UPDATE_FAILED"
    assert "'Price' serves as before, for 'D' could not be updated" in plane.status().message


async def test_caller_is_never_updated_where_its_callee_fails_and_all_is_rolled_back(
    plane: Plane,
) -> None:
    plane.reconciler.targets.deploy(two("f2", "p2", auto_rollback=True))
    await fail(plane, "p2")

    await plane.until(lambda: plane.status().status == "RUNNING")
    assert running(plane) == {"f1", "p1"}
    assert not any(each.replica.deployment.version == "f2" for each in plane.engine.started)
