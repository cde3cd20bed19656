"""A replica asks for its cluster: that is its own, whichever others there are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import serving
from serving.handle import DeploymentHandle
from tests.integration.apps import inquiring
from tests.support.cluster import Cluster

TIMEOUT_S = 20.0
ANSWER = "of the own cluster"


@pytest.fixture(scope="module")
def inquirer(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    nowhere: Path = tmp_path_factory.mktemp("another")
    serving.run(inquiring.answer.bind(), name="asked", route_prefix=None)
    elsewhere = {"SERVING_ADDRESS": f"unix:{nowhere}/controller.sock"}
    inquirer = inquiring.Inquirer.options(
        ray_actor_options={"runtime_env": {"env_vars": elsewhere}}
    )
    handle: DeploymentHandle[Any] = serving.run(inquirer.bind(), name="inquirer", route_prefix=None)
    # The thread that carries a script's calls begins with the first, and stays.
    assert handle.ask_in_thread.remote().result(TIMEOUT_S) == ANSWER
    yield handle
    serving.delete("inquirer")
    serving.delete("asked")


def test_constructor_and_method_find_applications_of_their_own_cluster(inquirer: Any) -> None:
    known, *answers = inquirer.ask.remote().result(TIMEOUT_S)

    assert sorted(known) == ["asked", "inquirer"]
    assert answers == [ANSWER, ANSWER]


@pytest.mark.parametrize("method", ["ask_in_thread", "ask_in_process"])
def test_thread_and_process_of_a_replica_find_its_cluster(inquirer: Any, method: str) -> None:
    assert getattr(inquirer, method).remote().result(TIMEOUT_S) == ANSWER


@pytest.mark.parametrize("call", ["run", "start", "delete", "shutdown"])
def test_replica_cannot_change_its_cluster(inquirer: Any, call: str) -> None:
    told = inquirer.refused.remote(call).result(TIMEOUT_S)

    assert f"serving.{call}() was called in a replica" in told
    assert inquirer.ask_in_thread.remote().result(TIMEOUT_S) == ANSWER
