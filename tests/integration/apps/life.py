"""Deployments whose methods of life do what a test asks of them."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, WebSocket
from starlette.requests import Request

import serving
from tests.support.gate import Gate
from tests.support.record import Record

colour: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")


@serving.deployment
class Starts:
    """Its constructor waits for a gate, and fails where the file beside it says so."""

    def __init__(self, gate: Gate, record: Record) -> None:
        record.note("constructing")
        gate.pass_through()
        if gate.path.with_name("fails").exists():
            raise ValueError("no model there")

    def __call__(self) -> str:
        return "started"


@serving.deployment
class Calls:
    """Answers what a call gives, or names the error that it raises."""

    def __init__(self, callee: Any) -> None:
        self.callee = callee

    async def __call__(self, request: Request) -> str:
        return str(await self.callee.remote())


@serving.deployment
class Checked:
    """Unhealthy while a file is there. Answers its process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        colour.set("blue")

    def check(self) -> None:
        Record(self.folder / "checks").note(
            threading.current_thread() is threading.main_thread(),
            colour.get(),
            serving.get_replica_context().deployment,
        )
        if (self.folder / "sick").exists():
            raise ValueError("the device is lost")

    def __call__(self) -> int:
        return os.getpid()


@serving.deployment
class ChecksInThread(Checked.func_or_class):  # type: ignore[name-defined, misc]
    def check_health(self) -> None:
        self.check()


@serving.deployment
class ChecksOnLoop(Checked.func_or_class):  # type: ignore[name-defined, misc]
    async def check_health(self) -> None:
        self.check()


@serving.deployment
class Hangs(Checked.func_or_class):  # type: ignore[name-defined, misc]
    """Its check never returns where the file is there."""

    async def check_health(self) -> None:
        if (self.folder / "sick").exists():
            await asyncio.Event().wait()


@serving.deployment
class Busy(Checked.func_or_class):  # type: ignore[name-defined, misc]
    """Its handler blocks the loop on which its checks run."""

    async def check_health(self) -> None:
        await asyncio.sleep(0)
        self.check()

    async def __call__(self, request: Request) -> int:
        time.sleep(float(request.query_params.get("block_s", 0)))  # noqa: ASYNC251 - as careless code
        return os.getpid()


@serving.deployment
class Configured:
    """Answers its process and the `value` of its user_config."""

    value: Any = None

    def __init__(self, record: Record) -> None:
        self.record = record

    async def reconfigure(self, config: Any) -> None:
        self.record.note("reconfigure", config["value"])
        if config["value"] == "bad":
            self.value = "half"
            raise ValueError("a bad value")
        self.value = config["value"]

    def __call__(self) -> Any:
        return [os.getpid(), self.value]


@serving.deployment
class ReconfiguresInThread:
    """Its synchronous `reconfigure` waits for a gate while requests are answered."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.value = None

    def reconfigure(self, config: Any) -> None:
        self.gate.pass_through()
        self.value = config

    async def __call__(self) -> Any:
        return self.value


@serving.deployment
class Batched:
    """Answers with the size of the batch that a request was in."""

    def reconfigure(self, config: Any) -> None:
        self.size.set_max_batch_size(config["max_batch_size"])

    @serving.batch(max_batch_size=1, batch_wait_timeout_s=0.5)
    async def size(self, items: list[int]) -> list[int]:
        return [len(items)] * len(items)

    async def __call__(self, item: int) -> int:
        return await self.size(item)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    app.state.record.note("lifespan")


ending = FastAPI(lifespan=lifespan)


@serving.deployment
@serving.ingress(ending)
class Ends:
    """Notes each step of its end. Its synchronous `shutdown` runs beside the loop."""

    def __init__(self, record: Record) -> None:
        self.record = record
        ending.state.record = record

    @ending.get("/")
    def root(self) -> str:
        return "here"

    def shutdown(self) -> None:
        self.record.note("shutdown", threading.current_thread() is threading.main_thread())
        raise ValueError("shutdown went wrong")

    def __del__(self) -> None:
        self.record.note("del")


@serving.deployment
class EndsAsync:
    """Its end is `async`; its `shutdown` never comes to an end."""

    def __init__(self, record: Record) -> None:
        self.record = record

    def __call__(self) -> str:
        return "here"

    async def shutdown(self) -> None:
        self.record.note("shutdown")
        await asyncio.Event().wait()

    async def __del__(self) -> None:
        await asyncio.sleep(0)
        self.record.note("del")


@serving.deployment
class Model:
    """Notes its end."""

    def __init__(self, record: Record) -> None:
        self.record = record

    async def __call__(self, value: str) -> str:
        return f"model of {value}"

    def shutdown(self) -> None:
        self.record.note("model ended")


@serving.deployment
class CallsLate:
    """Calls its model only once the gate is open."""

    def __init__(self, model: Any, gate: Gate, record: Record) -> None:
        self.model = model
        self.gate = gate
        self.record = record

    async def __call__(self, request: Request) -> str:
        self.record.note("waiting")
        await self.gate.pass_through_async()
        return str(await self.model.remote("late"))

    def shutdown(self) -> None:
        self.record.note("ingress ended")


@serving.deployment(max_ongoing_requests=1, max_queued_requests=0)
class Full:
    """Takes one call at a time, and none in addition."""

    def __init__(self, gate: Gate, record: Record) -> None:
        self.gate = gate
        self.record = record

    async def __call__(self) -> str:
        self.record.note("full")
        await self.gate.pass_through_async()
        return "done"


api = FastAPI()


@serving.deployment
@serving.ingress(api)
class CallsAPI:
    """The same as `Calls` in FastAPI."""

    def __init__(self, callee: Any) -> None:
        self.callee = callee

    @api.get("/")
    async def root(self) -> str:
        return str(await self.callee.remote())

    @api.get("/caught")
    async def caught(self) -> str:
        try:
            return str(await self.callee.remote())
        except serving.exceptions.BackPressureError:
            return "caught"

    @api.websocket("/early")
    async def early(self, websocket: WebSocket) -> None:
        await self.callee.remote()

    @api.websocket("/late")
    async def late(self, websocket: WebSocket) -> None:
        await websocket.accept()
        await self.callee.remote()
