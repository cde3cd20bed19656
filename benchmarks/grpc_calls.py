"""gRPC calls of a user's service beside a bare grpc.aio server that has the same handler.

One proxy with one replica and the bare servers are up together and take turns in several short
rounds, so that a noisy machine disturbs all alike. A ratio is the median over the rounds of one
figure to its yardstick's in the same round.

The load comes from h2load, over one connection, as of one gRPC client with so many calls at a
time. It speaks HTTP/2 and is written in C: a client of grpc.aio costs as much as a server of it
does, and on two cores would be what is measured. h2load knows nothing of gRPC. So each round asks
for a number of calls that is fixed, and all must have brought all their messages, to the byte: a
call that fails brings fewer. Before the rounds a client of grpcio reads answers and status of all.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

import grpc
import psutil
import report
from bare import CLASSIC_POLLER
from echo_service import SERVICE, Echo, add_EchoServicer_to_server, app
from google.protobuf.wrappers_pb2 import StringValue
from loads import LoadError, Sample
from repeat import ITEMS
from servers import Server, free_port
from ways import Comparison, Way, show

import serving

LIBRARIES = ("grpcio", "protobuf", "uvloop")
RATE_TARGET = 0.5
"""Of the bare server's calls a second, at 64 at a time."""
ADDED_MS_TARGET = 0.4
"""Of the median, at one at a time."""
MESSAGE = StringValue(value="hello")
FIRST_GUESS_RATE = 500.0
START_DEADLINE_S = 20.0


@dataclass(frozen=True)
class Kind:
    """A method of the service."""

    name: str
    title: str
    method: str
    messages: int

    @property
    def path(self) -> str:
        return f"/{SERVICE}/{self.method}"


KINDS = (Kind("unary", "unary", "Say", 1), Kind("stream", "50-message stream", "Repeat", ITEMS))


class Load:
    """Calls of one kind to the server at one port."""

    def __init__(self, kind: Kind, port: int, folder: Path) -> None:
        self._kind, self._port, self._folder = kind, port, folder
        self._rates: dict[int, float] = {}
        """By the number of calls at a time: as many as the next round asks for."""

    def __call__(self, concurrency: int, seconds: float) -> Sample:
        count = max(concurrency, round(self._rates.get(concurrency, FIRST_GUESS_RATE) * seconds))
        sample = self._drive(count, concurrency)
        self._rates[concurrency] = sample.rate
        return sample

    def _drive(self, count: int, concurrency: int) -> Sample:
        body, log = self._folder / "message", self._folder / "calls"
        framed = _framed(MESSAGE)
        body.write_bytes(framed)
        log.unlink(missing_ok=True)
        command = ["h2load", f"-n{count}", "-c1", f"-m{concurrency}", f"--data={body}"]
        command += ["-Hcontent-type: application/grpc", "-Hte: trailers", f"--log-file={log}"]
        command.append(f"http://127.0.0.1:{self._port}{self._kind.path}")
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        arrived = re.search(r"\((\d+)\) data$", done.stdout, re.MULTILINE)
        expected = count * self._kind.messages * len(framed)
        if done.returncode or arrived is None or int(arrived[1]) != expected:
            raise LoadError(f"not {expected:,} bytes:\n{' '.join(command)}\n{done.stdout}")
        return _sample(log)

    def check(self) -> None:
        """Makes one call with grpcio, as soon as it is served: raises where its answer or its
        status is not right."""
        deadline = time.monotonic() + START_DEADLINE_S
        with grpc.insecure_channel(f"127.0.0.1:{self._port}") as channel:
            call = channel.unary_stream(
                self._kind.path,
                request_serializer=StringValue.SerializeToString,
                response_deserializer=StringValue.FromString,
            )
            while True:
                try:
                    answers = list(call(MESSAGE, timeout=START_DEADLINE_S))
                    break
                except grpc.RpcError as error:
                    if (
                        error.code() is not grpc.StatusCode.UNAVAILABLE
                        or time.monotonic() > deadline
                    ):
                        raise
                    time.sleep(0.05)
        if answers != [MESSAGE] * self._kind.messages:
            raise LoadError(f"{self._kind.path} at {self._port}: {answers}")


