"""A replica as the controller asks it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from serving.controller import replica as module
from serving.controller.model import Replica, ReplicaState
from serving.controller.packages import PackageStore
from serving.controller.replica import ReplicaProcess, Surroundings
from serving.controller.store import ReplicaRecord
from serving.engine.local import LocalEngine


async def unanswered(method: str, request: Any, timeout_s: float) -> Any:
    nothing = grpc.aio.Metadata()
    raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, nothing, nothing, "gone")


@pytest.mark.parametrize(
    ("state", "ends", "is_told"),
    [
        pytest.param(ReplicaState.RUNNING, False, True, id="runs-on"),
        pytest.param(ReplicaState.RUNNING, True, False, id="has-ended"),
        pytest.param(ReplicaState.STOPPING, False, False, id="is-to-end"),
    ],
)
async def test_check_without_an_answer_is_a_complaint_about_a_replica_that_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    state: ReplicaState,
    ends: bool,
    is_told: bool,
) -> None:
    monkeypatch.setattr(module, "_ENDING_TIMEOUT_S", 0.01)
    around = Surroundings(
        LocalEngine(), tmp_path, "unix:/c", PackageStore(tmp_path), connect=lambda _: unanswered
    )
    seen = Replica("a#D#1", "v", state, 0.0, 0.0)
    replica = ReplicaProcess(around, ReplicaRecord("a#D#1", "a", "D", "v", "1", 0.0), seen)
    if ends:
        replica.has_ended()
    replica.has_check = False

    complaint = await replica.check_health(1.0)
    told = "its control thread did not answer within 1 s: gone"
    assert complaint == (told if is_told else "")
