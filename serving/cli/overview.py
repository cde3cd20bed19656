"""The status of a cluster for people: a table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from serving.schema import (
    ApplicationStatus,
    ApplicationStatusOverview,
    DeploymentStatusOverview,
    ServeStatus,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

SHOWN_DECISIONS = 3
_COLOURS = {
    "RUNNING": "green",
    "HEALTHY": "green",
    "DEPLOYING": "yellow",
    "UPDATING": "yellow",
    "STARTING": "yellow",
    "DELETING": "yellow",
}


def lines(known: ServeStatus) -> list[str]:
    """All that is known, a fact a line."""
    return [*_head(known), *_applications(known)]


def _head(known: ServeStatus) -> Iterator[str]:
    if known.url:
        yield f"HTTP: {known.url}/"
    if known.grpc_target:
        yield f"gRPC: {known.grpc_target}"
    if known.admin_url:
        yield f"REST API: {known.admin_url}/"
    for name, proxy in known.proxies.items():
        yield f"{name}: {proxy}"
    if not known.applications:
        yield "No applications"


def _applications(known: ServeStatus) -> Iterator[str]:
    for name, application in known.applications.items():
        yield f"{name}: {application.status}, {application.route_prefix or 'no HTTP'}"
        yield from (f"  {line}" for line in _own_message(application).splitlines())
        for deployment, overview in application.deployments.items():
            yield f"  {deployment}: {overview.status}, {_counts(overview)}"
            yield from (f"    {line}" for line in overview.message.splitlines())
            yield from (f"    {line}" for line in _details(overview))


def _own_message(application: ApplicationStatusOverview) -> str:
    """What its deployments do not tell: of one that runs, that it was rolled back, say."""
    is_told = application.deployments and application.status != ApplicationStatus.RUNNING
    return "" if is_told else application.message


def _counts(overview: DeploymentStatusOverview) -> str:
    states = overview.replica_states.items()
    return ", ".join(f"{count} {state}" for state, count in states) or "no replicas"


def _details(overview: DeploymentStatusOverview) -> Iterator[str]:
    for replica in overview.replicas:
        yield f"replica {replica.replica_id}: {replica.state}, process {replica.pid or '-'}"
    for decision in overview.decisions[-SHOWN_DECISIONS:]:
        yield f"{_clock(decision.time_s)} {decision.text}"
    for failure in overview.last_failures[-1:]:
        first = failure.error.partition("\n")[0]
        yield f"{_clock(failure.time_s)} {failure.replica_id} failed: {first}"


def _clock(time_s: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(time_s))


def table(known: ServeStatus) -> RenderableType:
    """The same, for a terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    shown = Table("application", "deployment", "status", "replicas", "why", box=None)
    for name, application in known.applications.items():
        route = application.route_prefix or "no HTTP"
        status = Text(application.status, _COLOURS.get(application.status, "red"))
        why = _own_message(application)
        shown.add_row(Text(name), Text(route, "dim"), status, "", Text(why))
        for deployment, overview in application.deployments.items():
            status = Text(overview.status, _COLOURS.get(overview.status, "red"))
            why = "\n".join(filter(None, (overview.message, *_details(overview))))
            shown.add_row("", Text(deployment), status, _counts(overview), Text(why))
    head = Text("\n".join(_head(known)))
    return Group(head, shown) if known.applications else head
