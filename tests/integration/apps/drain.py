"""Handlers that are at work when their replica is stopped."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

import serving

BIG = 8_000_000


@serving.deployment
class Big:
    """Answers more than what lies between a handler and a client that does not read."""

    async def __call__(self, request: Request) -> Response:
        return Response(bytes(BIG))
