"""Which application answers which path."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

import serving
from serving.exceptions import ApplicationConflictError
from tests.integration.apps.routes import Tells
from tests.support.cluster import Cluster

NESTED = ["/a", "/a/b", "/ab", "/ünïcode"]


@pytest.fixture(scope="module")
def nested(cluster: Cluster) -> Iterator[Cluster]:
    """Applications below one another, and none at the root."""
    with ExitStack() as stack:
        for prefix in NESTED:
            stack.enter_context(cluster.running(Tells.bind(prefix), prefix))
        yield cluster


@pytest.mark.parametrize(
    ("path", "prefix"),
    [
        ("/a", "/a"),
        ("/a/", "/a"),
        ("/a?b", "/a"),
        ("/a/x", "/a"),
        ("/a/bx", "/a"),
        ("/a/b", "/a/b"),
        ("/a/b/x/y", "/a/b"),
        ("/a//b", "/a"),
        ("/ab/a/b", "/ab"),
        ("/%61/b", "/a/b"),
        ("/a%2Fb", "/a/b"),
        ("/%C3%BCn%C3%AFcode/x", "/ünïcode"),
    ],
)
def test_longest_prefix_of_whole_segments_wins(nested: Cluster, path: str, prefix: str) -> None:
    told = nested.get(path).json()

    assert (told["name"], told["root_path"]) == (prefix, prefix)


@pytest.mark.parametrize("path", ["/", "/abc", "/b", "/b/a", "/A", "/%20/a"])
def test_path_outside_all_prefixes_is_not_found(nested: Cluster, path: str) -> None:
    response = nested.get(path)

    assert (response.status_code, response.text) == (404, "Not Found")
    assert response.headers["content-type"] == "text/plain; charset=utf-8"


def test_path_is_whole_and_root_path_the_prefix(nested: Cluster) -> None:
    told = nested.get("/a/b/c%20d").json()

    assert told == {
        "name": "/a/b",
        "path": "/a/b/c d",
        "root_path": "/a/b",
        "raw_path": "/a/b/c%20d",
        "base_url": nested.url("/a/b/"),
    }


def test_root_answers_what_no_other_prefix_does(nested: Cluster) -> None:
    with nested.running(Tells.bind("root")):
        assert nested.get("/anything").json()["name"] == "root"
        assert nested.get("/").json()["root_path"] == ""
        assert nested.get("/a/x").json()["name"] == "/a"

    assert nested.get("/anything").status_code == 404


def test_routes_are_listed(nested: Cluster) -> None:
    listed = nested.get("/-/routes")

    assert listed.headers["content-type"] == "application/json"
    assert listed.json() == {"/a": "a", "/a/b": "a-b", "/ab": "ab", "/ünïcode": "ünïcode"}


def test_same_prefix_twice_is_an_error_that_names_both(nested: Cluster) -> None:
    with pytest.raises(ApplicationConflictError, match="'/a'.*'a'") as caught:
        serving.run(Tells.bind("other"), name="other", route_prefix="/a")

    assert isinstance(caught.value, ValueError)
    assert "other" not in serving.status().applications
    assert nested.get("/a").json()["name"] == "/a"


def test_no_prefix_serves_no_http(cluster: Cluster) -> None:
    serving.run(Tells.bind("silent"), name="silent", route_prefix=None)
    try:
        status = serving.status().applications["silent"]

        assert (status.status, status.route_prefix) == ("RUNNING", None)
        assert "silent" not in cluster.get("/-/routes").text
        assert cluster.get("/silent").status_code == 404
    finally:
        serving.delete("silent")


@pytest.mark.parametrize("prefix", ["", "a", "/a/", "a/", "//", "/{x}", "/a b/{c}", 7, b"/a"])
def test_wrong_prefix_is_an_error_that_names_it(cluster: Cluster, prefix: str) -> None:
    with pytest.raises((TypeError, ValueError), match="route_prefix") as caught:
        serving.run(Tells.bind("wrong"), name="wrong", route_prefix=prefix)

    assert repr(prefix) in str(caught.value)
    assert "wrong" not in serving.status().applications


def test_prefix_can_move(cluster: Cluster) -> None:
    serving.run(Tells.bind("moves"), name="moves", route_prefix="/before")
    serving.run(Tells.bind("moves"), name="moves", route_prefix="/after")
    try:
        assert cluster.get("/before").status_code == 404
        assert cluster.get("/after").json()["root_path"] == "/after"
    finally:
        serving.delete("moves")
