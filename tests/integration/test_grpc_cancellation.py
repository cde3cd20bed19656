"""gRPC calls that end before their time: by the client, the clock, the queue, the replica's end."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest

import serving
from serving.handle import DeploymentHandle
from tests.integration.apps import grpc_probe
from tests.support.cluster import Cluster
from tests.support.control import until
from tests.support.processes import ongoing, replicas, spec_of, the_proxy
from tests.support.protos import probe, probe_grpc, to
from tests.support.record import Record

GRPC_OPTIONS: dict[str, Any] = {}
TIMEOUT_S = 20.0
LONG_S = 60.0
"""Longer than any test may take: only what is cancelled ends."""
SLOTS = 40
"""Of `Front`, in the graph of which much is asked."""

Handle = DeploymentHandle[Any]


@pytest.fixture
def record(all_records: Record) -> Record:
    all_records.path.unlink(missing_ok=True)
    return all_records


@pytest.fixture(scope="module", autouse=True)
def applications(cluster: Cluster, all_records: Record) -> Iterator[None]:
    with cluster.running_for_grpc(
        graph=two_deployments(all_records, max_ongoing_requests=SLOTS),
        narrow=two_deployments(all_records, max_ongoing_requests=1, max_queued_requests=1),
        killed=two_deployments(all_records),
    ):
        for deployment in deployments():  # what a script holds to call them stays
            deployment.state.remote().result(TIMEOUT_S)
        yield


def deployments() -> list[Handle]:
    """Those of the graph."""
    return [serving.get_deployment_handle(name, "graph") for name in ("Front", "Callee")]


def two_deployments(record: Record, **options: Any) -> serving.Application:
    return grpc_probe.Front.options(**options).bind(record, grpc_probe.Callee.bind(record))


def long(name: str) -> Any:
    return probe.Request(text=name, seconds=LONG_S, count=2)


def begin(stub: Any, kind: str, name: str, **options: Any) -> Any:
    """A call that waits for the callee; a future, or an iterator that is one too."""
    method = getattr(stub, kind)
    given = long(name) if kind in ("One", "Many") else iter([long(name), long(name)])
    options = {"metadata": to("graph"), **options}
    return (method.future if kind in ("One", "Gather") else method)(given, **options)


def ended(kind: str, call: Any) -> Any:
    """How a call failed, once it has."""
    with pytest.raises((grpc.RpcError, grpc.FutureCancelledError)):
        call.result() if kind in ("One", "Gather") else list(call)
    return call


KINDS = ["One", "Many", "Gather", "Chat"]


# The client leaves.


@pytest.mark.alone
@pytest.mark.parametrize("kind", KINDS)
def test_interop_cancel_after_begin_reaches_the_callee(
    stub: Any, record: Record, kind: str
) -> None:
    call = begin(stub, kind, "it")
    record.wait_for("started callee it")
    call.cancel()

    record.wait_for("cancelled front it", within_s=1)
    record.wait_for("cancelled callee it", within_s=1)
    assert call.code() is grpc.StatusCode.CANCELLED
    until(lambda: ongoing_in("graph") == 0, within_s=1)


@pytest.mark.alone
@pytest.mark.parametrize("kind", ["Many", "Chat"])
async def test_interop_cancel_after_first_response_reaches_the_callee(
    aio_stub: Any, record: Record, kind: str
) -> None:
    call = begin(aio_stub, kind, "it")
    assert (await call.read()).text == "it"
    await asyncio.to_thread(record.wait_for, "started callee it")
    call.cancel()

    record.wait_for("cancelled front it", within_s=1)
    record.wait_for("cancelled callee it", within_s=1)
    assert await call.code() is grpc.StatusCode.CANCELLED


@pytest.mark.alone
def test_lost_channel_cancels_the_handler(cluster: Cluster, record: Record) -> None:
    with grpc.insecure_channel(cluster.grpc_target) as channel:
        call = begin(probe_grpc.ProbeStub(channel), "One", "it")
        record.wait_for("started callee it")
    assert call.code() is grpc.StatusCode.CANCELLED

    record.wait_for("cancelled front it", within_s=1)
    record.wait_for("cancelled callee it", within_s=1)


def test_client_that_leaves_the_queue_never_reaches_a_handler(
    cluster: Cluster, stub: Any, record: Record
) -> None:
    first = begin(stub, "One", "first", metadata=to("narrow"))
    record.wait_for("started callee first")
    queued = begin(stub, "One", "queued", metadata=to("narrow", request_id="queued"))
    with pytest.raises(grpc.FutureTimeoutError):
        queued.result(0.3)
    queued.cancel()
    cluster.logged(r"gRPC /probe.Probe/One CANCELLED \S+ms queued$")
    first.cancel()
    last = stub.One(probe.Request(text="last"), metadata=to("narrow"), timeout=TIMEOUT_S)

    assert last.text == "last"
    assert "started front queued" not in record.notes()


def test_thread_runs_to_its_end_and_its_result_is_dropped(stub: Any, record: Record) -> None:
    request = probe.Request(text="it", seconds=1.0)
    call = stub.Wait.future(request, metadata=to("graph"))
    record.wait_for("started front it")
    call.cancel()

    record.wait_for("finished front it")
    assert record.count("cancelled") == 0
    until(lambda: ongoing_in("graph") == 0)


# The clock.


@pytest.mark.alone
@pytest.mark.parametrize("kind", KINDS)
def test_interop_timeout_on_sleeping_server_cancels_the_callee(
    stub: Any, record: Record, kind: str
) -> None:
    began = time.monotonic()
    call = ended(kind, begin(stub, kind, "it", timeout=0.7))

    assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert 0.6 < time.monotonic() - began < 2
    record.wait_for("cancelled front it", within_s=1)
    record.wait_for("cancelled callee it", within_s=1)


def test_handler_sees_its_time_shrink(stub: Any) -> None:
    request = probe.Request(seconds=0.5)
    seen = stub.Inspect(request, metadata=to("graph"), timeout=TIMEOUT_S)

    # gRPC rounds up what it sends.
    assert TIMEOUT_S - 10 < seen.time_remaining_s <= TIMEOUT_S * 1.01 - 0.5


def test_deadline_counts_the_time_in_the_queue(stub: Any, record: Record) -> None:
    first = begin(stub, "One", "first", metadata=to("narrow"))
    record.wait_for("started callee first")
    queued = begin(stub, "One", "queued", metadata=to("narrow"), timeout=0.5)
    assert ended("One", queued).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    first.cancel()
    until(lambda: ongoing_in("narrow") == 0)

    assert "started front queued" not in record.notes()


# The queue.


def test_call_beyond_the_queue_is_exhausted_at_once(stub: Any, record: Record) -> None:
    first = begin(stub, "One", "first", metadata=to("narrow"))
    record.wait_for("started callee first")
    others = [begin(stub, "One", "other", metadata=to("narrow")) for _ in range(3)]
    until(lambda: sum(call.done() for call in others) == 2)
    for call in (call for call in others if call.done()):
        assert ended("One", call).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "Front" in call.details() or "waiting" in call.details()
    for call in (first, *others):
        call.cancel()
    until(lambda: ongoing_in("narrow") == 0)


# The replica's end.


def test_calls_of_a_replica_that_is_killed_are_unavailable(stub: Any, record: Record) -> None:
    metadata = to("killed")
    calls = [begin(stub, kind, kind, metadata=metadata) for kind in KINDS]
    for kind in KINDS:
        record.wait_for(f"started callee {kind}")
    (front,) = [each for each in replicas("killed") if spec_of(each).is_ingress]
    front.kill()

    for kind, call in zip(KINDS, calls, strict=True):
        assert ended(kind, call).code() is grpc.StatusCode.UNAVAILABLE
    for kind in KINDS:
        record.wait_for(f"cancelled callee {kind}", within_s=5)
    answer = stub.One(probe.Request(text="on"), metadata=metadata, timeout=TIMEOUT_S)
    assert answer.text == "on"
    assert record.count("started") == 2 * len(KINDS) + 2  # none was tried again


@pytest.mark.alone
def test_death_of_the_proxy_cancels_what_it_asked_for(stub: Any, record: Record) -> None:
    calls = {kind: begin(stub, kind, kind) for kind in ("One", "Many")}
    for kind in calls:
        record.wait_for(f"started callee {kind}")

    the_proxy().kill()

    for kind, call in calls.items():
        assert ended(kind, call).code() is grpc.StatusCode.UNAVAILABLE
        for who in ("front", "callee"):
            record.wait_for(f"cancelled {who} {kind}", within_s=2)
    # The next proxy is there.
    request = probe.Request(text="on")
    answer = stub.One(request, metadata=to("graph"), timeout=TIMEOUT_S, wait_for_ready=True)
    assert answer.text == "on"


# Many.

STORM = 1_000
AT_ONCE = 100
REST_S = 1.0
"""Within which nothing is left of calls that were cancelled."""


@pytest.mark.alone
@pytest.mark.parametrize("seed", range(2))
async def test_storm_of_cancelled_calls_leaves_nothing_behind(
    cluster: Cluster, aio_stub: Any, seed: int
) -> None:
    await aio_stub.One(probe.Request(), metadata=to("graph"))  # all are connected from then on
    before = await states()
    chance = random.Random(seed)
    room = asyncio.Semaphore(AT_ONCE)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(STORM):
            # Before it is sent, while it is queued, while it runs or streams.
            after_s = chance.choice((0.0, 0.01, 0.05, 0.2, 0.5)) * chance.random()
            tasks.create_task(cancelled_call(aio_stub, room, chance.choice(KINDS), after_s))
    ended_at = time.monotonic()

    while not at_rest(before, after := await states()):
        assert time.monotonic() - ended_at < REST_S, (before, after)
    assert await asyncio.to_thread(ongoing_in, "graph") == 0
    for start, end in zip(before, after, strict=True):
        assert end["cancelled"] - start["cancelled"] > STORM // 20
    # The requests of no call came to an end: none may look as if they had.
    assert after[0]["completed"] == before[0]["completed"]
    assert "Traceback" not in cluster.log()
    # Every slot is free: as many calls as there are run at a time.
    meet = probe.Request(count=SLOTS)
    meeting = [aio_stub.Meet(meet, metadata=to("graph"), timeout=TIMEOUT_S) for _ in range(SLOTS)]
    await asyncio.gather(*meeting)


async def cancelled_call(stub: Any, room: asyncio.Semaphore, kind: str, after_s: float) -> None:
    """Makes a call that never ends, and cancels it wherever it has come to."""
    # A lone answer is long in coming; a stream's items come all the time.
    request = probe.Request(count=1_000_000, seconds=LONG_S if kind == "One" else 0.01)
    given = request if kind in ("One", "Many") else endless(request)
    async with room:
        call = getattr(stub, kind)(given, metadata=to("graph"))

        async def consume() -> None:
            if kind in ("One", "Gather"):
                await call
            async for _ in call:
                pass

        consuming = asyncio.ensure_future(consume())
        await asyncio.sleep(after_s)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await consuming


async def endless(request: Any) -> AsyncIterator[Any]:
    while True:
        yield request
        await asyncio.sleep(0.01)


async def states() -> list[dict[str, int]]:
    return [await each.state.remote() for each in deployments()]


def at_rest(before: list[dict[str, int]], now: list[dict[str, int]]) -> bool:
    """Whether no call runs, and no task that did not run before."""
    return all(
        state["started"] == state["finished"] and state["tasks"] <= start["tasks"]
        for state, start in zip(now, before, strict=True)
    )


def ongoing_in(application: str) -> int:
    """The requests that its replicas work on."""
    return sum(ongoing(process) for process in replicas(application))
