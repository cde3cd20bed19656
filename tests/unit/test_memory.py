"""Memory files: what one process writes and another reads."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from typing import Any

import pytest
from grpc.aio import Metadata

from serving import memory
from serving.memory import MemoryFile

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs Linux")

DATA = bytes(range(256)) * 8


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_file_gives_its_bytes_writable_until_it_is_closed() -> None:
    before = open_files()
    file = MemoryFile(memoryview(DATA))

    got = memory.read(file.place)
    assert bytes(got) == DATA
    got[0] = 7
    assert bytes(memory.read(file.place)) == DATA
    file.close()
    file.close()
    with pytest.raises(OSError, match="No such file"):
        memory.read(file.place)
    assert open_files() == before


@pytest.mark.parametrize("size", [0, 1, memory.HUGE_PAGES_FROM, memory.HUGE_PAGES_FROM + 1])
def test_memory_of_any_size_is_zero_and_writable(size: int) -> None:
    got = memory.allocate(size)

    assert len(got) == size
    assert not any(memoryview(got)[::4096])
    assert memory.copy(memoryview(got)) == got
    if size:
        got[-1] = 3


def test_copy_does_not_change_with_what_was_copied() -> None:
    for size in (10, memory.HUGE_PAGES_FROM):
        data = bytearray(size)
        copied = memory.copy(memoryview(data))
        data[0] = 1
        assert copied[0] == 0


@pytest.mark.parametrize("change", [{"inode": 1}, {"size": 10}, {"size": 10_000}], ids=str)
def test_another_file_than_was_announced_is_refused(change: dict[str, int]) -> None:
    file = MemoryFile(memoryview(DATA))

    with pytest.raises(ValueError, match="not the memory"):
        memory.read(dataclasses.replace(file.place, **change))
    file.close()


def test_descriptor_that_is_something_else_by_now_is_refused() -> None:
    reader, writer = os.pipe()
    try:
        with pytest.raises(ValueError, match="not the memory"):
            memory.read(memory.Place(os.getpid(), reader, os.fstat(reader).st_ino, 0))
    finally:
        os.close(reader)
        os.close(writer)


def test_file_that_is_cut_short_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    file = MemoryFile(memoryview(DATA))
    allocate = memory.allocate

    def cut_and_allocate(size: int) -> bytearray | memoryview:
        os.truncate(f"/proc/self/fd/{file.place.fd}", 100)
        return allocate(size)

    monkeypatch.setattr(memory, "allocate", cut_and_allocate)
    with pytest.raises(ValueError, match="cut short to 100 bytes"):
        memory.read(file.place)
    file.close()


def test_offer_of_a_process_of_the_same_user_is_accepted() -> None:
    command = [sys.executable, "-c", "from serving import memory; print(memory.accept(input()))"]
    with memory.offering() as offer:
        answer = subprocess.run(command, input=offer, capture_output=True, text=True)

    assert answer.stdout == "True\n"


@pytest.mark.parametrize("offered", ["", "x", "1 2 3", f"{2**40} 1 1 16", "-1 -1 -1 -1", "1 2 3 4"])
def test_offer_that_cannot_be_opened_is_not_accepted(offered: str) -> None:
    assert not memory.accept(offered)


def test_there_is_no_offer_where_there_are_no_memory_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "memfd_create")

    with memory.offering() as offer:
        assert offer == ""


@pytest.mark.parametrize(
    ("metadata", "offer"),
    [
        (None, ""),
        ((), ""),
        (Metadata(("user-agent", "x")), ""),
        (Metadata(("user-agent", "x"), (memory.OFFER_KEY, "1 2 3 4")), "1 2 3 4"),
        (((memory.OFFER_KEY, "1 2 3 4"),), "1 2 3 4"),
    ],
    ids=["none", "empty", "another key", "gRPC's own class", "pairs"],
)
def test_offer_is_found_in_metadata(metadata: Any, offer: str) -> None:
    assert memory.offer_in(metadata) == offer
