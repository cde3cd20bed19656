"""Where the time of a request goes: py-spy on the proxy, the replica or uvicorn, under load.

py-spy is not a dependency of serving: install it anywhere and name it with --py-spy. (This file
is not called profile.py: run from here, it would hide the standard library's module.)
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path

from loads import SCENARIOS, Sample, drive, require_wrk
from servers import Server, free_port, stack_command, started, uvicorn_command

SAMPLES_PER_S = 500
# The load begins before the profiler and ends after it.
MARGIN_S = 2.0


def record(server: Server, role: str, args: argparse.Namespace, folder: Path) -> Counter[str]:
    """Samples one process: the number of samples by stack, as "outer;inner;innermost"."""
    output = folder / f"{role}.txt"
    command = [
        *(args.py_spy, "record", "--pid", str(server.processes()[role].pid)),
        *("--duration", str(round(args.seconds)), "--rate", str(SAMPLES_PER_S)),
        *("--format", "raw", "--output", str(output)),
        *(["--native"] if args.native else []),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=args.seconds + 60)
    stacks: Counter[str] = Counter()
    for line in output.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        stacks[stack] += int(count)
    return stacks


def loaded(server: Server, args: argparse.Namespace) -> tuple[Sample, dict[str, float]]:
    """One round of load: its result, and each process's microseconds a request."""
    before = server.cpu_s()
    sample = drive(args.scenario, server.port, args.connections, args.seconds)
    after = server.cpu_s()
    return sample, {role: (after[role] - before[role]) / sample.count * 1e6 for role in after}


def profile(server: Server, role: str, args: argparse.Namespace, folder: Path) -> None:
    """Prints what the functions of one process cost, in microseconds a request."""
    sample, cost_us = loaded(server, args)
    seconds = args.seconds + 2 * MARGIN_S
    load = threading.Thread(
        target=drive, args=(args.scenario, server.port, args.connections, seconds)
    )
    load.start()
    try:
        stacks = record(server, role, args, folder)
    finally:
        load.join()
    total, cost = stacks.total(), cost_us[role]
    own: Counter[str] = Counter()
    inclusive: Counter[str] = Counter()
    for stack, count in stacks.items():
        frames = [re.sub(r":\d+\)$", ")", frame) for frame in stack.split(";")]
        own[frames[-1]] += count
        for frame in set(frames):
            inclusive[frame] += count
    print(f"\n{role}: {cost:.0f} us/request at {sample.rate:,.0f}/s (without the profiler)")
    for title, counts in (("self", own), ("with what it calls", inclusive)):
        print(f"  us/request, {title}")
        for function, count in counts.most_common(args.top):
            print(f"  {count / total * cost:8.1f}  {count / total:4.0%}  {function}")


def parse() -> argparse.Namespace:
    scenarios = {scenario.name: scenario for scenario in SCENARIOS}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario", choices=scenarios)
    parser.add_argument("roles", nargs="+", choices=["proxy", "replica", "uvicorn"])
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--no-access-log", action="store_true")
    parser.add_argument("--native", action="store_true", help="C frames too")
    parser.add_argument("--top", type=int, default=25, help="functions to print")
    parser.add_argument("--py-spy", default="py-spy", help="where it is")
    args = parser.parse_args()
    args.scenario = scenarios[args.scenario]
    if shutil.which(args.py_spy) is None:
        sys.exit("py-spy not found: `pip install py-spy` anywhere, and say where with --py-spy")
    return args


def main() -> None:
    args = parse()
    require_wrk()
    scenario, access_log = args.scenario, not args.no_access_log
    with tempfile.TemporaryDirectory() as folder:
        for role in args.roles:
            port = free_port()
            command = (
                uvicorn_command(scenario.app, port, access_log=access_log)
                if role == "uvicorn"
                else stack_command(scenario.name, port, access_log=access_log)
            )
            with started(command, port, scenario.path, Path(folder) / "log") as server:
                profile(server, role, args, Path(folder))


if __name__ == "__main__":
    main()
