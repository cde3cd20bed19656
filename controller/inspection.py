"""What replicas are doing now, asked of them."""

from __future__ import annotations

import asyncio
import os
import re
import sysconfig
from collections.abc import Iterable

import serving
from serving.controller.replica import ReplicaProcess
from serving.v1 import controller_pb2 as pb

_FRAME = re.compile(r'^  File "(.+)", line (\d+), in (.+)$', re.MULTILINE)
_NOT_THE_USERS = (
    "<",
    os.path.join(os.path.dirname(serving.__file__), ""),
    *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
)


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


def place_of(stacks: str) -> str:
    """Where a replica that starts is: the innermost frame of the user's code, in its main thread or
    else in a task; empty where there is none."""
    _, _, main = stacks.partition("Thread MainThread:\n")
    thread, _, _ = main.partition("\nThread ")
    _, _, tasks = stacks.partition("\n<Task ")
    for text in (thread.partition("\n<Task ")[0], tasks):
        for file, line, function in reversed(_FRAME.findall(text)):
            if not _is_of_others(file):
                return f"{file}:{line} in {function}"
    return ""


def _is_of_others(file: str) -> bool:
    return file.startswith(_NOT_THE_USERS) or "/site-packages/" in file
