"""`serving delete`: one application ends."""

from __future__ import annotations

from typing import Annotated

import typer

from serving import api
from serving.exceptions import ClusterError


def delete(name: Annotated[str, typer.Argument(help="The application's name.")]) -> None:
    """Stop an application, letting its requests finish."""
    try:
        api.delete(name)
    except ValueError as error:
        raise ClusterError(str(error)) from None
    typer.echo(f"Application {name!r} is deleted")
