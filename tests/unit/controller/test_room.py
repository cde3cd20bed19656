"""Replicas that wait for room, and what is done so that they find it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from serving.controller import recovery, replica
from serving.controller.recovery import find_replicas
from serving.controller.resources import Node
from serving.controller.room import TooLargeError
from serving.v1 import controller_pb2 as pb
from tests.support.plane import FakeProcess, Plane, spec


class Machine(Plane):
    """One with two GPUs."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.around = replace(self.around, nodes=(Node("local", {}, ("0", "1")),))
        self.anew()

    async def reported(self) -> None:
        """Lets every replica that has been started tell that it is ready."""
        for process in self.engine.running:
            self.reconciler.events.report(process.replica.replica_id, "")
        await asyncio.sleep(0)

    def of(self, version: str) -> list[FakeProcess]:
        return [p for p in self.engine.running if p.replica.deployment.version == version]

    def waits(self, name: str) -> bool:
        return "waits for" in self.message(name)

    def message(self, name: str = "app") -> str:
        return self.status(name).deployments[0].message


@pytest.fixture
async def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Machine]:
    monkeypatch.setattr(replica, "_ENDING_TIMEOUT_S", 0.01)
    async with Machine(tmp_path).running() as machine:
        yield machine


def on_gpu(
    version: str, count: int = 1, *, name: str = "app", gpus: float = 1
) -> pb.ApplicationSpec:
    application = spec(version, count, name=name, prefix=f"/{name}")
    asked = json.dumps({"num_gpus": gpus})
    application.deployments[0].options.ray_actor_options_json = asked
    return application


async def test_replica_waits_for_a_gpu_until_one_is_given_back(machine: Machine) -> None:
    machine.reconciler.targets.deploy(on_gpu("a", 2, name="first"))
    await machine.ready("a", 2)
    machine.reconciler.targets.deploy(on_gpu("b", name="second"))

    await machine.until(lambda: "waits for" in machine.message("second"))
    assert machine.message("second") == "has 0 of 1 replicas ready; waits for 1 GPU: 0 of 2 free"
    assert not machine.of("b")
    assert not machine.status("second").deployments[0].decisions
    machine.reconciler.targets.delete("first")

    (process,) = await machine.ready("b")
    assert list(process.replica.gpus) == ["0"]
    await machine.until(lambda: machine.status("second").status == "RUNNING")


async def test_replica_that_died_gets_its_gpu_again(machine: Machine) -> None:
    machine.reconciler.targets.deploy(on_gpu("a", 2))
    one, other = await machine.ready("a", 2)
    one.exit(-9)

    await machine.until(lambda: len(machine.engine.started) == 3)
    assert machine.engine.started[-1].replica.gpus == one.replica.gpus != other.replica.gpus


async def test_application_that_waits_longest_is_first(machine: Machine) -> None:
    machine.reconciler.targets.deploy(on_gpu("a", 1, name="full", gpus=2))
    (holder,) = await machine.ready("a")
    for name in ("z", "y", "x"):
        machine.reconciler.targets.deploy(on_gpu(name, name=name))
        await machine.until(partial(machine.waits, name))
    machine.reconciler.targets.delete("full")
    await machine.until(lambda: len(machine.engine.started) == 3)

    assert holder.code.done()
    assert machine.of("z")
    assert machine.of("y")
    assert "waits for" in machine.message("x")


async def test_what_is_larger_than_the_machine_is_refused_at_once(machine: Machine) -> None:
    message = (
        r"deployment 'D' asks for more than any machine has, for each replica 3 GPUs: there are 2; "
        "change its ray_actor_options, or start"
    )
    with pytest.raises(TooLargeError, match=message):
        machine.reconciler.targets.deploy(on_gpu("a", gpus=3))
    assert not machine.reconciler.statuses


async def test_update_on_a_full_machine_replaces_one_after_another(machine: Machine) -> None:
    """One always serves."""
    machine.reconciler.targets.deploy(on_gpu("old", 2))
    await machine.ready("old", 2)
    await machine.until(lambda: machine.status().status == "RUNNING")

    machine.reconciler.targets.deploy(on_gpu("new", 2))
    await machine.until(lambda: len(machine.of("new")) == 1)
    assert len(machine.of("old")) == 1
    await machine.reported()
    await machine.until(lambda: len(machine.of("new")) == 2)
    assert not machine.of("old")
    await machine.reported()
    await machine.until(lambda: machine.status().status == "RUNNING")
    assert {gpu for process in machine.of("new") for gpu in process.replica.gpus} == {"0", "1"}


