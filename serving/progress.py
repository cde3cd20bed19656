"""Showing people how a deploy goes: a live line in a terminal, one plain line elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from serving.v1 import controller_pb2 as pb


def follow(statuses: Iterator[pb.ApplicationStatus]) -> None:
    """Consumes the statuses of a deploy, showing them on stderr while it is a terminal."""
    if not sys.stderr.isatty():
        for _ in statuses:
            pass
        return
    from rich.console import Console

    console = Console(stderr=True)
    with console.status("Deploying…") as line:
        for status in statuses:
            line.update(_text(status))


def _text(status: pb.ApplicationStatus) -> str:
    from rich.markup import escape

    parts = []
    for deployment in status.deployments:
        ready = sum(replica.state == "RUNNING" for replica in deployment.replicas)
        parts.append(f"{deployment.name} {ready}/{deployment.target_num_replicas} ready")
        if "failure" in deployment.message:
            parts.append(deployment.message.partition("\n")[0])
    return escape(f"Deploying {status.name}: {', '.join(parts)}")


def say(message: str) -> None:
    """One line on stderr."""
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()
