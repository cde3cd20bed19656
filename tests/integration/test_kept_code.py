"""A version keeps its code: what its modules' files hold later is for the next deploy."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import serving
from serving import api
from serving.configfile.schema import ServeApplicationSchema, ServeDeploySchema
from tests.support.cluster import Cluster
from tests.support.control import until
from tests.support.processes import replicas

APP = """
import os
from pathlib import Path

import serving
from pricing.rules import factor

@serving.deployment(num_replicas=2)
class Price:
    async def __call__(self):
        import pricing.late

        data = (Path(__file__).parent / "data.txt").read_text()
        return {"pid": os.getpid(), "price": factor(7), "late": pricing.late.X, "data": data}

app = Price.bind()
"""
RULES = "def factor(n):\n    return n * 2\n"
EDITED = "def factor(n):\n    return n * 2 + 1\n"
BROKEN = "def factor(n:\n"


@pytest.fixture
def folder(tmp_path: Path, cluster: Cluster) -> Iterator[Path]:
    folder = tmp_path / "project"
    (folder / "pricing").mkdir(parents=True)
    (folder / "shop.py").write_text(APP)
    (folder / "data.txt").write_text("1")
    (folder / "pricing/__init__.py").touch()
    (folder / "pricing/rules.py").write_text(RULES)
    (folder / "pricing/late.py").write_text("X = 1\n")
    yield folder
    serving.delete("default")


def deploy(folder: Path) -> None:
    """As a config file: a process of its own imports it."""
    application = ServeApplicationSchema(name="default", import_path="shop:app")
    config = ServeDeploySchema(applications=[application])
    deployed = api.deploy_config(config, app_dir=folder, base=folder)
    assert not deployed.failures


def edit(folder: Path, text: str) -> None:
    (folder / "pricing/rules.py").write_text(text)


def answers(cluster: Cluster) -> dict[int, dict[str, Any]]:
    """By process, of both replicas."""
    found: dict[int, dict[str, Any]] = {}

    def both() -> bool:
        answer = cluster.get().json()
        found[answer.pop("pid")] = answer
        running = {replica.pid for replica in replicas("default")}
        return len(running) == 2 and running <= found.keys()

    until(both)
    return {replica.pid: found[replica.pid] for replica in replicas("default")}


def prices(cluster: Cluster) -> set[int]:
    return {answer["price"] for answer in answers(cluster).values()}


def kill_one(cluster: Cluster) -> None:
    """Returns when another one has taken its place."""
    killed = min(answers(cluster))
    os.kill(killed, signal.SIGKILL)
    until(lambda: killed not in {replica.pid for replica in replicas("default")})


def test_rollback_answers_with_the_code_that_was_deployed(cluster: Cluster, folder: Path) -> None:
    deploy(folder)
    assert prices(cluster) == {14}
    edit(folder, EDITED)
    deploy(folder)
    assert prices(cluster) == {15}

    serving.rollback("default")

    until(lambda: prices(cluster) == {14})
    deploy(folder)
    until(lambda: prices(cluster) == {15})


def test_replica_that_is_replaced_runs_the_code_that_was_deployed(
    cluster: Cluster, folder: Path
) -> None:
    """The files were edited and not deployed, well or with a mistake in them. What nothing had
    imported is read from the disk, as data are."""
    deploy(folder)
    edit(folder, EDITED)
    (folder / "pricing/late.py").write_text("X = 2\n")
    (folder / "data.txt").write_text("2")
    kill_one(cluster)
    assert prices(cluster) == {14}
    assert {answer["data"] for answer in answers(cluster).values()} == {"2"}
    assert {answer["late"] for answer in answers(cluster).values()} == {2}

    edit(folder, BROKEN)
    kill_one(cluster)
    assert prices(cluster) == {14}
    assert serving.status().applications["default"].status == "RUNNING"

    running = answers(cluster).keys()
    edit(folder, RULES)
    deploy(folder)
    assert answers(cluster).keys() == running, "the same again is no other version"
