"""A deployment that holds many models, two at a time."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import serving
from tests.support.gate import Gate
from tests.support.record import Record


class Model:
    """Tells when Python lets go of it."""

    def __init__(self, name: str, record: Record) -> None:
        self.name = name
        self.record = record

    def __del__(self) -> None:
        self.record.note("del", self.name)


class ModelWithShutdown(Model):
    def shutdown(self) -> None:
        self.record.note("shutdown", self.name)


class ModelWithAsyncShutdown(Model):
    async def shutdown(self) -> None:
        await asyncio.sleep(0.01)
        self.record.note("async-shutdown", self.name)


KINDS = {"del": Model, "sync": ModelWithShutdown, "async": ModelWithAsyncShutdown}


@serving.deployment
class Models:
    """The id of a model is its kind, a name, and "@" with the gate that its load has to pass."""

    def __init__(self, record: Record) -> None:
        self.record = record

    @serving.multiplexed(max_num_models_per_replica=2)
    async def get_model(self, model_id: str) -> Model:
        name, _, gate = model_id.partition("@")
        self.record.note("load", name)
        try:
            if gate:
                await Gate(Path(gate)).pass_through_async()
        except asyncio.CancelledError:
            self.record.note("cancelled", name)
            raise
        if name.startswith("broken"):
            raise LookupError(name)
        return KINDS[name.partition("-")[0]](name, self.record)

    async def __call__(self, request: Any = None) -> str:
        model_id = serving.get_multiplexed_model_id()
        self.record.note("asks", model_id.partition("@")[0])
        await self.get_model(model_id)
        return serving.get_replica_context().replica_id

    async def work(self, gate: str) -> str:
        """Uses the model until the gate opens."""
        model = await self.get_model(serving.get_multiplexed_model_id())
        self.record.note("uses", model.name)
        await Gate(Path(gate)).pass_through_async()
        self.record.note("used", model.name)
        return serving.get_replica_context().replica_id

    def pid(self) -> int:
        return os.getpid()
