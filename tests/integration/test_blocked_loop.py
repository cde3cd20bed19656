"""A replica whose event loop is blocked: busy, until it has been for longer than it may."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import serving
from tests.integration.apps.blocking import Blocking
from tests.support.cluster import Cluster
from tests.support.control import until


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


def test_loop_that_is_blocked_past_its_limit_has_its_replica_replaced(
    cluster: Cluster, pool: ThreadPoolExecutor
) -> None:
    with cluster.running(Blocking.options(blocked_loop_timeout_s=1.0).bind()):
        before = cluster.get().text
        busy = pool.submit(cluster.post, params={"for_s": "6"})

        cluster.logged(r"is replaced: its event loop was blocked for \d\.\d s, and may be for 1 s")
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
