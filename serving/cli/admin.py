"""`serving start`, `status`, `delete` and `shutdown`: the cluster that stays."""

from __future__ import annotations

from typing import Annotated

import typer

from serving import api, cluster
from serving.cli.options import Host, Port, http_options
from serving.config import LoggingConfig
from serving.exceptions import ClusterError
from serving.schema import ServeStatus


def start(host: Host = None, port: Port = None) -> None:
    """Start a cluster that stays until `serving shutdown`."""
    if (address := cluster.find()) is not None:
        raise ClusterError(f"a cluster runs already, at {api.status().url or address}")
    started = cluster.start_detached(http_options(host, port), LoggingConfig())
    typer.echo(f"Cluster started, process {started['pid']}; logs are in {started['state_dir']}")
    if url := api.status().url:
        typer.echo(f"HTTP: {url}/")


def status() -> None:
    """Show the applications of the cluster. Exit code 1 where no cluster runs."""
    if cluster.find() is None:
        raise ClusterError(cluster.NO_CLUSTER)
    typer.echo("\n".join(_lines(api.status())))


def _lines(known: ServeStatus) -> list[str]:
    lines = [f"HTTP: {known.url}/"] if known.url else []
    lines += [f"{name}: {proxy}" for name, proxy in known.proxies.items()]
    if not known.applications:
        lines.append("No applications")
    for name, application in known.applications.items():
        lines.append(f"{name}: {application.status}, {application.route_prefix or 'no HTTP'}")
        for deployment, overview in application.deployments.items():
            counts = ", ".join(f"{n} {state}" for state, n in overview.replica_states.items())
            lines.append(f"  {deployment}: {overview.status}, {counts or 'no replicas'}")
            lines += [f"    {line}" for line in overview.message.splitlines()]
    return lines


def delete(name: Annotated[str, typer.Argument(help="The application's name.")]) -> None:
    """Stop an application, letting its requests finish."""
    try:
        api.delete(name)
    except ValueError as error:
        raise ClusterError(str(error)) from None
    typer.echo(f"Application {name!r} is deleted")


def shutdown() -> None:
    """End the cluster, letting requests finish."""
    if cluster.find() is None:
        typer.echo("No cluster runs")
        return
    api.shutdown()
    typer.echo("The cluster has ended")
