"""Deployments that tell what their own process does with them."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

import serving
from tests.support.gate import Gate
from tests.support.record import Record


@serving.deployment
class Blocks:
    """Blocks its event loop until the gate opens, as careless code does."""

    def __init__(self, gate: Gate, record: Record) -> None:
        self.gate = gate
        self.record = record

    async def __call__(self, request: Request) -> str:
        self.record.note("blocking")
        self.gate.pass_through()
        return "through"


@serving.deployment
class Configured:
    """Answers what its `reconfigure` was given."""

    config: Any = None

    def reconfigure(self, config: Any) -> None:
        self.config = config

    def __call__(self) -> Any:
        return self.config


@serving.deployment
class ConfiguredAsync(Configured.func_or_class):  # type: ignore[name-defined, misc]
    async def reconfigure(self, config: Any) -> None:
        self.config = config
