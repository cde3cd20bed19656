"""What is wrong with a config, and where."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from serving.exceptions import ServingError

Path = tuple[str | int, ...]
"""Where in a config something stands: ("applications", 0, "name")."""


@dataclass(frozen=True)
class Mistake:
    """One mistake, or what deserves a warning."""

    path: Path
    message: str
    of_key: bool = False
    """It is the key that is wrong, not its value."""
    line: int = 0
    """From 1; 0 where the config did not come from a file."""
    column: int = 0

    def __str__(self) -> str:
        place = path_text(self.path)
        return f"{place}: {self.message}" if place else self.message


class ConfigError(ServingError):
    """A config cannot be used: it has these mistakes. Nothing was changed."""

    def __init__(self, mistakes: Iterable[Mistake], file: str = "") -> None:
        self.mistakes = sorted(mistakes, key=lambda mistake: (mistake.line, mistake.column))
        self.file = file
        super().__init__("\n".join(lines(self.mistakes, file)))


def lines(mistakes: Iterable[Mistake], file: str = "", kind: str = "") -> list[str]:
    """Each mistake in words, after `file:line:column` where these are known, and the kind."""
    of_file = f"{file}:" if file else ""
    return [
        f"{of_file}{mistake.line}:{mistake.column}: {kind}{mistake}"
        if mistake.line
        else f"{kind}{mistake}"
        for mistake in mistakes
    ]


def path_text(path: Path) -> str:
    """The path as people write it: `applications[0].name`."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in path]
    return "".join(parts).removeprefix(".")
