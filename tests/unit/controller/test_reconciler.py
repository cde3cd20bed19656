"""The loop, on an engine whose processes are objects."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from serving.controller import actuator, plan
from serving.controller.model import Plan, Target
from serving.controller.state import ApplicationState
from serving.controller.targets import ConflictError
from serving.v1 import controller_pb2 as pb
from tests.support.plane import Plane, spec


def files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    async with Plane(tmp_path).running() as plane:
        yield plane
    assert not plane.engine.running
    assert not files(tmp_path)


async def test_application_runs_once_its_replicas_are_ready(plane: Plane) -> None:
    assert plane.deploy(count=2) == 1
    assert plane.status().status == "DEPLOYING"

    await plane.ready(count=2)
    await plane.until(lambda: plane.status().status == "RUNNING")

    (deployment,) = plane.status().deployments
    assert deployment.status == "HEALTHY"
    assert {replica.state for replica in deployment.replicas} == {"RUNNING"}


async def test_application_runs_only_when_every_watcher_knows(plane: Plane) -> None:
    with plane.publisher.watching("proxy-0") as watcher:
        plane.deploy()
        await plane.ready()
        await plane.until(lambda: plane.status().deployments[0].status == "HEALTHY")
        assert plane.status().status == "DEPLOYING"

        plane.publisher.confirm(watcher, plane.publisher.revision)
        await plane.until(lambda: plane.status().status == "RUNNING")


async def test_start_that_takes_long_is_told_with_its_place_until_it_is_over(
    plane: Plane, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(actuator, "_SLOW_START_S", 0.02)
    plane.deploy()
    await plane.until(lambda: "has been starting" in plane.status().message)
    (replica,) = plane.status().deployments[0].replicas
    said = f"{replica.replica_id} has been starting for 0 s: it is at /model.py:7 in load"
    assert plane.status().message.endswith(f"has 0 of 1 replicas ready; {said}")
    await plane.until(lambda: caplog.text.count("has been starting") == 2)

    await plane.ready()
    await plane.until(lambda: plane.status().status == "RUNNING")
    assert plane.status().message == ""


async def test_same_specification_with_other_bytes_is_the_same(plane: Plane) -> None:
    plane.deploy()
    again = spec("v1")
    again.deployments[0].code.pickled = b"pickled once more"

    assert plane.reconciler.targets.deploy(again) == {"app": 1}


async def test_three_failures_are_the_end_and_name_the_error(plane: Plane) -> None:
    plane.deploy()
    for _ in range(3):
        await plane.fail("Traceback\n  File model.py\nValueError: no model")
        await plane.until(lambda: not plane.engine.running)
    await plane.until(lambda: plane.status().status == "DEPLOY_FAILED")

    first, *rest = plane.status().message.splitlines()
    assert first == "deployment 'D' could not start, 3 times in a row: ValueError: no model"
    assert rest == ["Traceback", "  File model.py", "ValueError: no model"]
    assert len(plane.engine.started) == 3

    assert plane.deploy() == 2
    await plane.ready()
    await plane.until(lambda: plane.status().status == "RUNNING")


async def test_failed_update_keeps_the_old_replicas_and_route(plane: Plane) -> None:
    plane.deploy("v1", prefix="/old")
    (old,) = await plane.ready("v1")
    await plane.until(lambda: plane.status().status == "RUNNING")

    plane.deploy("v2", prefix="/new")
    for _ in range(3):
        await plane.until(lambda: len(plane.engine.running) == 2)
        await plane.fail("boom")
    await plane.until(lambda: plane.status().status == "UPDATE_FAILED")

    assert plane.engine.running == [old]
    with plane.publisher.watching("proxy") as watcher:
        update = await anext(plane.publisher.updates(watcher))
    assert [route.route_prefix for route in update.routes] == ["/old"]
    assert [e.replica_id for e in update.deployments[0].endpoints] == [old.replica.replica_id]


async def test_crash_is_repaired_at_once_and_told(plane: Plane) -> None:
    plane.deploy()
    (crashed,) = await plane.ready()
    await plane.until(lambda: plane.status().status == "RUNNING")

    crashed.exit(-11)
    await plane.until(lambda: plane.status().status == "UNHEALTHY")
    assert "signal 11 while it served" in plane.status().message

    await plane.ready()
    await plane.until(lambda: plane.status().status == "RUNNING")
    assert plane.status().message == ""


async def test_version_that_worked_is_never_given_up_but_said_to_be_unhealthy(
    plane: Plane,
) -> None:
    plane.deploy(count=1)
    await plane.ready()
    await plane.until(lambda: plane.status().status == "RUNNING")

    plane.deploy(count=2)
    for _ in range(4):
        await plane.until(lambda: len(plane.engine.running) == 2)
        await plane.fail("ValueError: out of memory")
        await plane.until(lambda: len(plane.engine.running) == 1)
    await plane.until(lambda: plane.status().status == "UNHEALTHY")
    assert "has 1 of 2 replicas ready; the last failure: ValueError" in plane.status().message

    await plane.until(lambda: len(plane.engine.running) == 2)
    plane.reconciler.events.report(plane.engine.running[-1].replica.replica_id, "")
    await plane.until(lambda: plane.status().status == "RUNNING")


async def fail_three_times_and_be_repaired(plane: Plane) -> None:
    """A version that worked, whose only replica is lost, and is replaced by the fourth try."""
    plane.deploy()
    (lost,) = await plane.ready()
    await plane.until(lambda: plane.status().status == "RUNNING")
    lost.exit(-9)
    for _ in range(3):
        await plane.until(lambda: plane.engine.running)
        await plane.fail("RuntimeError: no model file")
        await plane.until(lambda: not plane.engine.running)
    assert plane.status().status == "UNHEALTHY"
    await plane.ready()
    await plane.until(lambda: plane.status().status == "RUNNING")


@pytest.mark.parametrize("error", ["", "KeyError: 'threshold'"])
async def test_deploy_is_not_told_to_fail_by_failures_before_it(
    plane: Plane, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "FIRST_DELAY_S", 0.001)
    await fail_three_times_and_be_repaired(plane)
    config = '{"a": 1}'
    plane.engine.refuses = {config: error}
    told: list[pb.ApplicationStatus] = []
    note = plane.reconciler.statuses.note

    def note_and_keep(state: ApplicationState) -> None:
        note(state)
        told.append(plane.status())

    monkeypatch.setattr(plane.reconciler.statuses, "note", note_and_keep)

    changed = spec("v1")
    changed.deployments[0].options.user_config_json = config
    assert plane.reconciler.targets.deploy(changed) == {"app": 2}
    ended = "UPDATE_FAILED" if error else "RUNNING"
    await plane.until(lambda: plane.status().status == ended)

    assert {each.status for each in told} == {"DEPLOYING", ended}
    assert not any("no model file" in each.message for each in told)
    assert error in plane.status().message


async def test_failures_are_forgotten_while_nothing_else_happens(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "FIRST_DELAY_S", 0.001)
    monkeypatch.setattr(plan, "STABLE_AFTER_S", 0.02)
    await fail_three_times_and_be_repaired(plane)
    deployment = plane.reconciler.registry.applications["app"].deployments["D"]

    await plane.until(lambda: not deployment.histories["v1"].failures)

    # One more replica, as a load asks for it, is no reason to tell of them.
    assert deployment.target is not None
    deployment.target = plan.with_number(deployment.target, 2)
    plane.reconciler._queue.add("app")
    await plane.until(lambda: len(plane.engine.running) == 2)
    (status,) = plane.status().deployments
    assert (status.status, status.message) == ("UPDATING", "has 1 of 2 replicas ready")


async def test_deploy_of_what_fails_again_and_again_is_told_by_its_own_failures(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "FIRST_DELAY_S", 0.001)
    await fail_three_times_and_be_repaired(plane)

    plane.deploy(count=2)
    for _ in range(3):
        await plane.until(lambda: len(plane.engine.running) == 2)
        assert plane.status().status == "DEPLOYING"
        await plane.fail("MemoryError")
        await plane.until(lambda: len(plane.engine.running) == 1)
    await plane.until(lambda: plane.status().status == "UNHEALTHY")
    assert "the last failure: MemoryError" in plane.status().message


async def test_process_that_cannot_be_started_is_a_failure(plane: Plane) -> None:
    plane.engine.error = OSError("out of processes")
    plane.deploy()

    await plane.until(lambda: plane.status().status == "DEPLOY_FAILED")

    assert "out of processes" in plane.status().message


async def test_replica_that_is_not_needed_before_it_is_ready_is_stopped(plane: Plane) -> None:
    plane.deploy("v1")
    await plane.until(lambda: plane.engine.running)
    plane.deploy("v2")

    await plane.ready("v2")
    await plane.until(lambda: len(plane.engine.running) == 1)
    assert plane.engine.running[0].replica.deployment.version == "v2"


async def test_deleted_application_is_gone_from_everywhere(plane: Plane) -> None:
    plane.deploy()
    await plane.until(lambda: plane.engine.running)

    assert plane.reconciler.targets.delete("app")
    assert not plane.reconciler.targets.delete("app")
    await plane.until(lambda: "app" not in plane.reconciler.statuses)

    assert not plane.engine.running
    await plane.until(lambda: not plane.store.load().applications)


async def test_deployments_of_a_deleted_application_go_one_after_another(
    plane: Plane, caplog: pytest.LogCaptureFixture
) -> None:
    application = spec("v1")
    application.deployments[0].calls.append("Callee")
    application.deployments.add().CopyFrom(application.deployments[0])
    application.deployments[1].name = "Callee"
    del application.deployments[1].calls[:]
    plane.reconciler.targets.deploy(application)
    await plane.ready(count=2)
    await plane.until(lambda: plane.status().status == "RUNNING")
    told = []

    def gone() -> bool:
        if status := plane.reconciler.statuses.get("app"):
            told.append([deployment.name for deployment in status.deployments])
        return "app" not in plane.reconciler.statuses

    plane.reconciler.targets.delete("app")
    await plane.until(gone)

    assert ["Callee"] in told
    assert "cannot be reconciled" not in caplog.text


async def test_application_that_is_deployed_while_it_is_deleted_comes_back(plane: Plane) -> None:
    plane.deploy()
    await plane.until(lambda: plane.engine.running)
    plane.reconciler.targets.delete("app")
    plane.deploy()

    await plane.ready()
    await plane.until(lambda: plane.status().status == "RUNNING")


async def test_route_prefix_of_another_application_is_refused(plane: Plane) -> None:
    plane.deploy(name="one", prefix="/a")

    with pytest.raises(ConflictError, match="'two'.*'/a'.*'one'"):
        plane.deploy(name="two", prefix="/a")
    plane.reconciler.targets.delete("one")
    plane.deploy(name="two", prefix="/a")


async def test_report_of_an_unknown_replica_is_ignored(plane: Plane) -> None:
    plane.reconciler.events.report("app#D#gone", "")


# Options that change in place


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_ongoing_requests", 7),
        ("max_queued_requests", 7),
        ("user_config_json", '{"a": 1}'),
        ("graceful_shutdown_timeout_s", 7.0),
        ("health_check_period_s", 7.0),
        ("health_check_timeout_s", 7.0),
        ("blocked_loop_timeout_s", 7.0),
        ("rolling_update_percentage", 0.5),
        ("max_surge_percent", 7.0),
    ],
)
async def test_option_that_needs_no_new_process_changes_in_place(
    plane: Plane, option: str, value: object
) -> None:
    plane.deploy()
    (process,) = await plane.ready()
    await plane.until(lambda: plane.status().status == "RUNNING")

    changed = spec("v1")
    setattr(changed.deployments[0].options, option, value)
    assert plane.reconciler.targets.deploy(changed) == {"app": 2}
    await plane.until(lambda: plane.status().status == "RUNNING")

    assert plane.engine.started == [process]
    published = plane.publisher._deployments["app", "D"]
    assert published.max_ongoing_requests == changed.deployments[0].options.max_ongoing_requests
    assert published.max_queued_requests == changed.deployments[0].options.max_queued_requests


async def test_changed_grace_holds_for_replicas_that_run_already(plane: Plane) -> None:
    plane.deploy()
    await plane.ready()
    changed = spec("v1")
    changed.deployments[0].options.graceful_shutdown_timeout_s = 7.0
    plane.reconciler.targets.deploy(changed)
    await plane.until(lambda: plane.status().status == "RUNNING")
    plane.reconciler.targets.delete("app")
    await plane.until(lambda: not plane.engine.running)

    (grace_s,) = (asked.grace_s for method, asked in plane.engine.asked if method == "Drain")
    assert grace_s == 7.0


# The number of replicas follows the load

FROM_ZERO = (
    '{"min_replicas": 0, "max_replicas": 9, "upscale_delay_s": 0, "metrics_interval_s": 0.1}'
)


def load(queued: int) -> pb.Load:
    return pb.Load(application="app", deployment="D", queued=queued, is_active=True)


async def test_first_request_wakes_a_deployment_without_replicas(plane: Plane) -> None:
    plane.deploy(count=0, autoscaling=FROM_ZERO)
    await plane.until(lambda: plane.status().status == "RUNNING")
    assert not plane.engine.started

    plane.reconciler.scaling.hear("proxy", [load(8)])
    await plane.until(lambda: plane.engine.running)
    assert plane.status().status == "RUNNING"
    assert plane.status().deployments[0].status == "UPSCALING"
    await plane.ready()
    await plane.until(lambda: len(plane.engine.running) == 4)

    (deployment,) = plane.status().deployments
    texts = [each.text.split(":")[0] for each in deployment.decisions]
    assert [text for text in texts if "scale" in text] == ["scale from 0 to 1", "scale from 1 to 4"]


async def test_callers_of_a_deployment_without_replicas_are_told_to_wait(plane: Plane) -> None:
    plane.deploy(count=0, autoscaling=FROM_ZERO)
    await plane.until(lambda: plane.status().status == "RUNNING")

    with plane.publisher.watching("proxy") as watcher:
        (deployment,) = plane.publisher._take(watcher).deployments
    assert not deployment.unavailable
    assert deployment.load_interval_s == pytest.approx(0.1)


async def test_load_of_a_deployment_that_is_not_there_is_ignored(plane: Plane) -> None:
    plane.reconciler.scaling.hear("proxy", [load(8)])
    plane.reconciler.scaling.forget("proxy")


async def test_new_configuration_keeps_the_number_within_its_limits(plane: Plane) -> None:
    plane.deploy(count=0, autoscaling=FROM_ZERO)
    await plane.until(lambda: plane.status().status == "RUNNING")
    plane.reconciler.scaling.hear("proxy", [load(8)])
    await plane.until(lambda: plane.engine.running)

    plane.deploy(count=0, autoscaling=FROM_ZERO.replace('"min_replicas": 0', '"min_replicas": 2'))

    await plane.ready(count=2)
    await plane.until(lambda: plane.status().status == "RUNNING")
    assert len(plane.engine.started) == 2


# Scale


async def test_work_is_in_proportion_to_what_changed(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 20 applications one loses a replica: a few decisions about that one are all there is."""
    for number in range(20):
        plane.deploy(f"v{number}", count=2, name=f"app-{number}", prefix=f"/{number}")
    for number in range(20):
        await plane.ready(f"v{number}", count=2)
    await plane.until(
        lambda: {status.status for status in plane.reconciler.statuses.values()} == {"RUNNING"}
    )
    decided: list[str] = []
    published: list[str] = []
    compute, publish = plan.compute, plane.publisher.publish

    def counted(target: Target, *args: Any, **kwargs: Any) -> Plan:
        decided.append(target.version)
        return compute(target, *args, **kwargs)

    def noted(application: str, *args: Any) -> int:
        published.append(application)
        return publish(application, *args)

    monkeypatch.setattr(plan, "compute", counted)
    monkeypatch.setattr(plane.publisher, "publish", noted)
    crashed = next(p for p in plane.engine.running if p.replica.deployment.version == "v7")
    crashed.exit(-9)
    await plane.until(lambda: "signal 9" in plane.status("app-7").message)
    await plane.ready("v7", count=2)
    await plane.until(lambda: not plane.status("app-7").message)

    # It ended; there is another process; that one is ready.
    assert set(decided) == {"v7"}
    assert set(published) == {"app-7"}
    assert len(decided) == len(published) <= 3
