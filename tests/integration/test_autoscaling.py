"""The number of replicas follows the load."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import serving
from serving.config import AutoscalingContext
from serving.schema import DeploymentStatusOverview
from tests.support.cluster import Cluster
from tests.support.control import replica_pids, until
from tests.support.gate import Gate
from tests.support.processes import processes

QUICK: dict[str, Any] = {
    "max_replicas": 3,
    "target_ongoing_requests": 1,
    "metrics_interval_s": 0.1,
    "look_back_period_s": 0.5,
    "upscale_delay_s": 0.2,
    "downscale_delay_s": 0.5,
}
FROM_ZERO = {**QUICK, "min_replicas": 0, "downscale_to_zero_delay_s": 0.3}


@serving.deployment
class Worker:
    """Answers with its process; below /hold only once the gate is open."""

    def __init__(self, gate: Gate | None = None) -> None:
        self.gate = gate

    async def __call__(self, request: Any) -> str:
        if self.gate is not None and request.url.path.startswith("/hold"):
            await self.gate.pass_through_async()
        return str(os.getpid())

    async def ask(self) -> int:
        return os.getpid()


@serving.deployment
class Asks:
    """Calls another deployment."""

    def __init__(self, worker: Any) -> None:
        self.worker = worker

    async def __call__(self, request: Any) -> str:
        return str(await self.worker.ask.remote())


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    gate = Gate(tmp_path / "gate")
    gate.path.touch()
    return gate


def worker(*args: Any, **config: Any) -> serving.Application:
    return Worker.options(autoscaling_config=config).bind(*args)


def overview(name: str = "Worker") -> DeploymentStatusOverview:
    return serving.status().applications["root"].deployments[name]


def steps() -> list[str]:
    """What was decided of the number of replicas."""
    texts = [each.text for each in overview().decisions]
    return [text for text in texts if text.startswith("scale from ")]


def running(name: str = "Worker") -> int:
    return overview(name).replica_states.get("RUNNING", 0)


@contextmanager
def holding(cluster: Cluster, count: int) -> Iterator[list[Any]]:
    """So many requests are asked, each on a connection of its own; gives their futures."""
    with ThreadPoolExecutor(count) as pool:
        yield [pool.submit(cluster.get, "/hold") for _ in range(count)]


def test_requests_that_come_at_once_from_zero_start_one_wave_and_are_answered(
    cluster: Cluster,
) -> None:
    with cluster.running(worker(**{**FROM_ZERO, "downscale_to_zero_delay_s": 60})):
        assert overview().status == "HEALTHY"
        assert overview().replica_states == {}

        with ThreadPoolExecutor(100) as pool:
            answers = list(pool.map(lambda _: cluster.get(), range(100)))

        assert [answer.status_code for answer in answers] == [200] * 100
        assert steps() == ["scale from 0 to 1: a request waits, and there is no replica"]
        assert len({answer.text for answer in answers}) == 1
        assert serving.status().applications["root"].status == "RUNNING"


def test_deployment_that_is_called_by_handles_wakes_too_and_goes_again(cluster: Cluster) -> None:
    with cluster.running(Asks.bind(worker(**FROM_ZERO))):
        assert cluster.get().status_code == 200
        until(lambda: not overview().replica_states)
        assert steps()[1:] == ["scale from 1 to 0: no request for 0.3 s"]

        assert cluster.get().status_code == 200


def test_load_brings_replicas_and_their_going_costs_no_request(
    cluster: Cluster, gate: Gate
) -> None:
    with cluster.running(worker(gate, **QUICK)):
        with gate.closed() as open_gate, holding(cluster, 9) as held:
            until(lambda: running() == 3)
            open_gate()
            assert [each.result().status_code for each in held] == [200] * 9
        until(lambda: overview().replica_states == {"RUNNING": 1})


def test_replica_with_the_least_to_do_goes_first(cluster: Cluster, gate: Gate) -> None:
    config = {**QUICK, "initial_replicas": 3}
    with (
        cluster.running(worker(gate, **config)),
        gate.closed() as open_gate,
        holding(cluster, 1) as [held],
    ):
        until(lambda: overview().replica_states == {"RUNNING": 1})
        (left,) = replica_pids()
        open_gate()
        assert held.result().text == str(left)


def test_changed_autoscaling_config_needs_no_new_process(cluster: Cluster) -> None:
    with cluster.running(worker(**QUICK)):
        before = replica_pids()
        serving.run(worker(**{**QUICK, "min_replicas": 2}), name="root")

        until(lambda: running() == 2)
        assert before < replica_pids()


def test_controller_that_is_killed_finds_the_number_and_the_decisions_again(
    cluster: Cluster, gate: Gate
) -> None:
    config = {**QUICK, "upscale_delay_s": 0, "downscale_delay_s": 60}
    with (
        cluster.running(worker(gate, **config)),
        gate.closed() as open_gate,
        holding(cluster, 6) as held,
    ):
        until(lambda: running() == 3)
        pids, decisions = replica_pids(), overview().decisions
        (controller,) = processes("serving.controller")
        os.kill(controller.pid, signal.SIGKILL)
        until(lambda: (found := processes("serving.controller")) and found[0] != controller)
        until(lambda: running() == 3)
        assert replica_pids() == pids
        assert overview().decisions == decisions
        assert overview().target_num_replicas == 3
        open_gate()
        assert [each.result().status_code for each in held] == [200] * 6


def counts(context: AutoscalingContext) -> tuple[int, dict[str, int]]:
    """A policy that asks for one more each time it is asked."""
    calls = context.policy_state.get("calls", 0) + 1
    return calls, {"calls": calls}


def fails(context: AutoscalingContext) -> int:
    if context.current_num_replicas:
        raise RuntimeError("no idea")
    return 1


def ends(context: AutoscalingContext) -> int:
    os._exit(3)


def rambles(context: AutoscalingContext) -> str:
    return "many"


def test_policy_decides_how_many_replicas_there_are(cluster: Cluster) -> None:
    with cluster.running(worker(**QUICK, policy={"policy_function": counts})):
        until(lambda: running() == 3)
        assert "the policy asks for " in steps()[0]
        assert len(processes("serving.controller.policy")) == 1
    until(lambda: not processes("serving.controller.policy"))


@pytest.mark.parametrize(
    ("policy", "error"),
    [
        (fails, "RuntimeError: no idea"),
        (ends, "the policy's process ended"),
        (f"{__name__}:rambles", "returns how many replicas there are to be"),
    ],
    ids=["raises", "ends its process", "returns nonsense"],
)
def test_policy_that_fails_is_told_of_and_changes_nothing(
    cluster: Cluster, policy: Any, error: str
) -> None:
    with cluster.running(worker(**QUICK, policy={"policy_function": policy})):
        until(lambda: error in overview().policy_error)
        assert error in overview().message
        assert cluster.get().status_code == 200
        assert overview().target_num_replicas == 1
        assert serving.status().applications["root"].status == "RUNNING"


def test_policy_that_cannot_be_imported_is_an_error_of_the_deploy(cluster: Cluster) -> None:
    assert "no_such_module" not in sys.modules
    with pytest.raises(ValueError, match=r"policy_function': 'no_such_module:f' cannot be impo"):
        serving.run(worker(**QUICK, policy={"policy_function": "no_such_module:f"}))
