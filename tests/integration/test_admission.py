"""How many requests a replica works on, and what becomes of the others."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

import serving
from serving.deployment import Deployment
from tests.integration.apps.admission import Counts, Meets, MeetsInStreams
from tests.integration.conformance.wire import Wire
from tests.support.cluster import Cluster
from tests.support.control import until
from tests.support.gate import Gate
from tests.support.record import Record

MANY = 60  # more than the 40 threads that anyio allows itself


def counts(gate: Gate, record: Record, **options: Any) -> serving.Application:
    deployment: Deployment = Counts
    return deployment.options(**options).bind(gate, record)


@contextmanager
def waiting(cluster: Cluster, count: int) -> Iterator[list[Wire]]:
    """So many requests, sent in order, which the proxy has taken: /0, /1, …"""
    with ExitStack() as stack:
        wires = [stack.enter_context(cluster.wire()) for _ in range(count + 1)]
        for wire in wires:
            healthy(wire)  # accepted, so that what follows is read as it is sent
        for number, wire in enumerate(wires[:-1]):
            wire.send(wire.request(f"GET /{number}"))
            healthy(wires[-1])
        yield wires[:-1]


def healthy(wire: Wire) -> None:
    wire.send(wire.request("GET /-/healthz"))
    assert wire.read_response() == 200


def test_never_more_than_the_limit_run_at_a_time(
    cluster: Cluster, gate: Gate, record: Record
) -> None:
    with cluster.running(counts(gate, record, max_ongoing_requests=3)):
        with gate.closed() as open_gate, waiting(cluster, 20) as wires:
            record.wait_for("began /2")
            assert record.notes() == ["began /0", "began /1", "began /2"]
            open_gate()
            assert [wire.read_response() for wire in wires] == [200] * 20

        assert cluster.get("/last").json() == 3


def test_requests_that_wait_are_served_in_the_order_of_their_arrival(
    cluster: Cluster, gate: Gate, record: Record
) -> None:
    with (
        cluster.running(counts(gate, record, max_ongoing_requests=1)),
        gate.closed() as open_gate,
        waiting(cluster, 10) as wires,
    ):
        open_gate()
        assert [wire.read_response() for wire in wires] == [200] * 10

        assert record.notes() == [f"began /{number}" for number in range(10)]


def test_request_beyond_the_queue_is_refused_at_once(
    cluster: Cluster, gate: Gate, record: Record
) -> None:
    application = counts(gate, record, max_ongoing_requests=1, max_queued_requests=2)
    with (
        cluster.running(application),
        gate.closed() as open_gate,
        waiting(cluster, 3) as wires,
    ):
        refused = cluster.get("/refused")

        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert "too many requests" in refused.text
        assert refused.headers["x-request-id"]
        open_gate()
        assert [wire.read_response() for wire in wires] == [200] * 3
        assert record.count("began") == 3
        assert cluster.get("/again").status_code == 200


def test_place_in_the_queue_is_free_when_its_client_leaves(
    cluster: Cluster, gate: Gate, record: Record
) -> None:
    application = counts(gate, record, max_ongoing_requests=1, max_queued_requests=1)
    with (
        cluster.running(application),
        gate.closed() as open_gate,
        waiting(cluster, 2) as (running, queued),
    ):
        assert cluster.get("/refused").status_code == 503
        queued.socket.close()
        cluster.logged(r" GET /1 499 ")

        with cluster.wire() as wire:
            wire.send(wire.request("GET /fits"))
            open_gate()
            assert wire.read_response() == 200

        assert running.read_response() == 200
        assert record.notes() == ["began /0", "began /fits"]


@pytest.mark.parametrize("header", [(), ("expect: 100-continue",)], ids=["plain", "expect"])
def test_upload_is_refused_before_its_body_is_read(
    cluster: Cluster, gate: Gate, record: Record, header: tuple[str, ...]
) -> None:
    """Nothing of a gigabyte is sent: the answer does not wait for it, nor ask for it."""
    application = counts(gate, record, max_ongoing_requests=1, max_queued_requests=0)
    with (
        cluster.running(application),
        gate.closed() as open_gate,
        waiting(cluster, 1) as (running,),
        cluster.wire() as wire,
    ):
        wire.send(wire.request("POST /", f"content-length: {1 << 30}", *header))

        status, headers = wire.read_head()
        assert (status, headers[b"retry-after"]) == (503, b"1")
        open_gate()
        assert running.read_response() == 200
    assert record.notes() == ["began /0"]


@pytest.mark.parametrize("deployment", [Meets, MeetsInStreams], ids=["handlers", "generators"])
def test_synchronous_code_runs_in_as_many_threads_as_there_are_requests(
    cluster: Cluster, deployment: Any
) -> None:
    with cluster.running(deployment.bind(MANY)), ThreadPoolExecutor(MANY) as pool:
        answers = list(pool.map(lambda _: cluster.get().text, range(MANY)))

    assert {answer.removeprefix("has ") for answer in answers} == {"met"}


def test_several_replicas_share_the_requests(cluster: Cluster, gate: Gate, record: Record) -> None:
    application = counts(gate, record, num_replicas=2, max_ongoing_requests=2)
    with (
        cluster.running(application),
        gate.closed() as open_gate,
        waiting(cluster, 6) as wires,
    ):
        until(lambda: record.count("began") == 4)
        open_gate()

        assert [wire.read_response() for wire in wires] == [200] * 6
        assert [wire.received.rpartition(b"\n")[2] for wire in wires] == [b"2"] * 6


def test_first_request_after_a_deploy_is_not_refused(
    cluster: Cluster, gate: Gate, record: Record
) -> None:
    """The proxy is connected to the replica by the time that `run` returns."""
    application = counts(gate, record, max_ongoing_requests=1, max_queued_requests=0)
    for _ in range(5):
        with cluster.running(application):
            assert cluster.get().status_code == 200