async def test_last_replica_stays_where_its_successor_finds_no_room(machine: Machine) -> None:
    machine.reconciler.targets.deploy(on_gpu("old", 1, gpus=2))
    await machine.ready("old")
    await machine.until(lambda: machine.status().status == "RUNNING")

    machine.reconciler.targets.deploy(on_gpu("new", 1, gpus=2))
    await machine.until(lambda: "waits for" in machine.message())
    assert machine.message() == (
        "has 0 of 1 replicas ready; waits for 2 GPUs: 0 of 2 free. The one that serves has it, and "
        "leaves once the new one is ready; with max_surge_percent=0 it leaves first, and none "
        "serves meanwhile"
    )
    assert machine.of("old")
    assert not machine.of("new")

    in_place = on_gpu("new", 1, gpus=2)
    in_place.deployments[0].options.max_surge_percent = 0
    machine.reconciler.targets.deploy(in_place)
    await machine.ready("new")
    await machine.until(lambda: machine.status().status == "RUNNING")
    assert not machine.of("old")


async def test_replica_that_made_room_is_not_replaced(machine: Machine) -> None:
    """While its successor starts, and starts again, as many serve as are left."""
    machine.reconciler.targets.deploy(on_gpu("old", 2))
    await machine.ready("old", 2)
    await machine.until(lambda: machine.status().status == "RUNNING")

    machine.reconciler.targets.deploy(on_gpu("new", 2))
    await machine.until(lambda: machine.of("new"))
    (process,) = machine.of("new")
    machine.reconciler.events.report(process.replica.replica_id, "ValueError: no")
    process.exit(1)
    await machine.until(lambda: machine.of("new") not in ([], [process]))
    assert len(machine.of("old")) == 1


async def test_nothing_leaves_where_that_would_not_make_room(machine: Machine) -> None:
    machine.reconciler.targets.deploy(on_gpu("other", 1, name="other"))
    await machine.ready("other")
    machine.reconciler.targets.deploy(on_gpu("old", 2, gpus=0.5))
    await machine.ready("old", 2)
    await machine.until(lambda: machine.status().status == "RUNNING")

    machine.reconciler.targets.deploy(on_gpu("new", 2, gpus=2))
    await machine.until(lambda: "waits for" in machine.message())
    await machine.reported()
    assert len(machine.of("old")) == 2


async def test_failed_update_on_a_full_machine_comes_back_whole(machine: Machine) -> None:
    machine.reconciler.targets.deploy(on_gpu("old", 2))
    await machine.ready("old", 2)
    await machine.until(lambda: machine.status().status == "RUNNING")

    machine.reconciler.targets.deploy(on_gpu("new", 2))
    for _ in range(3):
        await machine.until(lambda: machine.of("new"))
        (process,) = machine.of("new")
        machine.reconciler.events.report(process.replica.replica_id, "ValueError: no")
        process.exit(1)
        await machine.until(lambda: not machine.of("new"))

    await machine.until(lambda: len(machine.of("old")) == 2)
    await machine.reported()
    await machine.until(lambda: machine.status().status == "UPDATE_FAILED")
    assert len(machine.of("old")) == 2


async def test_next_controller_knows_which_gpus_are_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica, "_ENDING_TIMEOUT_S", 0.01)
    monkeypatch.setattr(recovery, "ANSWER_TIMEOUT_S", 0.01)
    machine = Machine(tmp_path)
    loop = asyncio.create_task(machine.reconciler.run())
    machine.reconciler.targets.deploy(on_gpu("a", 2))
    one, other = await machine.ready("a", 2)
    await machine.until(lambda: machine.status().status == "RUNNING")
    loop.cancel()
    await machine.reconciler.aclose()
    one.exit(-9)

    machine.anew()
    found = machine.store.load()
    machine.reconciler.recover(found, await find_replicas(machine.around, found.replicas))
    loop = asyncio.create_task(machine.reconciler.run())
    await machine.until(lambda: len(machine.engine.started) == 3)

    assert machine.engine.started[-1].replica.gpus == one.replica.gpus != other.replica.gpus
    async with asyncio.timeout(5):
        await machine.reconciler.shut_down()
    loop.cancel()
