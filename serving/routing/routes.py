"""Which application a request is for: by its path, where the longest prefix of whole segments wins,
or by the application's name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Route:
    """The way into an application."""

    prefix: str
    """It answers HTTP below this one. Empty: it answers none."""
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
        self._named = {route.application: route for route in self.routes}

    def __repr__(self) -> str:
        return f"<RouteTable {[route.prefix for route in self.routes]}>"

    @property
    def applications(self) -> list[str]:
        """The names of those there are."""
        return sorted(self._named)

    def match(self, path: str) -> Route | None:
        """The route of ``path`` (unquoted, without ``root_path``), or None."""
        for prefix, below, route in self._nested:
            if path.startswith(below) or path == prefix:
                return route
        return self._root

    def named(self, application: str) -> Route | None:
        """The route of an application, or None; without a name, that of the only one there is."""
        if not application and len(self.routes) == 1:
            return self.routes[0]
        return self._named.get(application)
