"""The life of replicas: health, user_config, the end and its order, and calls without replicas."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect

import serving
from serving.exceptions import DeploymentFailedError, DeploymentUnavailableError
from serving.handle import DeploymentHandle
from tests.integration.apps import life
from tests.support.cluster import Cluster
from tests.support.control import replica_pids, until
from tests.support.gate import Gate
from tests.support.modes import Mode, processes_only
from tests.support.processes import ongoing, replicas, spec_of
from tests.support.record import Record

Run = Callable[[serving.Application], Any]

TIMEOUT_S = 20.0
APP = "app"


@pytest.fixture(autouse=True, scope="module")
def caller(mode: Mode) -> None:
    """What handles of this process share, made before the files of a test are counted."""
    if mode.is_local:
        return
    with pytest.raises(DeploymentUnavailableError, match="no deployment 'None'"):
        DeploymentHandle[Any]("None", APP).remote().result(TIMEOUT_S)


@pytest.fixture(autouse=True)
def nothing_left(mode: Mode) -> Iterator[None]:
    yield
    if APP in serving.status().applications:
        serving.delete(APP)


@pytest.fixture
def run(mode: Mode) -> Run:
    return partial(mode.run, name=APP)


@pytest.fixture
def logged(mode: Mode, caplog: pytest.LogCaptureFixture) -> Callable[[str], object]:
    """Waits for a line of the log."""
    if mode.cluster is not None:
        return mode.cluster.logged
    return lambda pattern: until(lambda: re.search(pattern, caplog.text))


def app_status() -> Any:
    return serving.status().applications[APP]


def other_pid(cluster: Cluster, than: int) -> Any:
    """The answer of a process that took another's place."""
    return until(lambda: (pid := cluster.get().json()) != than and pid)


# Calls of what has no replica


@pytest.fixture
def starting(
    run: Run, gate: Gate, record: Record, pool: ThreadPoolExecutor
) -> Iterator[tuple[Future[Any], Callable[[], None]]]:
    """An application whose constructor waits, and what lets it go on."""
    with gate.closed() as release:
        running = pool.submit(run, life.Starts.bind(gate, record))
        until(lambda: record.count("constructing"))
        yield running, release
        release()
        running.exception(TIMEOUT_S)


def test_call_and_request_wait_for_a_slow_start(
    mode: Mode, starting: tuple[Future[Any], Callable[[], None]], pool: ThreadPoolExecutor
) -> None:
    _, release = starting
    response = serving.get_app_handle(APP).remote()
    asked = pool.submit(mode.get)
    with pytest.raises(TimeoutError):
        response.result(0.5)

    release()

    assert response.result(TIMEOUT_S) == "started"
    assert asked.result(TIMEOUT_S).text == "started"


@processes_only
def test_who_waits_for_what_cannot_start_is_told_why(
    cluster: Cluster,
    starting: tuple[Future[Any], Callable[[], None]],
    gate: Gate,
    pool: ThreadPoolExecutor,
) -> None:
    running, release = starting
    handle = serving.get_app_handle(APP)
    response = handle.remote()
    asked = pool.submit(cluster.get)
    with pytest.raises(TimeoutError):
        response.result(0.5)

    gate.path.with_name("fails").touch()
    release()

    reason = "has no replica: 3 failures in a row, the last: ValueError: no model there"
    with pytest.raises(DeploymentUnavailableError, match=reason):
        response.result(TIMEOUT_S)
    assert isinstance(running.exception(TIMEOUT_S), DeploymentFailedError)
    with pytest.raises(DeploymentUnavailableError, match=reason):
        handle.remote().result(TIMEOUT_S)
    for answer in (asked.result(TIMEOUT_S), cluster.get()):
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.text == "Service Unavailable: nothing runs that could answer"


# check_health


@processes_only
@pytest.mark.parametrize(
    "deployment", [life.ChecksInThread, life.ChecksOnLoop], ids=["thread", "loop"]
)
def test_replica_that_fails_its_checks_is_replaced(
    run: Run, cluster: Cluster, tmp_path: Path, deployment: Any
) -> None:
    run(deployment.options(health_check_period_s=0.2).bind(tmp_path))
    before = cluster.get().json()
    checks = Record(tmp_path / "checks")
    on_loop = deployment is life.ChecksOnLoop
    checks.wait_for(on_loop, "blue", deployment.name)

    (tmp_path / "sick").touch()
    until(lambda: before not in replica_pids())
    message = until(lambda: (status := app_status()).status.value == "UNHEALTHY" and status.message)
    assert "ValueError: the device is lost" in message
    (tmp_path / "sick").unlink()

    assert other_pid(cluster, before) in replica_pids()
    until(lambda: app_status().status.value == "RUNNING")


