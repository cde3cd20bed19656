"""One line for each request, formatted and written off the event loop."""

from __future__ import annotations

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TextIO

from serving.logs import one_word

FLUSH_S = 0.2
MAX_WAITING = 50_000


class Entry(NamedTuple):
    """What is told of a request."""

    time_s: float
    application: str
    route: str
    method: str
    path: str
    status: int | str
    """A number of HTTP, or a name of gRPC."""
    latency_s: float
    request_id: str
    model_id: str = ""


class AccessLog:
    """Collects entries and writes them a few times a second. More than ``MAX_WAITING`` that wait
    for a slow stream are dropped, and the log says how many."""

    def __init__(self, stream: TextIO, *, component: str, as_json: bool) -> None:
        self._stream = stream
        self._component = component
        self._format = self._json if as_json else self._text
        self._entries: list[Entry] = []
        self._dropped = 0
        self._timer: asyncio.TimerHandle | None = None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="access-log")
        self._writing: asyncio.Future[None] | None = None

    def add(self, entry: Entry) -> None:
        """Logs a request that has ended."""
        if len(self._entries) >= MAX_WAITING:
            self._dropped += 1
            return
        self._entries.append(entry)
        if self._timer is None and self._writing is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self._flush)

    async def aclose(self) -> None:
        """Writes what waits."""
        while self._writing is not None or self._entries:
            if self._writing is None:
                self._flush()
            assert self._writing is not None
            await asyncio.wait((self._writing,))
        self._writer.shutdown()

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        entries, self._entries = self._entries, []
        dropped, self._dropped = self._dropped, 0
        loop = asyncio.get_running_loop()
        self._writing = loop.run_in_executor(self._writer, self._write, entries, dropped)
        self._writing.add_done_callback(self._written)

    def _written(self, _: asyncio.Future[None]) -> None:
        self._writing = None
        if self._entries:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self._flush)

    def _write(self, entries: list[Entry], dropped: int) -> None:
        lines = [self._format(entry) for entry in entries]
        if dropped:
            lines.append(f"WARNING {self._component} -- {dropped} access log lines were dropped\n")
        try:
            self._stream.write("".join(lines))
            self._stream.flush()
        except (OSError, ValueError):
            self._dropped += len(entries)  # Nobody reads the stream: a broken pipe, a closed file.

    def _text(self, entry: Entry) -> str:
        model = f" model_id={one_word(entry.model_id)}" if entry.model_id else ""
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.time_s))
        return (
            f"INFO {moment},{int(entry.time_s % 1 * 1000):03d} {self._component} --"
            f" {entry.application} {entry.route} {entry.method} {one_word(entry.path)}"
            f" {entry.status} {entry.latency_s * 1000:.1f}ms {entry.request_id}{model}\n"
        )

    def _json(self, entry: Entry) -> str:
        fields = {"level": "INFO", "component": self._component, **entry._asdict()}
        return json.dumps(fields) + "\n"
