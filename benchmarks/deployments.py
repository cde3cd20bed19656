"""The applications of apps.py as deployments, each under the name of its scenario."""

from __future__ import annotations

import apps
from starlette.requests import Request
from starlette.types import ASGIApp

import serving


def _served(app: ASGIApp) -> serving.Application:
    @serving.deployment
    @serving.ingress(app)
    class Served:
        """Nothing of its own: the application is all there is."""

    return Served.bind()


@serving.deployment
async def answer(request: Request) -> str:
    """The five-byte answer as a plain callable."""
    return "hello"


APPLICATIONS = {
    "five": _served(apps.five),
    "callable": answer.bind(),
    "fastapi": _served(apps.fastapi),
    "stream": _served(apps.stream),
    "sse": _served(apps.sse),
    "websocket": _served(apps.echo),
    "post": _served(apps.post),
}
