"""Which buffers of a value pass through shared memory, and how long they stay there.

Measured (benchmarks/RESULTS-payloads.md): from 1 MiB on it is at least 1.6 times as fast as the
stream, which copies each byte many times on its way through protobuf and gRPC.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from serving import memory
from serving.memory import MemoryFile
from serving.v1 import call_pb2 as pb

logger = logging.getLogger("serving.calls")

MIN_SHARED = 1024 * 1024
"""Bytes from which a buffer is shared."""
MAX_SHARED = 1024 * 1024 * 1024
"""Bytes that a process shares at one time, at most: they are a copy more, of which the stream, that
takes the rest, needs only a window."""
MAX_FILES = 128
"""Files that a process shares at one time, at most: many processes may open no more than 1,024."""


def is_large(buffers: Sequence[memoryview]) -> bool:
    """Whether there is one among them that is worth sharing."""
    return any(len(buffer) >= MIN_SHARED for buffer in buffers)


def choose(sizes: Sequence[int], room: int, files: int) -> list[int]:
    """Which of a value's buffers are to be shared, where `room` bytes and `files` are left."""
    chosen: list[int] = []
    for index, size in enumerate(sizes):
        if MIN_SHARED <= size <= room and len(chosen) < files:
            chosen.append(index)
            room -= size
    return chosen


class _Process:
    """What this process shares now, and the threads that copy: not the event loop's own, which user
    code may fill with what waits for a call."""

    size = 0
    files = 0
    threads = ThreadPoolExecutor(2, thread_name_prefix="serving-memory")


class Shares:
    """The buffers of one value that stand in shared memory, until the block ends."""

    def __init__(self) -> None:
        self.places: dict[int, pb.SharedMemory] = {}
        """Of the buffer with that index."""
        self._files: list[MemoryFile] = []
        self._reserved: list[int] = []

    async def place(self, buffers: Sequence[memoryview]) -> None:
        """Copies the large ones, for which there is room, in a thread. They must not change
        before it is done."""
        sizes = [len(buffer) for buffer in buffers]
        chosen = choose(sizes, MAX_SHARED - _Process.size, MAX_FILES - _Process.files)
        self._reserved = [sizes[index] for index in chosen]
        _Process.size += sum(self._reserved)
        _Process.files += len(chosen)
        for index in chosen:
            try:
                file = await _filled(buffers[index])
            except OSError as error:
                logger.warning("%d bytes are sent, not shared: %s", sizes[index], error)
                return
            self._files.append(file)
            where = file.place
            self.places[index] = pb.SharedMemory(
                pid=where.pid, fd=where.fd, inode=where.inode, size=where.size
            )

    def close(self) -> None:
        """The receiver has read them, or will not."""
        for file in self._files:
            file.close()
        _Process.size -= sum(self._reserved)
        _Process.files -= len(self._reserved)
        self._files, self._reserved = [], []

    def __enter__(self) -> Shares:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


async def read(shared: pb.SharedMemory) -> bytearray | memoryview:
    """A buffer that the sender placed. Raises OSError, ValueError as `memory.read` does."""
    place = memory.Place(shared.pid, shared.fd, shared.inode, shared.size)
    return await asyncio.get_running_loop().run_in_executor(_Process.threads, memory.read, place)


async def _filled(view: memoryview) -> MemoryFile:
    filling = _Process.threads.submit(MemoryFile, view)
    try:
        return await asyncio.shield(asyncio.wrap_future(filling))
    except asyncio.CancelledError:
        # The thread cannot be stopped, and may outlive the event loop; what it makes is nobody's.
        filling.add_done_callback(_close)
        raise


def _close(filling: Future[MemoryFile]) -> None:
    if not filling.cancelled() and filling.exception() is None:
        filling.result().close()


def _begin_anew() -> None:
    """In a forked child, which has none of our threads, and shares nothing."""
    _Process.size = _Process.files = 0
    _Process.threads = ThreadPoolExecutor(2, thread_name_prefix="serving-memory")


os.register_at_fork(after_in_child=_begin_anew)
