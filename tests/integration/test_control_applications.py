"""Applications on a cluster: deployed, updated, repaired, deleted."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

import serving
from serving.exceptions import ApplicationConflictError, DeploymentFailedError
from tests.support.control import get, own_cluster, replica_pids, until


@pytest.fixture(autouse=True)
def _cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    with own_cluster(monkeypatch, tmp_path):
        yield


def says(text: str) -> serving.Application:
    @serving.deployment
    class Says:
        def __init__(self, text: str) -> None:
            self.text = text

        def __call__(self) -> str:
            return self.text

    application: serving.Application = Says.bind(text)
    return application


def failing(message: str) -> serving.Application:
    @serving.deployment(name="Says")
    class Fails:
        def __init__(self) -> None:
            raise ValueError(message)

        def __call__(self) -> str:
            return "never"

    application: serving.Application = Fails.bind()
    return application


def pid_of(request: object) -> int:
    return os.getpid()


def test_application_answers_as_soon_as_run_returns() -> None:
    handle = serving.run(says("hello"))

    assert get().text == "hello"
    assert (handle.app_name, handle.deployment_name) == ("default", "Says")


def test_status_tells_what_runs() -> None:
    serving.run(says("hello"), name="greeter", route_prefix="/greet")

    status = serving.status()
    application = status.applications["greeter"]

    assert application.status == "RUNNING"
    assert application.route_prefix == "/greet"
    assert abs(application.last_deployed_time_s - time.time()) < 60
    assert application.deployments["Says"].status == "HEALTHY"
    assert application.deployments["Says"].replica_states == {"RUNNING": 1}
    assert status.proxies == {"proxy-0": "HEALTHY"}


def test_same_application_again_changes_nothing() -> None:
    serving.run(says("hello"))
    before = serving.status()
    pids = replica_pids()

    serving.run(says("hello"))

    assert serving.status() == before
    assert replica_pids() == pids


def test_changed_application_is_answered_by_the_new_version_once_run_returns() -> None:
    serving.run(says("old"))
    serving.run(says("new"))

    assert {get().text for _ in range(20)} == {"new"}
    until(lambda: len(replica_pids()) == 1)


def test_update_costs_no_request() -> None:
    serving.run(says("version 0"))
    with hammering() as answers:
        for version in range(1, 4):
            serving.run(says(f"version {version}"))

    assert set(answers) == {(200, f"version {version}") for version in range(4)}


def test_renamed_deployment_costs_no_request() -> None:
    def named(name: str) -> serving.Application:
        application = says(name)
        return application.deployment.options(name=name).bind(name)

    serving.run(named("A"))
    with hammering() as answers:
        serving.run(named("B"))

    assert set(answers) == {(200, "A"), (200, "B")}
    assert serving.status().applications["default"].deployments.keys() == {"B"}
    until(lambda: len(replica_pids()) == 1)


def test_failed_update_leaves_the_old_version_serving() -> None:
    serving.run(says("good"))
    with hammering() as answers, pytest.raises(DeploymentFailedError, match="model") as caught:
        serving.run(failing("no model"))

    assert set(answers) == {(200, "good")}
    assert "the version before it serves on" in str(caught.value)
    assert serving.status().applications["default"].status == "UPDATE_FAILED"

    until(lambda: len(replica_pids()) == 1)  # The last one that failed may be about to end.
    pids = replica_pids()
    serving.run(says("good"))
    assert replica_pids() == pids


def test_crash_after_a_failed_update_is_repaired_with_the_old_version() -> None:
    serving.run(says("good"))
    with pytest.raises(DeploymentFailedError):
        serving.run(failing("no model"))

    until(lambda: len(replica_pids()) == 1)
    (pid,) = replica_pids()
    os.kill(pid, signal.SIGKILL)

    until(lambda: replica_pids() and replica_pids() != {pid})
    assert until(lambda: get().status_code == 200)


def test_constructor_failure_raises_with_the_users_traceback() -> None:
    with pytest.raises(DeploymentFailedError) as caught:
        serving.run(failing("no such model"))

    text = str(caught.value)
    assert "deployment 'Says'" in text
    assert "ValueError: no such model" in text
    assert __file__ in text
    assert os.sep + os.path.join("serving", "replica") not in text
    assert serving.status().applications["default"].status == "DEPLOY_FAILED"
    until(lambda: not replica_pids())


def test_exit_in_the_constructor_is_told() -> None:
    @serving.deployment
    class Exits:
        def __init__(self) -> None:
            os._exit(3)

        def __call__(self) -> None: ...

    with pytest.raises(DeploymentFailedError, match="exit code 3 before it was ready"):
        serving.run(Exits.bind())


def test_failed_application_is_tried_again_when_it_is_run_again(tmp_path: Path) -> None:
    model = tmp_path / "model"

    @serving.deployment
    class Loads:
        def __init__(self) -> None:
            self.model = model.read_text()

        def __call__(self) -> str:
            return self.model

    application = Loads.bind()
    with pytest.raises(DeploymentFailedError, match="FileNotFoundError"):
        serving.run(application)
    model.write_text("weights")

    serving.run(application)

    assert get().text == "weights"


def test_killed_replica_is_replaced() -> None:
    serving.run(serving.deployment(pid_of).bind())
    killed = get().json()

    os.kill(killed, signal.SIGKILL)

    until(lambda: replica_pids() and killed not in replica_pids())
    answer = until(lambda: (a := get()).status_code == 200 and a)
    assert answer.json() != killed
    assert until(lambda: serving.status().applications["default"].status == "RUNNING")


def test_num_replicas_changes_in_place() -> None:
    deployment = serving.deployment(pid_of)
    serving.run(deployment.options(num_replicas=1).bind())
    first = get().json()

    serving.run(deployment.options(num_replicas=3).bind())
    assert len(replica_pids()) == 3
    assert first in replica_pids()

    serving.run(deployment.options(num_replicas=1).bind())
    until(lambda: replica_pids() == {first})


def test_replicas_that_cannot_be_added_are_told_while_the_others_serve(tmp_path: Path) -> None:
    taken = tmp_path / "taken"

    @serving.deployment
    class OnlyOne:
        def __init__(self) -> None:
            taken.touch(exist_ok=False)

        def __call__(self) -> str:
            return "the one"

    serving.run(OnlyOne.bind())
    with pytest.raises(DeploymentFailedError, match="has 1 of 2 replicas ready") as caught:
        serving.run(OnlyOne.options(num_replicas=2).bind())

    assert "FileExistsError" in str(caught.value)
    assert get().text == "the one"


def test_limits_change_in_place() -> None:
    deployment = serving.deployment(pid_of)
    serving.run(deployment.bind())
    first = get().json()

    serving.run(deployment.options(max_ongoing_requests=7, max_queued_requests=3).bind())

    assert get().json() == first


def test_route_prefix_of_another_application_is_refused() -> None:
    serving.run(says("one"), name="one", route_prefix="/a")

    with pytest.raises(ApplicationConflictError, match="'two'.*'/a'.*'one'"):
        serving.run(says("two"), name="two", route_prefix="/a")

    assert serving.status().applications.keys() == {"one"}


def test_route_prefix_changes_when_the_update_is_ready() -> None:
    serving.run(says("one"), route_prefix="/old")
    serving.run(says("one"), route_prefix="/new")

    assert get("/new").text == "one"
    assert get("/old").status_code == 404


def test_application_without_a_route_prefix_serves_no_http() -> None:
    serving.run(says("inner"), route_prefix=None)

    assert get().status_code == 404
    assert serving.status().applications["default"].route_prefix is None


def test_delete_leaves_the_others() -> None:
    serving.run(says("one"), name="one", route_prefix="/one")
    serving.run(says("two"), name="two", route_prefix="/two")

    serving.delete("one")

    assert get("/one").status_code == 404
    assert get("/two").text == "two"
    assert serving.status().applications.keys() == {"two"}
    assert len(replica_pids()) == 1


def test_delete_of_an_unknown_application_names_the_known() -> None:
    serving.run(says("one"), name="one")

    with pytest.raises(ValueError, match="no application 'two'; there are: one"):
        serving.delete("two")


def test_stopped_replica_finishes_its_request() -> None:
    @serving.deployment
    class Slow:
        def __call__(self) -> str:
            time.sleep(1)
            return "done"

    serving.run(Slow.bind())
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(get().text))
    thread.start()
    until(lambda: ongoing() == 1)

    serving.delete("default")

    thread.join()
    assert answers == ["done"]


def test_environment_variables_reach_the_replica() -> None:
    @serving.deployment(ray_actor_options={"runtime_env": {"env_vars": {"FLAVOUR": "mint"}}})
    def flavour(request: object) -> str:
        return os.environ["FLAVOUR"]

    serving.run(flavour.bind())

    assert get().text == "mint"


# Support


def ongoing() -> int:
    """Requests that the replicas work on, as they tell."""
    import grpc

    from serving import api
    from serving.v1 import replica_pb2, replica_pb2_grpc

    address = api._address()
    assert address is not None
    folder = Path(address.removeprefix("unix:")).parent
    total = 0
    for socket in folder.glob("c-*.sock"):
        with grpc.insecure_channel(f"unix:{socket}") as channel:
            stub = replica_pb2_grpc.ReplicaControlStub(channel)
            total += stub.Health(replica_pb2.HealthRequest(), timeout=5).ongoing
    return total


class hammering:
    """Sends one request after the other while the context lasts; yields what came back."""

    def __enter__(self) -> list[tuple[int, str]]:
        self._url = f"http://127.0.0.1:{serving.status().http_port}/"
        self._answers: list[tuple[int, str]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._hammer)
        self._thread.start()
        return self._answers

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _hammer(self) -> None:
        with requests.Session() as session:
            while True:
                last = self._stop.is_set()
                answer = session.get(self._url, timeout=20)
                self._answers.append((answer.status_code, answer.text))
                if last:
                    return
