"""A FastAPI application with a bit of everything, most of it as methods of a class."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import (
    APIRouter,
    BackgroundTasks,
    Body,
    Depends,
    FastAPI,
    Form,
    Header,
    HTTPException,
    Query,
    Request,
    Response,
)
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, Field
from starlette.middleware.cors import CORSMiddleware

import serving
from tests.support.gate import Gate
from tests.support.record import Record

tenant = contextvars.ContextVar("tenant", default="none")


class Item(BaseModel):
    name: str
    price: float = Field(gt=0)


class StoredItem(Item):
    secret: str = "hidden"


class OutOfStock(Exception):
    pass


# The application: lifespan, middleware, handlers of exceptions.


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    app.state.started = True
    yield {"stock": {"pen": 2}}


app = FastAPI(title="Shop", lifespan=lifespan)


class TenantMiddleware:
    """Pure ASGI; sets a context variable for the handler."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        for name, value in scope.get("headers", ()):
            if name == b"x-tenant":
                tenant.set(value.decode())
        await self.app(scope, receive, send)


app.add_middleware(TenantMiddleware)
app.add_middleware(
    CORSMiddleware, allow_origins=["https://shop.test"], expose_headers=["x-request-id"]
)


@app.middleware("http")
async def count_header(request: Request, call_next: Any) -> Response:
    response: Response = await call_next(request)
    response.headers["x-middleware"] = request.url.path
    return response


@app.exception_handler(OutOfStock)
async def out_of_stock(request: Request, error: OutOfStock) -> JSONResponse:
    return JSONResponse({"out_of_stock": str(error)}, status_code=409)


# Dependencies.

closed: list[str] = []


def session() -> Iterator[str]:
    try:
        yield "session"
    finally:
        closed.append("session")


def page(offset: int = 0, limit: Annotated[int, Query(le=10)] = 5) -> tuple[int, int]:
    return offset, limit


def require_key(x_key: Annotated[str, Header()]) -> None:
    if x_key != "open":
        raise HTTPException(401, "wrong key", headers={"WWW-Authenticate": "Key"})


# Routers and sub-applications.

router = APIRouter(tags=["router"])
prefixed = APIRouter(dependencies=[Depends(require_key)])
sub = FastAPI(title="Sub")


@sub.get("/where", name="sub_where")
def sub_where(request: Request) -> dict[str, str]:
    return {"root_path": request.scope["root_path"], "url": str(request.url_for("sub_where"))}


class Base:
    """Its routes are inherited."""

    name: str

    @app.get("/inherited")
    def inherited(self) -> str:
        return f"inherited by {self.name}"

    @app.get("/overridden")
    def overridden(self) -> str:
        return "of the base"


@serving.deployment
@serving.ingress(app)
class Shop(Base):
    def __init__(self, name: str, gate: Gate, record: Record) -> None:
        self.name = name
        self.gate = gate
        self.record = record

    @app.get("/")
    def root(self) -> str:
        return self.name

    @app.get("/items/{item_id}")
    async def item(self, item_id: int, q: str | None = None) -> dict[str, Any]:
        return {"id": item_id, "q": q, "shop": self.name}

    @app.post("/items", response_model=Item, status_code=201)
    async def add(self, item: Item) -> StoredItem:
        return StoredItem(**item.model_dump())

    @app.put("/mixed/{name}")
    def mixed(
        self,
        name: str,
        count: Annotated[int, Query(ge=1)],
        item: Annotated[Item, Body(embed=True)],
        x_trace: Annotated[str | None, Header()] = None,
    ) -> list[Any]:
        return [name, count, item.name, x_trace]

    @app.post("/form")
    async def form(self, user: Annotated[str, Form()]) -> str:
        return user

    # The same name twice.

    @app.get("/twin")
    def twin(self) -> str:
        return "got"

    @app.post("/twin")  # type: ignore[no-redef]
    def twin(self) -> str:  # noqa: F811
        return "posted"

    # Dependencies.

    @app.get("/paged")
    def paged(self, page: Annotated[tuple[int, int], Depends(page)]) -> tuple[int, int]:
        return page

    @app.get("/session")
    async def with_session(self, value: Annotated[str, Depends(session)]) -> list[Any]:
        return [value, len(closed)]

    @app.get("/closed")
    def how_many_closed(self) -> int:
        return len(closed)

    # Errors.

    @app.get("/sold-out/{name}")
    async def sold_out(self, name: str) -> None:
        raise OutOfStock(name)

    @app.get("/teapot")
    async def teapot(self) -> None:
        raise HTTPException(418, {"short": "stout"}, headers={"X-Tea": "yes"})

    # What surrounds a request.

    @app.get("/stock")
    def stock(self, request: Request) -> dict[str, Any]:
        return {"state": request.state.stock, "app": app.state.started}

    @app.get("/tenant")
    def tenant_in_thread(self) -> list[Any]:
        return [tenant.get(), threading.current_thread() is threading.main_thread()]

    @app.get("/tenant-async")
    async def tenant_in_loop(self) -> list[Any]:
        return [tenant.get(), threading.current_thread() is threading.main_thread()]

    @app.get("/link/{item_id}")
    def link(self, request: Request, item_id: int) -> str:
        return str(request.url_for("item", item_id=item_id))

    @app.get("/cookies")
    def cookies(self, response: Response) -> str:
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")
        return "set"

    # Background tasks

    @app.post("/background/{name}")
    async def background(self, name: str, tasks: BackgroundTasks) -> str:
        tasks.add_task(self._write, name)
        return "accepted"

    async def _write(self, name: str) -> None:
        await self.gate.pass_through_async()
        self.record.note("done", name)

    # Behind routers.

    @router.get("/plain-router")
    def plain_router(self) -> str:
        return f"router of {self.name}"

    @prefixed.get("/guarded")
    async def guarded(self) -> str:
        return f"guarded by {self.name}"

    @sub.get("/method")
    def sub_method(self) -> str:
        return f"sub of {self.name}"

    @app.get("/overridden")
    def overridden(self) -> str:
        return f"of {self.name}"


app.include_router(router)
app.include_router(prefixed, prefix="/v1")
app.mount("/sub", sub)


# Other kinds of applications.

existing = FastAPI()


@existing.get("/")
def existing_root() -> str:
    return "existing"


@existing.get("/items/{item_id}")
async def existing_item(item_id: int) -> int:
    return item_id


@serving.deployment
@serving.ingress(existing)
class Existing:
    """Empty: all is in the app."""


def build() -> FastAPI:
    built = FastAPI()
    built.state.lock = threading.Lock()  # which no pickle could carry

    @built.get("/")
    def root() -> str:
        return f"built, {type(built.state.lock).__name__}"

    return built


@serving.deployment
@serving.ingress(build)
class Built:
    pass


async def raw(scope: Any, receive: Any, send: Any) -> None:
    """ASGI and nothing else."""
    if scope["type"] != "http":
        raise RuntimeError("HTTP only")
    body = f"{scope['method']} {scope['root_path']} {scope['path']}".encode()
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"X-Request-ID", b"of the app"), (b"content-type", b"text/plain")],
        }
    )
    await send({"type": "http.response.body", "body": body})


@serving.deployment
@serving.ingress(raw)
class Raw:
    pass


def _starlette() -> Any:
    from starlette.applications import Starlette
    from starlette.routing import Route

    def hello(request: Request) -> PlainTextResponse:
        return PlainTextResponse(f"starlette {request.path_params['name']}")

    return Starlette(routes=[Route("/hello/{name}", hello)])


starlette_app = _starlette()


@serving.deployment
@serving.ingress(starlette_app)
class PlainStarlette:
    pass
