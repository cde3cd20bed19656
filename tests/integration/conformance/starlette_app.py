"""The Starlette application of the suite."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.endpoints import HTTPEndpoint
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

from tests.integration.conformance.journal import Journal, digest

DATA = Path(__file__).with_name("data")


class Teapot(Exception):
    pass


@asynccontextmanager
async def starlette_lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
    yield {"shared": {}, "greeting": "hello from the lifespan"}


async def home(request: Request) -> Response:
    return PlainTextResponse("home")


async def describe_item(request: Request) -> Response:
    number = request.path_params["number"]
    return JSONResponse(
        {
            "number": number,
            "url": str(request.url),
            "base_url": str(request.base_url),
            "next": str(request.url_for("item", number=number + 1)),
            "mounted": str(request.url_for("sub:leaf", name="x")),
            "query": request.query_params.multi_items(),
            "cookies": request.cookies,
            "headers": request.headers.getlist("x-many"),
        }
    )


async def state(request: Request) -> Response:
    own = getattr(request.state, "own", None)
    request.state.own = "left behind"
    greeting = getattr(request.state, "greeting", None)
    return JSONResponse({"own": own, "greeting": greeting})


async def redirect(request: Request) -> Response:
    return RedirectResponse(request.url_for("item", number=1))


async def body(request: Request) -> Response:
    return PlainTextResponse(digest(await request.body()))


async def stream_body(request: Request) -> Response:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
    return JSONResponse({"size": size})


async def form(request: Request) -> Response:
    fields = {}
    async with request.form() as data:
        for name, value in data.multi_items():
            fields[name] = value if isinstance(value, str) else digest(await value.read())
    return JSONResponse(fields)


async def cookies(request: Request) -> Response:
    response = PlainTextResponse("cookies")
    response.set_cookie("a", "1", path="/")
    response.set_cookie("b", "2", httponly=True, samesite="strict")
    response.delete_cookie("c")
    return response


async def count(*, fails: bool = False) -> AsyncIterator[str]:
    for number in range(3):
        yield f"chunk {number}\n"
        if fails:
            raise RuntimeError("broken in mid-stream")


def count_in_thread() -> Iterator[bytes]:
    for number in range(3):
        yield b"chunk %d\n" % number


async def stream(request: Request) -> Response:
    return StreamingResponse(count(), media_type="text/plain")


async def stream_in_thread(request: Request) -> Response:
    return StreamingResponse(count_in_thread())


async def stream_broken(request: Request) -> Response:
    return StreamingResponse(count(fails=True))


async def file(request: Request) -> Response:
    return FileResponse(DATA / "letters.txt", filename="lettres é.txt")


async def background(request: Request) -> Response:
    journal = request.scope["journal"]
    return PlainTextResponse("done", background=BackgroundTask(journal.append, {"ran": "task"}))


async def background_raises(request: Request) -> Response:
    return PlainTextResponse("done", background=BackgroundTask(fail))


async def fail(request: object = None) -> Response:
    raise RuntimeError("secret detail")


async def http_error(request: Request) -> Response:
    raise HTTPException(402, "pay first", headers={"x-price": "1"})


async def teapot(request: Request) -> Response:
    raise Teapot("short and stout")


async def handle_teapot(request: Request, error: Exception) -> Response:
    return PlainTextResponse(f"handled: {error}", status_code=418)


async def leaf(request: Request) -> Response:
    return PlainTextResponse(
        f"{request.path_params['name']} {request.url_for('sub:leaf', name='y')}"
    )


class Resource(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        return PlainTextResponse("got")

    async def delete(self, request: Request) -> Response:
        return Response(status_code=204)


class Stamp(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        response.headers["x-stamp"] = request.url.path
        return response


async def ws_echo(websocket: WebSocket) -> None:
    await websocket.accept(subprotocol=next(iter(websocket.scope["subprotocols"]), None))
    try:
        while True:
            await websocket.send_text(await websocket.receive_text())
    except WebSocketDisconnect as gone:
        websocket.scope["journal"].append({"code": gone.code, "reason": gone.reason})


async def ws_json(websocket: WebSocket) -> None:
    await websocket.accept(headers=[(b"x-accepted", b"yes")])
    data = await websocket.receive_json()
    await websocket.send_json({"got": data, "path": websocket.url.path}, mode="binary")
    await websocket.close(3001, "enough")


async def ws_denied(websocket: WebSocket) -> None:
    await websocket.send_denial_response(JSONResponse({"error": "not you"}, status_code=401))


async def ws_http_error(websocket: WebSocket) -> None:
    raise HTTPException(429, "too many")


async def ws_refused(websocket: WebSocket) -> None:
    await websocket.close(4000)


def wrapped(middleware: Middleware) -> list[Route]:
    """The routes that each middleware is tried on."""
    return [
        Route("/", home),
        Route("/stream", stream),
        Route("/raises", fail),
        Route("/body", body, methods=["POST"]),
    ]


cors = Middleware(
    CORSMiddleware,
    allow_origins=["https://example.org"],
    allow_methods=["GET", "PUT"],
    expose_headers=["x-stamp"],
)
MIDDLEWARES = {
    "/cors": cors,
    "/gzip": Middleware(GZipMiddleware, minimum_size=1),
    "/trusted": Middleware(TrustedHostMiddleware, allowed_hosts=["conformance"]),
    "/base": Middleware(Stamp),
}
sub_app = Starlette(routes=[Route("/leaf/{name}", leaf, name="leaf")])
starlette_app = Starlette(
    lifespan=starlette_lifespan,
    middleware=[Middleware(Journal)],
    exception_handlers={Teapot: handle_teapot},
    routes=[
        Route("/", home, name="home"),
        Route("/items/{number:int}", describe_item, name="item"),
        Route("/state", state),
        Route("/slash/", home),
        Route("/old", redirect),
        Route("/body", body, methods=["POST", "PUT"]),
        Route("/stream-body", stream_body, methods=["POST"]),
        Route("/form", form, methods=["POST"]),
        Route("/cookies", cookies),
        Route("/stream", stream),
        Route("/stream-in-thread", stream_in_thread),
        Route("/stream-broken", stream_broken),
        Route("/file", file),
        Route("/background", background),
        Route("/background-raises", background_raises),
        Route("/raises", fail),
        Route("/http-error", http_error),
        Route("/teapot", teapot),
        Route("/resource", Resource),
        Mount("/static", StaticFiles(directory=DATA, html=True), name="static"),
        Mount("/sub", sub_app, name="sub"),
        *(Mount(path, routes=wrapped(m), middleware=[m]) for path, m in MIDDLEWARES.items()),
        WebSocketRoute("/ws/echo", ws_echo),
        WebSocketRoute("/ws/json", ws_json),
        WebSocketRoute("/ws/denied", ws_denied),
        WebSocketRoute("/ws/http-error", ws_http_error),
        WebSocketRoute("/ws/refused", ws_refused),
        WebSocketRoute("/ws/raises", fail),
    ],
)
