"""A controller that is killed, and the one that comes after it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from serving.controller.recovery import find_replicas
from serving.controller.store import (
    Changes,
    LoadedApplication,
    MemoryStore,
    StoreError,
)
from serving.v1 import controller_pb2 as pb
from serving.v1.replica_pb2 import DescribeResponse
from tests.support.plane import Plane, spec


class Killed(BaseException):
    """What a controller does not survive."""


@dataclass
class MortalStore(MemoryStore):
    """Its controller is killed at one commit, just before it or just after."""

    lives: int = 1_000_000
    after: bool = False

    def commit(self, changes: Changes) -> None:
        self.lives -= 1
        if self.lives > 0 or (self.lives == 0 and self.after):
            super().commit(changes)
        if self.lives <= 0:
            raise Killed


class World(Plane):
    """Controllers one after another, and replicas that report to whichever there is."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.store: MortalStore = MortalStore()
        self.loop: asyncio.Task[None] | None = None
        self.reported: set[int] = set()
        self.most = 0

    async def start(self) -> None:
        """Starts a controller, where the one before has died."""
        if self.loop is not None:
            await self.stop()
            self.store.lives = 1_000_000
        self.anew()
        found = self.store.load()
        recovered = await find_replicas(self.around, found.replicas)
        self.reconciler.recover(found, recovered)
        self.loop = asyncio.create_task(self.reconciler.run())

    async def stop(self) -> None:
        assert self.loop is not None
        self.loop.cancel()
        await asyncio.wait((self.loop,))
        if not self.loop.cancelled():
            assert isinstance(self.loop.exception(), Killed)
        await self.reconciler.aclose()

    async def until(self, condition: Callable[[], object]) -> None:
        """Lets replicas report meanwhile; raises Killed once the controller is dead."""

        def turned() -> bool:
            assert self.loop is not None
            if self.loop.done():
                raise Killed
            for process in self.engine.running:
                if process.pid not in self.reported:
                    self.reported.add(process.pid)
                    process.state = DescribeResponse.READY
                    if not self.reconciler.events.report(process.replica.replica_id, ""):
                        process.exit(0)  # as a replica that is not wanted
            self.most = max(self.most, len(self.engine.running))
            return bool(condition())

        await super().until(turned)

    async def surviving(self, step: Callable[[], Awaitable[None]]) -> None:
        """Takes a step, again where its controller dies meanwhile, as clients do."""
        while True:
            with suppress(Killed):
                await step()
                return
            await self.start()

    def endpoints(self) -> list[str]:
        """What a watcher that comes now is told of the replicas."""
        with self.publisher.watching("proxy") as watcher:
            update = self.publisher._take(watcher)
        return [each.replica_id for found in update.deployments for each in found.endpoints]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    await world.start()
    try:
        yield world
    finally:
        await world.stop()


async def run(world: World, version: str = "v1", count: int = 2) -> None:
    generation = world.deploy(version, count)
    await world.until(
        lambda: world.status().status == "RUNNING" and world.status().generation == generation
    )
    ours = [process.replica.deployment.version for process in world.engine.running]
    await world.until(lambda: len(world.engine.running) == count)
    assert version in ours


async def test_next_controller_adopts_what_runs_before_it_publishes(world: World) -> None:
    await run(world)
    before = world.endpoints()
    await world.start()

    assert world.endpoints() == before != []
    assert world.status().status in ("DEPLOYING", "RUNNING")
    await world.until(lambda: world.status().status == "RUNNING")
    assert len(world.engine.started) == 2


async def test_epochs_rise(world: World) -> None:
    epochs = []
    for _ in range(3):
        epochs.append(world.publisher.epoch)
        await world.start()

    assert epochs == sorted(set(epochs))


async def test_replica_that_ended_meanwhile_is_replaced(world: World) -> None:
    await run(world)
    await world.stop()
    world.engine.running[0].exit(-9)
    await world.start()

    assert len(world.endpoints()) == 1
    await world.until(lambda: len(world.endpoints()) == 2)


