"""A controller's store, whose process is killed in the midst of its writing."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from serving.controller.sqlite import SQLiteStore

WRITER = """
import sys
from pathlib import Path
from serving.controller.sqlite import SQLiteStore
from serving.controller.store import ApplicationRecord, Changes, VersionRecord
from serving.v1 import controller_pb2 as pb

store = SQLiteStore(Path(sys.argv[1]))
for n in range(1, 1_000_000):
    spec = pb.ApplicationSpec(name="app", route_prefix=f"/{n}")
    store.commit(
        Changes(
            applications=(ApplicationRecord("app", n),),
            versions=(VersionRecord(spec, n, 0.0),),
            removed_versions=(("app", n - 1),),
        )
    )
    print(n, flush=True)
"""


@pytest.mark.parametrize("lines", [1, 7, 50])
def test_writer_that_is_killed_leaves_its_last_commit_whole(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "store.sqlite"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        for _ in range(lines):
            writer.stdout.readline()
        writer.kill()
        last_told = max([lines, *map(int, writer.stdout.read().split())])

    with closing(SQLiteStore(path)) as store:
        (found,) = store.load().applications
    # It may have been killed between a commit and telling of it.
    assert found.record.generation in (last_told, last_told + 1)
    assert [version.generation for version in found.versions] == [found.record.generation]
