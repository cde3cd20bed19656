"""Telling a client's half-close from the end of its call: to grpc.aio's `read` both are EOF."""

from __future__ import annotations

import asyncio
from typing import Any

SETTLING_TURNS = 4
"""Turns of the loop in which what cancels a handler's task reaches the tasks that it waits for."""


async def awaited(context: Any) -> None:
    """Returns once it is sure that a client has half-closed, whose messages `context.read()` has
    found at their end. Where the call has ended, the server cancels its handler's task meanwhile,
    and that is to cancel this.

    The core tells of the end of a call behind that of its messages, and how much later is up to
    other threads; but it answers in order, so that it has told once it answers a second read.
    """
    await context.read()
    for _ in range(SETTLING_TURNS):
        await asyncio.sleep(0)
