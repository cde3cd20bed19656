"""What a caller tells of its load, and when."""

from __future__ import annotations

import asyncio

from hypothesis import given, strategies as st

from serving.routing.loads import Counters, Reports
from serving.routing.watch import Directory
from serving.v1.controller_pb2 import Load, WatchRequest, WatchUpdate
from tests.support.mux import TAG
from tests.support.routing import make_deployment

KEY = "app", "Model"


def counters(
    queued: int = 0, ongoing: int = 0, arrived: int = 0
) -> dict[tuple[str, str], Counters]:
    return {KEY: Counters(queued, ongoing, arrived, 1.0)}


def load(queued: int = 0, ongoing: int = 0, *, is_active: bool = False) -> Load:
    return Load(
        application="app",
        deployment="Model",
        queued=queued,
        ongoing=ongoing,
        is_active=is_active,
    )


def test_nothing_is_told_while_there_is_nothing() -> None:
    reports = Reports()
    assert reports.due(counters(arrived=7), 0.0) == []
    assert reports.due(counters(arrived=7), 100.0) == []


def test_load_is_told_once_an_interval_and_once_more_when_it_has_ended() -> None:
    reports = Reports()
    reports.due(counters(), 0.0)

    assert reports.due(counters(ongoing=2, arrived=2), 1.0) == [load(ongoing=2, is_active=True)]
    assert reports.due(counters(ongoing=3, arrived=3), 1.5) == []
    assert reports.due(counters(ongoing=3, arrived=3), 2.0) == [load(ongoing=3, is_active=True)]
    assert reports.due(counters(ongoing=3, arrived=3), 3.0) == [load(ongoing=3)]
    assert reports.due(counters(arrived=3), 4.0) == [load()]
    assert reports.due(counters(arrived=3), 5.0) == []


def test_queue_that_begins_is_told_at_once_and_no_request_more_of_it() -> None:
    reports = Reports()
    reports.due(counters(ongoing=1, arrived=1), 0.0)

    assert reports.due(counters(queued=1, arrived=2), 0.01) == [load(queued=1, is_active=True)]
    assert reports.due(counters(queued=9, arrived=10), 0.02) == []
    assert reports.due(counters(queued=9, arrived=10), 1.01) == [load(queued=9, is_active=True)]


def test_requests_that_come_and_go_between_reports_are_told_of() -> None:
    reports = Reports()
    reports.due(counters(arrived=1), 0.0)

    assert reports.due(counters(arrived=2), 1.0) == [load(is_active=True)]
    assert reports.due(counters(arrived=2), 2.0) == []


def test_deployment_that_is_gone_is_forgotten() -> None:
    reports = Reports()
    reports.due(counters(queued=1), 0.0)
    assert reports.due({}, 0.1) == []

    assert reports.due(counters(queued=1), 0.2) == [load(queued=1, is_active=True)]


@given(
    st.lists(
        st.tuples(st.floats(0.0, 3.0), st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)),
        max_size=40,
    )
)
def test_whatever_happens_the_listener_is_right_after_an_interval(
    events: list[tuple[float, int, int, int]],
) -> None:
    reports, now, arrived, told = Reports(), 0.0, 0, load()
    for pause, queued, ongoing, came in events:
        now, arrived = now + pause, arrived + came
        for report in reports.due(counters(queued, ongoing, arrived), now):
            told = report
    now += 1.0
    for report in reports.due(counters(queued=0, ongoing=1, arrived=arrived), now):
        told = report
    assert (told.queued, told.ongoing) == (0, 1)


async def test_request_that_waits_without_a_replica_is_reported_at_once() -> None:
    directory = Directory()
    target = make_deployment()
    target.load_interval_s = 3600
    directory.apply(WatchUpdate(snapshot=True, deployments=[target]))
    router = directory.router(*KEY)
    assert router is not None

    async def first() -> WatchRequest:
        return await anext(aiter(directory.reporter.requests()))

    listening = asyncio.create_task(first())
    await asyncio.sleep(0)
    waiting = [asyncio.create_task(router.start(TAG, b"", end=True)) for _ in range(3)]
    async with asyncio.timeout(1):
        assert await listening == WatchRequest(loads=[load(queued=3, is_active=True)])
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    await directory.aclose()


async def test_deployment_of_a_fixed_number_is_not_reported() -> None:
    directory = Directory()
    directory.apply(WatchUpdate(snapshot=True, deployments=[make_deployment()]))
    assert directory.router(*KEY) is not None

    async def first() -> WatchRequest:
        return await anext(aiter(directory.reporter.requests()))

    listening = asyncio.create_task(first())
    await asyncio.sleep(0)
    assert not listening.done()
    listening.cancel()
    await asyncio.wait((listening,))
    await directory.aclose()
