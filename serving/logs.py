"""Logging of serving's own processes: one handler, on stderr or in a file.

In a replica each record tells of the request that it was made in, whoever made it and whoever
writes it: what it tells is taken when it is made, so that a handler which writes later, or on a
thread of its own, tells of the right one. The user's own loggers, handlers and levels stay as
they are.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import traceback
from pathlib import Path
from typing import Any, TextIO

from serving.config import LoggingConfig
from serving.context import current_replica, current_request

# Not plain `request_id`: `logger.info(…, extra={"request_id": …})` is common, and an error where
# the record has that attribute already.
_PREFIX = "serving_"
_OF_REQUEST = ("request_id", "route", "application", "model_id")
_WORD = re.compile("[!-~]+")


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
    `serving_model_id`: empty where there is nothing to tell."""
    make = logging.getLogRecordFactory()

    def stamped(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        record.__dict__.update(_stamp())
        return record

    logging.setLogRecordFactory(stamped)


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


def _handler(stream: TextIO, component: str, config: LoggingConfig) -> logging.Handler:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_JSON(component) if config.encoding == "JSON" else _Text(component))
    return handler


class _Text(logging.Formatter):
    """``INFO 2026-01-31 12:00:00,000 COMPONENT request_id=… route=… -- message``"""

    def __init__(self, component: str) -> None:
        super().__init__()
        self._component = component

    def usesTime(self) -> bool:
        return True

    def formatMessage(self, record: logging.LogRecord) -> str:
        head = f"{record.levelname} {record.asctime} {self._component}"
        return f"{head}{_words(record.__dict__)} -- {record.message}"


class _JSON(logging.Formatter):
    """An object in one line, with the same fields."""

    def __init__(self, component: str) -> None:
        super().__init__()
        self._component = component

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "level": record.levelname,
            "time": self.formatTime(record),
            "component": self._component,
            "message": record.getMessage(),
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
    return "".join(
        f" {name}={one_word(value)}" for name in _OF_REQUEST if (value := stamp.get(_PREFIX + name))
    )


def one_word(value: str) -> str:
    """The value as one word of a line: quoted if a client has put there what is none."""
    return value if _WORD.fullmatch(value) else json.dumps(value).replace(" ", "\\u0020")
