"""The proxy as an ASGI application: the server's side of it, and what requests share."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from serving.aio import Tasks
from serving.config import HTTPOptions, gRPCOptions
from serving.proxy.access_log import AccessLog
from serving.proxy.errors import NO_ROUTE, NOTHING_DEPLOYED, Failure
from serving.proxy.gathering import Gathering
from serving.proxy.http import HttpExchange
from serving.proxy.receiver import Message
from serving.proxy.websocket import WebSocketExchange
from serving.routing.routes import Route
from serving.routing.watch import Directory

HEALTH_PATH = "/-/healthz"
ROUTES_PATH = "/-/routes"


class Proxy:
    """Takes a server's requests and brings each to a replica of the application it is for."""

    def __init__(
        self,
        options: HTTPOptions,
        access_log: AccessLog | None,
        directory: Directory | None = None,
        grpc_options: gRPCOptions | None = None,
    ) -> None:
        self.options = options
        self.grpc_options = grpc_options or gRPCOptions()
        self.access_log = access_log
        self.directory = directory or Directory(
            connects=lambda route: bool(route.prefix) or grpc_options is not None
        )
        self.gathering = Gathering()
        self.tasks = Tasks()
        self.draining = False

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Any],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if scope["type"] == "http":
            path = self._path(scope)
            if path.startswith("/-/") and await self._own(path, send):
                return
            await HttpExchange(self, scope, receive, send).run()
        elif scope["type"] == "websocket":
            await WebSocketExchange(self, scope, receive, send).run()
        else:
            raise RuntimeError(f"ASGI scope of type {scope['type']!r} is not served")

    def match(self, scope: dict[str, Any]) -> Route | None:
        """The route of a request."""
        return self.directory.routes.match(self._path(scope))

    def no_route(self) -> Failure:
        """What a request gets that no application wants: one may be about to come where there is
        none at all."""
        return NOTHING_DEPLOYED if self.directory.is_empty else NO_ROUTE

    async def aclose(self) -> None:
        """Ends what the proxy runs, once the server has ended its requests."""
        await self.tasks.aclose()
        await self.directory.aclose()
        if self.access_log is not None:
            await self.access_log.aclose()

    def _path(self, scope: dict[str, Any]) -> str:
        """The path as the client sent it: the server has put the root path before it."""
        path: str = scope["path"]
        return path.removeprefix(self.options.root_path)

    async def _own(self, path: str, send: Callable[[Message], Awaitable[None]]) -> bool:
        """Answers the proxy's own paths, below `/-/`."""
        if path == HEALTH_PATH:
            status, kind = (503, b"text/plain") if self.draining else (200, b"text/plain")
            body = b"draining" if self.draining else b"success"
        elif path == ROUTES_PATH:
            known = self.directory.routes.routes
            routes = {route.prefix: route.application for route in known if route.prefix}
            status, kind, body = 200, b"application/json", json.dumps(routes).encode()
        else:
            return False
        headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})
        return True
