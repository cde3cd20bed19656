"""The `serving` command: one file for each command."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from serving.cli.build import build
from serving.cli.check import check
from serving.cli.config import config
from serving.cli.delete import delete
from serving.cli.deploy import deploy
from serving.cli.exit_codes import code_of, told
from serving.cli.logs import logs
from serving.cli.rollback import rollback
from serving.cli.run import run
from serving.cli.schema import schema
from serving.cli.shutdown import shutdown
from serving.cli.stacks import stacks
from serving.cli.start import start
from serving.cli.status import status
from serving.exceptions import ServingError

app = typer.Typer(
    name="serving",
    help="Serve Python classes and functions over HTTP.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"serving {version('serving')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Tell the version.", is_eager=True, callback=_tell_version),
    ] = False,
) -> None:
    pass


_COMMANDS = (
    *(run, start, deploy, status, config, logs, stacks, rollback, delete, shutdown),
    *(build, check, schema),
)
for command in _COMMANDS:
    app.command()(command)


def main() -> None:
    """Runs the command line. An error that the user can mend is a message and an exit code."""
    code = 0
    try:
        app()
    except ServingError as error:
        sys.stderr.write(f"{told(error)}\n")
        code = code_of(error)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    # Without taking the interpreter down: threads of gRPC's now and then abort a process meanwhile.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
