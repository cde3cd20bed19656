"""`@serving.ingress(app)`: an ASGI application whose routes are methods of a deployment class.

The class stays as written and so does the app. In the replica, once the user's object exists, every
route of the app whose endpoint is a method of the class is given the bound method instead: FastAPI
then sees a callable without `self`, and nothing is left to do per request.

    __init__.py   the decorator and what it accepts
    methods.py    which functions are methods of the class, and what calling them means
    dependencies.py  `Depends` on methods
    routes.py     finding the routes of an app, and giving them other endpoints
    late.py       functions that find their instance when they are called
    shared.py     an app that replicas in one process share
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from serving.ingress.methods import Methods, claim

__all__ = ["ASGIApp", "AppBuilder", "IngressBinding", "ingress"]

ASGIApp = Callable[..., Awaitable[None]]
AppBuilder = Callable[[], "ASGIApp | Awaitable[ASGIApp]"]
_T = TypeVar("_T", bound=type)


def ingress(app: ASGIApp | AppBuilder) -> Callable[[_T], _T]:
    """Serves an ASGI application from a deployment class.

    `app` is a FastAPI, Starlette or any other ASGI 3 application, whose routes may be methods of
    the class; or a function without required parameters, plain or `async`, that returns one and is
    called in the replica. The decorated class is returned unchanged but for its
    `__serving_ingress__`.

    Raises TypeError where `app` is none of these, where what is decorated is not a class, and
    where a method with a route has no `self`.
    """
    _check_target(app)

    def decorate(cls: _T) -> _T:
        if not isinstance(cls, type):
            raise TypeError(
                f"@serving.ingress(...) decorates a class, not {cls!r}; "
                "where both are used, @serving.deployment stands above it"
            )
        # Starlette is imported by those who have an app, not by every process of a cluster.
        from serving.ingress.routes import routes_of

        claim(cls, [] if _is_builder(app) else routes_of(app))
        cls.__serving_ingress__ = IngressBinding(app)  # type: ignore[attr-defined]
        return cls

    return decorate


class IngressBinding:
    """What `@serving.ingress(app)` leaves on the class, for the replica to build from."""

    def __init__(self, target: ASGIApp | AppBuilder) -> None:
        self.target = target

    def __repr__(self) -> str:
        return f"IngressBinding({self.target!r})"

    def borrow(self, cls: type) -> Callable[[], None]:
        """To be called before the constructor where other replicas in this process may serve the
        same app; what it gives, once the replica has ended."""
        if _is_builder(self.target):
            return lambda: None
        # Starlette is imported by those who have an app.
        from serving.ingress.shared import borrow

        return borrow(self.target, cls)

    async def build(
        self, instance: object, receiver: Callable[[], object] | None = None
    ) -> ASGIApp:
        """The app to serve for `instance`: the very object of the user, its routes now bound.

        Call it once per process, after the constructor and before the app's lifespan starts. With
        a `receiver` it may be called for several instances of a class: it tells whose turn it is.
        """
        from serving.ingress.routes import bind_app

        app: Any = self.target
        if _is_builder(app):
            app = app()
            if inspect.isawaitable(app):
                app = await app
            if _is_builder(app):
                raise TypeError(f"{self.target!r} returned {app!r}, which is no ASGI application")
            _check_target(app)
        bind_app(app, Methods(instance, receiver))
        return app  # type: ignore[no-any-return]


def _check_target(app: object) -> None:
    """Raises TypeError with the way out, where `app` cannot be served."""
    fastapi = sys.modules.get("fastapi")
    if fastapi is not None and isinstance(app, fastapi.APIRouter):
        raise TypeError(
            "@serving.ingress takes an application, not an APIRouter: "
            "app = FastAPI(); app.include_router(router); @serving.ingress(app)"
        )
    if isinstance(app, type) and not hasattr(app, "__await__"):
        raise TypeError(
            f"@serving.ingress takes an ASGI application, not the class {app.__qualname__}: "
            "write @serving.ingress(app) above the class"
        )
    if not callable(app) or not (_is_builder(app) or _accepts(app, 3)):
        raise TypeError(
            "@serving.ingress takes an ASGI application, called with (scope, receive, send), or a "
            f"function without parameters that returns one, not {app!r}"
        )


def _is_builder(app: object) -> bool:
    """Whether `app` is to be called for the application, rather than being it."""
    return inspect.isroutine(app) and _accepts(app, 0)


def _accepts(function: Callable[..., object], count: int) -> bool:
    """Whether `function` can be called with `count` positional arguments, and says so by name."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # written in C, without a signature: taken for an application
        return count > 0
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    variadic = any(p.kind is p.VAR_POSITIONAL for p in signature.parameters.values())
    return count > 0 or not variadic