def _framed(message: StringValue) -> bytes:
    """As gRPC sends it: not compressed, and its length."""
    data = message.SerializeToString()
    return b"\0" + len(data).to_bytes(4) + data


def _sample(log: Path) -> Sample:
    """Of h2load's log: a line for each call, its start and what it took, in microseconds."""
    calls = [[int(cell) for cell in line.split("\t")] for line in log.read_text().splitlines()]
    first, last = min(start for start, _, _ in calls), max(start + took for start, _, took in calls)
    cuts = quantiles((took for _, _, took in calls), n=100)
    rate = len(calls) / (last - first) * 1e6
    return Sample(len(calls), rate, cuts[49] / 1e3, cuts[98] / 1e3)


@contextmanager
def behind_the_proxy(folder: Path, *, access_log: bool) -> Iterator[Server]:
    """The service as a deployment behind the proxy of a cluster."""
    with _running("cluster", folder, *(["--access-log=on"] if access_log else [])) as server:
        yield server


@contextmanager
def bare(folder: Path, *, tuned: bool) -> Iterator[Server]:
    """The service on a grpc.aio server."""
    with _running("bare", folder, *(["--tuned"] if tuned else [])) as server:
        yield server


@contextmanager
def _running(role: str, folder: Path, *arguments: str) -> Iterator[Server]:
    """This script in a process of its own, whose output goes to a file."""
    port = free_port()
    environment = dict(os.environ)
    environment.pop("GRPC_EXPERIMENTS", None)
    if "--tuned" in arguments:
        environment["GRPC_EXPERIMENTS"] = CLASSIC_POLLER
    command = [sys.executable, __file__, f"--role={role}", f"--port={port}", *arguments]
    with (folder / f"{port}.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, env=environment
        )
    try:
        yield Server(port, psutil.Process(process.pid))
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(10)


def run_cluster(port: int, *, access_log: bool) -> None:
    """Runs the cluster until standard input ends."""
    serving.start(
        http_options=serving.HTTPOptions(port=0),
        grpc_options=serving.gRPCOptions(
            port=port, grpc_servicer_functions=["echo_service.add_EchoServicer_to_server"]
        ),
        logging_config=serving.LoggingConfig(enable_access_log=access_log),
    )
    try:
        serving.run(app, name="echo", route_prefix=None)
        sys.stdin.read()
    finally:
        serving.shutdown()


def run_bare(port: int, *, tuned: bool) -> None:
    """Runs the bare server until standard input ends."""
    if not tuned:
        asyncio.run(serve(port))
        return
    import uvloop

    from serving.aio import settle_gc

    settle_gc()
    uvloop.run(serve(port))


