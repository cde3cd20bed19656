"""Logging of serving's own processes: one handler, on stderr or in a file."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from pathlib import Path
from typing import TextIO

from serving.config import LoggingConfig


def configure(component: str, config: LoggingConfig) -> TextIO:
    """Sends the records of `serving` and `uvicorn` to stderr, or to a file of this component in
    ``logs_dir``; gives that stream. The root logger stays the user's."""
    stream: TextIO = sys.stderr
    if config.logs_dir is not None:
        folder = Path(config.logs_dir)
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / f"{component}_{os.getpid()}.log").open("a", buffering=1)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_JSON(component) if config.encoding == "JSON" else _Text(component))
    for name in ("serving", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(config.log_level)
    logging.getLogger("uvicorn").setLevel(max(logging.WARNING, logger.level))
    return stream


class _Text(logging.Formatter):
    def __init__(self, component: str) -> None:
        super().__init__(f"%(levelname)s %(asctime)s {component} -- %(message)s")


class _JSON(logging.Formatter):
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
        if record.exc_info:
            entry["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(entry)
