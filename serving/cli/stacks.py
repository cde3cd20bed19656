"""`serving stacks`: what each replica is doing now."""

from __future__ import annotations

from typing import Annotated

import typer

from serving import api, stacks as texts
from serving.exceptions import ClusterError


def stacks(
    application: Annotated[
        str, typer.Argument(metavar="[APP]", help="The application's name; all if left out.")
    ] = "",
    replica: Annotated[
        str, typer.Option(help="One replica: its id, or what stands behind its last '#'.")
    ] = "",
    everything: Annotated[
        bool, typer.Option("--all", help="Show what is not the user's code, too.")
    ] = False,
) -> None:
    """Show where the user's code is, in threads and asyncio tasks of the replicas."""
    try:
        found = api.stacks(application, replica)
    except ValueError as error:
        raise ClusterError(str(error)) from None
    for each in found:
        typer.echo(f"=== {each.replica_id}, process {each.pid}")
        text = each.text if everything else texts.users(each.text)
        typer.echo(text.rstrip() or each.error)
        typer.echo()