@processes_only
def test_check_that_hangs_is_a_failed_one(run: Run, cluster: Cluster, tmp_path: Path) -> None:
    deployment = life.Hangs.options(health_check_period_s=0.1, health_check_timeout_s=0.3)
    run(deployment.bind(tmp_path))
    before = cluster.get().json()

    (tmp_path / "sick").touch()
    until(lambda: before not in replica_pids())
    (tmp_path / "sick").unlink()

    assert other_pid(cluster, before) in replica_pids()
    cluster.logged(r"failed a health check, 3 in a row: check_health\(\) has not returned")


@processes_only
def test_blocked_loop_is_not_unhealthy(run: Run, cluster: Cluster, tmp_path: Path) -> None:
    deployment = life.Busy.options(health_check_period_s=0.1, health_check_timeout_s=0.1)
    run(deployment.bind(tmp_path))
    before = cluster.get().json()

    assert cluster.get("/?block_s=3").json() == before

    checks = Record(tmp_path / "checks")
    more = len(checks.notes()) + 3
    until(lambda: len(checks.notes()) >= more)
    assert cluster.get().json() == before


@processes_only
def test_replica_that_is_stopped_is_replaced_once_three_checks_had_no_answer(
    run: Run, cluster: Cluster, tmp_path: Path
) -> None:
    """Each has 5 s for its answer, whatever the deployment says."""
    deployment = life.ChecksOnLoop.options(health_check_period_s=0.1, health_check_timeout_s=0.1)
    run(deployment.bind(tmp_path))
    before = cluster.get().json()

    os.kill(before, signal.SIGSTOP)
    until(lambda: before not in replica_pids(), within_s=40)
    assert other_pid(cluster, before) in replica_pids()
    cluster.logged(r"failed a health check, 3 in a row: its control thread did not answer")


@processes_only
def test_update_whose_check_fails_does_not_take_over(
    run: Run, cluster: Cluster, tmp_path: Path
) -> None:
    well, sick = tmp_path / "well", tmp_path / "ill"
    for folder in (well, sick):
        folder.mkdir()
    (sick / "sick").touch()
    run(life.ChecksOnLoop.bind(well))
    before = cluster.get().json()

    with pytest.raises(DeploymentFailedError, match="ValueError: the device is lost"):
        run(life.ChecksOnLoop.bind(sick))

    assert app_status().status.value == "UPDATE_FAILED"
    assert cluster.get().json() == before


# reconfigure


@contextmanager
def asking(cluster: Cluster) -> Iterator[list[tuple[int, Any]]]:
    """Requests without a pause, while the block runs."""
    answers: list[tuple[int, Any]] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            answer = cluster.get()
            answers.append((answer.status_code, answer.text))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answers
    finally:
        over.set()
        thread.join()


def configured(record: Record, value: Any, **options: Any) -> serving.Application:
    return life.Configured.options(user_config={"value": value}, **options).bind(record)


@processes_only
def test_user_config_changes_in_the_running_process(
    run: Run, cluster: Cluster, record: Record
) -> None:
    run(configured(record, 1))
    pid, value = cluster.get().json()
    assert value == 1

    with asking(cluster) as answers:
        run(configured(record, 2))
        assert cluster.get().json() == [pid, 2]

    assert {status for status, _ in answers} == {200}
    assert record.notes() == ["reconfigure 1", "reconfigure 2"]


@processes_only
def test_refused_user_config_is_told_and_the_one_before_goes_on(
    run: Run, cluster: Cluster, record: Record
) -> None:
    run(configured(record, 1, num_replicas=2))
    pids = replica_pids()

    with pytest.raises(DeploymentFailedError, match="ValueError: a bad value"):
        run(configured(record, "bad", num_replicas=2))
    assert app_status().status.value == "UPDATE_FAILED"
    assert "keeps the one before: ValueError: a bad value" in app_status().message
    until(lambda: "half" not in cluster.get().text)
    assert replica_pids() == pids

    # What is started now gets the one that works.
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    until(lambda: len(replica_pids() - pids) == 2)
    pid, value = cluster.get().json()
    assert (pid in pids, value) == (False, 1)

    run(configured(record, 3, num_replicas=2))
    assert cluster.get().json()[1] == 3


@processes_only
def test_reconfigure_in_a_thread_lets_requests_go_on(
    run: Run, cluster: Cluster, gate: Gate, pool: ThreadPoolExecutor
) -> None:
    deployment = life.ReconfiguresInThread
    run(deployment.options(user_config="old").bind(gate))

    with gate.closed():
        updating = pool.submit(run, deployment.options(user_config="new").bind(gate))
        until(lambda: app_status().status.value == "DEPLOYING")
        assert cluster.get().text == "old"
        assert "is being reconfigured" in app_status().message
        assert not updating.done()

    updating.result(TIMEOUT_S)
    assert cluster.get().text == "new"