async def test_version_that_was_given_up_is_not_tried_again(world: World) -> None:
    await run(world, count=1)
    world.deploy("v2")
    for _ in range(3):
        await Plane.until(world, lambda: len(world.engine.running) == 2)
        world.reconciler.events.report(
            world.engine.running[-1].replica.replica_id, "ValueError: no"
        )
        world.engine.running[-1].exit(1)
    await world.until(lambda: world.status().status == "UPDATE_FAILED")
    await world.until(lambda: world.store.load().applications[0].versions[-1].errors)
    started = len(world.engine.started)
    await world.start()
    await asyncio.sleep(0)

    assert world.status().status == "UPDATE_FAILED"
    assert "ValueError: no" in world.status().message
    assert len(world.engine.started) == started
    assert len(world.endpoints()) == 1


async def test_record_that_does_not_load_fails_its_application_alone(world: World) -> None:
    await run(world, count=1)
    world.deploy("v1", 1, name="other", prefix="/other")
    await world.until(lambda: world.status("other").status == "RUNNING")
    load = world.store.load

    def broken() -> object:
        found = load()
        app, other = found.applications
        damaged = LoadedApplication(app.record, (), "version 1 cannot be read")
        return type(found)((damaged, other), found.replicas)

    world.store.load = broken  # type: ignore[assignment,method-assign]
    await world.start()

    assert world.status().status == "DEPLOY_FAILED"
    assert "version 1 cannot be read" in world.status().message
    await world.until(lambda: world.status("other").status == "RUNNING")
    await world.until(lambda: len(world.engine.running) == 1)
    world.deploy("v2")
    await world.until(lambda: world.status().status == "RUNNING")


async def test_replica_of_an_application_that_is_gone_is_ended(world: World) -> None:
    await run(world, count=1)
    world.store.applications.clear()
    world.store.versions.clear()
    await world.start()

    await world.until(lambda: not world.engine.running)
    await world.until(lambda: "app" not in world.reconciler.statuses)


async def test_decision_that_cannot_be_kept_is_not_taken_and_told(world: World) -> None:
    await run(world, count=1)
    commit = world.store.commit

    def full(changes: Changes) -> None:
        raise StoreError("store.sqlite cannot be written: the disk is full")

    world.store.commit = full  # type: ignore[method-assign]
    with pytest.raises(StoreError):
        world.deploy("v2")
    world.engine.running[0].exit(-9)
    await world.until(lambda: "the disk is full" in world.status().message)
    assert len(world.engine.started) == 1

    world.store.commit = commit  # type: ignore[method-assign]
    await world.until(lambda: world.status().status == "RUNNING")
    assert [process.replica.deployment.version for process in world.engine.running] == ["v1"]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("commits", range(1, 16))
async def test_controller_killed_at_any_commit_loses_nothing(
    world: World, commits: int, after: bool
) -> None:
    """Deploy, update and delete, each repeated by its client until it is done."""
    world.store.lives, world.store.after = commits, after

    await world.surviving(lambda: run(world, "v1"))
    await world.surviving(lambda: run(world, "v2", 1))
    versions = [process.replica.deployment.version for process in world.engine.running]
    assert versions == ["v2"]

    async def delete() -> None:
        world.reconciler.targets.delete("app")
        await world.until(lambda: "app" not in world.reconciler.statuses)

    await world.surviving(delete)
    await world.until(lambda: not world.engine.running)
    await world.until(lambda: not world.store.load().applications)
    assert not world.store.load().replicas
    assert world.most <= 3  # two, and beside them the one of the update


async def test_next_controller_goes_on_with_as_many_replicas_as_the_load_led_to(
    world: World,
) -> None:
    world.deploy(count=1, autoscaling='{"max_replicas": 9, "upscale_delay_s": 0}')
    await world.until(lambda: world.status().status == "RUNNING")
    load = pb.Load(application="app", deployment="D", queued=6)
    world.reconciler.scaling.hear("proxy", [load])
    await world.until(lambda: len(world.endpoints()) == 3)

    await world.start()

    assert len(world.endpoints()) == 3
    assert world.status().deployments[0].target_num_replicas == 3


