"""Calls between deployments beside bare grpc.aio, and what a deployment in between costs.

All that is compared is up together and takes turns in several short rounds, so that a noisy machine
disturbs all alike. A ratio is the median over the rounds of one figure to its yardstick's in the
same round.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

import graphs
import psutil
import report
from bare import Bare, bare
from loads import Sample, Scenario, drive, require_wrk
from paced import Lateness, read_streams
from servers import free_port
from ways import Comparison, Way, show

import serving

BODY_BYTES = 10_240
LIBRARIES = ("grpcio", "protobuf", "uvloop", "uvicorn", "httptools", "starlette", "fastapi")
SHARE_TARGET = 0.8
"""Of the direct streams' events a second, at the same pace."""


@contextmanager
def cluster() -> Iterator[int]:
    """The applications of graphs.py on a cluster of this script; gives the HTTP port."""
    port = free_port()
    serving.start(
        http_options=serving.HTTPOptions(port=port),
        logging_config=serving.LoggingConfig(enable_access_log=False),
    )
    try:
        serving.run(graphs.calls, name="calls", route_prefix=None)
        serving.run(graphs.web, name="web", route_prefix="/")
        yield port
    finally:
        serving.shutdown()


def between_replicas(tuned: Bare, plain: Bare) -> list[Comparison]:
    """Handles from replica to replica, beside bare grpc.aio set up as ours, and as it is."""
    calling = serving.get_app_handle("calls")
    callee = serving.get_deployment_handle("Callee", "calls")
    processes = {
        "caller": psutil.Process(calling.pid.remote().result()),
        "callee": psutil.Process(callee.pid.remote().result()),
    }

    def ways(what: str) -> list[Way]:
        def handle(concurrency: int, seconds: float) -> Sample:
            return Sample(**calling.ask.remote(what, concurrency, seconds).result())

        return [
            Way("handle", handle, processes),
            Way("grpc.aio, tuned", partial(tuned.ask, what), tuned.processes),
            Way("grpc.aio", partial(plain.ask, what), plain.processes),
        ]

    return [
        Comparison("call", "a call", 1, ways("call"), "p50_ms", target=-1.2),
        Comparison("call", "calls", 64, ways("call"), target=3.0),
        Comparison("items", "a stream of 50 items", 1, ways("stream")),
        Comparison("items", "streams of 50 items", 64, ways("stream")),
    ]


def over_http(port: int) -> list[Comparison]:
    """A FastAPI ingress that asks a deployment behind it, beside its own answer."""

    def ways(chain: str, direct: str, body_bytes: int = 0) -> list[Way]:
        def load(path: str, connections: int, seconds: float) -> Sample:
            scenario = Scenario(path, path, "", path=path, body_bytes=body_bytes)
            return drive(scenario, port, connections, seconds)

        return [
            Way("through a deployment", partial(load, chain)),
            Way("the ingress alone", partial(load, direct)),
        ]

    echo, events = ways("/chain", "/direct", BODY_BYTES), ways("/relayed-events", "/events")
    return [
        Comparison("chain", "10 KB POST", 1, echo),
        Comparison("chain", "10 KB POST", 64, echo, target=0.45),
        Comparison("events", "50 events", 1, events),
        Comparison("events", "50 events", 64, events),
    ]


@dataclass(frozen=True)
class Paced:
    """Events at a pace, through a deployment and from the ingress alone."""

    streams: int
    pause_s: float
    held: str
    """The figure whose difference has a target."""
    target_ms: float
    rounds: list[tuple[Lateness, Lateness]] = field(default_factory=list)

    def run(self, port: int, rounds: int) -> None:
        """Reads through the deployment and from the ingress by turns."""

        def read(path: str) -> Lateness:
            return asyncio.run(read_streams(port, path, self.streams, self.pause_s))

        for number in range(rounds + 1):
            pair = read("/relayed-events"), read("/events")
            if number:  # Connections are made in the first.
                self.rounds.append(pair)

    def median(self, figure: str, index: int) -> float:
        return median(getattr(pair[index], figure) for pair in self.rounds)

    def difference(self, figure: str) -> float:
        return median(getattr(a, figure) - getattr(b, figure) for a, b in self.rounds)


def at_a_pace() -> list[Paced]:
    """A lone stream, whose first event counts, and many."""
    return [Paced(1, 0.02, "first_p50", 3.0), Paced(100, 0.02, "p99", 5.0)]


