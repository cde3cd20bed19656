"""`max_queued_requests` is one number, however many proxies and handles there are."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

import serving
from serving.deployment import Deployment
from serving.exceptions import BackPressureError
from serving.routing.tickets import PAUSE_S
from tests.integration.apps.admission import Holds
from tests.support.cluster import Cluster, cluster_running
from tests.support.control import until
from tests.support.gate import Gate
from tests.support.processes import processes, settled
from tests.support.record import Record

LIMIT = 6
WAVE = 8


class Clients:
    """Requests of many clients, and calls of this script, each on a thread of its own."""

    def __init__(self, cluster: Cluster, handle: Any, threads: ThreadPoolExecutor) -> None:
        self.cluster = cluster
        self.handle = handle
        self.threads = threads
        self.sent: list[Future[str]] = []

    def request(self) -> str:
        try:
            answer = self.cluster.get()
        except requests.ConnectionError:
            return "lost"
        assert answer.status_code in (200, 503)
        return "passed" if answer.status_code == 200 else "refused"

    def call(self) -> str:
        try:
            return str(self.handle.remote(None).result(60))
        except BackPressureError as error:
            return "refused" if f"has {LIMIT} requests waiting" in str(error) else str(error)

    def send(self, *kinds: Callable[[], str]) -> None:
        self.sent += [self.threads.submit(kind) for _ in range(WAVE) for kind in kinds]

    def open(self) -> int:
        """How many have no answer."""
        return sum(not future.done() for future in self.sent)

    def fill(self, *kinds: Callable[[], str]) -> None:
        """Sends more until the queue is full: one runs, and the others wait."""

        def is_full() -> bool:
            if settled(self.open) < LIMIT + 1:
                self.send(*kinds)
                time.sleep(PAUSE_S)
            return settled(self.open) == LIMIT + 1

        until(is_full)

    def count(self, outcome: str) -> int:
        return sum(future.result() == outcome for future in self.sent)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Of one's own: parts of it are killed."""
    with cluster_running(tmp_path, num_proxies=2) as running:
        yield running


@pytest.fixture
def clients(cluster: Cluster, gate: Gate, record: Record) -> Iterator[Clients]:
    """Of a deployment of which a request runs as long as the gate is closed."""
    deployment: Deployment = Holds
    application = deployment.options(max_queued_requests=LIMIT).bind(gate, record)
    with ThreadPoolExecutor(200) as threads, cluster.running(application):
        clients = Clients(cluster, serving.get_app_handle("root"), threads)
        assert clients.call() == "passed"  # all callers are connected to the replica
        yield clients


@contextmanager
def closed(gate: Gate, record: Record, clients: Clients) -> Iterator[None]:
    """One request runs; at the end all that wait are served."""
    with gate.closed():
        clients.sent.append(clients.threads.submit(clients.request))
        until(lambda: record.count("began") == 2)
        yield


def test_proxies_and_a_script_have_one_queue_together(
    gate: Gate, record: Record, clients: Clients
) -> None:
    with closed(gate, record, clients):
        clients.fill(clients.request, clients.call)
        clients.send(clients.request, clients.call)
        until(lambda: clients.open() == LIMIT + 1)

    assert clients.count("passed") == LIMIT + 1
    assert clients.count("refused") == len(clients.sent) - LIMIT - 1
    assert record.count("began") == 1 + LIMIT + 1


def test_places_of_a_proxy_that_is_killed_are_free_for_others(
    gate: Gate, record: Record, clients: Clients
) -> None:
    with closed(gate, record, clients):
        clients.fill(clients.request)
        refused = clients.threads.submit(clients.call)
        assert refused.result() == "refused"
        for proxy in processes("serving.proxy"):
            os.kill(proxy.pid, signal.SIGKILL)
        until(lambda: clients.open() == 0)
        # The replica's one slot is free as soon as it hears that its caller is gone.
        clients.fill(clients.call)

    assert clients.count("lost") == LIMIT + 1
    assert clients.count("passed") == LIMIT + 1


def test_killed_controller_changes_nothing_of_who_waits(
    gate: Gate, record: Record, clients: Clients
) -> None:
    with closed(gate, record, clients):
        clients.fill(clients.request, clients.call)
        (controller,) = processes("serving.controller")
        os.kill(controller.pid, signal.SIGKILL)
        clients.send(clients.request, clients.call)
        until(lambda: clients.open() == LIMIT + 1)
        until(lambda: [each.pid for each in processes("serving.controller")] != [controller.pid])
        until(lambda: serving.status().applications["root"].status == "RUNNING")
        clients.send(clients.request, clients.call)
        until(lambda: clients.open() == LIMIT + 1)

    assert clients.count("passed") == LIMIT + 1
