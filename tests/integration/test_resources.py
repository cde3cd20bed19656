"""Replicas on a machine that is said to have two GPUs."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from typer.testing import CliRunner

import serving
from serving.cli import app
from serving.cli.exit_codes import WrongArgumentError
from tests.support.cluster import Cluster, cluster_running
from tests.support.control import until
from tests.support.processes import processes, replicas


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    machine = {"num_cpus": 4, "num_gpus": 2, "resources": {"license": 1}}
    folder = tmp_path_factory.mktemp("cluster")
    with cluster_running(folder, node_options=machine) as running:
        yield running


@serving.deployment
def gpus(request: object) -> dict[str, Any]:
    return {"pid": os.getpid(), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}


def asking(count: int = 1, **asked: Any) -> serving.Application:
    return gpus.options(num_replicas=count, ray_actor_options=asked).bind()


def seen(cluster: Cluster, path: str = "/") -> dict[int, str]:
    """The GPUs that each replica sees."""
    name = path.strip("/") or "root"
    found: dict[int, str] = {}

    def all_of_them() -> bool:
        answer = cluster.get(path).json()
        found[answer["pid"]] = answer["gpus"]
        return {replica.pid for replica in replicas(name)} == found.keys()

    until(all_of_them)
    return found


def test_replicas_see_the_gpus_that_they_got(cluster: Cluster) -> None:
    with (
        cluster.running(asking(2, num_gpus=0.5), "/shares"),
        cluster.running(asking(num_gpus=1), "/whole"),
        cluster.running(asking(num_cpus=1), "/none"),
    ):
        assert set(seen(cluster, "/shares").values()) == {"0"}
        assert set(seen(cluster, "/whole").values()) == {"1"}
        assert set(seen(cluster, "/none").values()) == {""}


def test_gpus_of_replicas_are_known_to_the_next_controller(cluster: Cluster) -> None:
    with cluster.running(asking(2, num_gpus=1)):
        before = seen(cluster)
        (controller,) = processes("serving.controller")
        controller.kill()
        until(
            lambda: [p.pid for p in processes("serving.controller")] not in ([], [controller.pid])
        )
        until(lambda: serving.status().applications["root"].status == "RUNNING")
        killed = min(before)
        os.kill(killed, signal.SIGKILL)

        until(lambda: killed not in {replica.pid for replica in replicas("root")})
        until(lambda: len(replicas("root")) == 2)
        after = seen(cluster)
    assert sorted(after.values()) == ["0", "1"]
    assert after.keys() & before.keys() == before.keys() - {killed}


def test_replica_waits_and_says_for_what(cluster: Cluster) -> None:
    with cluster.running(asking(num_gpus=2), "/first"):
        waiting = threading.Thread(
            target=lambda: serving.run(asking(num_gpus=1), name="second", route_prefix="/second")
        )
        waiting.start()

        def message() -> str:
            found = serving.status().applications.get("second")
            return found.message if found else ""

        until(lambda: "waits for 1 GPU: 0 of 2 free" in message())
    waiting.join()
    assert cluster.get("/second").json()["gpus"] == "0"
    serving.delete("second")


def test_update_on_a_full_machine_costs_no_request(cluster: Cluster) -> None:
    with cluster.running(asking(2, num_gpus=1)):
        before = seen(cluster)
        answers: list[int] = []
        ended = threading.Event()

        def ask() -> None:
            with requests.Session() as session:
                while not ended.is_set():
                    answers.append(session.post(cluster.url(), timeout=20).status_code)

        asking_on = threading.Thread(target=ask)
        asking_on.start()
        updated = asking(2, num_gpus=1, runtime_env={"env_vars": {"VERSION": "2"}})
        serving.run(updated, name="root")
        ended.set()
        asking_on.join()

        until(lambda: len(replicas("root")) == 2)
        assert not seen(cluster).keys() & before.keys()
        assert set(answers) == {200}


def test_what_is_larger_than_the_machine_is_refused_at_once(cluster: Cluster) -> None:
    with pytest.raises(
        ValueError, match="for each replica 3 GPUs: there are 2; change its ray_act"
    ):
        serving.run(asking(num_gpus=3), name="large")
    with pytest.raises(ValueError, match="1 of 'fpga': there are 0"):
        serving.run(asking(resources={"fpga": 1}), name="large")
    assert not serving.status().applications


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--resources", "[1"], "must be a JSON object"),
        (["--resources", '{"GPU": 1}'], "'GPU' is no resource of its own: use 'num_gpus'"),
        (["--resources", "3"], "option 'resources'"),
    ],
)
def test_machine_that_is_described_wrongly_on_the_command_line_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.setenv("SERVING_STATE_DIR", str(tmp_path))

    answer = CliRunner().invoke(app, ["start", *options])

    assert isinstance(answer.exception, WrongArgumentError)
    assert message in str(answer.exception)
