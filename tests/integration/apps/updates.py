"""What is updated, well and badly."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

import serving
from serving.handle import DeploymentHandle
from tests.support.gate import Gate
from tests.support.record import Record


@serving.deployment
class Versioned:
    """Notes the id of each request that it runs, and answers with its version."""

    def __init__(self, version: str, record: Record) -> None:
        self.version = version
        self.record = record

    async def __call__(self, request: Request) -> str:
        self.record.note(request.headers.get("x-id", "no id"))
        await asyncio.sleep(0.01)
        return self.version


@serving.deployment(name="Versioned")
class Raises:
    def __init__(self) -> None:
        raise ValueError("no model")

    async def __call__(self, request: Request) -> str:
        raise AssertionError("it never runs")


@serving.deployment(name="Versioned")
class RaisesLate:
    """Each time it starts, once the gate is open."""

    def __init__(self, gate: Gate) -> None:
        gate.pass_through()
        raise ValueError("no model")

    async def __call__(self, request: Request) -> str:
        raise AssertionError("it never runs")


@serving.deployment(name="Versioned")
class Unhealthy:
    def check_health(self) -> None:
        raise ValueError("sick")

    async def __call__(self, request: Request) -> str:
        raise AssertionError("it never runs")


@serving.deployment
class Price:
    def __init__(self, version: str) -> None:
        self.version = version

    def get(self) -> str:
        return self.version


@serving.deployment(name="Price")
class PriceRaises:
    def __init__(self) -> None:
        raise ValueError("no prices")


@serving.deployment
class Front:
    """Answers with its version and that of the price it got."""

    def __init__(self, version: str, price: DeploymentHandle[Price]) -> None:
        self.version = version
        self.price = price

    async def __call__(self, request: Request) -> str:
        return f"{self.version}/{await self.price.get.remote()}"
