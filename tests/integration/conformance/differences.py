"""Where our transcripts differ from uvicorn's, and why. The suite holds us to exactly these."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

# In every transcript of ours: what is written differently, and how uvicorn has it.
EVERYWHERE = [
    # A response carries the id under which the logs know its request.
    (re.compile(r"^x-request-id: .*\r\n$"), None),
    # `send` tells of a client that has left, as ASGI 2.4 has it and uvicorn's WebSockets do.
    (
        re.compile(r'(?<="type": "http", "asgi": \{"version": "3.0", "spec_version": )"2.4"'),
        '"2.3"',
    ),
]


@dataclass(frozen=True)
class Difference:
    """`lines` as a diff has them: "- " what uvicorn's transcript has, "+ " what ours has."""

    why: str
    lines: tuple[str, ...]


DIFFERENCES: dict[str, Difference] = {}


def as_uvicorn_has_it(transcript: list[str]) -> list[str]:
    """Our transcript, without what differs everywhere."""
    lines = []
    for line in transcript:
        for pattern, replacement in EVERYWHERE:
            if replacement is None and pattern.match(line):
                break
            line = pattern.sub(replacement or "", line)
        else:
            lines.append(line)
    return lines


def compare(expected: list[str], got: list[str]) -> tuple[str, ...]:
    """The lines in which they differ, as a diff has them."""
    return tuple(line for line in difflib.ndiff(expected, got) if line.startswith(("- ", "+ ")))
