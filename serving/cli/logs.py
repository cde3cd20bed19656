"""`serving logs`: what the processes of the shared cluster have logged."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serving import api, cluster, logfiles
from serving.exceptions import ClusterError


def logs(
    app: Annotated[str, typer.Option(help="Only what concerns this application.")] = "",
    replica: Annotated[
        str,
        typer.Option(help="Only one replica: its id, or what stands behind its last '#'."),
    ] = "",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")
    ] = False,
    tail: Annotated[
        int | None, typer.Option("--tail", "-n", help="So many lines only, the last.", min=0)
    ] = None,
) -> None:
    """Show the log of the cluster."""
    log, wanted = _log(), logfiles.Wanted(app, replica)
    _check_is_there(log, wanted)
    if not follow:
        for line in logfiles.read(log, wanted, tail):
            typer.echo(line)
        return
    address = cluster.find()
    try:
        for line in logfiles.follow(
            log, wanted, tail, runs=lambda: bool(address and cluster.runs(address))
        ):
            typer.echo(line)
    except KeyboardInterrupt:
        return


def _check_is_there(log: Path, wanted: logfiles.Wanted) -> None:
    """Raises ClusterError where what is wanted neither runs nor has logged anything."""
    if next(iter(logfiles.read(log, wanted, tail=None)), None) is not None:
        return
    applications = api.status().applications
    replicas = [
        replica.replica_id
        for name, application in applications.items()
        if wanted.application in ("", name)
        for deployment in application.deployments.values()
        for replica in deployment.replicas
    ]
    if wanted.application and wanted.application not in applications:
        what, known = f"application {wanted.application!r}", list(applications)
    elif wanted.replica and not any(map(wanted.is_replica, replicas)):
        what, known = f"replica {wanted.replica!r}", replicas
    else:
        return
    raise ClusterError(
        f"no {what} runs, nor is it in the log; there are: {', '.join(known) or 'none'}"
    )


def _log() -> Path:
    """Of the cluster that runs, or of the last one."""
    log = cluster.log_of_last()
    if log is None:
        raise ClusterError(
            "no log: no cluster was started with `serving start` in "
            f"{cluster.state_dir()}, or it logs to stderr (`serving start --block` without "
            "--logs-dir, as under systemd: see journalctl)"
        )
    return log
