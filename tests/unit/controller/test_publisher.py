"""What watchers are told, and what they confirm."""

from __future__ import annotations

import asyncio
import logging

import pytest

from serving.controller.publisher import Publisher, Watcher
from serving.v1 import controller_pb2 as pb


def route(prefix: str) -> pb.Route:
    return pb.Route(application="app", route_prefix=prefix, ingress="A")


def deployment(name: str, *addresses: str) -> pb.Deployment:
    endpoints = [pb.Endpoint(replica_id=a, address=a) for a in addresses]
    return pb.Deployment(application="app", name=name, endpoints=endpoints)


async def next_update(publisher: Publisher, watcher: Watcher) -> pb.WatchUpdate:
    async with asyncio.timeout(1):
        return await anext(publisher.updates(watcher))


async def test_first_update_is_a_snapshot_even_of_nothing() -> None:
    publisher = Publisher(1)
    with publisher.watching("proxy") as watcher:
        update = await next_update(publisher, watcher)

    assert update.snapshot
    assert update.epoch == publisher.epoch
    assert not update.routes
    assert not update.deployments


async def test_later_updates_hold_what_changed_alone() -> None:
    publisher = Publisher(1)
    same, old, new = deployment("same", "s"), deployment("A", "a1"), deployment("A", "a2")
    publisher.publish("app", route("/"), {"same": same, "A": old})
    with publisher.watching("proxy") as watcher:
        snapshot = await next_update(publisher, watcher)
        publisher.publish("app", route("/"), {"same": same, "A": new})
        update = await next_update(publisher, watcher)

    assert list(snapshot.deployments) == [same, old]
    assert list(update.deployments) == [new]
    assert update.revision == snapshot.revision + 1
    assert not update.snapshot
    assert not update.routes_changed


async def test_removed_deployment_and_route_are_told() -> None:
    publisher = Publisher(1)
    publisher.publish("app", route("/"), {"A": deployment("A", "a")})
    publisher.publish("other", route("/other"), {})
    with publisher.watching("proxy") as watcher:
        await next_update(publisher, watcher)
        publisher.publish("app", None, {})
        update = await next_update(publisher, watcher)

    assert [(key.application, key.name) for key in update.removed] == [("app", "A")]
    assert update.routes_changed
    assert [r.route_prefix for r in update.routes] == ["/other"]


async def test_slow_watcher_gets_all_it_missed_in_one_update() -> None:
    publisher = Publisher(1)
    with publisher.watching("proxy") as watcher:
        await next_update(publisher, watcher)
        for index in range(1000):
            publisher.publish("app", route("/"), {"A": deployment("A", f"a{index}")})
        assert len(watcher.due) == 1
        update = await next_update(publisher, watcher)
        assert not watcher.wake.is_set()

    assert update.revision == 1000
    assert [d.endpoints[0].address for d in update.deployments] == ["a999"]


async def test_publishing_the_same_tells_nobody() -> None:
    publisher = Publisher(1)
    with publisher.watching("proxy") as watcher:
        first = publisher.publish("app", route("/"), {"A": deployment("A", "a")})
        await next_update(publisher, watcher)
        second = publisher.publish("app", route("/"), {"A": deployment("A", "a")})

    assert first == second
    assert not watcher.wake.is_set()


async def test_confirmed_waits_for_every_watcher() -> None:
    publisher = Publisher(1)
    with publisher.watching("proxy-0") as one, publisher.watching("proxy-1") as two:
        revision = publisher.publish("app", route("/"), {})
        waiting = asyncio.create_task(publisher.confirmed(revision))
        publisher.confirm(one, revision)
        await asyncio.sleep(0)
        assert not waiting.done()
        publisher.confirm(two, revision)
        await waiting

        assert publisher.in_sync == {"proxy-0", "proxy-1"}
    await publisher.confirmed(revision)


async def test_confirmed_does_not_wait_for_a_watcher_that_left() -> None:
    publisher = Publisher(1)
    with publisher.watching("proxy"):
        waiting = asyncio.create_task(publisher.confirmed(0))
        await asyncio.sleep(0)
        assert not waiting.done()
    await waiting


async def test_watcher_that_never_confirms_is_named_and_waited_for_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    publisher = Publisher(1)
    with publisher.watching("driver-7") as watcher:
        revision = publisher.publish("app", route("/"), {})
        with caplog.at_level(logging.WARNING):
            await publisher.confirmed(revision, timeout_s=0.01)
        await asyncio.wait_for(publisher.confirmed(revision, timeout_s=60), 1)
        publisher.confirm(watcher, revision)
        assert not watcher.lagging

    assert "driver-7 did not confirm" in caplog.text


async def test_confirmation_of_the_future_counts_for_now_alone() -> None:
    publisher = Publisher(1)
    with publisher.watching("proxy") as watcher:
        publisher.confirm(watcher, 99)
        publisher.publish("app", route("/"), {})

        assert watcher.confirmed == 0
