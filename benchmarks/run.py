"""serving beside uvicorn alone, the same applications in the same run.

One proxy and one replica, and one uvicorn worker, are up together; the load goes to one and to
the other by turns, in several short rounds, so that a noisy machine disturbs both alike. A ratio
is the median over the rounds of serving's rate to uvicorn's.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import footprint
import report
from comparison import Comparison
from loads import SCENARIOS, Scenario, drive, require_wrk
from servers import Server, both, fetch

CONNECTIONS = (1, 64)
WARM_UP_S = 1.0


def compare(
    scenario: Scenario, servers: tuple[Server, Server], access_log: bool, options: Options
) -> list[Comparison]:
    """Loads both servers by turns and returns one comparison per number of connections."""
    body = b"x" * scenario.body_bytes or None
    answers = {fetch(server.port, scenario.path, body) for server in servers}
    if len(answers) > 1:
        raise RuntimeError(f"{scenario.name}: the answers differ: {answers}")
    found = []
    for connections in CONNECTIONS:
        comparison = Comparison(scenario, connections, access_log)
        for server in servers:
            drive(scenario, server.port, connections, WARM_UP_S)
        before = [server.cpu_s() for server in servers]
        for number in range(options.rounds):
            for index in (0, 1) if number % 2 == 0 else (1, 0):
                sample = drive(scenario, servers[index].port, connections, options.seconds)
                (comparison.serving, comparison.uvicorn)[index].append(sample)
        for server, was, samples in zip(
            servers, before, (comparison.serving, comparison.uvicorn), strict=True
        ):
            count = sum(sample.count for sample in samples)
            for role, used_s in server.cpu_s().items():
                comparison.cpu_us[role] = (used_s - was[role]) / count * 1e6
        print(report.line(comparison), flush=True)
        found.append(comparison)
    return found


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    only: list[str]
    seconds: float
    rounds: int
    access_log: str
    write: bool
    command: str


def parse() -> Options:
    names = [scenario.name for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=[*names, "start", "memory"], help="repeatable"
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two rounds of a second")
    parser.add_argument("--access-log", choices=["on", "off", "both"], default="on")
    parser.add_argument("--write", action="store_true", help="write RESULTS.md")
    args = parser.parse_args()
    return Options(
        only=args.only or [*names, "start", "memory"],
        seconds=1.0 if args.quick else args.seconds,
        rounds=2 if args.quick else args.rounds,
        access_log=args.access_log,
        write=args.write,
        command=" ".join(["python", "benchmarks/run.py", *sys.argv[1:]]),
    )


def main() -> None:
    options = parse()
    require_wrk()
    results = report.Results(command=options.command)
    print(f"load average {results.load_average:.2f}", flush=True)
    logs = {"on": [True], "off": [False], "both": [True, False]}[options.access_log]
    for access_log in logs:
        for scenario in SCENARIOS:
            if scenario.name not in options.only:
                continue
            with (
                tempfile.TemporaryDirectory() as folder,
                both(scenario, Path(folder), access_log=access_log) as servers,
            ):
                results.comparisons += compare(scenario, servers, access_log, options)
    if "start" in options.only:
        results.starts = footprint.start_times()
    if "memory" in options.only:
        results.memory = footprint.memory()
    text = report.render(results)
    print(text)
    if options.write:
        (Path(__file__).parent / "RESULTS.md").write_text(text)


if __name__ == "__main__":
    main()
