"""Handlers that a proxy's log, ids and framing are tested with."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

import serving
from tests.support.gate import Gate


@serving.deployment
class Proxied:
    """What it does is in the last segment of the path."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    async def __call__(self, request: Request) -> Any:
        return await getattr(self, request.url.path.rpartition("/")[2])(request)

    async def headers(self, request: Request) -> dict[str, str]:
        return dict(request.headers)

    async def length(self, request: Request) -> int:
        return len(await request.body())

    async def status(self, request: Request) -> Response:
        return Response(status_code=int(request.query_params["of"]))

    async def raises(self, request: Request) -> None:
        raise ValueError("a secret of the handler")

    async def waits(self, request: Request) -> str:
        await self.gate.pass_through_async()
        return "waited"
