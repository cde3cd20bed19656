"""Showing people how a deploy goes, on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serving.v1 import controller_pb2 as pb

# From then on a deploy tells how it goes even where nobody may be looking.
_TAKES_LONG_S = 4.0


def follow(statuses: Iterator[pb.ApplicationStatus], *, alone: bool) -> None:
    """Consumes the statuses of a deploy, and shows them as `shown` does."""
    with shown(alone=alone) as show:
        for status in statuses:
            show(status)


@contextmanager
def shown(
    *, alone: bool, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[pb.ApplicationStatus], None]]:
    """Yields what shows a status while stderr is a terminal: lines that move, if nobody else writes
    there (`alone`); else, where processes log, a line for each that is news. Outside of a terminal
    only what takes long is told, unless the processes log there."""
    texts: dict[str, str] = {}
    if alone and sys.stderr.isatty():
        # Nobody else needs it.
        from rich.console import Console
        from rich.text import Text

        with Console(stderr=True).status("") as moving:

            def show(status: pb.ApplicationStatus) -> None:
                texts[status.name] = _text(status)
                moving.update(Text("\n".join(texts.values())))

            yield show
        return

    began = clock()

    def say_news(status: pb.ApplicationStatus) -> None:
        text = _text(status)
        takes_long = alone and clock() - began >= _TAKES_LONG_S
        if text != texts.get(status.name) and (takes_long or sys.stderr.isatty()):
            say(text)
        texts[status.name] = text

    yield say_news


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
