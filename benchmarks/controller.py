"""The controller with 2,000 replicas, 50 applications and 20 watchers.

The processes are objects, and ready as soon as they start; the store is the real one, on the disk,
and so is the asking for health, over gRPC, of servers in another process. What is measured:

- the time of a turn of the reconciler while replicas crash and applications are scaled and updated;
- the time from the deploy of one more application to the last watcher that hears of its replica,
  meanwhile;
- the share of a core that the controller takes while nothing happens: of replicas that have no
  check_health, or, with --checked, of replicas that all have one, asked every 10 s.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import logging
import multiprocessing
import os
import random
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import quantiles
from typing import Any

import grpc

from serving.controller.__main__ import raise_file_limit
from serving.controller.packages import PackageStore
from serving.controller.publisher import Publisher
from serving.controller.reconciler import Reconciler
from serving.controller.replica import Call, Control, Surroundings
from serving.controller.sqlite import SQLiteStore
from serving.engine.base import ProcessSpec
from serving.v1 import controller_pb2 as pb, replica_pb2
from serving.v1.replica_pb2_grpc import (
    ReplicaControlServicer,
    add_ReplicaControlServicer_to_server,
)

APPLICATIONS, REPLICAS, WATCHERS = 50, 40, 20
P99_TARGET_MS, IDLE_TARGET, HEARD_TARGET_S = 50.0, 0.05, 1.0
DEPLOYS = 10
EVENTS_EACH_S = 20.0
# As the supervisor has it.
GRPC = {
    "GRPC_EXPERIMENTS": "-event_engine_client,-event_engine_listener",
    "GRPC_VERBOSITY": "ERROR",
}
pids = itertools.count(1)


class Answers(ReplicaControlServicer):
    """A replica that is well."""

    def __init__(self, has_check: bool) -> None:
        self._answer = replica_pb2.HealthResponse(has_check=has_check)

    def Health(self, request: object, context: object) -> replica_pb2.HealthResponse:
        return self._answer


def answer(folder: str, count: int, has_check: bool, pipe: Connection) -> None:
    """Answers on as many sockets until the pipe closes."""
    raise_file_limit()
    server = grpc.server(ThreadPoolExecutor(4))
    add_ReplicaControlServicer_to_server(Answers(has_check), server)
    for number in range(count):
        server.add_insecure_port(f"unix:{folder}/{number}")
    server.start()
    pipe.send("ready")
    try:
        pipe.recv()
    except EOFError:
        server.stop(0).wait()


def read(path: Path) -> pb.ReplicaSpec:
    return pb.ReplicaSpec.FromString(path.read_bytes())


class Process:
    """Ends when it is told to."""

    def __init__(self, replica: pb.ReplicaSpec) -> None:
        self.replica = replica
        self.pid = next(pids)
        self.identity = str(self.pid)
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


@dataclass
class Cluster:
    """A reconciler and what stands around it."""

    folder: Path
    running: dict[str, Process] = field(default_factory=dict)
    turns_s: list[float] = field(default_factory=list)
    # Of each application, the watchers that know where its replicas are.
    heard: dict[str, set[str]] = field(default_factory=dict)
    hears: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.sockets = itertools.cycle(range(APPLICATIONS * REPLICAS))
        self.store = SQLiteStore(self.folder / "store.sqlite")
        self.publisher = Publisher(self.store.next_epoch())
        around = Surroundings(
            self,
            self.folder,
            "unix:/controller",
            PackageStore(self.folder / "packages"),
            connect=self.connect,
        )
        self.reconciler = Reconciler(around, self.store, self.publisher)
        turn = self.reconciler._turn

        def timed(now: float) -> None:
            began = time.perf_counter()
            turn(now)
            self.turns_s.append(time.perf_counter() - began)

        self.reconciler._turn = timed  # type: ignore[method-assign]

    # The engine

    async def start(self, spec: ProcessSpec) -> Process:
        replica = read(Path(spec.args[0]))
        process = self.running[replica.control_address] = Process(replica)
        process.code.add_done_callback(lambda _: self.running.pop(replica.control_address))
        asyncio.get_running_loop().call_soon(self.reconciler.events.report, replica.replica_id, "")
        return process

    def adopt(self, identity: str) -> Process | None:
        return None

    def find(self, spec: ProcessSpec) -> Process | None:
        return None

    def connect(self, address: str) -> Call:
        """One that is drained ends at once; all else is asked of the other process."""
        ask = Control(f"unix:{self.folder}/{next(self.sockets)}")

        async def call(method: str, request: Any, timeout_s: float) -> Any:
            if method == "Drain":
                self.running[address].exit(0)
                return replica_pb2.DrainResponse()
            if method == "Reconfigure":
                return replica_pb2.ReconfigureResponse()
            return await ask(method, request, timeout_s)

        return call

    # The watchers

    async def watch(self, name: str) -> None:
        with self.publisher.watching(name) as watcher:
            async for update in self.publisher.updates(watcher):
                update.SerializeToString()
                self.publisher.confirm(watcher, update.revision)
                for each in update.deployments:
                    if each.endpoints:
                        self.heard.setdefault(each.application, set()).add(name)
                        self.hears.set()

    # What happens

    def deploy(self, number: int, version: int, count: int) -> None:
        options = pb.DeploymentOptions(
            num_replicas=count,
            max_ongoing_requests=100,
            max_queued_requests=-1,
            graceful_shutdown_timeout_s=20,
            health_check_period_s=10,
            health_check_timeout_s=30,
            rolling_update_percentage=0.2,
            max_surge_percent=100,
        )
        deployment = pb.DeploymentSpec(name="D", version=f"v{version}", options=options)
        name = f"app-{number}"
        self.reconciler.targets.deploy(
            pb.ApplicationSpec(
                name=name, route_prefix=f"/{name}", ingress="D", deployments=[deployment]
            )
        )

    async def until_settled(self) -> None:
        while not self.is_settled:
            await self.reconciler.statuses.change()

    @property
    def is_settled(self) -> bool:
        return all(status.status == "RUNNING" for status in self.reconciler.statuses.values())

    async def churn(self, duration_s: float) -> int:
        events, ends_at = 0, time.monotonic() + duration_s
        versions, counts = [0] * APPLICATIONS, [REPLICAS] * APPLICATIONS
        while time.monotonic() < ends_at:
            number = random.randrange(APPLICATIONS)
            match events % 10:
                case 0:
                    versions[number] += 1
                    self.deploy(number, versions[number], counts[number])
                case 1:
                    counts[number] = REPLICAS + random.randrange(-5, 5)
                    self.deploy(number, versions[number], counts[number])
                case _:
                    random.choice(list(self.running.values())).exit(-9)
            events += 1
            await asyncio.sleep(1 / EVENTS_EACH_S)
        return events

    async def deploys_heard_s(self) -> list[float]:
        """Deploys one application after another, and waits for all watchers to know of each."""
        found = []
        for number in range(APPLICATIONS, APPLICATIONS + DEPLOYS):
            began = time.perf_counter()
            self.deploy(number, 0, 1)
            while len(self.heard.get(f"app-{number}", ())) < WATCHERS:
                self.hears.clear()
                await self.hears.wait()
            found.append(time.perf_counter() - began)
            await asyncio.sleep(0.5)
        return found


async def measure(folder: Path, idle_s: float, churn_s: float) -> tuple[bool, list[str]]:
    cluster = Cluster(folder)
    loop = asyncio.create_task(cluster.reconciler.run())
    watchers = [asyncio.create_task(cluster.watch(f"proxy-{n}")) for n in range(WATCHERS)]
    began = time.monotonic()
    for number in range(APPLICATIONS):
        cluster.deploy(number, 0, REPLICAS)
    await cluster.until_settled()
    told = [
        f"{len(cluster.running)} replicas ready after {time.monotonic() - began:.1f} s",
        turns("starting them all", cluster.turns_s),
    ]

    await asyncio.sleep(10)  # the first checks open the channels
    cluster.turns_s.clear()
    busy_s, began = time.process_time(), time.monotonic()
    await asyncio.sleep(idle_s)
    share = (time.process_time() - busy_s) / (time.monotonic() - began)
    told.append(f"idle: {share:.1%} of a core, {len(cluster.turns_s)} turns in {idle_s:.0f} s")

    cluster.turns_s.clear()
    busy_s, began = time.process_time(), time.monotonic()
    events, heard_s = await asyncio.gather(cluster.churn(churn_s), cluster.deploys_heard_s())
    await cluster.until_settled()
    busy = (time.process_time() - busy_s) / (time.monotonic() - began)
    told.append(turns(f"{events} events, {busy:.0%} of a core", cluster.turns_s))
    told.append(
        f"{DEPLOYS} deploys meanwhile: all {WATCHERS} watchers know of the replica after "
        f"{max(heard_s) * 1000:.0f} ms at most"
    )
    p99_ms = quantiles(cluster.turns_s, n=100)[98] * 1000
    for task in (loop, *watchers):
        task.cancel()
    await cluster.reconciler.aclose()
    cluster.store.close()
    is_met = share <= IDLE_TARGET and p99_ms <= P99_TARGET_MS and max(heard_s) <= HEARD_TARGET_S
    return is_met, told


def turns(title: str, turns_s: list[float]) -> str:
    cuts = quantiles(turns_s, n=100)
    p50_ms, p99_ms, most_ms = cuts[49] * 1000, cuts[98] * 1000, max(turns_s) * 1000
    return (
        f"{title}: {len(turns_s)} turns, p50 {p50_ms:.1f} ms, p99 {p99_ms:.1f} ms, "
        f"longest {most_ms:.1f} ms"
    )


def report(given: argparse.Namespace, told: list[str]) -> str:
    """The whole of RESULTS-controller.md."""
    options = (
        f"--idle-s {given.idle_s:g} --churn-s {given.churn_s:g}" + " --checked" * given.checked
    )
    return f"""# The controller at {APPLICATIONS * REPLICAS} replicas

