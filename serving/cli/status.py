"""`serving status`: the applications of the shared cluster."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from serving import api, cluster
from serving.cli.overview import lines, table
from serving.exceptions import ClusterError
from serving.schema import ServeStatus


def status(
    as_json: Annotated[
        bool, typer.Option("--json", help="As JSON; with --watch an object a line.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Show it again whenever it changes.")
    ] = False,
) -> None:
    """Show the applications of the cluster. Exit code 1 where no cluster runs."""
    if cluster.find() is None:
        raise ClusterError(cluster.NO_CLUSTER)
    if watch:
        _watch(api.statuses(), as_json=as_json)
    elif as_json:
        typer.echo(json.dumps(dataclasses.asdict(api.status()), indent=2))
    elif sys.stdout.isatty():
        _print_table(api.status())
    else:
        typer.echo("\n".join(lines(api.status())))


def _watch(statuses: Iterator[ServeStatus], *, as_json: bool) -> None:
    try:
        if sys.stdout.isatty() and not as_json:
            _show(statuses)
            return
        for known in statuses:
            text = "\n".join([*lines(known), ""])
            typer.echo(json.dumps(dataclasses.asdict(known)) if as_json else text)
            sys.stdout.flush()
    except KeyboardInterrupt:
        return


def _print_table(known: ServeStatus) -> None:
    from rich.console import Console

    Console().print(table(known))


def _show(statuses: Iterator[ServeStatus]) -> None:
    from rich.live import Live

    with Live(auto_refresh=False) as live:
        for known in statuses:
            live.update(table(known), refresh=True)
