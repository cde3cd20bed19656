"""Calls through handles, from a script: results, streams, errors, cancellation."""

from __future__ import annotations

import asyncio
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import serving
from serving.exceptions import (
    DeploymentUnavailableError,
    RemoteError,
    ReplicaUnavailableError,
    RequestCancelledError,
)
from serving.handle import DeploymentHandle
from tests.integration.apps import calls
from tests.support.control import until
from tests.support.gate import Gate
from tests.support.modes import Mode, processes_only

TIMEOUT_S = 10.0

Handle = DeploymentHandle[Any]


@pytest.fixture(scope="module")
def folder(mode: Mode, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("marks")


@pytest.fixture(scope="module")
def model(mode: Mode, folder: Path) -> Handle:
    handle = mode.run(calls.Model.bind(str(folder)), name="model", route_prefix=None)
    # The thread that carries a script's calls begins with the first, and stays.
    assert handle.remote("first").result(TIMEOUT_S) == "first"
    return handle


def test_call_gives_what_the_method_returns(model: Handle) -> None:
    assert model.remote(1, plus=2).result(TIMEOUT_S) == 3


def test_plain_method_runs_in_a_thread(model: Handle) -> None:
    assert model.in_thread.remote("a").result(TIMEOUT_S) == ("a", False)


async def test_call_is_awaited_on_any_loop(model: Handle) -> None:
    assert await model.remote("a") == "a"


def test_function_is_called(mode: Mode, model: Handle) -> None:
    handle = mode.run(calls.double.bind(), name="double", route_prefix=None)

    assert handle.remote(4).result(TIMEOUT_S) == 8
    serving.delete("double")


def test_many_threads_share_a_handle(model: Handle) -> None:
    with ThreadPoolExecutor(16) as threads:
        results = list(threads.map(lambda n: model.remote(n).result(TIMEOUT_S), range(200)))

    assert results == list(range(200))


def test_handle_travels_and_is_found_by_name(model: Handle) -> None:
    copies = [
        pickle.loads(pickle.dumps(model)),
        serving.get_app_handle("model"),
        serving.get_deployment_handle("Model", "model"),
    ]

    assert all(copy == model for copy in copies)
    assert copies[0].remote("a").result(TIMEOUT_S) == "a"


def test_unknown_application_is_an_error_that_names_those_there_are(model: Handle) -> None:
    with pytest.raises(ValueError, match="no application 'modle'; there are: .*model"):
        serving.get_app_handle("modle")


@pytest.mark.parametrize("method", ["count", "count_in_thread"])
def test_items_come_to_plain_code(model: Handle, method: str) -> None:
    handle = model.options(method_name=method, stream=True)

    assert list(handle.remote(5)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("method", ["count", "count_in_thread"])
async def test_items_come_to_async_code(model: Handle, method: str) -> None:
    handle = model.options(method_name=method, stream=True)

    assert [item async for item in handle.remote(5)] == [0, 1, 2, 3, 4]


def test_leaving_the_loop_cancels_the_generator(model: Handle, folder: Path) -> None:
    items = model.options(stream=True).endless.remote("left")
    for _ in items:
        break

    assert until((folder / "left.cancelled").exists)
    with pytest.raises(RequestCancelledError):
        next(items)


async def test_leaving_the_async_loop_cancels_the_generator(model: Handle, folder: Path) -> None:
    async for _ in model.options(stream=True).endless.remote("async-left"):
        break

    assert await asyncio.to_thread(until, (folder / "async-left.cancelled").exists)


def test_responses_among_arguments_are_resolved(model: Handle) -> None:
    one, two = model.remote(1), model.remote(2)

    nested = model.remote([one, {"k": (two, 3)}]).result(TIMEOUT_S)
    assert nested == [1, {"k": (2, 3)}]
    assert model.remote(one, plus=two).result(TIMEOUT_S) == 3


def test_error_of_an_argument_flows_through(model: Handle) -> None:
    with pytest.raises(calls.OwnError):
        model.remote([model.fail.remote("own")]).result(TIMEOUT_S)


def test_exception_comes_as_its_own_type_with_the_remote_traceback(model: Handle) -> None:
    with pytest.raises(calls.OwnError) as raised:
        model.fail.remote("own").result(TIMEOUT_S)

    assert (raised.value.code, raised.value.detail) == (7, "seven")
    assert "in fail" in str(raised.value.__cause__)


def test_exception_that_cannot_travel_comes_as_its_text(model: Handle) -> None:
    with pytest.raises(RemoteError, match="UnpicklableError: holds a lock"):
        model.fail.remote("unpicklable").result(TIMEOUT_S)


def test_exception_of_a_generator_comes_behind_its_items(model: Handle) -> None:
    items = model.options(stream=True).fail_after.remote(2)

    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(calls.OwnError):
        next(items)


def test_unknown_method_is_an_error_that_lists_those_there_are(model: Handle) -> None:
    with pytest.raises(AttributeError, match="'cuont' .did you mean 'count'.*it has: .*fail"):
        model.cuont.remote().result(TIMEOUT_S)


def test_generator_that_is_called_without_stream_is_an_error(model: Handle) -> None:
    with pytest.raises(TypeError, match="stream=True"):
        model.count.remote(1).result(TIMEOUT_S)


def test_stream_of_what_is_no_generator_is_an_error(model: Handle) -> None:
    with pytest.raises(TypeError, match="without stream=True"):
        next(model.options(stream=True).in_thread.remote(1))


def test_unknown_deployment_is_unavailable(model: Handle) -> None:
    with pytest.raises(DeploymentUnavailableError, match="'Nobody' in application 'model'"):
        serving.get_deployment_handle("Nobody", "model").remote().result(TIMEOUT_S)


def test_cancel_ends_the_handler_and_the_wait(model: Handle, folder: Path) -> None:
    response = model.wait.remote("cancel")
    until((folder / "cancel.begun").exists)
    response.cancel()

    with pytest.raises(RequestCancelledError):
        response.result(TIMEOUT_S)
    assert until((folder / "cancel.cancelled").exists)


async def test_wait_that_is_cancelled_cancels_the_handler(model: Handle, folder: Path) -> None:
    waiting = asyncio.ensure_future(model.wait.remote("awaited"))
    await asyncio.to_thread(until, (folder / "awaited.begun").exists)
    waiting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await asyncio.to_thread(until, (folder / "awaited.cancelled").exists)


def test_time_limit_cancels_the_handler(model: Handle, folder: Path) -> None:
    with pytest.raises(TimeoutError):
        model.options(timeout_s=0.5).wait.remote("late").result(TIMEOUT_S)

    assert until((folder / "late.cancelled").exists)


def test_result_that_is_late_leaves_the_call_alone(model: Handle, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    with gate.closed() as open_gate:
        response = model.pass_gate.remote(str(gate.path))
        with pytest.raises(TimeoutError, match="the call goes on"):
            response.result(timeout_s=0.05)
        open_gate()

        assert response.result(TIMEOUT_S) == "passed"


async def test_result_on_a_running_loop_is_refused(model: Handle) -> None:
    response = model.remote(1)

    with pytest.raises(RuntimeError, match="await the response"):
        response.result()
    assert await response == 1


def test_large_array_arrives_whole_and_writable(model: Handle) -> None:
    sent = np.arange(2_500_000, dtype=np.float64)

    received = model.remote(sent).result(TIMEOUT_S)
    assert np.array_equal(received, sent)
    received[0] = 7


def test_context_is_known_in_the_replica(model: Handle) -> None:
    response = model.context.remote()

    assert response.result(TIMEOUT_S) == ("model", "Model", response.request_id)


def test_shutdown_hook_runs_at_the_end(mode: Mode, model: Handle, tmp_path: Path) -> None:
    mode.run(calls.Model.bind(str(tmp_path)), name="ends", route_prefix=None)
    serving.delete("ends")

    assert (tmp_path / "shutdown").exists()


@processes_only
def test_lost_replica_is_an_error_of_its_own(mode: Mode, model: Handle, tmp_path: Path) -> None:
    handle = mode.run(calls.Model.bind(str(tmp_path)), name="dies", route_prefix=None)

    with pytest.raises(ReplicaUnavailableError, match="'Model'"):
        handle.die.remote().result(TIMEOUT_S)
    assert handle.remote("again").result(TIMEOUT_S) == "again"
    serving.delete("dies")
