"""`serving stacks`: what each replica is doing now."""

from __future__ import annotations

from typing import Annotated

import typer

from serving import api
from serving.exceptions import ClusterError


def stacks(
    application: Annotated[
        str, typer.Argument(metavar="[APP]", help="The application's name; all if left out.")
    ] = "",
    replica: Annotated[
        str, typer.Option(help="One replica: its id, or what stands behind its last '#'.")
    ] = "",
) -> None:
    """Show the stack of every thread and every asyncio task of the replicas."""
    try:
        found = api.stacks(application, replica)
    except ValueError as error:
        raise ClusterError(str(error)) from None
    for each in found:
        typer.echo(f"=== {each.replica_id}, process {each.pid}")
        typer.echo(each.text.rstrip() or each.error)
        typer.echo()
