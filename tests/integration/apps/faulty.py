"""Handlers that do what they should not."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

import serving


class Opaque:
    """Has no form that HTTP could carry."""

    __slots__ = ()


def circular() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


VALUES: dict[str, Any] = {
    "opaque": Opaque,
    "nested": lambda: {"deep": [1, Opaque()]},
    "nan": lambda: float("nan"),
    "circular": circular,
    "surrogate": lambda: "\ud800",
    "function": lambda: print,
}


class SecretError(Exception):
    pass


async def raise_in_loop() -> None:
    raise SecretError("told to nobody")


async def cancel_oneself() -> None:
    task = asyncio.ensure_future(asyncio.sleep(60))
    asyncio.get_running_loop().call_soon(task.cancel)
    await task


async def exit_in_loop() -> None:
    sys.exit("told to nobody")


async def break_off() -> Any:
    def generate() -> Iterator[str]:
        yield "begun"
        raise SecretError("told to nobody")

    return StreamingResponse(generate())


async def head_too_large() -> Any:
    return Response(headers={f"x-{number}": "v" * 30_000 for number in range(60)})


async def say_nothing(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application that returns without a response."""


@serving.deployment
@serving.ingress(say_nothing)
class Silent:
    pass


@serving.deployment
class Faulty:
    """What it does is in the last segment of the path."""

    async def __call__(self, request: Request) -> Any:
        name = request.url.path.rpartition("/")[2]
        if name in VALUES:
            return VALUES[name]()
        return await globals()[name]()


@serving.deployment
def faulty_in_thread(request: Request) -> Any:
    if request.url.path.endswith("/exit"):
        sys.exit("told to nobody")
    if request.url.path.endswith("/stop"):
        raise StopIteration("told to nobody")
    raise SecretError("told to nobody")


app = FastAPI()


@serving.deployment
@serving.ingress(app)
class FaultyAPI:
    @app.get("/loop")
    async def in_loop(self) -> None:
        raise SecretError("told to nobody")

    @app.get("/thread")
    def in_thread(self) -> None:
        raise SecretError("told to nobody")


class NoCall:
    """Neither `__call__` nor an ingress."""
