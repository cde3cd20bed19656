"""Reading the log of a cluster, by application or by replica.

A record begins with a line that names its component; the lines below it, up to the next record,
belong to it. That holds for tracebacks, which are written whole; what a handler prints by itself
stands with the record before it.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from watchfiles import watch

_HEAD = re.compile(
    r"(?:DEBUG|INFO|WARNING|ERROR|CRITICAL) \d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} "
    r"(?P<component>.+?)(?= request_id=| -- )(?P<rest>.*)"
)
# How often to look whether the cluster has ended, where the log does not grow.
_LOOK_AGAIN_MS = 500
_DEBOUNCE_MS = 50


@dataclass(frozen=True)
class Wanted:
    """Which records are shown: all, or those of an application or of a replica."""

    application: str = ""
    # Its whole id, or what stands behind the last "#".
    replica: str = ""

    def has(self, line: str) -> bool | None:
        """Whether the record that begins with this line is wanted; None where none begins."""
        if line.startswith("{"):
            return self._has_json(line)
        head = _HEAD.match(line)
        if head is None:
            return None
        return self._is_of(head["component"], self._application_of(head["rest"]), head["rest"])

    def is_replica(self, replica_id: str) -> bool:
        """Whether this is the replica that is wanted."""
        return f"#{replica_id}".endswith(f"#{self.replica}")

    def _has_json(self, line: str) -> bool | None:
        try:
            record = json.loads(line)
            component = record["component"]
        except (ValueError, KeyError, TypeError):
            return None
        return self._is_of(component, record.get("application", ""), record.get("message", ""))

    def _is_of(self, component: str, application: str, message: str) -> bool:
        if self.replica and not self.is_replica(component):
            return f"#{self.replica}" in message or message.startswith(f" -- {self.replica}")
        if not self.application:
            return True
        return (
            application == self.application
            or component.startswith(f"{self.application}#")
            or message.startswith(f" -- {self.application} /")  # of the access log
            or f"application {self.application!r}" in message
            or f"{self.application}#" in message
        )

    @staticmethod
    def _application_of(rest: str) -> str:
        found = re.match(r"(?: \w+=\S+)*? application=(\S+)(?: \w+=\S+)* -- ", rest)
        return found[1] if found else ""


@dataclass
class _File:
    """One log file, as far as it was read."""

    path: Path
    position: int = 0
    is_wanted: bool = False
    rest: bytes = field(default=b"", repr=False)

    def new_lines(self, wanted: Wanted) -> Iterator[str]:
        """The wanted lines since the last call, whole ones only."""
        with self.path.open("rb") as file:
            if file.seek(0, 2) < self.position:  # it was cut, as logrotate's copytruncate does
                self.position, self.rest = 0, b""
            file.seek(self.position)
            for chunk in file:
                self.position += len(chunk)
                line = self.rest + chunk
                if not line.endswith(b"\n"):
                    self.rest = line
                    return
                self.rest = b""
                text = line.decode(errors="replace").rstrip("\n")
                verdict = wanted.has(text)
                self.is_wanted = self.is_wanted if verdict is None else verdict
                if self.is_wanted or wanted == Wanted():
                    yield text


def read(log: Path, wanted: Wanted, tail: int | None) -> Iterator[str]:
    """The wanted lines of the log, a file or a folder of files; the last `tail` of them."""
    lines = _Log(log).new_lines(wanted)
    yield from lines if tail is None else deque(lines, maxlen=tail)


def follow(
    log: Path, wanted: Wanted, tail: int | None, *, runs: Callable[[], bool]
) -> Iterator[str]:
    """As `read`, and what is written from then on, until the cluster has ended."""
    files = _Log(log)
    # Watching begins with the first step: what is written before it is read after it.
    changes = watch(
        log if log.is_dir() else log.parent,
        watch_filter=None,
        debounce=_DEBOUNCE_MS,
        rust_timeout=_LOOK_AGAIN_MS,
        yield_on_timeout=True,
        recursive=False,
    )
    lines = files.new_lines(wanted)
    yield from lines if tail is None else deque(lines, maxlen=tail)
    is_running = True
    while is_running:
        is_running = runs()
        next(changes)
        yield from files.new_lines(wanted)


class _Log:
    """The file, or the files of the folder, each read from where it was left."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._files: dict[Path, _File] = {}

    def new_lines(self, wanted: Wanted) -> Iterable[str]:
        for path in sorted(self._log.glob("*.log")) if self._log.is_dir() else [self._log]:
            file = self._files.setdefault(path, _File(path))
            yield from file.new_lines(wanted)
