"""The yardstick of handles: bare grpc.aio, one process that answers and one that asks.

Bytes in and out, no protobuf: a unary echo, and a call that streams fifty messages back.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from loads import Sample
from repeat import BODY, ITEMS, repeat

# What serving sets for its own processes.
CLASSIC_POLLER = "-event_engine_client,-event_engine_listener"


@dataclass(frozen=True)
class Bare:
    """A pair of processes that runs: `ask` has one load the other."""

    client: subprocess.Popen[str]
    server: subprocess.Popen[str]

    def ask(self, what: str, concurrency: int, seconds: float) -> Sample:
        assert self.client.stdin is not None
        assert self.client.stdout is not None
        print(json.dumps([what, concurrency, seconds]), file=self.client.stdin, flush=True)
        return Sample(**json.loads(self.client.stdout.readline()))

    @property
    def processes(self) -> dict[str, psutil.Process]:
        return {
            "caller": psutil.Process(self.client.pid),
            "callee": psutil.Process(self.server.pid),
        }


@contextmanager
def bare(folder: Path, *, tuned: bool) -> Iterator[Bare]:
    """`tuned`: with the loop, the poller and the collector's settings of serving's processes."""
    address = f"unix:{folder}/bare-{'tuned' if tuned else 'default'}"
    environment = {**os.environ, "GRPC_EXPERIMENTS": CLASSIC_POLLER if tuned else ""}
    if not tuned:
        del environment["GRPC_EXPERIMENTS"]
    processes = []
    try:
        for role in ("serve", "ask"):
            command = [sys.executable, __file__, role, address, *(["--tuned"] if tuned else [])]
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
            processes.append(process)
            assert process.stdout is not None
            process.stdout.readline()
        yield Bare(client=processes[1], server=processes[0])
    finally:
        for process in reversed(processes):
            assert process.stdin is not None
            process.stdin.close()
            process.wait(10)


async def _unary(request: bytes, context: Any) -> bytes:
    return request


async def _stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
    for _ in range(ITEMS):
        yield request


async def serve(address: str) -> None:
    """Answers until standard input ends."""
    import grpc.aio

    server = grpc.aio.server()
    handlers = {
        "unary": grpc.unary_unary_rpc_method_handler(_unary),
        "stream": grpc.unary_stream_rpc_method_handler(_stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Bare", handlers),))
    server.add_insecure_port(address)
    await server.start()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)


async def ask(address: str) -> None:
    """Reads what to do from standard input, line by line, and prints what it took."""
    import grpc.aio

    async with grpc.aio.insecure_channel(address) as channel:
        unary = channel.unary_unary("/Bare/unary")
        stream = channel.unary_stream("/Bare/stream")

        async def call() -> None:
            await unary(BODY)

        async def items() -> None:
            async for _ in stream(BODY):
                pass

        calls: dict[str, Callable[[], Awaitable[None]]] = {"call": call, "stream": items}
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            what, concurrency, seconds = json.loads(line)
            sample = await repeat(calls[what], concurrency, seconds)
            print(json.dumps(asdict(sample)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=["serve", "ask"])
    parser.add_argument("address")
    parser.add_argument("--tuned", action="store_true")
    args = parser.parse_args()
    work = {"serve": serve, "ask": ask}[args.role](args.address)
    if not args.tuned:
        asyncio.run(work)
        return
    import uvloop

    from serving.aio import settle_gc

    settle_gc()
    uvloop.run(work)


if __name__ == "__main__":
    main()
