"""A replica whose event loop is blocked: busy, until it has been for longer than it may."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

import serving
from tests.integration.apps.blocking import Blocking
from tests.support.cluster import Cluster
from tests.support.control import DEADLINE_S, until


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def test_blocked_loop_without_a_limit_is_left_alone(cluster: Cluster) -> None:
    with cluster.running(
        Blocking.options(health_check_period_s=0.1, health_check_timeout_s=0.1).bind()
    ):
        before = cluster.get().text
        assert cluster.post(params={"for_s": "3"}).text == before
        assert cluster.get().text == before


@pytest.mark.parametrize(
    "for_s",
    [
        pytest.param(3.0, id="short"),
        pytest.param(120.0, id="long", marks=[pytest.mark.soak, pytest.mark.timeout(180)]),
    ],
)
def test_python_code_that_never_lets_go_is_left_alone(cluster: Cluster, for_s: float) -> None:
    options: dict[str, Any] = {"health_check_period_s": 0.2, "health_check_timeout_s": 0.5}
    with cluster.running(Blocking.options(**options).bind()):
        before = cluster.get().text
        computed = requests.post(
            cluster.url("/computes"), params={"for_s": str(for_s)}, timeout=for_s + DEADLINE_S
        )
        assert computed.text == before
        assert cluster.get().text == before


@pytest.mark.soak
def test_loop_that_is_deadlocked_has_its_replica_replaced_within_its_limit(
    cluster: Cluster, pool: ThreadPoolExecutor
) -> None:
    options: dict[str, Any] = {"blocked_loop_timeout_s": 1.0, "graceful_shutdown_timeout_s": 1.0}
    with cluster.running(Blocking.options(**options).bind()):
        before = cluster.get().text
        stuck = pool.submit(cluster.post, "/deadlocks")

        found = cluster.logged(r"is replaced: its event loop was blocked for (\d\.\d) s")
        assert 1.0 <= float(found[1]) < 2.0
        cluster.logged(r'blocking\.py", line \d+, in __call__')
        assert stuck.result().status_code == 502  # killed: it never ends by itself
        assert until(lambda: cluster.get().text != before)


@pytest.mark.alone
def test_loop_that_is_blocked_past_its_limit_has_its_replica_replaced(
    cluster: Cluster, pool: ThreadPoolExecutor
) -> None:
    with cluster.running(Blocking.options(blocked_loop_timeout_s=1.0).bind()):
        before = cluster.get().text
        busy = pool.submit(cluster.post, params={"for_s": "6"})

        found = cluster.logged(
            r"is replaced: its event loop was blocked for (\d\.\d) s, and may be for 1 s"
        )
        assert 1.0 <= float(found[1]) < 2.0
        cluster.logged(r'blocking\.py", line \d+, in __call__')
        assert not busy.done()
        assert until(lambda: cluster.get().text != before)
        assert busy.result().text == before  # it was drained, not killed


def test_limit_of_a_blocked_loop_is_changed_in_place(cluster: Cluster) -> None:
    with cluster.running(Blocking.options(blocked_loop_timeout_s=1.0).bind()):
        before = cluster.get().text
        serving.run(Blocking.bind(), name="root")
        assert cluster.post(params={"for_s": "3"}).text == before
        assert cluster.get().text == before
