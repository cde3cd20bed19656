"""Showing people how a deploy goes: plain lines on stderr, where the processes log as well."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serving.v1 import controller_pb2 as pb


def follow(statuses: Iterator[pb.ApplicationStatus]) -> None:
    """Consumes the statuses of a deploy; shows each that is news while stderr is a terminal."""
    shown = Shown()
    for status in statuses:
        shown.show(status)


class Shown:
    """What was shown of each application's way, so that only news follow."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def show(self, status: pb.ApplicationStatus) -> None:
        """One line, if it is news and stderr is a terminal."""
        text = _text(status)
        if text != self._texts.get(status.name) and sys.stderr.isatty():
            say(text)
        self._texts[status.name] = text


def _text(status: pb.ApplicationStatus) -> str:
    parts = [
        f"{deployment.name} {deployment.message.partition(chr(10))[0] or 'is ready'}"
        for deployment in status.deployments
    ]
    return f"Deploying {status.name}: {', '.join(parts)}"


def say(message: str) -> None:
    """One line on stderr."""
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()
