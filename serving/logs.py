"""Logging of serving's own processes: one handler, on stderr or in a file.

In a replica each record tells of the request that it was made in, whoever made it and whoever
writes it: what it tells is taken when it is made, so that a handler which writes later, or on a
thread of its own, tells of the right one. The user's own loggers, handlers and levels stay as
they are.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from serving.config import LoggingConfig
from serving.context import current_replica, current_request

# Not plain `request_id`: `logger.info(…, extra={"request_id": …})` is common, and an error where
# the record has that attribute already.
_PREFIX = "serving_"
GATHER_S = 0.02
"""For so long, at most, a line waits for others."""
MAX_GATHERED = 1000
_OF_REQUEST = ("request_id", "route", "application", "model_id")
_WORDS = [(f" {name}=", _PREFIX + name) for name in _OF_REQUEST]


def configure(component: str, config: LoggingConfig) -> TextIO:
    """Sends the records of `serving` and `uvicorn` to stderr, or to a file of this component in
    ``logs_dir``; gives that stream. The root logger stays the user's."""
    stream: TextIO = sys.stderr
    if config.logs_dir is not None:
        folder = Path(config.logs_dir)
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / f"{component}_{os.getpid()}.log").open("a", buffering=1)
    handler = _handler(stream, component, config)
    for name in ("serving", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(config.log_level)
    logging.getLogger("uvicorn").setLevel(max(logging.WARNING, logger.level))
    return stream


def configure_replica(replica_id: str, config: LoggingConfig) -> None:
    """As `configure`; and every record tells of its request, and what no handler of the user's
    takes comes in the same form."""
    stream = configure(replica_id, config)
    stamp_records()
    # Python's own choice for a process without handlers is the bare message, from WARNING on. As
    # the first handler that the user sets up, it makes way.
    last_resort = _handler(stream, replica_id, config)
    last_resort.setLevel(logging.WARNING)
    logging.lastResort = last_resort


def stamp_records() -> None:
    """Gives every record of this process, from now on, the attributes `serving_request_id`,
    `serving_route`, `serving_application`, `serving_deployment`, `serving_replica` and
    `serving_model_id`: empty where there is nothing to tell. Harmless the second time."""
    make = logging.getLogRecordFactory()
    if not isinstance(make, _Stamping):
        logging.setLogRecordFactory(_Stamping(make))


class _Stamping:
    """A record factory around another."""

    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self._make = make

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = self._make(*args, **kwargs)
        record.__dict__.update(_stamp())
        return record


def _stamp() -> dict[str, str]:
    request, replica = current_request(), current_replica()
    application = request.application if request is not None else ""
    return {
        "serving_request_id": request.request_id if request is not None else "",
        "serving_route": request.route if request is not None else "",
        "serving_application": application or (replica.app_name if replica is not None else ""),
        "serving_model_id": request.model_id if request is not None else "",
        "serving_deployment": replica.deployment if replica is not None else "",
        "serving_replica": replica.replica_id if replica is not None else "",
    }


class _Gathering(logging.StreamHandler[TextIO]):
    """Writes a line at once, unless another was written just before: lines that come in a rush are
    made and written together, by a thread. (A write of its own for each lets go of the
    interpreter's lock each time: under load that costs a request more than all the rest of its
    line.)"""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._records: list[logging.LogRecord] = []
        self._written_at_s = float("-inf")
        self._rush = threading.Event()
        self._writer: threading.Thread | None = None
        os.register_at_fork(before=self.flush)

    def emit(self, record: logging.LogRecord) -> None:
        """Called with the handler's lock held, as `flush` takes it."""
        try:
            # What is told may change, and what was raised is not to be kept.
            record.message = record.getMessage()
            self._records.append(record)
            rush = time.monotonic() - self._written_at_s < GATHER_S
            pressing = record.levelno >= logging.WARNING or record.exc_info or record.stack_info
            if not rush or pressing or len(self._records) >= MAX_GATHERED:
                self.flush()
            elif not self._rush.is_set():
                self._rush.set()
                if self._writer is None:
                    self._writer = threading.Thread(target=self._write, name="log", daemon=True)
                    self._writer.start()
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        with self.lock:  # type: ignore[union-attr]
            records, self._records = self._records, []
            if records:
                self.stream.write("".join([self.format(each) + "\n" for each in records]))
                self.stream.flush()
            self._written_at_s = time.monotonic()

    def _write(self) -> None:
        while self._rush.wait():
            time.sleep(GATHER_S)
            self._rush.clear()
            with contextlib.suppress(OSError, ValueError):  # nobody reads it, or it was closed
                self.flush()


def _handler(stream: TextIO, component: str, config: LoggingConfig) -> logging.Handler:
    handler = _Gathering(stream)
    handler.setFormatter(_JSON(component) if config.encoding == "JSON" else _Text(component))
    return handler


class _Form(logging.Formatter):
    """Of records whose message is made. What both forms have: the component, and the time, of
    which each second is spelt once."""

    def __init__(self, component: str) -> None:
        super().__init__()
        self._component = component
        self._second = (-1, "")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        second = int(record.created)
        if second != self._second[0]:
            spelt = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
            self._second = second, spelt
        return f"{self._second[1]},{int(record.msecs):03d}"


class _Text(_Form):
    """``INFO 2026-01-31 12:00:00,000 COMPONENT request_id=… route=… -- message``"""

    def usesTime(self) -> bool:
        return True

    def format(self, record: logging.LogRecord) -> str:
        if record.exc_info or record.exc_text or record.stack_info:
            return super().format(record)
        record.asctime = self.formatTime(record)
        return self.formatMessage(record)

    def formatMessage(self, record: logging.LogRecord) -> str:
        head = f"{record.levelname} {record.asctime} {self._component}"
        return f"{head}{_words(record.__dict__)} -- {record.message}"


class _JSON(_Form):
    """An object in one line, with the same fields."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "level": record.levelname,
            "time": self.formatTime(record),
            "component": self._component,
            "message": record.message,
        }
        for name in (*_OF_REQUEST, "deployment"):
            if value := record.__dict__.get(_PREFIX + name):
                entry[name] = value
        if record.exc_info:
            entry["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(entry)


def _words(stamp: dict[str, Any]) -> str:
    """What a line tells of a request; nothing outside of one."""
    if not stamp.get("serving_request_id"):
        return ""
    words = ""
    for title, name in _WORDS:
        if value := stamp.get(name):
            words += title + one_word(value)
    return words


def one_word(value: str) -> str:
    """The value as one word of a line: quoted if a client has put there what is none."""
    plain = value.isascii() and value.isprintable() and value and " " not in value
    return value if plain else json.dumps(value).replace(" ", "\\u0020")
