"""Admission, over a connection in memory."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from serving.mux import Stream, StreamRejected
from serving.mux.testing import connected
from serving.replica.runner import Runner
from serving.v1.http_pb2 import REQUEST, HttpRequest
from tests.support.mux import until

A_REQUEST = HttpRequest(method="GET", raw_path=b"/").SerializeToString()


async def test_raised_limit_is_told_to_those_who_were_rejected() -> None:
    gate, loads = asyncio.Event(), list[int]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await gate.wait()
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    runner = Runner(app, max_ongoing=1, state={})

    def on_open(stream: Stream) -> None:
        runner.admit(ends.replica, stream)

    async with connected(on_open, on_load=loads.append, ongoing=lambda: runner.ongoing) as ends:
        working = ends.caller.open(REQUEST, A_REQUEST, end=True)
        with pytest.raises(StreamRejected):
            await ends.caller.open(REQUEST, A_REQUEST, end=True).receive()
        heard = len(loads)
        runner.resize(2)
        await until(lambda: len(loads) > heard)
        gate.set()
        assert await working.receive() is not None
        await runner.drain(5)
