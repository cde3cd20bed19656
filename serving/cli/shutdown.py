"""`serving shutdown`: the shared cluster ends."""

from __future__ import annotations

import typer

from serving import api, cluster


def shutdown() -> None:
    """End the cluster and delete its applications, letting requests finish."""
    if cluster.find() is None:
        typer.echo("No cluster runs")
        return
    api.shutdown()
    typer.echo("The cluster has ended")
