"""Batches: who shares one, what each item gets, and what a cancelled one leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from serving.batching import batch


class Doubler:
    def __init__(self) -> None:
        self.sizes: list[int] = []

    @batch(max_batch_size=4, batch_wait_timeout_s=0.01)
    async def double(self, values: list[int]) -> list[Any]:
        self.sizes.append(len(values))
        return [ValueError(value) if value < 0 else 2 * value for value in values]

    @batch(max_batch_size=4, batch_wait_timeout_s=0)
    def double_in_thread(self, values: list[int]) -> list[int]:
        return [2 * value for value in values]

    @batch(max_batch_size=2, batch_wait_timeout_s=0)
    async def short(self, values: list[int]) -> list[int]:
        return values[1:]

    @batch(max_batch_size=2, batch_wait_timeout_s=0.01)
    async def stream(self, values: list[int]) -> AsyncIterator[list[int]]:
        for step in range(3):
            yield [value + step for value in values]


async def test_calls_that_come_together_share_batches() -> None:
    doubler = Doubler()

    assert await asyncio.gather(*map(doubler.double, range(8))) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert doubler.sizes == [4, 4]


async def test_plain_function_runs_in_a_thread() -> None:
    assert await Doubler().double_in_thread(4) == 8


async def test_exception_in_the_list_fails_its_item_alone() -> None:
    results = await asyncio.gather(*map(Doubler().double, [1, -1]), return_exceptions=True)

    assert results[0] == 2
    assert isinstance(results[1], ValueError)


async def test_list_of_the_wrong_length_is_an_error_that_names_the_function() -> None:
    with pytest.raises(Exception, match="short"):
        await Doubler().short(1)


async def test_each_call_gets_its_own_items() -> None:
    doubler = Doubler()

    async def items(value: int) -> list[int]:
        return [item async for item in doubler.stream(value)]

    one, ten = await asyncio.gather(items(1), items(10))
    assert (one, ten) == ([1, 2, 3], [10, 11, 12])


async def test_cancelled_item_leaves_its_batch_and_the_next_are_served() -> None:
    doubler = Doubler()
    waiting = asyncio.ensure_future(doubler.double(1))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    assert await doubler.double(2) == 4
    assert doubler.sizes == [1]


async def test_parameters_change_at_run_time() -> None:
    doubler = Doubler()
    doubler.double.set_max_batch_size(2)

    await asyncio.gather(*map(doubler.double, range(4)))
    assert doubler.sizes == [2, 2]


@pytest.mark.parametrize(
    "parameters",
    [{"max_batch_size": 0}, {"batch_wait_timeout_s": -1}, {"max_concurrent_batches": 0}],
)
def test_wrong_parameter_is_an_error_that_names_it(parameters: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(parameters))):
        batch(**parameters)
