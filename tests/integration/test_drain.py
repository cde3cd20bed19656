"""A replica that is stopped: its requests get their grace, and a clear word at its end."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
import requests
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect

import serving
from serving.v1.http_pb2 import HttpRequest
from serving.v1.replica_pb2 import DrainRequest, InvokeRequest
from serving.v1.replica_pb2_grpc import ReplicaControlStub, ReplicaStub
from tests.integration.apps import drain, failures, sockets
from tests.support.cluster import Cluster
from tests.support.control import until
from tests.support.processes import ongoing, spec_of, the_replica
from tests.support.record import Record

NAME = "root"
# Beyond the grace, on a busy machine. Its end would else take 6 s more, and a kill.
ENDS_WITHIN_S = 5.0


def deploy(deployment: Any, *args: Any, grace_s: float) -> None:
    options = deployment.options(num_replicas=1, graceful_shutdown_timeout_s=grace_s)
    serving.run(options.bind(*args), name=NAME)


@contextmanager
def being_deleted(pool: ThreadPoolExecutor) -> Iterator[None]:
    """While the block runs, the application waits for what is open of it, if anything is."""
    deleted = pool.submit(serving.delete, NAME)
    until(is_leaving)
    yield
    deleted.result(timeout=10)


def is_leaving() -> bool:
    left = serving.status().applications.get(NAME)
    return left is None or left.status.value == "DELETING"


def test_request_at_the_end_of_the_grace_gets_503(
    cluster: Cluster, record: Record, pool: ThreadPoolExecutor
) -> None:
    deploy(failures.Mortal, record, grace_s=0.3)
    asked = pool.submit(cluster.post, "/waits")
    until(lambda: record.count("reached"))
    serving.delete(NAME)
    answer = asked.result(timeout=10)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_request_within_the_grace_is_finished(
    cluster: Cluster, record: Record, pool: ThreadPoolExecutor
) -> None:
    deploy(failures.Mortal, record, grace_s=20)
    asked = pool.submit(cluster.post, "/waits")
    until(lambda: record.count("reached"))
    with being_deleted(pool):
        record.path.with_name("gate").touch()
        assert asked.result(timeout=10).status_code == 200


def test_websocket_at_the_end_of_the_grace_is_closed_with_1012(
    cluster: Cluster, record: Record
) -> None:
    deploy(sockets.Sockets, record, grace_s=0.3)
    with connect(cluster.url("/echo", scheme="ws"), proxy=None) as websocket:
        websocket.send("here")
        assert websocket.recv(timeout=10) == "here"
        serving.delete(NAME)
        with pytest.raises(ConnectionClosedError) as closed:
            websocket.recv(timeout=10)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012


def test_answer_that_is_done_reaches_a_slow_reader_within_the_grace(
    cluster: Cluster, pool: ThreadPoolExecutor
) -> None:
    deploy(drain.Big, grace_s=20)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(10)
        client.connect(cluster.address)
        client.sendall(b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
        received = client.recv(20_000)
        replica = the_replica(NAME)
        while ongoing(replica):
            received += client.recv(20_000)
        assert len(received) < drain.BIG
        with being_deleted(pool):
            while data := client.recv(1_000_000):
                received += data
    assert len(received.partition(b"\r\n\r\n")[2]) == drain.BIG


def test_stream_that_is_cut_at_the_end_of_the_grace_is_logged_as_503(cluster: Cluster) -> None:
    deploy(drain.Endless, grace_s=0.3)
    with requests.get(cluster.url("/endless"), stream=True, timeout=10) as response:
        assert response.raw.read(4) == b"tick"
        serving.delete(NAME)
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            response.content  # noqa: B018 - it is read
    assert response.status_code == 200
    cluster.logged(r" GET /endless 503 ")


@pytest.mark.alone
def test_thread_that_never_returns_holds_the_end_up_no_longer_than_the_grace(
    cluster: Cluster, pool: ThreadPoolExecutor
) -> None:
    deploy(drain.Spins, grace_s=0.5)
    asked = pool.submit(cluster.get, "/spins")
    until(lambda: ongoing(the_replica(NAME)))
    began = time.monotonic()
    serving.delete(NAME)
    assert time.monotonic() - began < 0.5 + ENDS_WITHIN_S
    assert asked.result(timeout=10).status_code == 503
    assert "did not end when told to" not in cluster.log()


def test_grace_of_zero_ends_an_idle_replica_in_order(cluster: Cluster, record: Record) -> None:
    deploy(failures.Mortal, record, grace_s=0)
    serving.delete(NAME)
    assert "Traceback" not in cluster.log()


def test_invoke_on_a_draining_replica_is_unavailable(
    cluster: Cluster, record: Record, pool: ThreadPoolExecutor
) -> None:
    deploy(failures.Mortal, record, grace_s=20)
    asked = pool.submit(cluster.post, "/waits")
    until(lambda: record.count("reached"))
    spec = spec_of(the_replica(NAME))
    with grpc.insecure_channel(spec.control_address) as channel:
        ReplicaControlStub(channel).Drain(DrainRequest(grace_s=20), timeout=10)
    request = InvokeRequest(request=HttpRequest(method="GET", raw_path=b"/pid"))
    with grpc.insecure_channel(spec.address) as channel:
        call = ReplicaStub(channel).Invoke(iter([request]), timeout=10)
        with pytest.raises(grpc.RpcError):
            list(call)
    assert call.code() is grpc.StatusCode.UNAVAILABLE
    record.path.with_name("gate").touch()
    assert asked.result(timeout=10).status_code == 200
    serving.delete(NAME)
