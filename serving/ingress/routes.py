"""The routes of an ASGI application, wherever they hide, and giving them other endpoints.

Only what FastAPI and Starlette document is relied on: the attributes `routes`, `app` and
`endpoint`, the parameters of the route classes, and the public attributes of the same names.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Any

from starlette.routing import Route, WebSocketRoute

from serving.ingress.dependencies import Dependencies
from serving.ingress.methods import ForeignMethodError, Methods, check_self


def routes_of(app: object) -> Iterator[Any]:
    """Every route with an endpoint that `app` has by now, those of nested routers included."""
    for router in _routers(app):
        for route in router.routes:
            if isinstance(route, Route | WebSocketRoute):
                yield route


def bind_app(app: object, methods: Methods) -> None:
    """Gives each route of `app` whose endpoint is a method of the instance the bound method.

    Routes that are methods of other ingress classes are taken out. What else the app calls is
    bound likewise: dependencies, exception handlers, function middlewares, event handlers.
    """
    dependencies = Dependencies(methods)
    for router in list(_routers(app)):
        router.routes[:] = [
            route for route in router.routes if _bind_route(route, router, dependencies)
        ]
        _bind_hooks(router, methods)
        _forget_derived(router)


def _routers(app: object) -> Iterator[Any]:
    """Every object with a list of routes that `app` reaches, itself included."""
    seen: dict[int, Any] = {}
    waiting: list[Any] = [app]
    while waiting:
        router = waiting.pop()
        if id(router) in seen or inspect.isroutine(router):
            continue
        seen[id(router)] = router
        # A middleware keeps what it wraps in `app`; a mount does so too, beside its routes.
        waiting += [getattr(router, name, None) for name in ("app", "webhooks")]
        if isinstance(getattr(router, "routes", None), list):
            yield router
            waiting += [getattr(route, "original_router", route) for route in router.routes]


def _bind_route(route: Any, router: Any, dependencies: Dependencies) -> bool:
    """Binds one route in place. False where it belongs to another class."""
    include = getattr(route, "include_context", None)
    if isinstance(getattr(include, "dependencies", None), list):
        include.dependencies[:] = dependencies.bind_all(include.dependencies)[0]
    if not isinstance(route, Route | WebSocketRoute):
        return True
    check_self(dependencies.methods.cls, route)
    try:
        endpoint, changed = dependencies.bind(route.endpoint)
    except ForeignMethodError:
        return False
    route_class = _fastapi_class(route)
    if route_class is not None:
        route.dependencies, also_changed = dependencies.bind_all(route.dependencies)
        if changed or also_changed:
            _start_again(route, route_class, endpoint, router)
    elif changed:
        kind = WebSocketRoute if isinstance(route, WebSocketRoute) else Route
        wrapped, route.app = route.app, kind(route.path or "/", endpoint).app
        route.endpoint = endpoint
        _keep_wrappers(route, wrapped)
    return True


def _fastapi_class(route: object) -> Any | None:
    """FastAPI's own class of the route, which may be a subclass of it; None for Starlette's."""
    routing = sys.modules.get("fastapi.routing")
    if routing is not None:
        for route_class in (routing.APIRoute, routing.APIWebSocketRoute):
            if isinstance(route, route_class):
                return route_class
    return None


def _start_again(route: Any, route_class: Any, endpoint: object, router: Any) -> None:
    """Runs FastAPI's constructor on the route once more, with another endpoint.

    In place, since routers, included contexts and the user may hold the route; FastAPI's own
    constructor rather than a subclass's, which may not take what it was once given.
    """
    parameters = inspect.signature(route_class.__init__).parameters
    given = {name: getattr(route, name) for name in parameters if hasattr(route, name)}
    given["endpoint"] = endpoint
    if getattr(route, "stream_item_type", None) is not None:
        del given["response_model"]  # it was inferred, and only then are items typed
    if "dependency_overrides_provider" in parameters:  # WebSocket routes do not keep theirs
        provider = getattr(getattr(router, "router", router), "dependency_overrides_provider", None)
        given.setdefault("dependency_overrides_provider", provider)
    wrapped = route.app
    route_class.__init__(route, **given)
    _keep_wrappers(route, wrapped)


def _keep_wrappers(route: Any, wrapped: Any) -> None:
    """Puts the new innermost app of `route` into the middlewares that its old one was in."""
    fresh, holder = _innermost(route.app)[0], _innermost(wrapped)[1]
    if getattr(_innermost(wrapped)[0], "__code__", None) != fresh.__code__:
        raise TypeError(
            f"{route!r} wraps its 'app' in {wrapped!r}, which has no attribute 'app', so that the "
            "method cannot be bound beneath it: make the wrapper a class that keeps what it wraps "
            "in 'self.app'"
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


def _bind_hooks(app: Any, methods: Methods) -> None:
    """Binds the methods among the exception handlers, middlewares and event handlers of `app`."""
    handlers = getattr(app, "exception_handlers", {})
    for key, handler in list(handlers.items()):
        handlers[key] = methods.bound_or_same(handler)
    for middleware in getattr(app, "user_middleware", []):
        for name, value in list(middleware.kwargs.items()):
            middleware.kwargs[name] = methods.bound_or_same(value)
    router = getattr(app, "router", app)
    for event in ("on_startup", "on_shutdown"):
        hooks = getattr(router, event, [])
        hooks[:] = [methods.bound_or_same(hook) for hook in hooks]


def _forget_derived(router: Any) -> None:
    """Makes FastAPI drop what it has computed from the routes as they were before."""
    if getattr(router, "openapi_schema", None) is not None:
        router.openapi_schema = None
    routing = sys.modules.get("fastapi.routing")
    if routing is not None and isinstance(router, routing.APIRouter):
        # Those that include this router look whether it has got a route since.
        router.add_route("/", _nothing, include_in_schema=False)
        router.routes.pop()


async def _nothing(request: object) -> Any:
    raise AssertionError("a route that is never served")
