from __future__ import annotations

from pathlib import Path

import pytest

from serving.logfiles import Wanted, follow, read

LOG = """\
INFO 2026-01-31 12:00:00,000 controller -- application 'shop': deploying, generation 1
INFO 2026-01-31 12:00:01,000 shop#Ranker#aaaa1111 request_id=5f route=/ application=shop -- 12 hits
printed by hand
WARNING 2026-01-31 12:00:02,000 shop#Ranker#bbbb2222 -- slow
Traceback (most recent call last):
  File "x.py", line 1, in f
ValueError: no
INFO 2026-01-31 12:00:03,000 my app#D#cccc3333 request_id=6a application=my -- hello
INFO 2026-01-31 12:00:04,000 proxy-0 -- shop / GET / 200 1.0ms 7b
INFO 2026-01-31 12:00:05,000 controller -- shop#Ranker#bbbb2222 (pid 7): the process ended
{"level": "INFO", "component": "shop#Ranker#aaaa1111", "message": "in JSON"}
{"level": "INFO", "component": "proxy-0", "message": "GET /", "application": "other"}
{"not": "ours"}
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "serving.log"
    path.write_text(LOG)
    return path


def numbers(log: Path, wanted: Wanted, tail: int | None = None) -> list[int]:
    """The lines that are shown, by their numbers."""
    every = LOG.splitlines()
    return [every.index(line) for line in read(log, wanted, tail)]


def test_log_is_read_whole(log: Path) -> None:
    assert numbers(log, Wanted()) == list(range(len(LOG.splitlines())))


def test_application_has_its_replicas_requests_and_what_is_said_of_it(log: Path) -> None:
    assert numbers(log, Wanted(application="shop")) == [0, 1, 2, 3, 4, 5, 6, 8, 9, 10]
    assert numbers(log, Wanted(application="my app")) == [7]
    assert numbers(log, Wanted(application="other")) == [11, 12]
    assert numbers(log, Wanted(application="sho")) == []


@pytest.mark.parametrize("replica", ["bbbb2222", "shop#Ranker#bbbb2222"])
def test_replica_has_its_tracebacks_and_what_is_said_of_it(log: Path, replica: str) -> None:
    assert numbers(log, Wanted(replica=replica)) == [3, 4, 5, 6, 9]


def test_tail_counts_what_is_wanted(log: Path) -> None:
    assert numbers(log, Wanted(application="shop"), tail=2) == [9, 10]
    assert numbers(log, Wanted(), tail=0) == []


def test_folder_is_read_file_by_file(log: Path) -> None:
    (log.parent / "z.log").write_text("INFO 2026-01-31 12:00:00,000 z#Z#1 -- last\n")

    assert list(read(log.parent, Wanted(), None))[-1].endswith("last")
    assert list(read(log.parent, Wanted(application="z"), None)) == [
        "INFO 2026-01-31 12:00:00,000 z#Z#1 -- last"
    ]


def test_followed_log_tells_what_comes_until_the_cluster_ends(log: Path) -> None:
    runs = True
    lines = follow(log, Wanted(), 1, runs=lambda: runs)
    assert next(lines) == '{"not": "ours"}'

    with log.open("a") as file:
        file.write("half")
        file.flush()
        file.write(" a line\n")
    assert next(lines) == "half a line"

    log.write_text("cut\n")  # as logrotate's copytruncate does
    assert next(lines) == "cut"

    runs = False
    assert list(lines) == []