async def test_applications_come_back_unless_the_cluster_was_to_forget_them(world: World) -> None:
    await world.start()
    world.deploy()
    await world.until(lambda: world.status().status == "RUNNING")

    await world.reconciler.shut_down()
    assert not world.engine.running
    assert not world.store.load().replicas
    await world.start()
    await world.until(lambda: world.status().status == "RUNNING")
    assert world.status().generation == 1

    world.reconciler.targets.forget_all()
    assert world.status().status == "RUNNING"
    await world.reconciler.shut_down()
    assert not world.store.load().applications


async def test_cluster_that_is_killed_once_it_was_to_forget_its_applications_deletes_them(
    world: World,
) -> None:
    await world.start()
    world.deploy()
    await world.until(lambda: world.status().status == "RUNNING")
    world.reconciler.targets.forget_all()

    await world.start()
    await world.until(lambda: not world.reconciler.statuses and not world.engine.running)
    assert not world.store.load().applications


async def test_application_is_deleted_while_the_cluster_ends(world: World) -> None:
    await world.start()
    world.deploy()
    await world.until(lambda: world.status().status == "RUNNING")

    ending = asyncio.create_task(world.reconciler.shut_down())
    await asyncio.sleep(0)
    assert world.reconciler.targets.delete("app")
    assert not world.reconciler.targets.delete("app")
    await ending
    assert not world.store.load().applications


async def test_decisions_and_failures_are_known_to_the_next_controller(world: World) -> None:
    world.deploy(count=1, autoscaling='{"max_replicas": 9, "upscale_delay_s": 0}')
    await world.until(lambda: world.status().status == "RUNNING")
    world.reconciler.scaling.hear("proxy", [pb.Load(application="app", deployment="D", queued=6)])
    await world.until(lambda: len(world.endpoints()) == 3)
    world.engine.running[0].exit(-9)
    await world.until(lambda: world.status().deployments[0].last_failures)
    await world.until(lambda: len(world.endpoints()) == 3)
    (before,) = world.status().deployments

    await world.start()

    (after,) = world.status().deployments
    assert after.decisions == before.decisions
    assert after.last_failures == before.last_failures
    kinds = [each.text.split(":")[0] for each in after.decisions]
    assert kinds == [
        "start 1 replica of version v1",
        "scale from 1 to 3",
        "start 2 replicas of version v1",
        "start 1 replica of version v1",
    ]
    assert "signal 9" in after.last_failures[0].error


async def test_number_that_was_decided_is_kept_though_none_was_started(world: World) -> None:
    world.deploy(count=1, autoscaling='{"max_replicas": 9, "upscale_delay_s": 0}')
    await world.until(lambda: world.status().status == "RUNNING")
    await world.until(lambda: len(world.endpoints()) == 1)
    world.store.lives, world.store.after = 1, True
    world.reconciler.scaling.hear("proxy", [pb.Load(application="app", deployment="D", queued=6)])
    with pytest.raises(Killed):
        await world.until(lambda: False)
    assert len(world.engine.started) == 1

    await world.start()

    await world.until(lambda: len(world.endpoints()) == 3)
    texts = [each.text for each in world.status().deployments[0].decisions]
    assert sum(text.startswith("scale from 1 to 3") for text in texts) == 1


async def test_deployment_that_is_dropped_leaves_nothing_in_the_store(world: World) -> None:
    await run(world, count=1)
    other = spec("v1")
    other.deployments.add(name="E", version="v1", options=other.deployments[0].options)
    world.reconciler.targets.deploy(other)
    await world.until(lambda: {key[1] for key in world.store.deployments} == {"D", "E"})
    await world.until(lambda: world.status().status == "RUNNING")

    await run(world, "v2", count=1)

    await world.until(lambda: {key[1] for key in world.store.deployments} == {"D"})
