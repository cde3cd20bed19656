"""Applications that are deployed together, and may exchange their route prefixes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serving.controller.store import Changes, StoreError
from serving.controller.targets import ConflictError
from serving.v1 import controller_pb2 as pb
from tests.support.plane import Plane, spec


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    async with Plane(tmp_path).running() as plane:
        yield plane


def app(name: str, prefix: str, version: str) -> pb.ApplicationSpec:
    return spec(version, name=name, prefix=prefix)


async def run(plane: Plane, *specs: pb.ApplicationSpec, alone: bool = True) -> None:
    """Deploys these and waits until they run."""
    plane.reconciler.targets.deploy(*specs, alone=alone)
    for each in specs:
        await plane.ready(each.deployments[0].version)
    await plane.until(lambda: runs(plane, *(each.name for each in specs)))


def runs(plane: Plane, *names: str) -> bool:
    return all(plane.status(name).status == "RUNNING" for name in names)


class Proxy:
    """Confirms each update, and remembers the routes that it was told."""

    def __init__(self, plane: Plane) -> None:
        self.seen: list[dict[str, str]] = []
        self._plane = plane

    async def watch(self) -> None:
        with self._plane.publisher.watching("proxy-0") as watcher:
            async for update in self._plane.publisher.updates(watcher):
                if update.routes_changed:
                    told = [(each.route_prefix, each.application) for each in update.routes]
                    assert len({prefix for prefix, _ in told}) == len(told)
                    self.seen.append(dict(told))
                self._plane.publisher.confirm(watcher, update.revision)


@pytest.fixture
async def proxy(plane: Plane) -> AsyncIterator[Proxy]:
    proxy = Proxy(plane)
    watching = asyncio.create_task(proxy.watch())
    yield proxy
    if watching.done():
        watching.result()
    watching.cancel()


async def test_exchanged_prefixes_change_in_one_update_once_both_are_ready(
    plane: Plane, proxy: Proxy
) -> None:
    await run(plane, app("a", "/a", "a1"), app("b", "/b", "b1"))
    before = {"/a": "a", "/b": "b"}
    await plane.until(lambda: proxy.seen[-1:] == [before])
    proxy.seen.clear()

    plane.reconciler.targets.deploy(app("a", "/b", "a2"), app("b", "/a", "b2"), alone=True)
    await plane.ready("a2")
    await plane.until(lambda: "waits for its route prefix" in plane.status("a").message)

    assert plane.status("a").status == "DEPLOYING"
    assert proxy.seen == []
    await plane.ready("b2")
    await plane.until(lambda: runs(plane, "a", "b"))
    assert [plane.status(name).message for name in "ab"] == ["", ""]
    assert proxy.seen == [{"/b": "a", "/a": "b"}]


async def test_new_application_takes_a_prefix_once_its_owner_has_moved_on(
    plane: Plane, proxy: Proxy
) -> None:
    await run(plane, app("a", "/a", "a1"))
    await plane.until(lambda: proxy.seen[-1:] == [{"/a": "a"}])

    plane.reconciler.targets.deploy(app("a", "/c", "a2"), app("new", "/a", "n1"))
    await plane.ready("n1")
    await plane.until(lambda: "waits for its route prefix" in plane.status("new").message)
    assert proxy.seen[-1] == {"/a": "a"}

    await plane.ready("a2")
    await plane.until(lambda: plane.status("new").status == "RUNNING")
    assert proxy.seen[-1] == {"/c": "a", "/a": "new"}


async def test_who_waits_for_a_prefix_is_told_when_its_owner_could_not_move(
    plane: Plane,
) -> None:
    await run(plane, app("a", "/a", "a1"), app("b", "/b", "b1"))

    plane.reconciler.targets.deploy(app("b", "/a", "b2"), app("a", "/b", "a2"), alone=True)
    await plane.ready("b2")
    for _ in range(3):
        await plane.until(
            lambda: [p for p in plane.engine.running if p.replica.deployment.version == "a2"]
        )
        (process,) = (p for p in plane.engine.running if p.replica.deployment.version == "a2")
        plane.reconciler.events.report(process.replica.replica_id, "ValueError: no model")
        process.exit(1)
    await plane.until(lambda: plane.status("b").status == "UPDATE_FAILED")

    assert plane.status("a").status == "UPDATE_FAILED"
    assert plane.status("b").message == (
        "waits for its route prefix, which application 'a' serves on: its update failed"
    )


async def test_applications_without_a_prefix_are_told_by_name_and_wait_for_nobody(
    plane: Plane,
) -> None:
    await run(plane, app("a", "/a", "a1"), app("b", "", "b1"), app("c", "", "c1"))
    assert told(plane) == {"a": "/a", "b": "", "c": ""}

    plane.reconciler.targets.deploy(app("a", "", "a2"), app("b", "/a", "b2"), app("c", "/c", "c2"))
    await plane.ready("c2")
    await plane.until(lambda: runs(plane, "c"))
    await plane.ready("b2")
    await plane.until(lambda: "waits for its route prefix" in plane.status("b").message)
    assert told(plane) == {"a": "/a", "b": "", "c": "/c"}
    await plane.ready("a2")
    await plane.until(lambda: runs(plane, "a", "b"))
    assert told(plane) == {"a": "", "b": "/a", "c": "/c"}

    plane.reconciler.targets.delete("a")
    await plane.until(lambda: set(plane.reconciler.statuses) == {"b", "c"})
    assert told(plane) == {"b": "/a", "c": "/c"}


def told(plane: Plane) -> dict[str, str]:
    """The prefixes of applications, as one is told who begins to watch."""
    with plane.publisher.watching("another") as watcher:
        update = plane.publisher._take(watcher)
    assert {each.ingress for each in update.routes} == {"D"}
    return {each.application: each.route_prefix for each in update.routes}


async def test_deploy_alone_deletes_what_is_not_named(plane: Plane) -> None:
    await run(plane, app("a", "/a", "a1"), app("b", "/b", "b1"))

    await run(plane, app("c", "/b", "c1"))

    await plane.until(lambda: set(plane.reconciler.statuses) == {"c"})
    await plane.until(lambda: set(plane.store.applications) == {"c"})


@pytest.mark.parametrize("prefixes", [("/a", "/a"), ("/new", "/kept")])
async def test_one_refused_application_refuses_all(plane: Plane, prefixes: tuple[str, str]) -> None:
    await run(plane, app("kept", "/kept", "k1"))
    before = dict(plane.store.applications)

    with pytest.raises(ConflictError, match="cannot have the route prefix"):
        plane.reconciler.targets.deploy(
            app("one", prefixes[0], "v1"), app("two", prefixes[1], "v2")
        )

    assert plane.store.applications == before
    assert set(plane.reconciler.statuses) == {"kept"}


async def test_store_that_fails_refuses_all_of_a_deploy(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run(plane, app("a", "/a", "a1"))

    def refuse(changes: Changes) -> None:
        raise StoreError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(plane.store, "commit", refuse)
        with pytest.raises(StoreError):
            plane.reconciler.targets.deploy(app("b", "/b", "b1"), alone=True)

    assert plane.status("a").status == "RUNNING"
    assert set(plane.reconciler.statuses) == {"a"}
