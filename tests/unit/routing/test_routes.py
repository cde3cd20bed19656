from __future__ import annotations

import pytest

from serving.routing.routes import Route, RouteTable


def make_table(*prefixes: str) -> RouteTable:
    return RouteTable(Route(prefix, f"app {prefix}", "Ingress") for prefix in prefixes)


@pytest.mark.parametrize(
    ("prefixes", "path", "expected"),
    [
        ([], "/", None),
        (["/"], "/", "/"),
        (["/"], "/any/path", "/"),
        (["/"], "", "/"),
        (["/a"], "/", None),
        (["/a"], "/a", "/a"),
        (["/a"], "/a/", "/a"),
        (["/a"], "/a/b", "/a"),
        (["/a"], "/ab", None),
        (["/a"], "/A", None),
        (["/a"], "/b/a", None),
        (["/a"], "//a", None),
        (["/", "/a"], "/ab", "/"),
        (["/", "/a"], "/a/b", "/a"),
        (["/a", "/a/b"], "/a/b", "/a/b"),
        (["/a", "/a/b"], "/a/b/c", "/a/b"),
        (["/a", "/a/b"], "/a/bc", "/a"),
        (["/a/b", "/a"], "/a/b/c", "/a/b"),
        (["/a/b"], "/a", None),
        (["/long-name", "/l"], "/l/ong-name", "/l"),
        (["/ä b"], "/ä b/c", "/ä b"),
    ],
)
def test_longest_prefix_of_whole_segments_wins(
    prefixes: list[str], path: str, expected: str | None
) -> None:
    route = make_table(*prefixes).match(path)
    assert (route.prefix if route else None) == expected


def test_routes_are_listed_longest_first() -> None:
    table = make_table("/", "/a/b", "/a")
    assert [route.prefix for route in table.routes] == ["/a/b", "/a", "/"]
    assert repr(table) == "<RouteTable ['/a/b', '/a', '/']>"


def test_application_without_a_prefix_is_found_by_name_only() -> None:
    hidden = Route("", "hidden", "Ingress")
    table = RouteTable([hidden, Route("/a", "a", "Ingress")])
    assert table.match("/") is None
    assert table.match("/hidden") is None
    assert table.named("hidden") is hidden
    assert table.applications == ["a", "hidden"]


@pytest.mark.parametrize(
    ("applications", "name", "expected"),
    [
        ([], "", None),
        ([], "a", None),
        (["a"], "", "a"),
        (["a"], "a", "a"),
        (["a"], "b", None),
        (["a", "b"], "", None),
        (["a", "b"], "b", "b"),
    ],
)
def test_no_name_means_the_only_application(
    applications: list[str], name: str, expected: str | None
) -> None:
    route = RouteTable(Route(f"/{each}", each, "Ingress") for each in applications).named(name)
    assert (route.application if route else None) == expected
