"""Plain callables, by what they take and what they return."""

from __future__ import annotations

import enum
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)

import serving

# What they take: a function and a class, sync and async, with the request and without.


@serving.deployment
def sync_function(request: Request) -> str:
    return f"sync function of {request.query_params['who']}"


@serving.deployment
async def async_function(request: Request) -> str:
    return f"async function of {(await request.body()).decode()}"


@serving.deployment
def sync_function_alone() -> str:
    return "sync function"


@serving.deployment
async def async_function_alone() -> str:
    return "async function"


@serving.deployment
class SyncClass:
    def __init__(self, greeting: str, *, mark: str = "?") -> None:
        self.text = greeting + mark

    def __call__(self, request: Request) -> str:
        return f"{self.text} {request.query_params['who']}"


@serving.deployment
class AsyncClass:
    async def __call__(self, request: Request) -> str:
        return f"async class of {(await request.body()).decode()}"


@serving.deployment
class SyncClassAlone:
    def __call__(self) -> str:
        return "sync class"


@serving.deployment
class AsyncClassAlone:
    async def __call__(self) -> str:
        return "async class"


@serving.deployment
def sync_generator(request: Request) -> Iterator[str]:
    for number in range(int(request.query_params["count"])):
        yield f"{number};"


@serving.deployment
class AsyncGenerator:
    async def __call__(self, request: Request) -> AsyncIterator[bytes]:
        for number in range(int(request.query_params["count"])):
            yield b"%d;" % number


# What they return.


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Point(BaseModel):
    x: int
    name: str = "p"


@dataclass
class Pair:
    left: int
    right: list[Colour]


class Opaque:
    __slots__ = ()


def _cookies() -> Response:
    response = PlainTextResponse("with cookies", status_code=201, headers={"X-Own": "1"})
    response.set_cookie("first", "1")
    response.set_cookie("second", "2")
    return response


VALUES: dict[str, Callable[[], Any]] = {
    "str": lambda: "grüße",
    "empty_str": lambda: "",
    "bytes": lambda: b"\x00\xff",
    "none": lambda: None,
    "dict": lambda: {"a": [1, 2.5, None, True], "ü": {}},
    "list": lambda: [1, "two"],
    "tuple": lambda: (1, 2),
    "int": lambda: 7,
    "float": lambda: 0.5,
    "bool": lambda: False,
    "model": lambda: Point(x=1),
    "models": lambda: {"points": [Point(x=1), Point(x=2)]},
    "dataclass": lambda: Pair(1, [Colour.RED]),
    "enum": lambda: Colour.RED,
    "int_enum": lambda: Level.HIGH,
    "set": lambda: {7},
    "datetime": lambda: datetime(2024, 2, 29, 12, tzinfo=UTC),
    "date": lambda: date(2024, 2, 29),
    "timedelta": lambda: timedelta(minutes=1),
    "uuid": lambda: uuid.UUID(int=1),
    "decimal": lambda: Decimal("1.5"),
    "path": lambda: PurePosixPath("/a/b"),
    "query_params": lambda: (
        Request({"type": "http", "query_string": b"a=b&c=d", "headers": []}).query_params
    ),
    "opaque": Opaque,
    "nan": lambda: float("nan"),
    "nested_opaque": lambda: {"deep": [Opaque()]},
    "text_response": lambda: PlainTextResponse("teapot", status_code=418),
    "json_response": lambda: JSONResponse({"a": 1}, status_code=202),
    "html_response": lambda: HTMLResponse("<p>"),
    "redirect": lambda: RedirectResponse("/elsewhere", status_code=303),
    "no_content": lambda: Response(status_code=204),
    "not_modified": lambda: Response(status_code=304, headers={"etag": '"1"'}),
    "cookies": _cookies,
    "streaming": lambda: StreamingResponse(iter(["a", "b"]), 206, media_type="text/csv"),
    "own_id": lambda: Response(headers={"X-Request-ID": "of-the-handler"}),
}


@serving.deployment
def returns(request: Request) -> Any:
    """The value that the path names."""
    return VALUES[request.url.path.rpartition("/")[2]]()
