"""Chains of deployments: cancellation in all its places, backpressure, and the order of awaits."""

from __future__ import annotations

import asyncio
import random
import re
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import serving
from serving.exceptions import BackPressureError, RequestCancelledError
from serving.handle import DeploymentHandle
from tests.integration.apps import chained
from tests.support.control import until
from tests.support.gate import Gate
from tests.support.modes import Mode
from tests.support.processes import ongoing, replicas, settled

TIMEOUT_S = 20.0
REST_S = 1.0
"""Within which nothing is left of requests that were cancelled."""
WINDOW = 1024 * 1024 // len(chained.ITEM)
"""Items that a stream holds under way."""

Handle = DeploymentHandle[Any]


@pytest.fixture(scope="module")
def folder(mode: Mode, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("marks")


@pytest.fixture(scope="module")
def chain(mode: Mode, folder: Path) -> Handle:
    last = chained.Link.bind("last", str(folder))
    middle = chained.Link.bind("middle", str(folder), last)
    debug = {"runtime_env": {"env_vars": {"PYTHONASYNCIODEBUG": "1"}}}
    first = chained.Link.options(name="First", ray_actor_options=debug)
    application = first.bind("first", str(folder), middle)
    handle = mode.run(application, name="chain", route_prefix=None)
    # What a script holds to call them begins with the first calls, and stays.
    for link in links():
        assert link.remote(0).result(TIMEOUT_S) == 1
    return handle


def links() -> list[Handle]:
    """From the first to the last."""
    names = ("First", "Link", "Link_1")
    return [serving.get_deployment_handle(name, "chain") for name in names]


@pytest.fixture
def last(chain: Handle) -> Handle:
    return links()[-1]


# Cancellation


async def storm(handle: Handle, requests: int, chance: random.Random) -> None:
    """Makes that many requests and cancels each at some time, wherever it has come to."""

    async def request() -> None:
        waiting = asyncio.ensure_future(handle.hold.remote())
        await asyncio.sleep(chance.random() * chance.choice((0.0, 0.05, 0.5)))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    async with asyncio.TaskGroup() as tasks:
        for _ in range(requests):
            tasks.create_task(request())


@pytest.mark.alone
@pytest.mark.parametrize("seed", range(3))
async def test_storm_of_cancelled_requests_leaves_nothing_behind(
    chain: Handle, mode: Mode, seed: int
) -> None:
    await storm(chain, 1000, random.Random(seed))
    ended_at = time.monotonic()

    async def at_rest() -> bool:
        open_calls = [chained.open_calls()]
        if not mode.is_local:  # where all call through one caller, this call too
            open_calls += [await link.open_calls.remote() for link in links()]
        counted = [await link.counts.remote() for link in links()]
        return not any(open_calls) and all(each["started"] == each["ended"] for each in counted)

    while not await at_rest():
        assert time.monotonic() - ended_at < REST_S
    assert await chain.remote(1) == 2
    for link in links():
        counts = await link.counts.remote()
        assert counts["cancelled"] == counts["ended"] == counts["started"] > 100
    for replica in [] if mode.is_local else replicas("chain"):
        assert await asyncio.to_thread(settled, partial(ongoing, replica)) == 0


def test_cancelled_request_leaves_work_that_it_shields(chain: Handle, folder: Path) -> None:
    gate = Gate(folder / "gate")
    with gate.closed() as open_gate:
        response = links()[1].save.remote(str(gate.path))
        until((folder / "saving").exists)
        response.cancel()
        with pytest.raises(RequestCancelledError):
            response.result(TIMEOUT_S)
        assert not (folder / "saved").exists()
        open_gate()

    assert until((folder / "saved").exists)


def test_shield_holds_no_call_of_a_cancelled_request(chain: Handle, folder: Path) -> None:
    response = links()[1].shield_a_call.remote()
    until((folder / "waiting").exists)
    response.cancel()

    assert until((folder / "waited").exists)


def test_reader_that_leaves_ends_generators_three_levels_deep(chain: Handle, folder: Path) -> None:
    for item in chain.options(stream=True).items.remote():
        assert item == chained.ITEM
        break

    for name in ("first", "middle", "last"):
        assert until((folder / f"{name}.ended").exists)


# Backpressure


@pytest.mark.parametrize("method", ["items", "items_in_thread"])
def test_reader_that_stops_pauses_the_generator(last: Handle, method: str) -> None:
    before = last.made.remote().result(TIMEOUT_S)
    items = getattr(last.options(stream=True), method).remote()
    next(items)

    made = settled(lambda: last.made.remote().result(TIMEOUT_S)) - before
    assert WINDOW - 1 <= made <= WINDOW + 4
    for _ in range(3 * WINDOW):
        next(items)
    assert settled(lambda: last.made.remote().result(TIMEOUT_S)) - before > 3 * WINDOW
    items.cancel()


def test_reader_that_stops_pauses_generators_down_the_chain(chain: Handle, last: Handle) -> None:
    before = last.made.remote().result(TIMEOUT_S)
    items = chain.options(stream=True).items.remote()
    next(items)

    made = settled(lambda: last.made.remote().result(TIMEOUT_S)) - before
    assert made <= 3 * (WINDOW + 4)
    items.cancel()


def test_call_beyond_the_queue_is_refused_and_the_others_answered(
    mode: Mode, tmp_path: Path
) -> None:
    narrow = chained.Link.options(name="Narrow", max_ongoing_requests=1, max_queued_requests=1)
    handle = mode.run(narrow.bind("narrow", str(tmp_path)), name="narrow", route_prefix=None)
    gate = Gate(tmp_path / "gate")
    with gate.closed() as open_gate:
        first = handle.pass_gate.remote(str(gate.path))
        until((tmp_path / "passing").exists)
        second = handle.pass_gate.remote(str(gate.path))
        with pytest.raises(BackPressureError, match="Narrow"):
            handle.pass_gate.remote(str(gate.path)).result(TIMEOUT_S)
        open_gate()

        assert [first.result(TIMEOUT_S), second.result(TIMEOUT_S)] == ["passed", "passed"]
    serving.delete("narrow")


# Awaiting


def test_responses_are_awaited_in_all_orders_and_twice(last: Handle) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert asyncio.run(chained.try_orders(last), debug=True) == 6


def test_threads_with_loops_of_their_own_share_a_handle_and_a_response(last: Handle) -> None:
    assert chained.try_threads(last) == chained.THREADS


def test_orders_and_threads_of_a_replica_give_no_warning_in_debug_mode(
    chain: Handle, mode: Mode
) -> None:
    assert chain.try_orders.remote().result(TIMEOUT_S) == 6
    assert chain.try_threads.remote().result(TIMEOUT_S) == chained.THREADS

    if mode.cluster is None:
        return
    # That a callback took long is true of a machine that is busy.
    warned = re.findall(r"^(?:WARNING|ERROR) .*#First#.*$", mode.cluster.log(), re.MULTILINE)
    assert [line for line in warned if " took 0." not in line] == []


# Binding


def test_deployments_bound_as_attributes_of_an_object_arrive_as_handles(
    mode: Mode, tmp_path: Path
) -> None:
    one = chained.Link.bind("one", str(tmp_path))
    two = chained.Link.options(name="Two").bind("two", str(tmp_path))
    parts = chained.Parts(one, {"two": two})
    handle = mode.run(chained.Holder.bind(parts), name="holder", route_prefix=None)

    assert handle.remote(1).result(TIMEOUT_S) == [2, 2]
    assert list(serving.status().applications["holder"].deployments) == ["Holder", "Link", "Two"]
    serving.delete("holder")
