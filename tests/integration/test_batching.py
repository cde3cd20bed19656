"""Batches in a replica."""

from __future__ import annotations

from typing import Any

import pytest

import serving
from serving.exceptions import RequestCancelledError
from serving.handle import DeploymentHandle
from tests.integration.apps import batched
from tests.support.cluster import Cluster
from tests.support.control import until
from tests.support.processes import settled

TIMEOUT_S = 20.0
ITEM = 100_000
MOST_UNDER_WAY = 2**20 // ITEM + 16 + 4
"""Items of a stream: its window, those that a batch lets wait, and some at work."""


@pytest.fixture(scope="module")
def model(cluster: Cluster) -> DeploymentHandle[Any]:
    handle = serving.run(batched.Model.bind(), name="batched", route_prefix=None)
    handle.seen.remote().result(TIMEOUT_S)
    return handle


def seen(model: Any) -> tuple[list[str], list[list[str]], int]:
    found: tuple[list[str], list[list[str]], int] = model.seen.remote().result(TIMEOUT_S)
    return found


def test_calls_that_need_not_wait_share_batches(model: Any) -> None:
    responses = [model.at_once.remote(value) for value in range(200)]

    assert [response.result(TIMEOUT_S) for response in responses] == list(range(0, 400, 2))


def test_cancelled_item_leaves_its_batch(model: Any) -> None:
    gone = model.remote("gone")
    until(lambda: seen(model)[0] == ["gone"])
    gone.cancel()
    with pytest.raises(RequestCancelledError):
        gone.result(TIMEOUT_S)
    until(lambda: seen(model)[0] == [])
    left = model.remote("a"), model.remote("b")

    assert [response.result(TIMEOUT_S) for response in left] == ["A", "B"]
    assert seen(model)[1] == [["a", "b"]]


def test_reader_that_stops_pauses_its_batch_until_it_leaves(model: Any) -> None:
    stopped, reading = (model.options(stream=True).stream.remote(ITEM) for _ in range(2))
    assert len(next(stopped)) == ITEM

    assert settled(lambda: seen(model)[2]) <= MOST_UNDER_WAY
    stopped.cancel()
    for _ in range(3 * MOST_UNDER_WAY):
        next(reading)
    reading.cancel()
