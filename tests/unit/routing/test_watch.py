"""The directory: what it makes of the controller's updates."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from serving.routing.router import Unavailable
from serving.routing.watch import Directory
from serving.v1.controller_pb2 import DeploymentKey, Route, WatchUpdate
from tests.support.mux import TAG
from tests.support.routing import make_deployment


@pytest.fixture
async def directory() -> AsyncIterator[Directory]:
    directory = Directory()
    yield directory
    await directory.aclose()


def route(application: str, prefix: str) -> Route:
    return Route(application=application, route_prefix=prefix, ingress="Model")


def snapshot(*applications: str) -> WatchUpdate:
    """Applications "x" at "/x", each of a deployment with no replica yet."""
    return WatchUpdate(
        snapshot=True,
        routes=[route(name, f"/{name}") for name in applications],
        deployments=[make_deployment(application=name) for name in applications],
    )


def matches(directory: Directory, *paths: str) -> list[str | None]:
    found = [directory.routes.match(path) for path in paths]
    return [route.application if route else None for route in found]


async def test_nothing_is_known_before_the_first_update(directory: Directory) -> None:
    assert matches(directory, "/") == [None]
    assert directory.router("a", "Model") is None
    assert directory.is_empty


async def test_snapshot_is_all_there_is(directory: Directory) -> None:
    directory.apply(snapshot("a", "b"))
    assert not directory.is_empty
    kept = directory.router("a", "Model")
    gone = directory.router("b", "Model")
    assert gone is not None
    directory.apply(snapshot("a", "c"))

    assert matches(directory, "/a", "/b", "/c") == ["a", None, "c"]
    assert directory.router("a", "Model") is kept
    assert directory.router("b", "Model") is None
    assert directory.router("c", "Model") is not None
    await directory.aclose()
    with pytest.raises(Unavailable):
        await gone.start(TAG, b"", end=True)


async def test_delta_changes_what_it_names(directory: Directory) -> None:
    directory.apply(snapshot("a", "b"))
    router = directory.router("a", "Model")
    assert router is not None
    directory.apply(WatchUpdate(deployments=[make_deployment(application="a", max_queued=7)]))

    assert router.share.limit == 7
    assert directory.router("a", "Model") is router
    assert matches(directory, "/a", "/b") == ["a", "b"]
    assert directory.router("b", "Model") is not None


async def test_delta_replaces_the_routes_whole_where_one_changed(directory: Directory) -> None:
    directory.apply(snapshot("a", "b"))
    directory.apply(WatchUpdate(routes_changed=True, routes=[route("a", "/new")]))
    assert matches(directory, "/a", "/b", "/new") == [None, None, "a"]
    directory.apply(WatchUpdate(routes_changed=True))
    assert matches(directory, "/new") == [None]


async def test_removed_deployment_is_unavailable(directory: Directory) -> None:
    directory.apply(snapshot("a", "b"))
    router = directory.router("a", "Model")
    assert router is not None
    directory.apply(WatchUpdate(removed=[DeploymentKey(application="a", name="Model")]))
    assert directory.router("a", "Model") is None
    assert directory.router("b", "Model") is not None
    await directory._closing.join()
    with pytest.raises(Unavailable):
        await router.start(TAG, b"", end=True)


async def test_removal_of_what_is_not_known_is_harmless(directory: Directory) -> None:
    directory.apply(WatchUpdate(removed=[DeploymentKey(application="a", name="Model")]))


async def test_deployment_that_comes_back_has_a_new_router(directory: Directory) -> None:
    directory.apply(snapshot("a"))
    before = directory.router("a", "Model")
    directory.apply(
        WatchUpdate(
            removed=[DeploymentKey(application="a", name="Model")],
            deployments=[make_deployment(application="a")],
        )
    )
    after = directory.router("a", "Model")
    assert after is not None
    assert after is not before


@pytest.mark.parametrize("connect", [False, True], ids=["on demand", "at once"])
async def test_routers_of_ingresses_are_made_before_the_first_request(connect: bool) -> None:
    directory = Directory(connects=lambda route: connect)
    directory.apply(snapshot("a", "b"))
    assert len(directory._routers) == (2 if connect else 0)
    await directory.aclose()
    assert directory._routers == {}
