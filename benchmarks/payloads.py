"""Large arrays through handles: shared memory beside the stream, a bare gRPC call, and memcpy.

Every array goes there and back between two processes. All ways are measured in one run, by turns,
so that a noisy machine disturbs them alike.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
from payload_deployments import Echo, Relay
from report import table

import serving

MB = 1_000_000
SIZES_MB = (1.05, 2, 8, 48, 100)
SHARED, STREAM, SCRIPT, GRPC, COPY = (
    "shared memory",
    "stream",
    "shared memory, from a script",
    "bare grpc.aio unary echo",
    "memcpy, one way",
)
METHOD = "/benchmark/echo"
UNBOUNDED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
TARGET_RATIO = 1.5
SMALL_TARGET_MS = 10.0


async def serve(address: str) -> None:
    """Runs the bare echo until standard input ends."""

    async def echo(request: bytes, context: Any) -> bytes:
        return request

    server = grpc.aio.server(options=UNBOUNDED)
    handler = grpc.method_handlers_generic_handler(
        "benchmark", {"echo": grpc.unary_unary_rpc_method_handler(echo)}
    )
    server.add_generic_rpc_handlers((handler,))
    server.add_insecure_port(address)
    await server.start()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)


@contextlib.contextmanager
def bare_echo() -> Iterator[str]:
    """The bare echo in another process; gives its address."""
    with tempfile.TemporaryDirectory() as folder:
        address = f"unix:{folder}/echo"
        command = [sys.executable, __file__, f"--serve={address}"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
            assert server.stdin is not None
            assert server.stdout is not None
            server.stdout.readline()
            try:
                yield address
            finally:
                server.stdin.close()


async def timed(work: Callable[[], Any], count: int) -> list[float]:
    """Seconds that each of `count` runs took, after one that does not count."""
    found = []
    for number in range(count + 1):
        begun = time.perf_counter()
        await work()
        if number:
            found.append(time.perf_counter() - begun)
    return found


async def measure(ways: dict[str, Any], size: int, count: int, rounds: int) -> dict[str, list]:
    """The times of each way, of several rounds by turns."""
    array = np.ones(size, np.uint8)
    target = array.copy()
    found: dict[str, list[float]] = {SHARED: [], STREAM: [], SCRIPT: [], GRPC: [], COPY: []}

    async def copy() -> None:
        target[:] = array

    async def from_script() -> None:
        await ways[SCRIPT].remote(array)

    async def over_grpc() -> None:
        np.frombuffer(await ways[GRPC](array.tobytes()), np.uint8)

    for _ in range(rounds):
        found[SHARED] += await ways[SHARED].round_trips.remote(size, count)
        found[STREAM] += await ways[STREAM].round_trips.remote(size, count)
        found[SCRIPT] += await timed(from_script, count)
        found[GRPC] += await timed(over_grpc, count)
        found[COPY] += await timed(copy, count)
    return found


def show(times: list[float]) -> str:
    return f"{statistics.median(times) * 1e3:.1f} ({min(times) * 1e3:.1f}–{max(times) * 1e3:.1f})"


def small_row(title: str, times: list[float]) -> list[str]:
    ordered = sorted(times)
    p50, p99 = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]
    return [title, f"{len(ordered)}", f"{p50 * 1e3:.2f}", f"{p99 * 1e3:.2f}"]


async def run(args: Any, address: str) -> str:
    echo = Echo.bind()
    serving.run(Relay.bind(echo, True), name="shared", route_prefix=None)
    serving.run(Relay.options(name="Stream").bind(echo, False), name="stream", route_prefix=None)
    ways: dict[str, Any] = {
        SHARED: serving.get_app_handle("shared"),
        STREAM: serving.get_app_handle("stream"),
        SCRIPT: serving.get_deployment_handle("Echo", "shared"),
    }
    rows, small = [], []
    async with grpc.aio.insecure_channel(address, options=UNBOUNDED) as channel:
        ways[GRPC] = channel.unary_unary(METHOD)
        for size_mb in SIZES_MB:
            found = await measure(ways, int(size_mb * MB), args.count, args.rounds)
            ratio = statistics.median(found[STREAM]) / statistics.median(found[SHARED])
            rows.append([f"{size_mb:g}", *map(show, found.values()), f"{ratio:.2f}"])
            print(rows[-1], flush=True)
    for title, way, size in [
        ("nothing else", SHARED, 0),
        ("48 MB there and back, shared memory", SHARED, 48 * MB),
        ("48 MB there and back, stream", STREAM, 48 * MB),
    ]:
        small.append(small_row(title, await ways[way].small_calls.remote(size, args.seconds)))
        print(small[-1], flush=True)
    large = show(await ways[SHARED].round_trips.remote(3000 * MB, 1)) if args.huge else None
    return render(rows, small, large)


def render(rows: list[list[str]], small: list[list[str]], large: str | None) -> str:
    libraries = ", ".join(f"{name} {version(name)}" for name in ("grpcio", "protobuf", "numpy"))
    text = f"""# Large values through handles

Made by `{" ".join(["python", "benchmarks/payloads.py", *sys.argv[1:]])}` on \
{datetime.now(UTC):%Y-%m-%d}: {os.cpu_count()} cores, Python {platform.python_version()}, \
{libraries}. Load average {os.getloadavg()[0]:.2f} at its end, its own load included.

A NumPy array of bytes goes to a replica and comes back, one after the other: ms, median (lowest \
and highest). The last column is the stream's median by that of shared memory; from \
{TARGET_RATIO:g} on, shared memory is worth its while. A script and a bare gRPC call are beside \
them; the latter's arrays are copied into its message and not out of it.

"""
    header = ("MB", SHARED, STREAM, SCRIPT, GRPC, COPY, "stream / shared")
    text += table(header, rows)
    text += f"""

Calls with 1 kB between the same two replicas meanwhile, ms (to be had: p99 < \
{SMALL_TARGET_MS:g}):

"""
    text += table(("meanwhile", "calls", "p50", "p99"), small)
    if large:
        text += f"\n\n3 GB there and back (more than is shared at one time): {large} ms."
    return text + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5, help="arrays in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of small calls")
    parser.add_argument("--huge", action="store_true", help="send 3 GB too")
    parser.add_argument("--write", action="store_true", help="write RESULTS-payloads.md")
    parser.add_argument("--serve", metavar="ADDRESS", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        asyncio.run(serve(args.serve))
        return
    serving.start(http_options={"port": 0})
    try:
        with bare_echo() as address:
            text = asyncio.run(run(args, address))
    finally:
        serving.shutdown()
    print(text)
    if args.write:
        (Path(__file__).parent / "RESULTS-payloads.md").write_text(text)


if __name__ == "__main__":
    main()
