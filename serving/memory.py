"""Large buffers: memory for them, and files of memory by which they pass between processes.

A memory file has no name: the kernel frees it when the last process that holds it open is gone,
however that ended. The receiver copies out of it and maps nothing, so that what it got is its own,
and a file that is changed or cut short meanwhile can do no more than make a wrong value.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

HUGE_PAGES_FROM = 32 * 1024 * 1024
"""Bytes from which malloc would take fresh small pages from the kernel each time: touching those
costs several times what copying does."""
_AT_ONCE = 1024 * 1024 * 1024  # The kernel copies at most 2 GiB in one call.


@dataclass(frozen=True)
class Place:
    """Where other processes of this machine find a memory file."""

    pid: int
    fd: int
    inode: int
    size: int


class MemoryFile:
    """A buffer's bytes where other processes of this machine can read them, until it is closed."""

    def __init__(self, data: memoryview) -> None:
        """Copies the bytes. Raises OSError where there is no room, or no more descriptors."""
        if not hasattr(os, "memfd_create"):
            raise OSError("this system has no memory files")
        self._fd = os.memfd_create("serving", os.MFD_CLOEXEC)
        try:
            view = data.cast("B")
            done = 0
            while done < len(view):
                done += os.write(self._fd, view[done : done + _AT_ONCE])
            inode = os.fstat(self._fd).st_ino
            self.place = Place(os.getpid(), self._fd, inode, len(view))
        except BaseException:
            os.close(self._fd)
            raise

    def close(self) -> None:
        """Frees the memory. Harmless the second time."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def allocate(size: int) -> bytearray | memoryview:
    """Writable memory of its own, all zero."""
    if size < HUGE_PAGES_FROM:
        return bytearray(size)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(AttributeError, OSError):  # not every system has them
        pages.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(pages)


def copy(data: memoryview) -> bytearray | memoryview:
    """The bytes as they are now."""
    if data.nbytes < HUGE_PAGES_FROM:
        return bytearray(data)
    copied = allocate(data.nbytes)
    copied[:] = data.cast("B")
    return copied


def read(place: Place) -> bytearray | memoryview:
    """The bytes of another process's memory file.

    Raises OSError where it cannot be opened, ValueError where it is not what was announced.
    """
    # A descriptor may have been given to something else since: so nothing is waited for.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    fd = os.open(f"/proc/{place.pid}/fd/{place.fd}", flags)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or (found.st_nlink, found.st_ino, found.st_size) != (
            0,
            place.inode,
            place.size,
        ):
            raise ValueError(f"{place} is not the memory that was announced")
        data = allocate(place.size)
        view, done = memoryview(data), 0
        while done < place.size:
            count = os.preadv(fd, [view[done : done + _AT_ONCE]], done)
            if not count:
                raise ValueError(f"{place} was cut short to {done} bytes")
            done += count
        return data
    finally:
        os.close(fd)


OFFER_KEY = "serving-memory"
"""The metadata of a connection's gRPC call in which its ends make each other their offers."""


@contextlib.contextmanager
def offering() -> Iterator[str]:
    """For another process to `accept` as long as the block lasts; empty where there are no memory
    files here."""
    try:
        file = MemoryFile(memoryview(os.urandom(16)))
    except OSError:
        yield ""
        return
    try:
        place = file.place
        yield f"{place.pid} {place.fd} {place.inode} {place.size}"
    finally:
        file.close()


def offer_in(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """The offer in a call's metadata; empty where there is none."""
    # Not dict(metadata): in older releases of gRPC the `keys` of its own class are pairs.
    for key, value in metadata or ():
        if key == OFFER_KEY:
            return str(value)
    return ""


def accept(offered: str) -> bool:
    """Whether this process can read the memory files of the one that made the offer."""
    try:
        pid, fd, inode, size = map(int, offered.split())
        read(Place(pid, fd, inode, min(size, mmap.PAGESIZE)))
    except (OSError, ValueError):
        return False
    return True
