"""`request_timeout_s`: for the queue, the handler and the stream together."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.integration.apps import timeouts
from tests.integration.conformance.wire import Wire
from tests.support.cluster import Cluster
from tests.support.control import until
from tests.support.processes import ongoing, the_proxy, the_replica
from tests.support.record import Record

pytestmark = pytest.mark.alone

TIMEOUT_S = 1.0
HTTP_OPTIONS = {"request_timeout_s": TIMEOUT_S}
# What a loaded machine may add.
SLACK_S = 0.5


@pytest.fixture
def slow(cluster: Cluster, record: Record) -> Iterator[Cluster]:
    with cluster.running(timeouts.Slow.bind(record)):
        cluster.get("/quick")
        yield cluster


def ask(cluster: Cluster, path: str) -> Wire:
    wire = cluster.wire()
    wire.send(wire.request(f"GET {path}"))
    return wire


def cancelled_after_s(record: Record, started_s: float) -> float:
    until(lambda: record.count("cancelled") == 1, within_s=TIMEOUT_S + 2 * SLACK_S)
    (note,) = (note for note in record.notes() if note.startswith("cancelled"))
    return float(note.split()[1]) - started_s


def is_on_time(duration_s: float) -> bool:
    return TIMEOUT_S - 0.05 <= duration_s <= TIMEOUT_S + SLACK_S


def test_handler_that_takes_too_long_is_cancelled_and_answered_with_408(
    slow: Cluster, record: Record
) -> None:
    started_s = time.monotonic()
    response = slow.get("/handler")
    answered_s = time.monotonic()

    assert response.status_code == 408
    assert response.text == "Request Timeout"
    assert response.headers["x-request-id"]
    assert is_on_time(answered_s - started_s)
    assert is_on_time(cancelled_after_s(record, started_s))
    slow.logged(rf"/handler 408 .* {response.headers['x-request-id']}$")
    assert slow.get("/quick").status_code == 200


def test_time_in_the_queue_counts(slow: Cluster, record: Record) -> None:
    """A thread holds the slot beyond the time of both."""
    with ask(slow, "/thread") as first:
        until(lambda: ongoing(the_replica()) == 1)
        started_s = time.monotonic()
        with ask(slow, "/quick") as queued:
            assert queued.read_response() == 408
        assert is_on_time(time.monotonic() - started_s)
        assert first.read_response() == 408
    record.wait_for("slept")
    until(lambda: ongoing(the_replica()) == 0)

    assert record.notes() == ["quick", "slept"]


def test_upload_that_takes_too_long_gets_408(slow: Cluster, record: Record) -> None:
    started_s = time.monotonic()
    with slow.wire() as wire:
        wire.send(wire.request("POST /reading", "content-length: 10"), b"x")
        assert wire.read_response() == 408
        assert is_on_time(time.monotonic() - started_s)

    assert is_on_time(cancelled_after_s(record, started_s))


@pytest.mark.parametrize("kind", ["chunked", "declared"])
def test_stream_that_takes_too_long_is_broken_off(slow: Cluster, record: Record, kind: str) -> None:
    started_s = time.monotonic()
    with ask(slow, f"/stream/{kind}") as wire:
        status, _ = wire.read_head()
        wire.read_to_end()
    ended_s = time.monotonic()

    assert status == 200
    assert is_on_time(ended_s - started_s)
    assert b"chunk" in wire.received
    assert not wire.received.endswith(b"0\r\n\r\n")
    assert is_on_time(cancelled_after_s(record, started_s))


def test_replica_keeps_the_time_by_itself(slow: Cluster, record: Record) -> None:
    """A proxy that is stopped cannot tell it."""
    started_s = time.monotonic()
    with ask(slow, "/handler") as wire:
        record.wait_for("started")
        proxy = the_proxy()
        proxy.suspend()
        try:
            assert is_on_time(cancelled_after_s(record, started_s))
            until(lambda: ongoing(the_replica()) == 0, within_s=1)
        finally:
            proxy.resume()
        assert wire.read_response() == 408


def test_reader_that_reads_nothing_runs_out_of_time_too(slow: Cluster, record: Record) -> None:
    started_s = time.monotonic()
    with ask(slow, "/flood") as wire:
        assert is_on_time(cancelled_after_s(record, started_s))
        slow.logged("/flood 408 ")
        wire.read_to_end()

    assert not wire.received.endswith(b"0\r\n\r\n")


def test_handler_that_ignores_its_end_can_send_nothing_more(slow: Cluster, record: Record) -> None:
    assert slow.get("/stubborn").status_code == 408

    record.wait_for("ignored", within_s=1)
    until(lambda: ongoing(the_replica()) == 0, within_s=1)
