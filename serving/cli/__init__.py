"""The `serving` command: one file for each command, or for a few that belong together."""

from __future__ import annotations

import os
import sys

import typer

from serving.cli.admin import delete, shutdown, start, status
from serving.cli.run import run
from serving.exceptions import ServingError

app = typer.Typer(
    name="serving",
    help="Serve Python classes and functions over HTTP.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (run, start, status, delete, shutdown):
    app.command()(command)


def main() -> None:
    """Runs the command line. An error that the user can mend is a message and exit code 1."""
    code = 0
    try:
        app()
    except ServingError as error:
        sys.stderr.write(f"serving: {error}\n")
        code = 1
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    # Without taking the interpreter down: threads of gRPC's now and then abort a process meanwhile.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