def render(command: str, comparisons: list[Comparison], paced: list[Paced]) -> str:
    """The whole of RESULTS-handles.md."""
    parts = [
        f"# Benchmark results of handles\n\n{report.circumstances(command, LIBRARIES)}\n\n"
        + " ".join((__doc__ or "").split("\n\n", 1)[1].split())
    ]
    calls = [found for found in comparisons if found.name in ("call", "items")]
    if calls:
        parts.append(_CALLS + _table(calls))
    if through := [found for found in comparisons if found not in calls]:
        parts.append(_THROUGH + _table(through))
    if paced:
        parts.append(_PACED + _paced_table(paced))
    return "\n\n".join(parts) + "\n"


_CALLS = """## From replica to replica

A no-op method takes five bytes and returns them; another yields them 50 times. Beside it bare
grpc.aio over a Unix socket, bytes in and bytes out: a unary echo, and a call that streams 50
messages. "Tuned" has what serving gives its processes (uvloop, gRPC's classic poller, settled
garbage collection), the other is grpc.aio as it comes (asyncio's loop). The targets are held
against the tuned one, the harder of the two. CPU is microseconds of processor time a call, of the
process that asks and of the one that answers.

"""
_THROUGH = """## Through a deployment, over HTTP

A FastAPI ingress that asks a deployment behind it, beside the same answer made by the ingress
itself, both served by serving. Machine and load generator share the cores, so that a second replica
takes them from the first.

"""
_PACED = """## Events at a pace

50 events a stream, read over HTTP. Lateness is from the making of an event to its arrival at the
client; first is from the request to the first event. Added is what the deployment in between adds.

"""


def _table(comparisons: list[Comparison]) -> str:
    rows = []
    for found in comparisons:
        for way in found.ways:
            samples, cpu = found.samples[way.name], found.cpu_us[way.name]
            ratio = verdict = ""
            if way is not found.ways[0]:
                ratios = found.ratios(way)
                of = "latency" if found.figure == "p50_ms" else "rate"
                ratio = f"{of} × {median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
            if way is found.ways[1]:
                sign = -1 if (found.target or 0) < 0 else 1
                verdict = report.verdict(sign * median(found.ratios(way)), found.target)
            rows.append(
                (
                    found.title if way is found.ways[0] else "",
                    str(found.concurrency) if way is found.ways[0] else "",
                    way.name,
                    f"{median(s.rate for s in samples):,.0f}",
                    f"{median(s.p50_ms for s in samples):.3f}",
                    f"{median(s.p99_ms for s in samples):.3f}",
                    " + ".join(f"{us:.0f}" for us in cpu.values()),
                    ratio,
                    verdict,
                )
            )
    header = ("what", "at a time", "way", "/s", "p50 ms", "p99 ms", "CPU µs")
    return report.table((*header, "ours to this", "target"), rows)


def _paced_table(paced: list[Paced]) -> str:
    rows = [
        (
            f"{found.streams} × {1 / found.pause_s:.0f} events/s",
            *(f"{found.median(figure, 0):.2f}" for figure in ("first_p50", "p50", "p99")),
            *(f"{found.difference(figure):+.2f}" for figure in ("first_p50", "p50", "p99")),
            report.verdict(-found.difference(found.held), -found.target_ms),
            f"{(share := median(a.rate / b.rate for a, b in found.rounds)):.2f}",
            report.verdict(share, SHARE_TARGET),
        )
        for found in paced
    ]
    late = ("first p50 ms", "late p50 ms", "late p99 ms")
    added = ("added to first", "added p50", "added p99")
    header = ("streams", *late, *added, "target", "events/s to direct", "target")
    return report.table(header, rows)


def parse() -> argparse.Namespace:
    names = ("call", "items", "chain", "events", "paced")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=names, help="repeatable")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two rounds of a second")
    parser.add_argument("--write", action="store_true", help="write RESULTS-handles.md")
    args = parser.parse_args()
    args.only = args.only or names
    if args.quick:
        args.seconds, args.rounds = 1.0, 2
    return args


def main() -> None:
    args = parse()
    require_wrk()
    print(f"load average {os.getloadavg()[0]:.2f}", flush=True)
    with (
        cluster() as port,
        tempfile.TemporaryDirectory() as folder,
        bare(Path(folder), tuned=True) as tuned,
        bare(Path(folder), tuned=False) as plain,
    ):
        comparisons = [
            found
            for found in [*between_replicas(tuned, plain), *over_http(port)]
            if found.name in args.only
        ]
        for found in comparisons:
            found.run(args.seconds, args.rounds)
            print(show(found), flush=True)
        paced = at_a_pace() if "paced" in args.only else []
        for streams in paced:
            streams.run(port, args.rounds)
    command = " ".join(["python", "benchmarks/handles.py", *sys.argv[1:]])
    text = render(command, comparisons, paced)
    print(text)
    if args.write:
        (Path(__file__).parent / "RESULTS-handles.md").write_text(text)


if __name__ == "__main__":
    main()
