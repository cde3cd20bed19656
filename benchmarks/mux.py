"""The bare transport: five-byte requests and answers over one gRPC call between two processes.

No HTTP, no routing: what serving.mux can do at most, and what a stream costs on either end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from array import array
from typing import Any

import grpc.aio
import psutil
import uvloop

from serving.mux import CallerConnection, ReplicaConnection, Stream, channel_options, server_options
from serving.v1.replica_pb2_grpc import (
    ReplicaServicer,
    ReplicaStub,
    add_ReplicaServicer_to_server,
)

TAG = 1
BODY = b"hello"


class Echo(ReplicaServicer):
    """Answers every stream with what opened it, in a task of its own as a replica does."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def Connect(self, request_iterator: Any, context: Any) -> None:
        await ReplicaConnection(context, self._start).run()

    def _start(self, stream: Stream) -> None:
        task = asyncio.get_running_loop().create_task(self._answer(stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, stream: Stream) -> None:
        part = await stream.receive()
        assert part is not None
        stream.write(TAG, part.data, end=True)


async def serve(address: str) -> None:
    """Runs the echoing end until standard input ends."""
    server = grpc.aio.server(options=server_options())
    add_ReplicaServicer_to_server(Echo(), server)
    server.add_insecure_port(address)
    await server.start()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)


async def _ask(connection: CallerConnection, deadline: float, latencies: array[float]) -> None:
    while (sent_at := time.perf_counter()) < deadline:
        stream = connection.open(TAG, BODY, end=True)
        part = await stream.receive()
        assert part is not None
        latencies.append(time.perf_counter() - sent_at)


async def drive(address: str, concurrency: int, seconds: float) -> array[float]:
    """Keeps `concurrency` streams open for `seconds`; the latencies of all, in seconds."""
    latencies = array("d")
    async with grpc.aio.insecure_channel(address, options=channel_options()) as channel:
        connection = CallerConnection(ReplicaStub(channel).Connect())
        running = asyncio.create_task(connection.run())
        await asyncio.wait_for(connection.ready.wait(), 10)
        deadline = time.perf_counter() + seconds
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(_ask(connection, deadline, latencies))
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    return latencies


def measure(address: str, replica: psutil.Process, concurrency: int, args: Any) -> None:
    """One number of streams, several rounds, one line."""
    caller, rates, medians, costs = psutil.Process(), [], [], []
    for _ in range(args.rounds):
        before = [sum(p.cpu_times()[:2]) for p in (caller, replica)]
        latencies = uvloop.run(drive(address, concurrency, args.seconds))
        after = [sum(p.cpu_times()[:2]) for p in (caller, replica)]
        rates.append(len(latencies) / args.seconds)
        medians.append(statistics.median(latencies) * 1e3)
        costs.append([(b - a) / len(latencies) * 1e6 for a, b in zip(before, after, strict=True)])
    cost = [statistics.median(column) for column in zip(*costs, strict=True)]
    print(
        f"{concurrency:3} streams: {statistics.median(rates):8,.0f}/s"
        f"  p50 {statistics.median(medians):.3f} ms"
        f"  cpu us/stream: caller {cost[0]:.0f}, replica {cost[1]:.0f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", metavar="ADDRESS", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        uvloop.run(serve(args.serve))
        return
    with tempfile.TemporaryDirectory() as folder:
        address = f"unix:{folder}/replica"
        command = [sys.executable, __file__, f"--serve={address}"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as replica:
            assert replica.stdin is not None
            assert replica.stdout is not None
            replica.stdout.readline()
            try:
                for concurrency in (1, 64):
                    measure(address, psutil.Process(replica.pid), concurrency, args)
            finally:
                replica.stdin.close()


if __name__ == "__main__":
    main()
