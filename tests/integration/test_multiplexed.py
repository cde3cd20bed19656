"""Many models in few replicas: loads, users, ends, and which replica a request goes to."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import serving
from serving.exceptions import RequestCancelledError
from serving.handle import DeploymentHandle
from tests.integration.apps import multiplexed
from tests.support.control import until
from tests.support.gate import Gate
from tests.support.modes import Mode, processes_only
from tests.support.record import Record

TIMEOUT_S = 10.0

Handle = DeploymentHandle[Any]


def serve(mode: Mode, name: str, record: Record, **options: Any) -> Handle:
    application = multiplexed.Models.options(**options).bind(record)
    handle = mode.run(application, name=name, route_prefix=f"/{name}")
    load(handle, "sync-first")  # what a call needs for all that follow is there from then on
    return handle


@pytest.fixture(scope="module")
def record(mode: Mode, tmp_path_factory: pytest.TempPathFactory) -> Record:
    return Record(tmp_path_factory.mktemp("record") / "record")


@pytest.fixture(scope="module")
def models(mode: Mode, record: Record) -> Handle:
    return serve(mode, "one", record)


@pytest.fixture
def own_record(tmp_path: Path) -> Record:
    return Record(tmp_path / "record")


@pytest.fixture
def two_replicas(mode: Mode, own_record: Record) -> Iterator[Handle]:
    yield serve(mode, "two", own_record, num_replicas=2, max_ongoing_requests=2)
    serving.delete("two")


def call(handle: Handle, model_id: str) -> Any:
    return handle.options(multiplexed_model_id=model_id).remote()


def load(handle: Handle, *model_ids: str) -> list[str]:
    """Has the models loaded, one after the other; gives the replicas that did it."""
    return [call(handle, model_id).result(TIMEOUT_S) for model_id in model_ids]


def asked(record: Record, name: str, times: int) -> None:
    """Waits until so many requests have asked for the model, and its load has begun."""
    until(lambda: record.notes().count(f"asks {name}") == times and loads(record, name))


def loads(record: Record, name: str) -> int:
    return record.notes().count(f"load {name}")


def noted(record: Record, *notes: str) -> None:
    """Waits for all of these, and checks that they came in this order."""
    until(lambda: set(notes) <= set(record.notes()))
    assert [note for note in record.notes() if note in notes] == list(notes)


# Loads


def test_hundred_first_calls_load_the_model_once(
    models: Handle, record: Record, gate: Gate
) -> None:
    model_id = f"del-hundred@{gate.path}"
    with gate.closed() as open_gate:
        responses = [call(models, model_id) for _ in range(100)]
        asked(record, "del-hundred", 100)
        open_gate()

        assert len({response.result(TIMEOUT_S) for response in responses}) == 1
    assert loads(record, "del-hundred") == 1


def test_failure_reaches_all_who_wait_and_the_next_call_tries_again(
    models: Handle, record: Record, gate: Gate
) -> None:
    model_id = f"broken@{gate.path}"
    with gate.closed() as open_gate:
        responses = [call(models, model_id) for _ in range(5)]
        asked(record, "broken", 5)
        open_gate()

        for response in responses:
            with pytest.raises(LookupError, match="broken"):
                response.result(TIMEOUT_S)
    assert loads(record, "broken") == 1
    with pytest.raises(LookupError, match="broken"):
        call(models, model_id).result(TIMEOUT_S)
    assert loads(record, "broken") == 2


def test_load_goes_on_while_anybody_waits_for_it(
    models: Handle, record: Record, gate: Gate
) -> None:
    with gate.closed() as open_gate:
        leaves, stays = (call(models, f"del-left@{gate.path}") for _ in range(2))
        asked(record, "del-left", 2)
        leaves.cancel()
        with pytest.raises(RequestCancelledError):
            leaves.result(TIMEOUT_S)
        open_gate()

        stays.result(TIMEOUT_S)
    assert loads(record, "del-left") == 1
    assert "cancelled del-left" not in record.notes()


def test_load_is_cancelled_when_the_last_who_waits_leaves(
    models: Handle, record: Record, gate: Gate
) -> None:
    with gate.closed():
        responses = [call(models, f"del-unwanted@{gate.path}") for _ in range(2)]
        asked(record, "del-unwanted", 2)
        for response in responses:
            response.cancel()

        noted(record, "cancelled del-unwanted")


# Ends


def test_model_that_was_asked_for_longest_ago_is_unloaded(models: Handle, record: Record) -> None:
    load(models, "sync-a", "async-b", "sync-a", "del-c", "sync-a", "sync-d")

    noted(record, "async-shutdown async-b", "del async-b", "del del-c")
    assert loads(record, "sync-a") == 1
    assert "shutdown sync-a" not in record.notes()
    load(models, "sync-e")
    noted(record, "shutdown sync-a", "del sync-a")


def test_model_in_use_is_not_unloaded_before_its_request_ends(
    models: Handle, record: Record, gate: Gate
) -> None:
    with gate.closed() as open_gate:
        working = models.options(multiplexed_model_id="sync-used").work.remote(str(gate.path))
        until(lambda: "uses sync-used" in record.notes())
        load(models, "del-f", "del-g", "del-h")
        assert "del del-g" in record.notes()
        assert "shutdown sync-used" not in record.notes()
        open_gate()

        working.result(TIMEOUT_S)
    load(models, "del-i", "del-j")
    noted(record, "used sync-used", "shutdown sync-used", "del sync-used")


def test_models_are_unloaded_at_the_end_of_the_replica(mode: Mode, own_record: Record) -> None:
    handle = serve(mode, "ends", own_record)
    load(handle, "sync-first", "async-second")
    serving.delete("ends")

    for note in ("shutdown sync-first", "del sync-first", "async-shutdown async-second"):
        assert note in own_record.notes()


# Which replica


def get(mode: Mode, model_id: str, times: int) -> list[str]:
    """Asks for the model over HTTP, one time after the other; gives the replicas that answered."""
    with mode.http as client:
        client.headers["serve_multiplexed_model_id"] = model_id
        return [client.get("/two").text for _ in range(times)]


def test_requests_go_to_the_replica_that_holds_their_model(
    mode: Mode, two_replicas: Handle, own_record: Record
) -> None:
    for name in ("sync-a", "sync-b"):
        by_handle, by_header = load(two_replicas, *[name] * 10), get(mode, name, 10)
        assert len({*by_handle, *by_header}) == 1
        assert loads(own_record, name) == 1


def test_request_goes_elsewhere_in_time_when_the_holder_is_full(
    two_replicas: Handle, own_record: Record, gate: Gate
) -> None:
    (holder,) = load(two_replicas, "sync-a")
    with gate.closed() as open_gate:
        work = two_replicas.options(multiplexed_model_id="sync-a").work
        working = [work.remote(str(gate.path)) for _ in range(2)]
        until(lambda: own_record.notes().count("uses sync-a") == 2)

        assert load(two_replicas, "sync-a") != [holder]
        open_gate()
        assert [response.result(TIMEOUT_S) for response in working] == [holder] * 2
    assert loads(own_record, "sync-a") == 2


@processes_only
def test_model_finds_another_replica_when_its_holder_dies(
    mode: Mode, two_replicas: Handle, own_record: Record
) -> None:
    (holder,) = get(mode, "sync-a", 1)
    pid = two_replicas.options(multiplexed_model_id="sync-a").pid.remote().result(TIMEOUT_S)
    os.kill(pid, signal.SIGKILL)

    others = get(mode, "sync-a", 10)
    assert others[0] != holder
    assert others == others[:1] * 10
    assert loads(own_record, "sync-a") == 2
