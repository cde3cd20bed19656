"""The REST API's paths."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any

import grpc
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from serving.admin.details import instance_details
from serving.admin.page import PATH, openapi, page
from serving.v1 import controller_pb2 as pb
from serving.v1.controller_pb2_grpc import ControllerStub

MAX_CONFIG_BYTES = 4 * 1024 * 1024
# A controller that died is back within this time.
_AWAY_TIMEOUT_S = 5.0
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"

Deploy = Callable[[bytes], Awaitable[Response]]


class API:
    """Answers for one cluster. `deploy` takes what is PUT; `http` and `grpc` are its options."""

    def __init__(
        self, stub: ControllerStub, http: dict[str, Any], grpc: dict[str, Any], deploy: Deploy
    ) -> None:
        self._stub = stub
        self._http = http
        self._grpc = grpc
        self._deploy = deploy
        self._description = openapi(version("serving"))

    def app(self) -> Starlette:
        """As an ASGI application."""
        return Starlette(
            routes=[
                Route("/", self._home),
                Route("/docs", self._docs),
                Route("/openapi.json", self._openapi),
                Route(PATH, self._get, methods=["GET"]),
                Route(PATH, self._put, methods=["PUT"]),
                Route(PATH, self._delete, methods=["DELETE"]),
            ],
        )

    async def _home(self, request: Request) -> Response:
        return RedirectResponse("/docs")

    async def _docs(self, request: Request) -> Response:
        return HTMLResponse(
            page(self._description),
            headers={"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"},
        )

    async def _openapi(self, request: Request) -> Response:
        return JSONResponse(self._description)

    async def _get(self, request: Request) -> Response:
        details = instance_details(await self._status(), self._http, self._grpc)
        return Response(details.model_dump_json(), media_type="application/json")

    async def _put(self, request: Request) -> Response:
        config = bytearray()
        async for chunk in request.stream():
            config += chunk
            if len(config) > MAX_CONFIG_BYTES:
                raise HTTPException(413, f"a config of more than {MAX_CONFIG_BYTES} bytes\n")
        return await self._deploy(bytes(config))

    async def _delete(self, request: Request) -> Response:
        for application in (await self._status()).applications:
            await self._ask(self._stub.Delete, pb.DeleteRequest(application=application.name))
        return Response()

    async def _status(self) -> pb.ServeStatus:
        status = await self._ask(self._stub.GetStatus, pb.StatusRequest())
        assert isinstance(status, pb.ServeStatus)
        return status

    async def _ask(self, method: Any, request: object) -> object:
        """Asks the controller, for a while also where it is away. What is asked is harmless
        twice."""
        try:
            return await method(request, timeout=_AWAY_TIMEOUT_S, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            away = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            status = 503 if error.code() in away else 500
            detail = f"the controller does not answer: {error.details()}\n"
            raise HTTPException(status, detail, {"Retry-After": "1"}) from None
