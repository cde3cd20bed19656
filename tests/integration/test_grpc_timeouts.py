"""gRPC calls where the cluster sets a time limit of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from tests.integration.apps import grpc_probe
from tests.support.cluster import Cluster
from tests.support.protos import failed, probe, to
from tests.support.record import Record

LIMIT_S = 1.5
GRPC_OPTIONS = {"request_timeout_s": LIMIT_S}
LONG_S = 60.0
ROUNDED = 1.01
"""gRPC rounds the time that it sends up."""


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    return Record(tmp_path_factory.mktemp("record") / "record")


@pytest.fixture(scope="module", autouse=True)
def graph(cluster: Cluster, record: Record) -> Iterator[None]:
    graph = grpc_probe.Front.bind(record, grpc_probe.Callee.bind(record))
    with cluster.running_for_grpc(graph=graph):
        yield


def test_handler_sees_the_sooner_of_both_limits(stub: Any) -> None:
    for timeout, expected in ((None, LIMIT_S), (20.0, LIMIT_S), (1.0, 1.0 * ROUNDED)):
        seen = stub.Inspect(probe.Request(), metadata=to("graph"), timeout=timeout)
        assert expected - 1 < seen.time_remaining_s <= expected


@pytest.mark.alone
@pytest.mark.parametrize(("kind", "timeout"), [("One", None), ("Many", 20.0)])
def test_call_ends_at_the_limit_of_the_cluster(
    stub: Any, record: Record, kind: str, timeout: float | None
) -> None:
    def call() -> None:
        request = probe.Request(text=kind, seconds=LONG_S, count=2)
        answer = getattr(stub, kind)(request, metadata=to("graph"), timeout=timeout)
        if kind == "Many":
            list(answer)

    began = time.monotonic()
    failure = failed(call)

    assert failure.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert LIMIT_S - 0.1 < time.monotonic() - began < LIMIT_S + 2
    record.wait_for(f"cancelled front {kind}", within_s=1)
    record.wait_for(f"cancelled callee {kind}", within_s=1)