async def serve(port: int) -> None:
    server = grpc.aio.server()
    add_EchoServicer_to_server(Echo(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)


def comparisons(ours: Server, bares: dict[str, Server], folder: Path) -> list[Comparison]:
    """Each kind of call, one and many at a time."""
    servers = {"serving": ours, **bares}
    found = []
    for kind in KINDS:
        loads = {name: Load(kind, server.port, folder) for name, server in servers.items()}
        for load in loads.values():
            load.check()
        ways = [Way(name, loads[name], _processes(servers[name])) for name in servers]
        found += [Comparison(kind.name, kind.title, at_a_time, ways) for at_a_time in (1, 64)]
    return found


def _processes(server: Server) -> dict[str, psutil.Process]:
    """Those that do the work of a call."""
    by_role = server.processes()
    if "proxy" not in by_role:
        return {"server": server.root}
    return {role: by_role[role] for role in ("proxy", "replica")}


def render(command: str, found: list[Comparison], access_log: bool) -> str:
    """The whole of RESULTS-grpc.md."""
    log = "on" if access_log else "off"
    head = f"# Benchmark results of gRPC\n\n{report.circumstances(command, LIBRARIES)}"
    about = [" ".join(part.split()) for part in (__doc__ or "").split("\n\n")[1:]]
    return "\n\n".join([head, *about, _ABOUT.format(log=log), _table(found)]) + "\n"


_ABOUT = """One message of five letters goes out, and comes back once, or 50 times. "Tuned" has what
serving gives its processes (uvloop, gRPC's classic poller, settled garbage collection); the other
is grpc.aio as it comes (asyncio's loop). The targets are held against the better of the two. The
proxy's access log is {log}: a bare server has none. CPU is microseconds of processor time a call:
of proxy and replica, or of the bare server. Added is to the median of the bare server's.

A stream's messages are written one after the other, each when grpc.aio has heard from a thread of
its own that the last one has left. One stream at a time, that is most of what either server does:
with all threads of the process on one core, its median halves. What varies there from round to
round is more than what the replica adds."""


def _table(comparisons: list[Comparison]) -> str:
    rows = []
    for found in comparisons:
        best = max(found.ways[1:], key=lambda way: median(s.rate for s in found.samples[way.name]))
        for way in found.ways:
            samples = found.samples[way.name]
            ratio = added = verdict = ""
            if way is not found.ways[0]:
                ratios = found.ratios(way)
                ratio = f"{median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
                added_ms = median(found.differences("p50_ms", way))
                added = f"{added_ms:+.3f}"
            if way is best and found.concurrency > 1:
                verdict = report.verdict(median(ratios), RATE_TARGET)
            elif way is best:
                verdict = report.verdict(-added_ms, -ADDED_MS_TARGET).replace(":", " ms:")
            rows.append(
                (
                    found.title if way is found.ways[0] else "",
                    str(found.concurrency) if way is found.ways[0] else "",
                    way.name,
                    f"{median(s.rate for s in samples):,.0f}",
                    f"{median(s.p50_ms for s in samples):.3f}",
                    f"{median(s.p99_ms for s in samples):.3f}",
                    " + ".join(f"{us:.0f}" for us in found.cpu_us[way.name].values()),
                    ratio,
                    added,
                    verdict,
                )
            )
    header = ("call", "at a time", "way", "calls/s", "p50 ms", "p99 ms", "CPU µs")
    return report.table((*header, "ours to this", "added ms", "target"), rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=[kind.name for kind in KINDS], help="repeatable"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two rounds of a second")
    parser.add_argument("--access-log", choices=["on", "off"], default="off")
    parser.add_argument("--write", action="store_true", help="write RESULTS-grpc.md")
    # What the script is in the processes that it starts.
    parser.add_argument("--role", choices=["cluster", "bare"], help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--tuned", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.only = args.only or [kind.name for kind in KINDS]
    if args.quick:
        args.seconds, args.rounds = 1.0, 2
    return args


def main() -> None:
    args = parse()
    if args.role == "cluster":
        run_cluster(args.port, access_log=args.access_log == "on")
        return
    if args.role == "bare":
        run_bare(args.port, tuned=args.tuned)
        return
    if shutil.which("h2load") is None:
        sys.exit("h2load is not installed: `sudo apt-get install nghttp2-client` (Debian, Ubuntu)")
    print(f"load average {os.getloadavg()[0]:.2f}", flush=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ours = stack.enter_context(behind_the_proxy(folder, access_log=args.access_log == "on"))
        bares = {
            "grpc.aio, tuned": stack.enter_context(bare(folder, tuned=True)),
            "grpc.aio": stack.enter_context(bare(folder, tuned=False)),
        }
        found = [each for each in comparisons(ours, bares, folder) if each.name in args.only]
        for comparison in found:
            comparison.run(args.seconds, args.rounds)
            print(show(comparison), flush=True)
    command = " ".join(["python", "benchmarks/grpc_calls.py", *sys.argv[1:]])
    text = render(command, found, args.access_log == "on")
    print(text)
    if args.write:
        (Path(__file__).parent / "RESULTS-grpc.md").write_text(text)


if __name__ == "__main__":
    main()
