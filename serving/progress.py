"""Showing people how a deploy goes: plain lines on stderr, where the processes log as well."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serving.v1 import controller_pb2 as pb


def follow(statuses: Iterator[pb.ApplicationStatus]) -> None:
    """Consumes the statuses of a deploy; shows each that is news while stderr is a terminal."""
    shown = ""
    for status in statuses:
        text = _text(status)
        if text != shown and sys.stderr.isatty():
            say(text)
        shown = text


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
