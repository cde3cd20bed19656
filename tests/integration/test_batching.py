"""Batches of calls that come through handles."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import serving
from serving.exceptions import RequestCancelledError
from tests.integration.apps import batched
from tests.support.control import until
from tests.support.modes import Mode

TIMEOUT_S = 10.0


@pytest.fixture(scope="module")
def folder(mode: Mode, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("marks")


@pytest.fixture(scope="module")
def model(mode: Mode, folder: Path) -> Any:
    handle: Any = mode.run(batched.Model.bind(str(folder)), name="model", route_prefix=None)
    # The thread that carries a script's calls begins with the first, and stays.
    for response in [handle.who.remote(number) for number in range(2)]:
        response.result(TIMEOUT_S)
    return handle


def test_calls_share_a_batch_and_each_gets_its_own_result(model: Any) -> None:
    responses = [model.remote(number) for number in range(4)]

    assert [response.result(TIMEOUT_S) for response in responses] == [
        (2 * number, 4) for number in range(4)
    ]


def test_item_that_fails_leaves_the_others_alone(model: Any) -> None:
    responses = [model.remote(number) for number in (1, 2, -1, 3)]

    assert [responses[index].result(TIMEOUT_S)[0] for index in (0, 1, 3)] == [2, 4, 6]
    with pytest.raises(ValueError, match="-1 is negative"):
        responses[2].result(TIMEOUT_S)


def test_item_that_is_cancelled_leaves_its_batch(model: Any) -> None:
    responses = [model.remote(number) for number in range(3)]
    responses[1].cancel()
    with pytest.raises(RequestCancelledError):
        responses[1].result(TIMEOUT_S)
    full = [model.remote(number) for number in range(3, 5)]

    results = [response.result(TIMEOUT_S) for response in (responses[0], responses[2], *full)]
    assert results == [(0, 4), (4, 4), (6, 4), (8, 4)]


async def test_every_item_of_a_streamed_batch_is_a_stream(model: Any) -> None:
    async def items(count: int) -> list[Any]:
        handle = model.options(stream=True, method_name="count")
        return [item async for item in handle.remote(count)]

    assert list(await asyncio.gather(items(1), items(3))) == [[0], [0, 1, 2]]


def test_batch_is_cancelled_when_nobody_waits_for_it(model: Any, folder: Path) -> None:
    responses = [model.wait.remote("nobody") for _ in range(2)]
    assert until((folder / "nobody.begun").exists)
    for response in responses:
        response.cancel()

    assert until((folder / "nobody.cancelled").exists)


def test_request_of_each_item_is_known_in_the_batch(model: Any) -> None:
    first, second = model.who.remote(0), model.who.remote(1)

    assert first.result(TIMEOUT_S) == ("model", "Model")
    assert second.result(TIMEOUT_S) == ("model", "Model")


def test_user_config_changes_the_size_of_batches(mode: Mode, folder: Path) -> None:
    deployment = batched.Model.options(user_config={"max_batch_size": 2})
    handle: Any = mode.run(deployment.bind(str(folder)), name="sized", route_prefix=None)
    responses = [handle.remote(number) for number in range(4)]

    assert [response.result(TIMEOUT_S)[1] for response in responses] == [2, 2, 2, 2]
    serving.delete("sized")
