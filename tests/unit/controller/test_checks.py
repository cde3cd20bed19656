"""Which replicas are asked for their health, and how often."""

from __future__ import annotations

import contextlib
import os
import resource
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from serving.controller import actuator, replica
from serving.controller.__main__ import raise_file_limit
from serving.v1.replica_pb2 import HealthResponse
from tests.support.plane import Plane, spec

PERIOD_S = 0.01


@contextlib.asynccontextmanager
async def checked(folder: Path, *, replicas: int) -> AsyncIterator[Plane]:
    """Replicas that are ready, and are to be checked every few milliseconds."""
    wanted = spec("v1", replicas)
    wanted.deployments[0].options.health_check_period_s = PERIOD_S
    async with Plane(folder).running() as plane:
        plane.reconciler.targets.deploy(wanted)
        yield plane


async def test_replica_without_a_check_is_asked_once_while_another_is_asked_again_and_again(
    tmp_path: Path,
) -> None:
    asked: Counter[str] = Counter()
    async with checked(tmp_path, replicas=2) as plane:
        with_check: list[str] = []

        def health(address: str) -> HealthResponse:
            asked[address] += 1
            return HealthResponse(has_check=address in with_check)

        plane.engine.health = health
        first, second = await plane.ready("v1", 2)
        with_check.append(first.replica.control_address)
        others = second.replica.control_address
        await plane.until(lambda: asked[with_check[0]] > 20 and asked[others])

    assert asked[others] == 1


async def test_replica_without_a_check_is_asked_only_whether_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actuator, "LIVENESS_PERIOD_S", PERIOD_S)
    async with checked(tmp_path, replicas=1) as plane:
        await plane.ready()
        await plane.until(lambda: len(plane.engine.asked) > 3)
        first, *others = (request for method, request in plane.engine.asked if method == "Health")

    assert first.check_timeout_s == 1
    assert not any(request.check_timeout_s for request in others)


def unanswered(address: str) -> HealthResponse:
    nothing = grpc.aio.Metadata()
    code = grpc.StatusCode.DEADLINE_EXCEEDED
    raise grpc.aio.AioRpcError(code, nothing, nothing, "Deadline Exceeded")


@pytest.mark.parametrize("has_check", [True, False], ids=["with a check", "without"])
async def test_replica_that_answers_no_check_three_times_in_a_row_is_replaced(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    has_check: bool,
) -> None:
    monkeypatch.setattr(actuator, "LIVENESS_PERIOD_S", PERIOD_S)
    monkeypatch.setattr(replica, "_ENDING_TIMEOUT_S", PERIOD_S)
    async with checked(tmp_path, replicas=1) as plane:
        plane.engine.health = lambda address: HealthResponse(has_check=has_check)
        (process,) = await plane.ready()
        await plane.until(lambda: plane.engine.asked)

        plane.engine.health = unanswered
        await plane.until(lambda: plane.engine.running and process not in plane.engine.running)
        failure = plane.status().deployments[0].last_failures[0]

    assert "health checks failed 3 times in a row: its control thread did not" in failure.error


@pytest.mark.parametrize("failing", [1, 2])
async def test_replica_that_answers_again_before_the_third_check_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """Its checks fail again and again, yet never three in a row."""
    monkeypatch.setattr(actuator, "LIVENESS_PERIOD_S", PERIOD_S)
    monkeypatch.setattr(replica, "_ENDING_TIMEOUT_S", PERIOD_S)
    asked = 0

    def health(address: str) -> HealthResponse:
        nonlocal asked
        asked += 1
        return unanswered(address) if asked % (failing + 1) else HealthResponse()

    async with checked(tmp_path, replicas=1) as plane:
        plane.engine.health = health
        (process,) = await plane.ready()
        await plane.until(lambda: asked > 12)

        assert plane.engine.running == [process]


def test_file_limit_is_raised_as_far_as_may_be() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 64, hard))
    try:
        raise_file_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
