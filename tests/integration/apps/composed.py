"""Deployments that call deployments."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import StreamingResponse

import serving
from serving.context import current_request
from tests.support.gate import Gate


@serving.deployment
class Leaf:
    def __init__(self, folder: str = "", add: int = 0) -> None:
        self._folder = Path(folder)
        self._add = add

    async def __call__(self, value: int) -> int:
        return value + self._add

    def request(self) -> tuple[str, str, str]:
        request = current_request()
        assert request is not None
        return request.request_id, request.route, request.application

    async def wait(self, name: str) -> None:
        (self._folder / f"{name}.begun").touch()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            (self._folder / f"{name}.cancelled").touch()
            raise

    async def tokens(self, name: str, gate: str) -> AsyncIterator[str]:
        try:
            yield "first "
            await Gate(Path(gate)).pass_through_async()
            yield "second"
        finally:
            (self._folder / f"{name}.ended").touch()


@serving.deployment
class Middle:
    def __init__(self, leaf: Any) -> None:
        self._leaf = leaf

    async def __call__(self, value: int) -> int:
        result: int = await self._leaf.remote(value)
        return result * 10

    async def wait(self, name: str) -> None:
        await self._leaf.wait.remote(name)

    async def start_and_wait(self, name: str) -> None:
        self._leaf.wait.remote(f"{name}-unawaited")
        await asyncio.sleep(60)

    def wait_in_thread(self, name: str) -> None:
        self._leaf.wait.remote(name).result()

    def request(self) -> Any:
        return self._leaf.request.remote().result()

    async def tokens(self, name: str, gate: str) -> AsyncIterator[str]:
        async for token in self._leaf.options(stream=True).tokens.remote(name, gate):
            yield token


@serving.deployment
class Ingress:
    def __init__(self, middle: Any, others: Any = None) -> None:
        self._middle = middle
        self.others = others

    async def __call__(self, request: Request) -> Any:
        query = request.query_params
        call = query.get("call", "")
        if call == "tokens":
            tokens = self._middle.options(stream=True).tokens
            return StreamingResponse(tokens.remote(query["name"], query["gate"]))
        if call == "request":
            return await self._middle.request.remote()
        if call:
            return await getattr(self._middle, call).remote(query["name"])
        return await self._middle.remote(int(query.get("value", "1")))

    async def add_up(self, value: int) -> list[int]:
        one, two = self.others["list"]
        return [await one.remote(value), await two.remote(value)]

    def names(self) -> list[str]:
        one, two = self.others["list"]
        return [self._middle.deployment_name, one.deployment_name, two.deployment_name]
