"""What code that runs in another process tells of itself."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tests.support.control import until


@dataclass(frozen=True)
class Record:
    """A file to which any process adds lines, and which outlives them all."""

    path: Path

    def note(self, *words: object) -> None:
        """Adds a line; lines of several processes never mix."""
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(fd, " ".join(map(str, words)).encode() + b"\n")
        finally:
            os.close(fd)

    def notes(self) -> list[str]:
        return self.path.read_text().splitlines() if self.path.exists() else []

    def count(self, word: str) -> int:
        """The notes that begin with this word."""
        return sum(note.split(" ", 1)[0] == word for note in self.notes())

    def wait_for(self, *words: object, within_s: float = 10.0) -> None:
        """Returns once the line has been noted."""
        line = " ".join(map(str, words))
        until(lambda: line in self.notes(), within_s=within_s)
