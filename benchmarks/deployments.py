"""The applications of apps.py as deployments, each under the name of its scenario.

Every ingress class is empty: the application is all there is. They have names of this module, so
that the replica imports them.
"""

from __future__ import annotations

import apps
from starlette.requests import Request
from starlette.types import ASGIApp

import serving


class Five: ...


class FastAPIRoute: ...


class Stream: ...


class Events: ...


class Echo: ...


class Post: ...


@serving.deployment
async def answer(request: Request) -> str:
    """The five-byte answer as a plain callable."""
    return "hello"


def _served(ingress: type, app: ASGIApp) -> serving.Application:
    return serving.deployment(serving.ingress(app)(ingress)).bind()


APPLICATIONS = {
    "five": _served(Five, apps.five),
    "callable": answer.bind(),
    "fastapi": _served(FastAPIRoute, apps.fastapi),
    "stream": _served(Stream, apps.stream),
    "sse": _served(Events, apps.sse),
    "websocket": _served(Echo, apps.echo),
    "post": _served(Post, apps.post),
}
