"""The seam between those who want a process and those who place it on a machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class ProcessSpec:
    """A Python module to run as a process of its own."""

    module: str
    args: Sequence[str] = ()
    # Added to the environment of the process that starts it.
    env: Mapping[str, str] = field(default_factory=dict)
    # File descriptors that it inherits, under the same numbers.
    pass_fds: Sequence[int] = ()
    # Where its stdout and stderr go; None: where ours go.
    output_fd: int | None = None


class Process(Protocol):
    """A process that was started."""

    @property
    def pid(self) -> int: ...

    @property
    def identity(self) -> str:
        """What tells it from every other process, for `Engine.adopt`."""
        ...

    async def wait(self) -> int | None:
        """Returns the exit code as soon as the process ends; negative: the signal that ended it;
        None where only its parent could know."""
        ...

    def terminate(self) -> None:
        """Asks it to end (SIGTERM). Does nothing once it ended."""
        ...

    def kill(self) -> None:
        """Ends it (SIGKILL). Does nothing once it ended."""
        ...


class Engine(Protocol):
    """Starts processes."""

    async def start(self, spec: ProcessSpec) -> Process:
        """Starts a process; raises OSError where that is impossible."""
        ...

    def adopt(self, identity: str) -> Process | None:
        """A process that another owner of this engine started; None where it has ended."""
        ...

    def find(self, spec: ProcessSpec) -> Process | None:
        """As `adopt`, of a process that an owner started who could not note its identity."""
        ...
