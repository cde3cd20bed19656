"""Which application a path belongs to: the longest prefix of whole segments wins."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Route:
    """An application that answers HTTP below ``prefix``."""

    prefix: str
    application: str
    ingress: str


class RouteTable:
    """An immutable set of routes; replaced whole when one of them changes."""

    def __init__(self, routes: Iterable[Route] = ()) -> None:
        self.routes = tuple(sorted(routes, key=lambda route: -len(route.prefix)))
        self._nested = [
            (route.prefix, f"{route.prefix}/", route)
            for route in self.routes
            if route.prefix not in ("", "/")
        ]
        self._root = next((route for route in self.routes if route.prefix == "/"), None)

    def __repr__(self) -> str:
        return f"<RouteTable {[route.prefix for route in self.routes]}>"

    def match(self, path: str) -> Route | None:
        """The route of ``path`` (unquoted, without ``root_path``), or None."""
        for prefix, below, route in self._nested:
            if path.startswith(below) or path == prefix:
                return route
        return self._root
