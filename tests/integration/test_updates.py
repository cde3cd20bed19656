"""Updates under load: good ones, bad ones, and those that are taken back."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import serving
from serving.exceptions import DeploymentFailedError
from serving.schema import ApplicationStatusOverview
from tests.integration.apps import unimportable, updates
from tests.support.cluster import Cluster
from tests.support.control import DEADLINE_S, get, replica_pids, until
from tests.support.gate import Gate
from tests.support.load import Load, loads
from tests.support.processes import processes
from tests.support.record import Record

SOAK_S = float(os.environ.get("SERVING_SOAK_S", "300"))
NAME = "root"
BAD = {
    "constructor raises": (updates.Raises, r'updates\.py", line \d+, in __init__', "no model"),
    "module does not import": (
        unimportable.Unimportable.options(name="Versioned"),
        r'unimportable\.py", line \d+, in <module>',
        "No module named 'weights'",
    ),
    "health check fails": (
        updates.Unhealthy,
        r'updates\.py", line \d+, in check_health',
        "check_health",
    ),
}


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(tmp_path / "record")


@pytest.fixture
def one(cluster: Cluster, record: Record) -> Iterator[Cluster]:
    """Version "one" of an application, with one replica."""
    with cluster.running(updates.Versioned.bind("one", record)):
        yield cluster


def run(deployment: Any, *args: Any, **options: Any) -> None:
    serving.run(deployment.bind(*args), name=NAME, **options)


def application() -> ApplicationStatusOverview:
    return serving.status().applications[NAME]


def end_a_proxy(ended: set[int]) -> None:
    """Tells one to end that was not told before; another is there afterwards, in its place."""
    proxy = until(lambda: next((p for p in processes("serving.proxy") if p.pid not in ended), None))
    ended.add(proxy.pid)
    proxy.terminate()


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    "duration_s",
    [
        pytest.param(5.0, id="short"),
        pytest.param(SOAK_S, id="long", marks=[pytest.mark.soak, pytest.mark.timeout(SOAK_S + 60)]),
    ],
)
def test_redeploy_scaling_and_ending_proxies_in_a_loop_fail_no_request_and_run_none_twice(
    cluster: Cluster, record: Record, count: int, duration_s: float
) -> None:
    versioned = updates.Versioned.options(num_replicas=count)
    last, ended = 0, set[int]()
    with cluster.running(versioned.bind("0", record)):
        requests = [Load(method=method) for method in ("GET", "POST") for _ in range(3)]
        with loads(*requests):
            ends_at = time.monotonic() + duration_s
            while time.monotonic() < ends_at or last < 2:
                last += 1
                scaled = versioned.options(num_replicas=count + last % 2)
                run(scaled, str(last), record)
                end_a_proxy(ended)
            until(lambda: all(load.answers[f"200 {last}"] for load in requests))

    answers = sum((load.answers for load in requests), Counter[str]())
    assert answers.keys() <= {f"200 {version}" for version in range(last + 1)}
    asked = [request_id for load in requests for request_id in load.ids]
    assert Counter(record.notes()) == Counter(asked), "a request ran twice, or never"


@pytest.mark.parametrize(
    ("bad", "where", "why"), [pytest.param(*values, id=name) for name, values in BAD.items()]
)
def test_update_that_fails_costs_no_request_and_tells_file_and_line(
    one: Cluster, record: Record, bad: Any, where: str, why: str
) -> None:
    before = replica_pids()
    with Load().running() as load:
        with pytest.raises(DeploymentFailedError, match=where) as failed:
            run(bad)
        assert why in str(failed.value)
        assert application().status == "UPDATE_FAILED"
        assert str(failed.value).endswith(application().message)

        run(updates.Versioned, "one", record)  # what runs: nothing is started
        assert application().status == "RUNNING"
        until(lambda: replica_pids() == before)
        answered = sum(load.answers.values())
        until(lambda: sum(load.answers.values()) > answered)
    assert load.answers.keys() == {"200 one"}


def test_update_goes_from_callee_to_caller_and_neither_is_updated_where_the_callee_fails(
    cluster: Cluster,
) -> None:
    front = updates.Front.options(num_replicas=2)
    with cluster.running(front.bind("v2", updates.Price.bind("v2"))):
        with Load().running() as load:
            with pytest.raises(DeploymentFailedError, match="no prices") as failed:
                run(front, "v3", updates.PriceRaises.bind())
            assert application().status == "UPDATE_FAILED"
            front_status = application().deployments["Front"]
            assert front_status.message == "serves as before, for 'Price' could not be updated"
            assert any("wait: 'Price'" in each.text for each in front_status.decisions)
            answered = sum(load.answers.values())
            until(lambda: sum(load.answers.values()) > answered + 5)
            assert load.answers.keys() == {"200 v2/v2"}, str(failed.value)

            run(front, "v3", updates.Price.bind("v3"))
            until(lambda: load.answers["200 v3/v3"])
        assert load.answers.keys() <= {"200 v2/v2", "200 v2/v3", "200 v3/v3"}


def test_only_replica_that_dies_during_an_update_that_fails_is_replaced_by_its_version(
    one: Cluster, tmp_path: Path
) -> None:
    (before,) = replica_pids()
    gate = Gate(tmp_path / "gate")
    with ThreadPoolExecutor(1) as pool, gate.closed() as open_the_gate:
        updating = pool.submit(run, updates.RaisesLate, gate)
        until(lambda: len(replica_pids()) == 2)
        os.kill(before, signal.SIGKILL)

        assert get().text == "one"
        open_the_gate()
        with pytest.raises(DeploymentFailedError, match="no model"):
            updating.result(DEADLINE_S)
    assert application().status == "UPDATE_FAILED"
    assert get().text == "one"
    until(lambda: len(replica_pids()) == 1)


def test_update_without_surge_starts_the_new_version_once_the_old_one_has_ended(
    cluster: Cluster, record: Record
) -> None:
    """Requests meanwhile wait."""
    versioned = updates.Versioned.options(max_surge_percent=0)
    with cluster.running(versioned.bind("one", record)):
        most = 1
        with Load().running() as load, ThreadPoolExecutor(1) as pool:
            updating = pool.submit(run, versioned, "two", record)
            while not updating.done():
                most = max(most, len(replica_pids()))
            updating.result()
            until(lambda: load.answers["200 two"])
        assert most == 1
        assert load.answers.keys() == {"200 one", "200 two"}


def test_rollback_serves_the_version_before_and_costs_no_request(
    one: Cluster, record: Record
) -> None:
    with Load().running() as load:
        run(updates.Versioned, "two", record)
        serving.rollback(NAME)
        assert get().text == "one"
        until(lambda: len(replica_pids()) == 1)
    assert load.answers.keys() <= {"200 one", "200 two"}
    assert application().status == "RUNNING"
    assert application().message.startswith("rolled back from generation")

    serving.rollback(NAME)
    assert get().text == "two"


def test_rollback_without_a_version_before_tells_what_there_is(one: Cluster) -> None:
    with pytest.raises(ValueError, match="no version to return to: it is at generation 1, and"):
        serving.rollback(NAME)
    with pytest.raises(ValueError, match="no application 'other'; there are: root"):
        serving.rollback("other")


def test_update_that_fails_is_rolled_back_by_itself_where_asked_for(
    one: Cluster, record: Record
) -> None:
    before = replica_pids()
    with Load().running() as load, pytest.raises(DeploymentFailedError, match="no model"):
        run(updates.Raises, auto_rollback=True)
    until(lambda: application().status == "RUNNING")

    assert load.answers.keys() == {"200 one"}
    until(lambda: replica_pids() == before)
    assert "rolled back from generation 2" in application().message
    assert "no model" in application().message