def test_batch_size_changes_by_reconfigure(run: Run, mode: Mode) -> None:
    deployment = life.Batched
    handle = run(deployment.options(user_config={"max_batch_size": 1}).bind())
    assert [r.result(TIMEOUT_S) for r in [handle.remote(i) for i in range(4)]] == [1] * 4

    run(deployment.options(user_config={"max_batch_size": 4}).bind())

    assert [r.result(TIMEOUT_S) for r in [handle.remote(i) for i in range(4)]] == [4] * 4


# The end


def test_end_is_lifespan_shutdown_del_each_once(
    run: Run, mode: Mode, record: Record, logged: Callable[[str], object]
) -> None:
    run(life.Ends.bind(record))
    assert mode.get().json() == "here"

    serving.delete(APP)

    assert record.notes() == ["lifespan", "shutdown False", "del"]
    logged("ValueError: shutdown went wrong")


def test_shutdown_that_hangs_is_cut_off(
    run: Run, mode: Mode, record: Record, logged: Callable[[str], object]
) -> None:
    run(life.EndsAsync.options(graceful_shutdown_timeout_s=0.2).bind(record))
    began = time.monotonic()

    serving.delete(APP)

    assert record.notes() == ["shutdown", "del"]
    assert time.monotonic() - began < TIMEOUT_S
    logged(r"shutdown\(\) of the deployment did not end within")
    if mode.cluster is not None:
        assert not re.search(r"#EndsAsync#\w+ did not end when told to", mode.cluster.log())


@pytest.mark.parametrize(
    ("mode", "how"),
    [("processes", "delete"), ("processes", "update"), ("local", "delete")],
    indirect=["mode"],
)
def test_model_ends_after_the_ingress_that_calls_it_late(
    run: Run, mode: Mode, gate: Gate, record: Record, pool: ThreadPoolExecutor, how: str
) -> None:
    run(life.CallsLate.bind(life.Model.bind(record), gate, record))
    with gate.closed() as release:
        asked = pool.submit(mode.get)
        record.wait_for("waiting")
        if how == "delete":
            ending = pool.submit(serving.delete, APP)
            until(lambda: app_status().status.value == "DELETING")
        else:
            ending = pool.submit(run, life.Starts.bind(gate, record))
            until(lambda: len(replica_pids()) == 3)
        release()
        assert asked.result(TIMEOUT_S).text == "model of late"
    ending.result(TIMEOUT_S)
    until(lambda: "model ended" in record.notes())

    assert record.notes()[-2:] == ["ingress ended", "model ended"]


# Errors of calls that an ingress lets through


@pytest.mark.parametrize("ingress", [life.Calls, life.CallsAPI], ids=["plain", "fastapi"])
def test_full_model_is_a_503_of_its_ingress(
    run: Run, mode: Mode, gate: Gate, record: Record, pool: ThreadPoolExecutor, ingress: Any
) -> None:
    run(ingress.bind(life.Full.bind(gate, record)))
    until(lambda: mode.get().status_code == 200)  # the ingress knows its model
    begun = record.count("full")
    with gate.closed():
        first = pool.submit(mode.get)
        until(lambda: record.count("full") > begun)
        answer = mode.get()
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.text == "Service Unavailable: too many requests are waiting"
        if ingress is life.CallsAPI:
            assert mode.get("/caught").json() == "caught"
        if ingress is life.CallsAPI and mode.cluster is not None:
            with (
                pytest.raises(InvalidStatus) as refused,
                connect(mode.cluster.url("/early", scheme="ws"), proxy=None),
            ):
                pass
            assert refused.value.response.status_code == 503
            with connect(mode.cluster.url("/late", scheme="ws"), proxy=None) as websocket:
                with pytest.raises(ConnectionClosedError) as closed:
                    websocket.recv(TIMEOUT_S)
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == 1013
    assert first.result(TIMEOUT_S).status_code == 200


@processes_only
@pytest.mark.parametrize("ingress", [life.Calls, life.CallsAPI], ids=["plain", "fastapi"])
def test_model_that_cannot_start_is_a_503_of_its_ingress(
    run: Run, mode: Mode, gate: Gate, record: Record, pool: ThreadPoolExecutor, ingress: Any
) -> None:
    gate.path.with_name("fails").touch()
    with gate.closed() as release:
        running = pool.submit(run, ingress.bind(life.Starts.bind(gate, record)))
        until(lambda: record.count("constructing"))
        until(lambda: app_status().deployments[ingress.name].status == "HEALTHY")
        asked = pool.submit(mode.get)
        (replica,) = [each for each in replicas(APP) if spec_of(each).is_ingress]
        until(lambda: ongoing(replica) == 1)
        release()
        answer = asked.result(TIMEOUT_S)

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.text == "Service Unavailable: nothing runs that could answer"
    assert isinstance(running.exception(TIMEOUT_S), DeploymentFailedError)
