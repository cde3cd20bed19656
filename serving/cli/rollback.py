"""`serving rollback`: an application is again what it was before."""

from __future__ import annotations

from typing import Annotated

import typer

from serving import api
from serving.exceptions import ClusterError


def rollback(name: Annotated[str, typer.Argument(help="The application's name.")]) -> None:
    """Return to the version before, and wait until it serves."""
    try:
        api.rollback(name)
    except ValueError as error:
        raise ClusterError(str(error)) from None
    typer.echo(f"Application {name!r} is what it was before")
