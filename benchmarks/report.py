"""The results as text: a line while it runs, and the whole as RESULTS.md."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comparison import Comparison
    from footprint import Memory, Start
    from loads import Sample

LIBRARIES = ("uvicorn", "uvloop", "httptools", "grpcio", "protobuf", "starlette", "fastapi")
# What a target counts: supervisor and script are the user's convenience, not the service.
COUNTED_ROLES = ("controller", "proxy", "replica")
ADDED_LATENCY_TARGET_MS = 0.35
START_TARGET_S = 1.5
MEMORY_TARGET_MIB = 220


@dataclass
class Results:
    """All that a run found, and the circumstances."""

    command: str
    load_average: float = field(default_factory=lambda: os.getloadavg()[0])
    comparisons: list[Comparison] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)


def line(found: Comparison) -> str:
    """One comparison, for the terminal."""
    cpu = ", ".join(f"{role} {us:.0f}" for role, us in found.cpu_us.items() if us >= 0.5)
    log = "on" if found.access_log else "off"
    return (
        f"{found.scenario.name:10} c={found.connections:<3} log={log:3}"
        f" serving {_rate(found.serving)}/s  uvicorn {_rate(found.uvicorn)}/s"
        f"  ratio {found.ratio:.2f} ({min(found.ratios):.2f}-{max(found.ratios):.2f})"
        f"  added {found.added_ms:+.3f} ms  cpu us/request: {cpu}"
    )


def render(results: Results) -> str:
    """The whole of RESULTS.md."""
    parts = [_circumstances(results)]
    for access_log in (True, False):
        found = [c for c in results.comparisons if c.access_log is access_log]
        if found:
            parts += [_throughput(found, access_log), _latency(found)]
    if results.starts:
        parts.append(_starts(results.starts))
    if results.memory:
        parts.append(_memory(results.memory))
    return "\n\n".join(parts) + "\n"


def circumstances(command: str, libraries: Iterable[str]) -> str:
    """What a run was made with, and by what."""
    versions = ", ".join(f"{name} {version(name)}" for name in libraries)
    return f"""Made by `{command}` on {datetime.now(UTC):%Y-%m-%d}: {os.cpu_count()} cores,
Python {platform.python_version()}, {versions}."""


def _circumstances(results: Results) -> str:
    return f"""# Benchmark results

{circumstances(results.command, LIBRARIES)}
Load average {results.load_average:.2f} before the run and {os.getloadavg()[0]:.2f} after it, its
own load included.

One proxy and one replica; beside them the same application on uvicorn alone (one worker, uvloop,
httptools) in the same run, by turns. The load generator runs on the same cores. A ratio is
serving's rate to uvicorn's in the same round, median over the rounds, with the lowest and the
highest; CPU is microseconds of processor time a request."""


def _throughput(found: list[Comparison], access_log: bool) -> str:
    rows = [
        (
            c.scenario.title,
            str(c.connections),
            _rate(c.serving),
            _rate(c.uvicorn),
            f"{c.ratio:.2f} ({min(c.ratios):.2f}–{max(c.ratios):.2f})",
            verdict(c.ratio, c.scenario.target if c.connections > 1 else None),
            *(f"{c.cpu_us.get(role, 0):.0f}" for role in ("proxy", "replica", "uvicorn")),
        )
        for c in found
    ]
    header = ("scenario", "connections", "serving /s", "uvicorn /s", "ratio", "target")
    cpu = ("CPU µs proxy", "CPU µs replica", "CPU µs uvicorn")
    title = "Access logs on, into files, in both" if access_log else "No access logs in either"
    return f"## {title}\n\n" + table((*header, *cpu), rows)


def _latency(found: list[Comparison]) -> str:
    rows = [
        (
            c.scenario.title,
            f"{median(s.p50_ms for s in c.serving):.3f}",
            f"{median(s.p50_ms for s in c.uvicorn):.3f}",
            f"{c.added_ms:+.3f}",
            verdict(-c.added_ms, -ADDED_LATENCY_TARGET_MS),
            f"{median(s.p99_ms for s in c.serving):.3f}",
            f"{median(s.p99_ms for s in c.uvicorn):.3f}",
        )
        for c in found
        if c.connections == 1
    ]
    header = ("scenario", "serving p50", "uvicorn p50", "added", "target", "serving p99")
    return "At one connection, ms:\n\n" + table((*header, "uvicorn p99"), rows)


def _starts(starts: list[Start]) -> str:
    rows = [
        (
            start.title,
            f"{start.median_s:.2f} ({min(start.times_s):.2f}–{max(start.times_s):.2f})",
            verdict(-start.median_s, -START_TARGET_S if "alone" not in start.title else None),
        )
        for start in starts
    ]
    count = len(starts[0].times_s)
    return f"## From the start of a script to its first answer, s (median of {count})\n\n" + table(
        ("script", "time", "target"), rows
    )


def _memory(memory: list[Memory]) -> str:
    rows = []
    for found in memory:
        rows += [
            (found.title, role, f"{found.rss[role]:.0f}", f"{found.pss[role]:.0f}", "")
            for role in sorted(found.rss, key=_role_order)
        ]
        rss, pss = (sum(by.get(role, 0) for role in COUNTED_ROLES) for by in (found.rss, found.pss))
        together = " + ".join(COUNTED_ROLES)
        reached = verdict(-rss, -MEMORY_TARGET_MIB)
        rows.append((found.title, f"**{together}**", f"{rss:.0f}", f"{pss:.0f}", reached))
    return (
        "## Memory with one idle replica, MiB\n\nThe target is held against RSS, which counts a"
        " page that processes share once for each; PSS divides it among them.\n\n"
        + table(("application", "process", "RSS", "PSS", "target"), rows)
    )


def verdict(value: float, target: float | None) -> str:
    """The target and whether it is reached; both negative where less is better."""
    if target is None:
        return ""
    sign = "≤" if target < 0 else "≥"
    return f"{sign} {abs(target):g}: {'reached' if value >= target else '**missed**'}"


def _role_order(role: str) -> tuple[bool, str]:
    return role not in COUNTED_ROLES, role


def _rate(samples: Iterable[Sample]) -> str:
    return f"{median(sample.rate for sample in samples):,.0f}"


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """In Markdown."""
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
