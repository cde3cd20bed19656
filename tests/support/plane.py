"""A controller whose processes are objects, and which can be killed at any moment."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

from serving.controller.packages import PackageStore
from serving.controller.publisher import Publisher
from serving.controller.reconciler import Reconciler
from serving.controller.replica import Surroundings
from serving.controller.store import MemoryStore
from serving.engine.base import ProcessSpec
from serving.v1 import controller_pb2 as pb, replica_pb2

pids = itertools.count(1)


class FakeProcess:
    """Ends when it is told to."""

    def __init__(self, replica: pb.ReplicaSpec) -> None:
        self.replica = replica
        self.pid = next(pids)
        self.identity = f"process {self.pid}"
        # What it says of itself; who has it report that it is ready sets it.
        self.state = replica_pb2.DescribeResponse.STARTING
        self.code: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def wait(self) -> int:
        return await asyncio.shield(self.code)

    def exit(self, code: int) -> None:
        if not self.code.done():
            self.code.set_result(code)

    def terminate(self) -> None:
        self.exit(0)

    def kill(self) -> None:
        self.exit(-9)


def no_check(address: str) -> replica_pb2.HealthResponse:
    return replica_pb2.HealthResponse()


class FakeEngine:
    """Remembers what it started."""

    def __init__(self) -> None:
        self.started: list[FakeProcess] = []
        self.error: OSError | None = None
        self.health: Callable[[str], replica_pb2.HealthResponse] = no_check
        # What `reconfigure` raises for a user_config, as JSON.
        self.refuses: dict[str, str] = {}
        # What the controller asked replicas, and with what.
        self.asked: list[tuple[str, Any]] = []

    async def start(self, spec: ProcessSpec) -> FakeProcess:
        if self.error:
            raise self.error
        process = FakeProcess(read(Path(spec.args[0])))
        self.started.append(process)
        return process

    async def control(self, address: str, method: str, request: Any, timeout_s: float) -> Any:
        """What a replica does that has no requests: one that is drained ends."""
        (process,) = (each for each in self.running if each.replica.control_address == address)
        self.asked.append((method, request))
        if method == "Drain":
            process.exit(0)
            return replica_pb2.DrainResponse()
        if method == "Describe":
            options = process.replica.deployment.options
            return replica_pb2.DescribeResponse(
                replica_id=process.replica.replica_id,
                state=process.state,
                max_ongoing_requests=options.max_ongoing_requests,
                user_config_json=options.user_config_json,
            )
        if method == "Reconfigure":
            error = self.refuses.get(request.user_config_json, "")
            return replica_pb2.ReconfigureResponse(error=error)
        if method == "Stacks":
            return replica_pb2.StacksResponse(
                text='Thread MainThread:\n  File "/model.py", line 7, in load\n'
            )
        assert method == "Health", method
        return self.health(address)

    def adopt(self, identity: str) -> FakeProcess | None:
        return next((each for each in self.running if each.identity == identity), None)

    def find(self, spec: ProcessSpec) -> FakeProcess | None:
        wanted = Path(spec.args[0]).stem
        return next((each for each in self.running if wanted in each.replica.address), None)

    @property
    def running(self) -> list[FakeProcess]:
        return [process for process in self.started if not process.code.done()]


class Plane:
    """A reconciler, and what stands around it."""

    def __init__(self, folder: Path) -> None:
        self.engine = FakeEngine()
        self.store = MemoryStore()
        self.around = Surroundings(
            self.engine,
            folder,
            "unix:/controller",
            PackageStore(folder / "packages"),
            connect=lambda address: partial(self.engine.control, address),
        )
        self.anew()

    def anew(self) -> None:
        """Another controller, which knows nothing yet."""
        self.publisher = Publisher(self.store.next_epoch())
        self.reconciler = Reconciler(self.around, self.store, self.publisher)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """It takes its turns meanwhile; nothing runs afterwards."""
        loop = asyncio.create_task(self.reconciler.run())
        try:
            yield self
        finally:
            async with asyncio.timeout(5):
                await self.reconciler.shut_down()
            loop.cancel()
            await self.reconciler.aclose()

    def deploy(self, version: str = "v1", count: int = 1, **fields: Any) -> int:
        (generation,) = self.reconciler.targets.deploy(spec(version, count, **fields)).values()
        return generation

    def status(self, name: str = "app") -> pb.ApplicationStatus:
        return self.reconciler.statuses[name]

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not condition():  # noqa: ASYNC110 - of many objects, which share no event
                await asyncio.sleep(0.001)

    async def ready(self, version: str = "v1", count: int = 1) -> list[FakeProcess]:
        """Lets replicas of a version start, and has them report."""

        def found() -> list[FakeProcess]:
            return [p for p in self.engine.running if p.replica.deployment.version == version]

        await self.until(lambda: len(found()) == count)
        for process in found():
            process.state = replica_pb2.DescribeResponse.READY
            self.reconciler.events.report(process.replica.replica_id, "")
        return found()

    async def fail(self, error: str) -> None:
        """Lets a replica start, and has it report that it cannot."""
        count = len(self.engine.started)
        await self.until(lambda: len(self.engine.started) > count or self.engine.running)
        process = self.engine.running[-1]
        self.reconciler.events.report(process.replica.replica_id, error)
        process.exit(1)


def spec(
    version: str,
    count: int = 1,
    *,
    name: str = "app",
    prefix: str = "/",
    auto_rollback: bool = False,
    autoscaling: str = "",
) -> pb.ApplicationSpec:
    options = pb.DeploymentOptions(
        num_replicas=count,
        max_ongoing_requests=5,
        health_check_period_s=60,
        health_check_timeout_s=1,
        rolling_update_percentage=1,
        max_surge_percent=100,
        autoscaling_config_json=autoscaling,
    )
    return pb.ApplicationSpec(
        name=name,
        route_prefix=prefix,
        ingress="D",
        deployments=[pb.DeploymentSpec(name="D", version=version, options=options)],
        auto_rollback=auto_rollback,
    )


def read(path: Path) -> pb.ReplicaSpec:
    return pb.ReplicaSpec.FromString(path.read_bytes())
