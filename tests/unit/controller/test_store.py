"""What every store promises, held against each of them; and what only the one on disk can."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from serving.controller.journal import Journal
from serving.controller.sqlite import SQLiteStore
from serving.controller.store import (
    ApplicationRecord,
    Changes,
    DeploymentRecord,
    Found,
    LoadedApplication,
    MemoryStore,
    ReplicaRecord,
    Store,
    StoreError,
    VersionRecord,
)
from serving.v1 import controller_pb2 as pb

REPLICA = ReplicaRecord("app#D#1", "app", "D", "v1", "1", 12.5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, path: Path) -> Iterator[Store]:
    with closing(MemoryStore() if request.param == "memory" else SQLiteStore(path)) as store:
        yield store


def version(generation: int = 1, name: str = "app", **fields: object) -> VersionRecord:
    spec = pb.ApplicationSpec(name=name, route_prefix=f"/{generation}")
    return replace(VersionRecord(spec, generation, 1000.0 + generation), **fields)  # type: ignore[arg-type]


def deployed(generation: int = 1, name: str = "app") -> Changes:
    return Changes(
        applications=(ApplicationRecord(name, generation),), versions=(version(generation, name),)
    )


def test_new_store_is_empty(store: Store) -> None:
    assert store.load() == Found()


def test_epoch_rises(store: Store) -> None:
    assert [store.next_epoch() for _ in range(3)] == [1, 2, 3]


def test_deploys_are_found_with_their_versions_oldest_first(store: Store) -> None:
    store.commit(deployed(1))
    store.commit(deployed(2))

    assert store.load().applications == (
        LoadedApplication(ApplicationRecord("app", 2), (version(1), version(2))),
    )


def test_change_of_an_application_leaves_its_versions(store: Store) -> None:
    store.commit(deployed())
    record = ApplicationRecord("app", 1, serving_generation=1, deleting=True)
    worked = version(worked=True, errors={"D": "no"}, instead_of=1, note="why")
    store.commit(Changes(applications=(record,), versions=(worked,)))

    (found,) = store.load().applications
    assert found == LoadedApplication(record, (worked,))


def test_removed_application_takes_its_versions_along_and_no_others(store: Store) -> None:
    store.commit(deployed())
    store.commit(deployed(name="other"))
    store.commit(Changes(removed_applications=("app",)))

    assert [found.record.name for found in store.load().applications] == ["other"]
    store.commit(Changes(applications=(ApplicationRecord("app", 1),)))
    assert [len(found.versions) for found in store.load().applications] == [0, 1]


def test_version_is_removed_by_its_generation(store: Store) -> None:
    store.commit(deployed(1))
    store.commit(deployed(2))
    store.commit(Changes(removed_versions=(("app", 1),)))

    assert store.load().applications[0].versions == (version(2),)


def test_replicas_come_change_and_go(store: Store) -> None:
    other = replace(REPLICA, replica_id="app#D#2", token="2", started_at=13.0)
    store.commit(Changes(replicas=(REPLICA, other)))
    running = replace(REPLICA, state="RUNNING", process="4711@1")
    store.commit(Changes(replicas=(running,), removed_replicas=("app#D#2",)))

    assert store.load().replicas == (running,)


def test_deployments_come_change_and_go_with_their_application(store: Store) -> None:
    store.commit(deployed())
    first = DeploymentRecord("app", "D", 1)
    other = DeploymentRecord("app", "E", 2, Journal().failed("app#E#1", "ValueError: no", 6.5))
    store.commit(Changes(deployments=(first, other)))
    assert store.load().applications[0].deployments == (first, other)

    scaled = replace(first, num_replicas=3, journal=Journal().decided("scale from 1 to 3", 7.25))
    store.commit(Changes(deployments=(scaled,), removed_deployments=(("app", "E"),)))
    store.commit(Changes(applications=(ApplicationRecord("app", 1, deleting=True),)))
    assert store.load().applications[0].deployments == (scaled,)

    store.commit(Changes(removed_applications=("app",)))
    store.commit(deployed())
    assert store.load().applications[0].deployments == ()


# On disk


def reopened(path: Path) -> closing[SQLiteStore]:
    return closing(SQLiteStore(path))


def test_what_was_committed_is_there_when_it_is_opened_again(path: Path) -> None:
    with reopened(path) as store:
        store.next_epoch()
        store.commit(deployed())
        store.commit(Changes(replicas=(REPLICA,)))
        before = store.load()

    with reopened(path) as store:
        assert store.load() == before
        assert store.next_epoch() == 2


def test_second_controller_is_kept_out_and_told_who_has_it(path: Path) -> None:
    with reopened(path), pytest.raises(StoreError, match=f"controller, process {os.getpid()}:"):
        SQLiteStore(path)

    with reopened(path):
        pass  # the lock went with the first


def test_full_disk_is_an_error_and_nothing_is_half_written(path: Path) -> None:
    with reopened(path) as store:
        store.commit(deployed(1))
        before = store.load()
        pages = store._db.execute("PRAGMA page_count").fetchone()[0]
        store._db.execute(f"PRAGMA max_page_count = {pages}")
        big = version(2)
        big.spec.deployments.add(init_args=b"x" * 100_000)
        with pytest.raises(StoreError, match="The disk is full: make room"):
            store.commit(Changes(applications=(ApplicationRecord("app", 2),), versions=(big,)))

        assert store.load() == before
        store._db.execute("PRAGMA max_page_count = 100000")
        store.commit(deployed(2))
        assert store.load().applications[0].record.generation == 2


@pytest.mark.parametrize(
    "damage",
    [lambda data: b"not a database" * 100, lambda data: data[:5000] + b"\xff" * (len(data) - 5000)],
    ids=["another file", "pages overwritten"],
)
def test_damaged_file_is_an_error_that_says_what_to_do(
    path: Path, damage: Callable[[bytes], bytes]
) -> None:
    with reopened(path) as store:
        store.commit(deployed())
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)

    for _ in range(2):
        with pytest.raises(StoreError, match=r"store\.sqlite.*Put back a copy of it, or move"):
            SQLiteStore(path)
    assert path.read_bytes() == damaged


def test_file_of_another_format_is_refused(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")

    with pytest.raises(StoreError, match="its format is 99, and this one reads 2"):
        SQLiteStore(path)


def test_record_that_does_not_load_is_told_with_its_own_application(path: Path) -> None:
    with reopened(path) as store:
        store.commit(deployed())
        store.commit(deployed(name="other"))
        store._db.execute("UPDATE versions SET spec = x'ff' WHERE application = 'app'")

        app, other = store.load().applications
    assert app.record == ApplicationRecord("app", 1)
    assert "version 1 in" in app.broken
    assert "cannot be read" in app.broken
    assert (other.record.name, other.broken) == ("other", "")


def test_old_version_that_does_not_load_is_left_out(path: Path) -> None:
    with reopened(path) as store:
        store.commit(deployed(1))
        store.commit(deployed(2))
        store._db.execute("UPDATE versions SET spec = x'ff' WHERE generation = 1")

        assert store.load().applications == (
            LoadedApplication(ApplicationRecord("app", 2), (version(2),)),
        )
