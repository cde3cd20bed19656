"""Making a route anew in place, from what its constructor was given, with another endpoint.

In place, since routers, include contexts and the user may hold the route. Everything that a
constructor is given is found again under the same public name, and what a route keeps besides
follows from it.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any

from starlette.routing import Route, WebSocketRoute


def fastapi_class(route: object) -> Any | None:
    """FastAPI's own class of the route, which may be a subclass of it; None for Starlette's."""
    routing = sys.modules.get("fastapi.routing")
    if routing is not None:
        for route_class in (routing.APIRoute, routing.APIWebSocketRoute):
            if isinstance(route, route_class):
                return route_class
    return None


def arguments(route: Any, provider: object) -> dict[str, Any]:
    """What the route's constructor is to be given to make the same route, without its middlewares.

    `provider` is the `dependency_overrides_provider` of the router that the route is in.
    """
    route_class = fastapi_class(route)
    if route_class is None:
        return {"path": route.path or "/", "endpoint": route.endpoint}
    parameters = inspect.signature(route_class.__init__).parameters
    given = {name: getattr(route, name) for name in parameters if hasattr(route, name)}
    if getattr(route, "stream_item_type", None) is not None:
        del given["response_model"]  # it was inferred, and only then are items typed
    if "dependency_overrides_provider" in parameters:  # WebSocket routes do not keep theirs
        given.setdefault("dependency_overrides_provider", provider)
    return given


def construct(route: Any, given: dict[str, Any], wrapped: Any) -> None:
    """Makes the route anew, beneath the middlewares of `wrapped`, its old `app`, if it had any.

    FastAPI's own constructor runs, not a subclass's, which may not take what it was once given.
    Raises TypeError where the route's `app` is wrapped in what cannot be seen through.
    """
    route_class = fastapi_class(route)
    if route_class is not None:
        route_class.__init__(route, **given)
    else:
        kind = WebSocketRoute if isinstance(route, WebSocketRoute) else Route
        route.endpoint = given["endpoint"]
        route.app = kind(given["path"], given["endpoint"]).app
    if wrapped is not None:
        _keep_wrappers(route, wrapped)


def _keep_wrappers(route: Any, wrapped: Any) -> None:
    fresh, (old, holder) = _innermost(route.app)[0], _innermost(wrapped)
    if getattr(old, "__code__", None) != getattr(fresh, "__code__", None):
        raise TypeError(
            f"{route!r} wraps its 'app' in {old!r}, which keeps it out of sight, so that no other "
            "endpoint can be put beneath it: make that a class with what it wraps in 'self.app'"
        )
    if holder is not None:
        holder.app = fresh
        route.app = wrapped


def _innermost(app: Any) -> tuple[Any, Any | None]:
    """The app beneath all middlewares, and the middleware around it if there is one."""
    holder = None
    while hasattr(app, "app"):
        holder, app = app, app.app
    return app, holder
