"""Which buffers are shared, and for how long."""

from __future__ import annotations

import asyncio
import os

import pytest

from serving.calls import shares
from serving.calls.shares import MIN_SHARED, Shares, choose, is_large
from serving.memory import MemoryFile
from tests.support.control import until

MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("sizes", "room", "files", "chosen"),
    [
        ([], 100 * MIB, 9, []),
        ([MIN_SHARED - 1], 100 * MIB, 9, []),
        ([MIN_SHARED], 100 * MIB, 9, [0]),
        ([10, 2 * MIB, 20, 3 * MIB], 100 * MIB, 9, [1, 3]),
        ([2 * MIB, 9 * MIB, 3 * MIB], 5 * MIB, 9, [0, 2]),
        ([2 * MIB, 2 * MIB, 2 * MIB], 4 * MIB, 9, [0, 1]),
        ([2 * MIB, 2 * MIB, 2 * MIB], 100 * MIB, 2, [0, 1]),
        ([2 * MIB], MIN_SHARED, 9, []),
        ([2 * MIB], 100 * MIB, 0, []),
    ],
)
def test_large_buffers_are_shared_while_there_is_room(
    sizes: list[int], room: int, files: int, chosen: list[int]
) -> None:
    assert choose(sizes, room, files) == chosen


def test_value_is_large_where_one_of_its_buffers_is() -> None:
    assert is_large([memoryview(b""), memoryview(bytes(MIN_SHARED))])
    assert not is_large([memoryview(bytes(MIN_SHARED - 1))])


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_buffers_are_read_while_the_block_lasts() -> None:
    data = os.urandom(MIN_SHARED)
    before = open_files()

    with Shares() as placed:
        await placed.place([memoryview(b"small"), memoryview(data), memoryview(data)])
        assert set(placed.places) == {1, 2}
        assert shares._Process.size == 2 * MIN_SHARED
        assert bytes(await shares.read(placed.places[1])) == data
        assert bytes(await shares.read(placed.places[2])) == data
    assert (shares._Process.size, shares._Process.files) == (0, 0)
    with pytest.raises(OSError, match="No such file"):
        await shares.read(placed.places[1])
    assert open_files() == before


async def test_buffer_that_finds_no_memory_is_left_to_the_stream(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(view: memoryview) -> MemoryFile:
        raise OSError("too many open files")

    monkeypatch.setattr(shares, "MemoryFile", fail)
    with Shares() as placed:
        await placed.place([memoryview(b"small"), memoryview(bytes(MIN_SHARED))])
        assert placed.places == {}
    assert "too many open files" in caplog.text
    assert shares._Process.size == 0


async def test_cancelling_while_a_file_is_filled_leaves_none_open() -> None:
    before = open_files()
    with Shares() as placed:
        placing = asyncio.ensure_future(placed.place([memoryview(bytes(64 * MIB))]))
        await asyncio.sleep(0)
        placing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await placing
    assert shares._Process.size == 0
    assert await asyncio.to_thread(until, lambda: open_files() == before)
