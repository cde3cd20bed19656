"""FastAPI's and Starlette's objects: routes travel as what their constructors were given.

The rest of an app travels by its attributes, without what is made again at the first request.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Any

from serving.code.loading import when_loaded
from serving.code.steady import steady
from serving.ingress import reconstruct


def is_request(obj: object) -> bool:
    """Whether it is a request or a WebSocket, which stays where its client is connected."""
    requests = sys.modules.get("starlette.requests")
    return requests is not None and isinstance(obj, requests.HTTPConnection)


def reduce(obj: Any, providers: dict[int, object]) -> tuple[Any, ...] | None:
    """How to pickle `obj`; None where it is none of those objects.

    `providers` remembers, for the routes of routers met on the way, the routers'
    `dependency_overrides_provider`.
    """
    starlette = sys.modules.get("starlette.applications")
    if starlette is None:
        return None
    routing = sys.modules["starlette.routing"]
    if isinstance(obj, routing.Route | routing.WebSocketRoute):
        return _new, (type(obj),), _route_state(obj, providers.get(id(obj))), None, None, _set_route
    if hasattr(obj, "original_router") and hasattr(obj, "include_context"):
        state = {name: getattr(obj, name) for name in ("original_router", "include_context")}
        return _new, (type(obj),), state, None, None, _construct
    if isinstance(obj, starlette.Starlette | starlette.State | routing.Router | routing.BaseRoute):
        return _new, (type(obj),), _state(obj, providers), None, None, _update
    return None


def _state(obj: Any, providers: dict[int, object]) -> dict[str, Any]:
    state = steady(vars(obj))
    if "user_middleware" in state:  # an application
        state["middleware_stack"] = None
    if "dependency_overrides_provider" in state:  # a router
        for route in obj.routes:
            providers[id(route)] = obj.dependency_overrides_provider
    return state


def _route_state(route: Any, provider: object) -> tuple[dict[str, Any], dict[str, Any], Any]:
    given = reconstruct.arguments(route, provider)
    made = _made_by_constructor(reconstruct.fastapi_class(route))
    attributes = {name: value for name, value in vars(route).items() if name not in made}
    wrapped = route.app if hasattr(route.app, "app") else None
    return steady(given), steady(attributes), wrapped


def _set_route(route: Any, state: tuple[dict[str, Any], dict[str, Any], Any]) -> None:
    given, attributes, wrapped = state
    vars(route).update(attributes)
    when_loaded(reconstruct.construct, route, given, wrapped)


@lru_cache
def _made_by_constructor(route_class: Any | None) -> frozenset[str]:
    if route_class is None:
        return frozenset({"app"})
    return frozenset(vars(route_class("/", _nothing)))


async def _nothing() -> None:
    """An endpoint for a route that is made to be looked at."""


def _new(cls: Any) -> Any:
    return cls.__new__(cls)


def _update(obj: Any, state: dict[str, Any]) -> None:
    vars(obj).update(state)


def _construct(obj: Any, state: dict[str, Any]) -> None:
    obj.__init__(**state)
