"""The store that lasts: one SQLite file.

WAL with `synchronous=FULL`: what was committed is on the disk when `commit` returns, and a crash in
the midst of one leaves the file as it was before. Only one controller may have it open; a lock on a
file beside it, which the kernel gives up with the process, keeps a second one out.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from serving.controller.journal import Journal
from serving.controller.store import (
    ApplicationRecord,
    Changes,
    DeploymentRecord,
    Found,
    LoadedApplication,
    ReplicaRecord,
    StoreError,
    VersionRecord,
)
from serving.v1 import controller_pb2 as pb

log = logging.getLogger("serving.controller")

FORMAT = 2
"""Of the tables, kept as SQLite's `user_version`."""

_TABLES = """
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
CREATE TABLE applications (
    name TEXT PRIMARY KEY, generation INTEGER NOT NULL, serving_generation INTEGER NOT NULL,
    deleting INTEGER NOT NULL
) STRICT;
CREATE TABLE versions (
    application TEXT NOT NULL REFERENCES applications ON DELETE CASCADE,
    generation INTEGER NOT NULL, deployed_at REAL NOT NULL, worked INTEGER NOT NULL,
    errors TEXT NOT NULL, instead_of INTEGER NOT NULL, note TEXT NOT NULL, spec BLOB NOT NULL,
    PRIMARY KEY (application, generation)
) STRICT;
CREATE TABLE deployments (
    application TEXT NOT NULL REFERENCES applications ON DELETE CASCADE, name TEXT NOT NULL,
    num_replicas INTEGER NOT NULL, journal BLOB NOT NULL, PRIMARY KEY (application, name)
) STRICT;
CREATE TABLE replicas (
    replica_id TEXT PRIMARY KEY, application TEXT NOT NULL, deployment TEXT NOT NULL,
    version TEXT NOT NULL, token TEXT NOT NULL, started_at REAL NOT NULL, state TEXT NOT NULL,
    process TEXT NOT NULL
) STRICT;
"""
_BUSY_TIMEOUT_S = 5.0
_LOCK_PERIOD_S = 0.05


class _DamagedError(sqlite3.DatabaseError):
    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