By `python benchmarks/controller.py {options} --write`, on {os.cpu_count()} cores.
{APPLICATIONS} applications and {WATCHERS} watchers. Real: the reconciler, the store on the disk,
and health checks over gRPC and Unix sockets. Simulated: the processes, which are ready at once (one
answers for all of them), and the watchers, which are in the controller's process.

{chr(10).join(f"- {line}" for line in told)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--idle-s", type=float, default=20.0)
    parser.add_argument("--churn-s", type=float, default=20.0)
    parser.add_argument("--checked", action="store_true", help="replicas have a check_health")
    parser.add_argument("--write", action="store_true", help="write RESULTS-controller.md")
    given = parser.parse_args()
    if not GRPC.items() <= os.environ.items():  # read when grpc is imported
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **GRPC})
    raise_file_limit()
    random.seed(1)
    logging.disable()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = context.Pipe()
        answering = context.Process(
            target=answer,
            args=(folder, APPLICATIONS * REPLICAS, given.checked, theirs),
            daemon=True,
        )
        answering.start()
        theirs.close()
        ours.recv()
        is_met, told = asyncio.run(measure(Path(folder), given.idle_s, given.churn_s))
        ours.close()
        answering.join()
    verdict = "met" if is_met else "missed"
    targets = f"p99 {P99_TARGET_MS:.0f} ms, idle {IDLE_TARGET:.0%}, heard {HEARD_TARGET_S:g} s"
    told.append(f"targets ({targets}): {verdict}")
    print("\n".join(told))
    if given.write:
        path = Path(__file__).parent / "RESULTS-controller.md"
        path.write_text(report(given, told), "utf-8")


if __name__ == "__main__":
    main()
