"""`@serving.batch` on functions and methods."""

from __future__ import annotations

import asyncio
import gc
import inspect
import random
import threading
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest

from serving.batching import batch
from serving.batching.queue import MAX_UNREAD
from serving.context import (
    RequestScope,
    current_request,
    enter_request,
    get_multiplexed_model_id,
)
from serving.exceptions import BackPressureError, RequestCancelledError
from tests.support.mux import turn


class Doubler:
    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    @batch(max_batch_size=3, batch_wait_timeout_s=0)
    async def predict(self, xs: list[int]) -> list[int]:
        self.batches.append(xs)
        return [2 * x for x in xs]

    def reconfigure(self, config: dict[str, int]) -> None:
        self.predict.set_max_batch_size(config["size"])


class Gate:
    """Batches wait until they are let through."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.cancelled: list[list[int]] = []
        self.open = asyncio.Event()

    @batch(max_batch_size=2, batch_wait_timeout_s=0)
    async def predict(self, xs: list[int]) -> list[int]:
        self.batches.append(xs)
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled.append(xs)
            raise
        return xs


async def test_calls_share_batches_and_each_gets_its_own_result() -> None:
    model = Doubler()
    assert list(await asyncio.gather(*map(model.predict, range(7)))) == [0, 2, 4, 6, 8, 10, 12]
    assert model.batches == [[0, 1, 2], [3, 4, 5], [6]]


async def test_a_function_without_parentheses_with_several_arguments() -> None:
    seen: list[Any] = []

    @batch
    async def add(xs: list[int], ys: list[int], note: Any = None) -> list[int]:
        seen.append(note)
        return [x + y for x, y in zip(xs, ys, strict=True)]

    first, second = add(1, 2), add(ys=4, xs=3)
    assert list(await asyncio.gather(first, second)) == [3, 7]
    assert seen == [None]
    assert list(await asyncio.gather(add(1, 2, "a"), add(3, 4))) == [3, 7]
    assert seen[1] == ["a", None]
    with pytest.raises(TypeError, match="ys"):
        await add(1)


async def test_a_plain_function_runs_in_a_thread() -> None:
    @batch
    def where(xs: list[int]) -> list[int]:
        return [threading.get_ident()] * len(xs)

    assert await where(1) != threading.get_ident()


async def test_an_exception_among_the_results_fails_its_item_only() -> None:
    @batch(max_batch_size=3)
    async def some(xs: list[int]) -> list[Any]:
        return [x, KeyError(x), StopIteration()][: len(xs)] if (x := xs[0]) else []

    results = await asyncio.gather(some(1), some(2), some(3), return_exceptions=True)
    assert [type(result) for result in results] == [int, KeyError, RuntimeError]


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        ([1], ValueError, "answering must return a list .* 2 items .* there are 1"),
        (None, TypeError, "answering must return a list .* not NoneType"),
        ("ab", TypeError, "not str"),
        (KeyError("x"), KeyError, "x"),
    ],
)
async def test_a_wrong_answer_or_an_exception_fails_all(
    answer: Any, error: type[Exception], says: str
) -> None:
    @batch(max_batch_size=2)
    async def answering(xs: list[int]) -> Any:
        if xs == [3, 4]:
            return xs
        if isinstance(answer, Exception):
            raise answer
        return answer

    for result in await asyncio.gather(answering(1), answering(2), return_exceptions=True):
        with pytest.raises(error, match=says):
            raise result
    assert list(await asyncio.gather(answering(3), answering(4))) == [3, 4]


async def test_a_batch_runs_alone_unless_more_may() -> None:
    gate = Gate()
    calls = [asyncio.ensure_future(gate.predict(x)) for x in range(5)]
    await turn()
    assert gate.batches == [[0, 1]]
    gate.predict.set_max_concurrent_batches(2)
    await turn()
    assert gate.batches == [[0, 1], [2, 3]]
    gate.open.set()
    assert await asyncio.gather(*calls) == list(range(5))


async def test_a_cancelled_item_leaves_its_batch() -> None:
    gate = Gate()
    calls = [asyncio.ensure_future(gate.predict(x)) for x in range(4)]
    await turn()
    calls[0].cancel()  # its batch goes on for the other
    calls[2].cancel()  # waits
    await turn()
    assert gate.cancelled == []
    gate.open.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert results[1::2] == [1, 3]
    assert gate.batches == [[0, 1], [3]]


async def test_a_batch_that_nobody_waits_for_is_cancelled_with_its_calls() -> None:
    gate = Gate()
    calls = [asyncio.ensure_future(gate.predict(x)) for x in range(3)]
    await turn()
    for call in calls[:2]:
        call.cancel()
    await turn()
    assert gate.cancelled == [[0, 1]]
    gate.open.set()
    assert await calls[2] == 2


async def test_a_batch_has_a_request_of_its_own() -> None:
    stopped: list[str] = []
    ended: list[str] = []
    scopes: list[RequestScope] = []

    @batch(max_batch_size=2, batch_wait_timeout_s=0)
    async def models(xs: list[int]) -> list[str]:
        scope = current_request()
        assert scope is not None
        scopes.append(scope)
        scope.opened(lambda: stopped.append(scope.model_id))
        scope.on_end(lambda: ended.append(scope.model_id))
        if xs == [9]:
            await asyncio.Event().wait()
        return [get_multiplexed_model_id()] * len(xs)

    async def call(model: str, x: int) -> str:
        enter_request(RequestScope("r", model_id=model))
        return await models(x)

    calls = [call("ab"[x % 2], x) for x in range(4)]
    assert await asyncio.gather(*calls) == ["a", "b", "a", "b"]
    await turn()
    assert ended == ["a", "b"]
    assert stopped == []
    lone = asyncio.ensure_future(call("c", 9))
    await turn()
    lone.cancel()
    await turn()
    assert stopped == ["c"]
    assert ended == ["a", "b", "c"]
    assert len(set(map(id, scopes))) == 3


async def test_a_batch_is_known_by_all_its_requests() -> None:
    @batch(max_batch_size=100)
    async def known(xs: list[int]) -> list[RequestScope | None]:
        return [current_request()] * len(xs)

    async def call(request_id: str) -> RequestScope:
        enter_request(RequestScope(request_id, "/a", "app", "m"))
        scope = await known(1)
        assert scope is not None
        return scope

    async def batch_of(*ids: str) -> RequestScope:
        return (await asyncio.gather(*map(call, ids)))[0]

    scope = await batch_of("one", "two", "one", "three")
    assert scope.request_id == "one,two,three"
    assert (scope.route, scope.application, scope.model_id) == ("/a", "app", "m")
    many = await batch_of(*(f"{number:0128}" for number in range(100)))
    assert len(many.request_id) < 8 * 1024 + 2
    assert many.request_id.endswith("62,…")


async def test_a_batch_that_cancels_itself_fails_its_items() -> None:
    @batch
    async def gone(xs: list[int]) -> list[int]:
        raise asyncio.CancelledError

    with pytest.raises(RequestCancelledError, match="gone"):
        await gone(1)


async def test_streams() -> None:
    @batch(max_batch_size=3)
    async def count(ns: list[int]) -> AsyncIterator[list[Any]]:
        for i in range(max(ns)):
            yield [StopIteration if i >= n else KeyError(i) if n == 9 and i else i for n in ns]

    async def read(n: int) -> list[Any]:
        items: list[Any] = []
        try:
            async for item in count(n):
                items.append(item)  # noqa: PERF401  what came before the error counts too
        except KeyError as error:
            items.append(error.args[0])
        return items

    assert await asyncio.gather(*map(read, [1, 3, 9])) == [[0], [0, 1, 2], [0, 1]]


async def test_a_plain_generator_streams_and_is_closed_when_no_one_reads() -> None:
    closed = asyncio.Event()
    loop = asyncio.get_running_loop()

    @batch
    def count(ns: list[int]) -> Iterator[list[int]]:
        try:
            yield ns
            yield [StopAsyncIteration()] * len(ns)  # type: ignore[list-item]
            raise AssertionError("nobody reads it any more")
        finally:
            loop.call_soon_threadsafe(closed.set)

    assert [item async for item in count(5)] == [5]
    await closed.wait()


async def test_a_stream_of_wrong_length_fails_and_a_reader_that_goes_cancels() -> None:
    cancelled = asyncio.Event()

    @batch(max_batch_size=1)
    async def some(xs: list[int]) -> AsyncIterator[list[int]]:
        yield xs
        if xs == [1]:
            yield []
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(ValueError, match="must yield"):
        assert [item async for item in some(1)]
    stream = some(2)
    assert await anext(stream) == 2
    await stream.aclose()
    await cancelled.wait()


class Counting:
    """Streams without end, and counts what it makes."""

    def __init__(self) -> None:
        self.made = 0
        self.ended = asyncio.Event()

    @batch(max_batch_size=2, batch_wait_timeout_s=0)
    async def count(self, xs: list[int]) -> AsyncIterator[list[int]]:
        try:
            while True:
                self.made += 1
                yield [self.made] * len(xs)
        finally:
            self.ended.set()

    @batch(max_batch_size=2, batch_wait_timeout_s=0)
    def count_in_thread(self, xs: list[int]) -> Iterator[list[int]]:
        try:
            while True:
                self.made += 1
                yield [self.made] * len(xs)
        finally:
            self.ended.set()


async def read_all(stream: AsyncIterator[int], read: list[int]) -> None:
    async for item in stream:
        read.append(item)  # noqa: PERF401  what came before an error counts too


@pytest.mark.parametrize("method", ["count", "count_in_thread"])
async def test_a_reader_that_stops_pauses_its_batch(method: str) -> None:
    model = Counting()
    streams = [getattr(model, method)(x) for x in range(2)]
    assert await asyncio.gather(*map(anext, streams)) == [1, 1]
    # One reads on, as far as the other lets it.
    assert [await anext(streams[0]) for _ in range(MAX_UNREAD)] == list(range(2, MAX_UNREAD + 2))
    waiting = asyncio.ensure_future(anext(streams[0]))
    await turn()
    assert model.made == MAX_UNREAD + 1
    assert await anext(streams[1]) == 2
    assert await waiting == MAX_UNREAD + 2
    # One that leaves is waited for no more.
    await streams[1].aclose()
    assert [await anext(streams[0]) for _ in range(50)][-1] == MAX_UNREAD + 52
    await streams[0].aclose()
    await model.ended.wait()


async def test_a_reader_that_others_wait_for_too_long_is_left_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serving.batching.queue.MAX_LAG_S", 0.01)
    model = Counting()
    slow, fast = model.count(0), model.count(1)
    await asyncio.gather(anext(slow), anext(fast))
    assert [await anext(fast) for _ in range(100)][-1] == 101

    read: list[int] = []
    with pytest.raises(BackPressureError, match="its batch went on without it"):
        await read_all(slow, read)
    assert read == list(range(2, len(read) + 2))
    assert len(read) <= MAX_UNREAD
    await fast.aclose()
    await model.ended.wait()


async def test_a_reader_that_nobody_waits_for_may_take_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serving.batching.queue.MAX_LAG_S", 0.01)
    model = Counting()
    alone = model.count(0)
    assert await anext(alone) == 1
    await asyncio.sleep(0.05)
    assert model.made == MAX_UNREAD + 1
    assert [await anext(alone) for _ in range(30)] == list(range(2, 32))
    queued = model.count(1)  # waits for the place of the one that reads no more
    assert await anext(queued) > 1
    await asyncio.gather(alone.aclose(), queued.aclose())


async def test_instances_have_their_own_parameters_and_are_not_kept() -> None:
    one, other = Doubler(), Doubler()
    one.reconfigure({"size": 1})
    assert (one.predict.get_max_batch_size(), other.predict.get_max_batch_size()) == (1, 3)
    await asyncio.gather(*(model.predict(x) for model in (one, other) for x in range(2)))
    assert (one.batches, other.batches) == ([[0], [1]], [[0, 1]])
    with pytest.raises(ValueError, match="max_batch_size"):
        one.predict.set_max_batch_size(0)
    gone = weakref.ref(one)
    del one
    await turn()
    gc.collect()
    assert gone() is None


def test_an_instance_serves_in_one_loop_after_another() -> None:
    model = Doubler()
    for x in range(2):
        assert asyncio.run(model.predict(x)) == 2 * x


async def test_a_batched_method_looks_like_a_coroutine_function_and_can_be_sent() -> None:
    assert inspect.iscoroutinefunction(Doubler().predict)
    assert inspect.iscoroutinefunction(Doubler.predict)
    assert list(inspect.signature(Doubler().predict).parameters) == ["xs"]

    class Local:
        @batch
        async def __call__(self, xs: list[int]) -> list[int]:
            return xs

    assert await Local()(1) == 1
    sent = cloudpickle.loads(cloudpickle.dumps(Local))
    assert await sent()(3) == 3


async def test_what_cannot_be_batched_says_so() -> None:
    with pytest.raises(TypeError, match="no items"):

        @batch
        async def nothing() -> list[int]:
            return []

    with pytest.raises(TypeError, match=r"\*xs"):

        @batch
        async def many(*xs: int) -> list[int]:
            return []

    with pytest.raises(TypeError, match="by name"):
        batch(8)  # type: ignore[call-overload]

    class Slots:
        __slots__ = ()

        @batch
        async def predict(self, xs: list[int]) -> list[int]:
            return xs

    with pytest.raises(TypeError, match="__weakref__"):
        await Slots().predict(1)


async def test_nothing_that_goes_wrong_stops_the_queue() -> None:
    chance = random.Random(7)
    outcomes: Counter[str] = Counter()

    def size(items: list[int]) -> int:
        if items[-1] % 11 == 0:
            raise ArithmeticError
        return len(items)

    @batch(max_batch_size=4, batch_wait_timeout_s=0, batch_size_fn=size, max_concurrent_batches=2)
    async def work(xs: list[int]) -> list[Any]:
        await asyncio.sleep(0)
        if xs[0] % 7 == 0:
            raise LookupError
        return [ValueError() if x % 5 == 0 else x for x in xs]

    async def call(x: int) -> None:
        try:
            assert await work(x) == x
            outcomes["done"] += 1
        except (ArithmeticError, LookupError, ValueError) as error:
            outcomes[type(error).__name__] += 1

    calls: list[asyncio.Task[None]] = []
    for x in range(600):
        calls.append(asyncio.ensure_future(call(x)))
        if chance.random() < 0.4:
            chance.choice(calls).cancel()
        if chance.random() < 0.3:
            await asyncio.sleep(0)
    results = await asyncio.gather(*calls, return_exceptions=True)
    cancelled = sum(isinstance(result, asyncio.CancelledError) for result in results)
    assert results.count(None) + cancelled == 600
    assert outcomes.total() + cancelled == 600
    assert min(outcomes[name] for name in ("done", "ArithmeticError", "ValueError")) > 0
    assert await work(1) == 1
