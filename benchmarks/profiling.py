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

import psutil
from loads import SCENARIOS, drive, require_wrk
from servers import Server, free_port, stack_command, started, uvicorn_command

SAMPLES_PER_S = 500
# The load begins before the profiler and ends after it.
MARGIN_S = 2.0


def record(pid: int, args: argparse.Namespace, folder: Path) -> Counter[str]:
    """Samples the main thread: the number of samples by stack, as "outer;inner;innermost".

    Other threads wait in C for the most part, which py-spy cannot tell from work; nor can it on
    the main thread, but there --native shows the waiting, and it is left out.
    """
    output = folder / "profile.txt"
    command = [
        *(args.py_spy, "record", "--pid", str(pid), "--format", "raw", "--output", str(output)),
        *("--duration", str(round(args.seconds)), "--rate", str(SAMPLES_PER_S)),
        *(["--native"] if args.native else []),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=args.seconds + 60)
    stacks: Counter[str] = Counter()
    for line in output.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        if "_bootstrap (threading.py" not in stack and "epoll_pwait" not in stack:
            stacks[re.sub(r":\d+\)", ")", stack)] += int(count)
    return stacks


def thread_us(process: psutil.Process, count: int, before: dict[int, float]) -> dict[str, float]:
    """Microseconds a request that each thread used since `before`."""
    found = {}
    for thread, used_s in thread_times(process).items():
        name = Path(f"/proc/{process.pid}/task/{thread}/comm").read_text().strip()
        title = "main" if thread == process.pid else f"{name} {thread}"
        found[title] = (used_s - before.get(thread, 0.0)) / count * 1e6
    return found


def thread_times(process: psutil.Process) -> dict[int, float]:
    """Seconds of processor time by thread."""
    return {thread.id: thread.user_time + thread.system_time for thread in process.threads()}


def profile(server: Server, role: str, args: argparse.Namespace, folder: Path) -> None:
    """Prints what the threads of one process cost, and the functions of its main thread."""
    process = server.processes()[role]
    before = thread_times(process)
    sample = drive(args.scenario, server.port, args.connections, args.seconds)
    threads = thread_us(process, sample.count, before)
    seconds = args.seconds + 2 * MARGIN_S
    load = threading.Thread(
        target=drive, args=(args.scenario, server.port, args.connections, seconds)
    )
    load.start()
    try:
        stacks = record(process.pid, args, folder)
    finally:
        load.join()
    print(f"\n{role}, us/request at {sample.rate:,.0f}/s (without the profiler), by thread:")
    for name, cost in sorted(threads.items(), key=lambda item: -item[1]):
        if cost >= 0.1:
            print(f"  {cost:8.1f}  {name}")
    report(stacks, threads["main"], args.top)


def report(stacks: Counter[str], cost_us: float, top: int) -> None:
    """Prints the functions that cost most, alone and with what they call."""
    own: Counter[str] = Counter()
    inclusive: Counter[str] = Counter()
    for stack, count in stacks.items():
        frames = stack.split(";")
        own[frames[-1]] += count
        for frame in set(frames):
            inclusive[frame] += count
    total = stacks.total()
    for title, counts in (("self", own), ("with what it calls", inclusive)):
        print(f"main thread, us/request, {title}:")
        for function, count in counts.most_common(top):
            print(f"  {count / total * cost_us:8.1f}  {count / total:4.0%}  {function}")


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
