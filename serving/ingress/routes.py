"""The routes of an ASGI application, wherever they hide, and giving them other endpoints.

Only what FastAPI and Starlette document is relied on: the attributes `routes`, `app` and
`endpoint`, the parameters of the route classes, and the public attributes of the same names.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any, cast

from starlette.routing import Route, WebSocketRoute

from serving.ingress import reconstruct
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


def saved(app: object) -> Callable[[], None]:
    """Gives what puts back the routes, middlewares and exception handlers that `app` has now."""
    kept = []
    for router in _routers(app):
        lists = (router.routes, getattr(router, "user_middleware", []))
        handlers = getattr(router, "exception_handlers", {})
        stack = getattr(router, "middleware_stack", None)
        kept.append(
            (router, [(each, list(each)) for each in lists], handlers, dict(handlers), stack)
        )

    def restore() -> None:
        for router, lists, handlers, items, stack in kept:
            for each, entries in lists:
                each[:] = entries
            handlers.clear()
            handlers.update(items)
            if hasattr(router, "middleware_stack"):
                router.middleware_stack = stack
            _forget_derived(router)

    return restore


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
    include: Any = getattr(route, "include_context", None)
    if isinstance(getattr(include, "dependencies", None), list):
        include.dependencies[:] = dependencies.bind_all(include.dependencies)[0]
    if not isinstance(route, Route | WebSocketRoute):
        return True
    check_self(dependencies.methods.cls, route)
    try:
        endpoint, changed = dependencies.bind(route.endpoint)
    except ForeignMethodError:
        return False
    also_changed, listed = False, cast(Any, route)
    if hasattr(route, "dependencies"):
        listed.dependencies, also_changed = dependencies.bind_all(listed.dependencies)
    if changed or also_changed:
        provider = getattr(getattr(router, "router", router), "dependency_overrides_provider", None)
        given = reconstruct.arguments(route, provider)
        reconstruct.construct(route, {**given, "endpoint": endpoint}, route.app)
    return True


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