class SQLiteStore:
    """The file `path`, made where it is missing. Raises StoreError where it cannot be used."""

    def __init__(self, path: Path, *, wait_s: float = 0.0) -> None:
        """`wait_s`: how long another controller may take to let go of it."""
        self._path = path
        self._lock_fd = _lock(path, wait_s)
        try:
            with self._errors("opened"):
                self._db = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
            try:
                with self._errors("opened"):
                    self._prepare()
            except BaseException:
                self._db.close()
                raise
        except BaseException:
            os.close(self._lock_fd)
            raise

    def __repr__(self) -> str:
        return f"SQLiteStore({str(self._path)!r})"

    def next_epoch(self) -> int:
        with self._transaction() as db:
            db.execute(
                "INSERT INTO counters VALUES ('epoch', 1)"
                " ON CONFLICT (name) DO UPDATE SET value = value + 1"
            )
            epoch: int = db.execute("SELECT value FROM counters WHERE name = 'epoch'").fetchone()[0]
            return epoch

    def load(self) -> Found:
        with self._errors("read"):
            rows = self._db.execute("SELECT * FROM applications ORDER BY name").fetchall()
            applications = [self._load_application(*row) for row in rows]
            replicas = [
                ReplicaRecord(*row)
                for row in self._db.execute("SELECT * FROM replicas ORDER BY started_at")
            ]
        return Found(tuple(applications), tuple(replicas))

    def commit(self, changes: Changes) -> None:
        with self._transaction() as db:
            db.executemany(
                "DELETE FROM applications WHERE name = ?",
                [(name,) for name in changes.removed_applications],
            )
            db.executemany(
                "INSERT INTO applications VALUES (?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET"
                " generation = excluded.generation, deleting = excluded.deleting,"
                " serving_generation = excluded.serving_generation",
                [
                    (record.name, record.generation, record.serving_generation, record.deleting)
                    for record in changes.applications
                ],
            )
            db.executemany(
                "INSERT OR REPLACE INTO versions VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                map(_version_row, changes.versions),
            )
            db.executemany(
                "DELETE FROM versions WHERE application = ? AND generation = ?",
                changes.removed_versions,
            )
            db.executemany(
                "DELETE FROM deployments WHERE application = ? AND name = ?",
                changes.removed_deployments,
            )
            db.executemany(
                "INSERT OR REPLACE INTO deployments VALUES (?, ?, ?, ?)",
                map(_deployment_row, changes.deployments),
            )
            db.executemany(
                "DELETE FROM replicas WHERE replica_id = ?",
                [(replica_id,) for replica_id in changes.removed_replicas],
            )
            db.executemany(
                "INSERT OR REPLACE INTO replicas VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [tuple(vars(record).values()) for record in changes.replicas],
            )

    def close(self) -> None:
        self._db.close()
        os.close(self._lock_fd)

    def _prepare(self) -> None:
        db = self._db
        for setting in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            db.execute(f"PRAGMA {setting}")
        found: int = db.execute("PRAGMA user_version").fetchone()[0]
        if found == 0:
            # One transaction: half a store would be worse than none.
            db.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {FORMAT}; COMMIT;")
        elif found != FORMAT:
            raise StoreError(
                f"{self._path} was written by another release of serving: its format is {found}, "
                f"and this one reads {FORMAT}"
            )
        if (verdict := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise _DamagedError(" ".join(verdict.split()))

    def _load_application(
        self, name: str, generation: int, serving_generation: int, deleting: int
    ) -> LoadedApplication:
        versions, broken = [], ""
        for row in self._db.execute(
            "SELECT generation, deployed_at, worked, errors, instead_of, note, spec FROM versions"
            " WHERE application = ? ORDER BY generation",
            (name,),
        ):
            try:
                versions.append(_version(*row))
            except (DecodeError, ValueError) as error:
                if row[0] in (generation, serving_generation):
                    broken = f"its version {row[0]} in {self._path} cannot be read: {error}"
        deployments = [
            DeploymentRecord(name, deployment, number, self._journal(name, deployment, journal))
            for deployment, number, journal in self._db.execute(
                "SELECT name, num_replicas, journal FROM deployments WHERE application = ?"
                " ORDER BY name",
                (name,),
            )
        ]
        record = ApplicationRecord(name, generation, serving_generation, bool(deleting))
        if not broken and generation not in {version.generation for version in versions}:
            broken = f"its version {generation} is missing in {self._path}"
        return LoadedApplication(record, tuple(versions), broken, tuple(deployments))

    def _journal(self, application: str, deployment: str, message: bytes) -> Journal:
        try:
            found = pb.Journal.FromString(message)
        except DecodeError as error:  # the application does without
            log.warning(
                "the decisions of %s#%s in %s cannot be read: %s",
                *(application, deployment, self._path, error),
            )
            return Journal()
        return Journal(tuple(found.decisions), tuple(found.failures))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        db = self._db
        with self._errors("written"):
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    @contextmanager
    def _errors(self, done: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(f"{self._path} cannot be {done}: {error}. {_advice(error)}") from error


def _lock(path: Path, wait_s: float) -> int:
    lock = path.with_name(f"{path.name}.lock")
    fd = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + wait_s
    while not _try_lock(fd):
        if time.monotonic() > deadline:
            holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            raise StoreError(
                f"{path} is in use by another controller, process {holder}: "
                "one at a time may have it"
            )
        time.sleep(_LOCK_PERIOD_S)  # flock(2) has no timeout
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _advice(error: sqlite3.Error) -> str:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return "The disk is full: make room, and it goes on by itself"
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return "Put back a copy of it, or move it away to begin with none; what runs serves on"
    return "What runs serves on"


def _version_row(version: VersionRecord) -> tuple[Any, ...]:
    return (
        version.spec.name,
        version.generation,
        version.deployed_at,
        version.worked,
        json.dumps(dict(version.errors)),
        version.instead_of,
        version.note,
        version.spec.SerializeToString(),
    )


def _deployment_row(record: DeploymentRecord) -> tuple[Any, ...]:
    journal = pb.Journal(decisions=record.journal.decisions, failures=record.journal.failures)
    return (
        record.application,
        record.name,
        record.num_replicas,
        journal.SerializeToString(),
    )


def _version(
    generation: int,
    deployed_at: float,
    worked: int,
    errors: str,
    instead_of: int,
    note: str,
    spec: bytes,
) -> VersionRecord:
    return VersionRecord(
        pb.ApplicationSpec.FromString(spec),
        generation,
        deployed_at,
        bool(worked),
        json.loads(errors),
        instead_of,
        note,
    )
