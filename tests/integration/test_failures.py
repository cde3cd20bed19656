"""Processes that die: what their requests get, and how soon others take their place."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import requests

from tests.integration.apps import failures
from tests.integration.conformance.wire import Wire
from tests.support.cluster import Cluster
from tests.support.control import until
from tests.support.processes import processes, replicas, the_proxy
from tests.support.record import Record

REPEATED = ["GET", "HEAD", "OPTIONS"]
NOT_REPEATED = ["POST", "PUT", "DELETE"]


@pytest.fixture
def mortal(cluster: Cluster, record: Record) -> Iterator[Cluster]:
    """Two replicas."""
    with cluster.running(failures.Mortal.bind(record)):
        yield cluster


def ask(cluster: Cluster, line: str, *headers: str) -> Wire:
    wire = cluster.wire()
    wire.send(wire.request(line, *headers))
    return wire


def reached(record: Record, times: int) -> list[int]:
    """The processes that the requests reached, in order, once there were so many."""
    until(lambda: record.count("reached") >= times)
    return [int(note.split()[1]) for note in record.notes() if note.startswith("reached")]


def open_gate(record: Record) -> None:
    record.path.with_name("gate").touch()


@contextmanager
def steady_requests(cluster: Cluster) -> Iterator[list[int]]:
    """Statuses of GETs on four connections, kept up while the block runs."""
    statuses: list[int] = []
    over = threading.Event()

    def keep_asking() -> None:
        with requests.Session() as session:
            while not over.is_set():
                statuses.append(session.get(cluster.url("/pid"), timeout=10).status_code)

    threads = [threading.Thread(target=keep_asking) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        over.set()
        for thread in threads:
            thread.join()


def wait_for_more(statuses: list[int], count: int) -> None:
    enough = len(statuses) + count
    until(lambda: len(statuses) >= enough)


# A replica.


@pytest.mark.parametrize("method", NOT_REPEATED)
def test_request_of_a_killed_replica_gets_502(mortal: Cluster, record: Record, method: str) -> None:
    with ask(mortal, f"{method} /waits") as wire:
        (pid,) = reached(record, 1)
        os.kill(pid, signal.SIGKILL)
        assert wire.read_response() == 502

    assert b"x-request-id" in wire.received
    mortal.logged(r"replica \S+ of root#Mortal was lost")
    assert record.count("reached") == 1


@pytest.mark.parametrize("method", REPEATED)
def test_request_without_effects_is_repeated_elsewhere(
    mortal: Cluster, record: Record, method: str
) -> None:
    with ask(mortal, f"{method} /waits") as wire:
        (pid,) = reached(record, 1)
        os.kill(pid, signal.SIGKILL)
        first, second = reached(record, 2)
        open_gate(record)
        assert wire.read_response(has_body=method != "HEAD") == 200

    assert first != second


def test_upload_to_a_killed_replica_gets_502(mortal: Cluster, record: Record) -> None:
    with ask(mortal, "POST /reads", "content-length: 1000") as wire:
        (pid,) = reached(record, 1)
        os.kill(pid, signal.SIGKILL)
        assert wire.read_response() == 502


def test_response_that_had_begun_is_broken_off(mortal: Cluster) -> None:
    with ask(mortal, "GET /streams") as wire:
        status, headers = wire.read_head()
        assert wire.read_chunk() == b"begun"
        os.kill(int(headers[b"x-pid"]), signal.SIGKILL)
        wire.read_to_end()

    assert status == 200
    assert not wire.received.endswith(b"0\r\n\r\n")


def test_requests_beside_it_never_notice(mortal: Cluster, record: Record) -> None:
    with steady_requests(mortal) as statuses:
        for _ in range(3):
            until(lambda: len(replicas("root")) == 2)
            os.kill(mortal.get("/pid").json(), signal.SIGKILL)
            wait_for_more(statuses, 100)

    assert set(statuses) == {200}


@pytest.mark.alone
def test_new_replica_takes_the_place_of_a_killed_one(mortal: Cluster, record: Record) -> None:
    before = {replica.pid for replica in replicas("root")}
    killed = mortal.get("/pid").json()

    os.kill(killed, signal.SIGKILL)

    until(lambda: record.count("constructed") == 3, within_s=5)
    expected = (before - {killed}) | {int(record.notes()[-1].split()[1])}
    until(lambda: {mortal.get("/pid").json() for _ in range(20)} == expected, within_s=5)


@pytest.mark.alone
def test_killed_replica_is_missed_within_a_second(mortal: Cluster, record: Record) -> None:
    killed = mortal.get("/pid").json()

    os.kill(killed, signal.SIGKILL)

    said = rf"\(pid {killed}\): the process ended with signal 9 while it served"
    until(lambda: re.search(said, mortal.log()), within_s=1.0)


@pytest.mark.alone
def test_all_replicas_killed_at_once_are_replaced(mortal: Cluster, record: Record) -> None:
    for replica in replicas("root"):
        replica.kill()

    # One that was sent before the loss is known, twice, gets 502; the later ones wait.
    until(lambda: mortal.get("/pid").status_code == 200, within_s=5)
    assert record.count("constructed") > 2


def test_request_that_kills_replicas_visits_two_at_most(mortal: Cluster, record: Record) -> None:
    assert mortal.get("/kills").status_code == 502
    assert record.count("killed") == 2
    assert mortal.post("/kills").status_code == 502
    assert record.count("killed") == 3


def test_stopped_replica_holds_back_only_its_own(mortal: Cluster, record: Record) -> None:
    with ask(mortal, "GET /waits") as wire:
        (pid,) = reached(record, 1)
        os.kill(pid, signal.SIGSTOP)
        try:
            open_gate(record)
            answers = {mortal.get("/pid").status_code for _ in range(2)}
        finally:
            os.kill(pid, signal.SIGCONT)
        assert wire.read_response() == 200

    assert answers == {200}


# A proxy.


def test_killed_proxy_is_replaced_and_its_port_accepts_all_the_while(
    mortal: Cluster, record: Record
) -> None:
    killed = the_proxy()
    with ask(mortal, "GET /waits") as wire:
        reached(record, 1)
        killed.kill()
        wire.read_to_end()
        assert wire.received == b""

    # Nobody accepts yet: the connection waits in the socket, which the supervisor keeps.
    with ask(mortal, "GET /pid") as wire:
        assert wire.read_response() == 200
    (proxy,) = processes("serving.proxy")
    assert proxy.pid != killed.pid
