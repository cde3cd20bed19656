"""What the controller reads from the replicas that it knows."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import sentinel

import pytest

from serving.controller.model import Replica, ReplicaState
from serving.controller.replica import ReplicaProcess, Surroundings
from serving.controller.state import ApplicationState, DeploymentState
from serving.controller.store import ReplicaRecord

RUNNING, STOPPING = ReplicaState.RUNNING, ReplicaState.STOPPING
AROUND = Surroundings(sentinel.engine, Path("/state"), "unix:/controller", sentinel.packages)


def caller(*calls: str, state: ReplicaState = RUNNING) -> Replica:
    return Replica("r", "a", state, 0.0, 0.0, frozenset(calls))


@pytest.mark.parametrize(
    ("graph", "held"),
    [
        pytest.param({"A": [caller("B")], "B": [caller()]}, {"B"}, id="its caller runs"),
        pytest.param(
            {"A": [caller("B", state=STOPPING)], "B": [caller()]}, {"B"}, id="its caller ends"
        ),
        pytest.param({"A": [], "B": [caller()]}, set(), id="its caller has ended"),
        pytest.param(
            {"A": [caller(), caller("B")], "B": [caller()]},
            {"B"},
            id="one version calls, the other does not",
        ),
    ],
)
def test_callee_is_held_while_a_replica_may_call_it(
    graph: dict[str, list[Replica]], held: set[str]
) -> None:
    state = ApplicationState("app")
    for name, replicas in graph.items():
        record = ReplicaRecord("r", "app", name, "a", "t", 0.0)
        processes = {
            str(n): ReplicaProcess(AROUND, record, each) for n, each in enumerate(replicas)
        }
        state.deployments[name] = DeploymentState(None, {}, replicas=processes)

    assert state.held == held
