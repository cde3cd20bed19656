"""A script as users write them, to be run as `__main__`: no main guard, everything in one file.

Holds what is hard to send to another process: an app of a subclass of FastAPI with middlewares,
state, mounts and routers; models that refer to each other through postponed annotations; locks,
context variables and caches at the top level. Its last statement sends its class to the file that
the first argument names; with a second argument the app has answered requests before.
"""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import enum
import functools
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, ParamSpec, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Query, Request, WebSocket
from fastapi.responses import JSONResponse, Response, StreamingResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    RootModel,
    TypeAdapter,
    computed_field,
    field_validator,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route
from typing_extensions import TypedDict

from serving import code
from serving.ingress import ingress
from tests.support.asgi import get, lifespan

T = TypeVar("T")
P = ParamSpec("P")
UserId = NewType("UserId", int)


class Kind(enum.StrEnum):
    cat = "cat"
    dog = "dog"


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(default=9, gt=0)


class Dog(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["dog"]


class Owner(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    home: Home | None = None
    _secret: int = PrivateAttr(default=3)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def loud(self) -> str:
        return self.pet.kind.upper()


class Home(BaseModel):
    model_config = ConfigDict(defer_build=True)
    rooms: int = Field(default_factory=lambda: 4)
    neighbours: list[Home] = []

    @field_validator("rooms")
    @classmethod
    def some(cls, rooms: int) -> int:
        if rooms < 1:
            raise ValueError("no rooms")
        return rooms


class Page(BaseModel, Generic[T]):
    items: list[T]


class Names(RootModel[list[str]]):
    pass


@dataclasses.dataclass
class Plain:
    number: int
    inner: Slotted | None = None


@dataclasses.dataclass(slots=True)
class Slotted:
    kind: Kind


@pydantic_dataclass
class Checked:
    number: int = Field(gt=0)


class Partial(TypedDict, total=False):
    inner: Slotted


class Pair(NamedTuple):
    left: int
    right: str = "right"


lock = threading.Lock()
condition = threading.Condition()
gate = asyncio.Lock()
request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="none")
plains = TypeAdapter(list[Plain])
words = {"these", "are", "in", "any", "order"}
calls = 0


@functools.lru_cache
def settings() -> dict[str, int]:
    return {"setting": 1}


@functools.singledispatch
def show(value: object) -> str:
    return "object"


@show.register
def _(value: int) -> str:
    return "int"


def traced(function: Callable[P, T]) -> Callable[P, T]:
    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        with lock:
            return function(*args, **kwargs)

    return wrapper


class Stamp(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        response.headers["x-stamp"] = "stamped"
        return response


class Tag:
    def __init__(self, app: Any, tag: str) -> None:
        self.app = app
        self.tag = tag

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def tagged(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-tag", self.tag.encode())]
            await send(message)

        await self.app(scope, receive, tagged)


class Routed(APIRoute):
    def get_route_handler(self) -> Any:
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            response = await handle(request)
            response.headers["x-route"] = self.name
            return response

        return handler


class App(FastAPI):
    def __init__(self, extra: str, **options: Any) -> None:
        super().__init__(**options)
        self.extra = extra


@asynccontextmanager
async def life(app: App) -> AsyncIterator[dict[str, str]]:
    app.state.alive = app.extra
    yield {"from_lifespan": "yes"}
    app.state.alive = None


app = App("extra", title="Everything", lifespan=life)
app.state.lock = threading.RLock()
app.add_middleware(Stamp)
app.add_middleware(Tag, tag="tag")
app.add_middleware(CORSMiddleware, allow_origins=["*"])
sub = FastAPI()
app.mount("/sub", sub)
router = APIRouter(prefix="/outer")
inner_router = APIRouter(route_class=Routed)
basic = HTTPBasic(auto_error=False)


class Gone(Exception):
    pass


@app.exception_handler(Gone)
async def gone(request: Request, error: Gone) -> Response:
    return JSONResponse({"gone": str(error)}, status_code=410)


@app.middleware("http")
async def identify(request: Request, call_next: Any) -> Any:
    token = request_id.set(request.headers.get("x-request-id", "made"))
    try:
        return await call_next(request)
    finally:
        request_id.reset(token)


class Add:
    def __init__(self, amount: int) -> None:
        self.amount = amount

    def __call__(self, q: int = 0) -> int:
        return q + self.amount


async def open_database(values: Annotated[dict[str, int], Depends(settings)]) -> AsyncIterator[Any]:
    async with gate:
        yield {**values, "open": True}


add_ten = Add(10)
Database = Annotated[dict[str, Any], Depends(open_database)]


@sub.get("/plain")
def in_sub_app() -> str:
    return "sub"


async def page(request: Request) -> Response:
    return Response(request.app.state.alive)


app.router.routes.append(Route("/starlette", page))


@app.websocket("/free")
async def free(ws: WebSocket, ten: Annotated[int, Depends(add_ten)]) -> None:
    await ws.accept()
    await ws.send_text(str(ten))


@ingress(app)
class Everything:
    def __init__(self, number: int = 5) -> None:
        self.number = number

    @functools.cached_property
    def heavy(self) -> int:
        return self.number * 2

    def scaled(self, ten: Annotated[int, Depends(add_ten)]) -> int:
        return self.number * ten

    @app.post("/owner", status_code=201)
    def owner(self, owner: Owner, database: Database) -> Owner:
        assert database == {"setting": 1, "open": True}
        return owner

    @app.post("/page")
    async def page(self, page: Page[Cat]) -> Page[Cat]:
        return page

    @app.post("/dataclasses")
    @traced
    def of_dataclasses(self, plain: Plain, checked: Checked, partial: Partial) -> list[Any]:
        return [plain, checked, partial]

    @app.post("/names")
    def names(self, names: Names) -> Names:
        return names

    @app.get("/library")
    def library(self, user: UserId) -> list[Any]:
        pair = Pair(user)
        shown = [show(1), show("x")]
        return [pair, shown, self.heavy, plains.validate_python([{"number": 1}]), sorted(words)]

    @inner_router.get("/counted")
    def counted(
        self,
        user: Annotated[HTTPBasicCredentials | None, Depends(basic)],
        scaled: int = Depends(scaled),
        x_name: Annotated[str | None, Header()] = None,
    ) -> list[Any]:
        global calls
        calls += 1
        with app.state.lock, condition:
            return [scaled, calls, user, x_name, request_id.get(), app.extra]

    @app.get("/state")
    def state(self, request: Request) -> list[Any]:
        return [request.app is app, app.state.alive, request.url_for("counted").path]

    @app.get("/kinds/{kind}")
    async def kinds(
        self, kind: Kind, tags: Annotated[list[str], Query(default_factory=list, max_length=2)]
    ) -> dict[str, Any]:
        if tags == ["gone"]:
            raise Gone(kind)
        if tags == ["teapot"]:
            raise HTTPException(418)
        return {"kind": kind, "tags": tags}

    @app.get("/stream")
    async def stream(self) -> StreamingResponse:
        async def chunks() -> AsyncIterator[str]:
            for chunk in range(self.number):
                yield str(chunk)

        return StreamingResponse(chunks())

    @app.websocket("/ws")
    async def ws(self, ws: WebSocket, scaled: int = Depends(scaled)) -> None:
        await ws.accept()
        await ws.send_text(await ws.receive_text() + str(scaled))


router.include_router(inner_router, prefix="/inner")
app.include_router(router)


async def use() -> None:
    async with lifespan(app):
        await get(app, "/kinds/cat?self=")
        await get(app, "/openapi.json")
        await get(app, "/sub/plain")
    app.url_path_for("counted")


if len(sys.argv) > 2:
    asyncio.run(use())
with open(sys.argv[1], "wb") as file:
    file.write(code.capture(Everything).SerializeToString())
