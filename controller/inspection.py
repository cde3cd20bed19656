"""What replicas are doing now, asked of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from serving.controller.replica import ReplicaProcess
from serving.v1 import controller_pb2 as pb


async def what_is_open(replicas: Iterable[ReplicaProcess]) -> str:
    """Which requests an end of these has to wait for and how long; empty where there are none."""
    asked = list(replicas)
    counts = await asyncio.gather(*(replica.ongoing() for replica in asked))
    graces = [replica.grace_s for replica, count in zip(asked, counts, strict=True) if count]
    if not graces:
        return ""
    requests = "1 open request" if sum(counts) == 1 else f"{sum(counts)} open requests"
    return f"waiting up to {max(graces):.0f} s for {requests}"


async def stacks(
    replicas: Iterable[ReplicaProcess], application: str, replica: str
) -> list[pb.ReplicaStacks]:
    """The stacks of all of them, an application's, or one, by its id or by the end of that."""
    asked = [
        each
        for each in replicas
        if application in ("", each.record.application)
        and (not replica or f"#{each.seen.replica_id}".endswith(f"#{replica}"))
    ]
    return await asyncio.gather(*(each.stacks() for each in asked))
