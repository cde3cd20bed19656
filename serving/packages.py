"""Packages: folders and files of a deployer's, as they were when they were deployed.

A package is a tar archive that is the same whenever its content is: entries by name, without owners
and times. The hash of its bytes names it. It is made twice: for its name, with each deploy, and for
those who do not have it yet. Ray's rules hold for what is in it: links are followed, and folders
that hold no code of the user's are left out.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

MAX_BYTES = 500 * 2**20
"""Of a package, as in Ray."""
LEFT_OUT = frozenset({".git", ".venv", "venv", "__pycache__"})

_CHUNK_BYTES = 2**20
# Of every entry, as in wheels: what is older cannot be zipped.
_TIME = 315532800
_ZIPPED = (".zip", ".whl")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class PackageError(ValueError):
    """What was named cannot be made a package; the message says why."""


@dataclass(frozen=True)
class _Entry:
    """A file or folder in a package."""

    name: str
    size: int = 0
    is_executable: bool = False
    # None: a folder.
    open: Callable[[], IO[bytes]] | None = None


def digest(source: Path, *, is_module: bool) -> str:
    """The name of the package of `source`: a folder or a zip file, and, where it `is_module`, a
    Python file or a wheel, too. The folder then is the module itself, and not where modules lie.

    Raises PackageError.
    """
    hashed = hashlib.sha256()
    for chunk in chunks(source, is_module=is_module):
        hashed.update(chunk)
    return hashed.hexdigest()


def is_digest(text: str) -> bool:
    """Whether it may name a package, and nothing else in a file system."""
    return _DIGEST.fullmatch(text) is not None


def chunks(source: Path, *, is_module: bool) -> Iterator[bytes]:
    """The package itself. Raises PackageError."""
    total = 0
    try:
        for chunk in _archive(_entries(source, is_module)):
            total += len(chunk)
            if total > MAX_BYTES:
                raise PackageError(f"{source} has more than {MAX_BYTES // 2**20} MiB")
            yield chunk
    except zipfile.BadZipFile as error:
        raise PackageError(f"{source} is no zip file: {error}") from None
    except OSError as error:
        raise PackageError(f"{error.filename or source}: {error.strerror}") from None


def of_file(name: str, content: bytes) -> bytes:
    """The package of one file, with what it is to hold."""
    return b"".join(_archive(iter([_Entry(name, len(content), open=partial(io.BytesIO, content))])))


def pieces(package: bytes) -> Iterator[bytes]:
    """A package that is at hand, in chunks."""
    yield from (package[at : at + _CHUNK_BYTES] for at in range(0, len(package), _CHUNK_BYTES))


def unpack(archive: BinaryIO, folder: Path) -> None:
    """Makes `folder`, with what is in the package. Raises PackageError where it is none."""
    folder.mkdir()
    try:
        with tarfile.open(fileobj=archive, mode="r:") as files:
            files.extractall(folder, filter="data")
    except tarfile.TarError as error:
        raise PackageError(f"no package: {error}") from None


def _archive(entries: Iterator[_Entry]) -> Iterator[bytes]:
    for entry in entries:
        info = tarfile.TarInfo(entry.name)
        info.mtime, info.size = _TIME, entry.size
        info.mode = 0o755 if entry.is_executable or entry.open is None else 0o644
        info.type = tarfile.DIRTYPE if entry.open is None else tarfile.REGTYPE
        yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        if entry.open is not None:
            with entry.open() as file:
                yield from _content(entry, file)
            yield bytes(-entry.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _content(entry: _Entry, file: IO[bytes]) -> Iterator[bytes]:
    left = entry.size
    while left:
        chunk = file.read(min(left, _CHUNK_BYTES))
        if not chunk:
            raise PackageError(f"{entry.name} changed while it was read: deploy it again")
        left -= len(chunk)
        yield chunk


# What is in a package


def _entries(source: Path, is_module: bool) -> Iterator[_Entry]:
    if source.is_dir():
        prefix = ""
        if is_module:
            prefix = f"{source.name}/"
            yield _Entry(source.name)
        yield from _in_folder(source, prefix, frozenset({os.path.realpath(source)}))
    elif not source.exists():
        raise PackageError(f"{source} does not exist")
    elif source.suffix == ".zip" or (is_module and source.suffix in _ZIPPED):
        yield from _in_zip(source)
    elif is_module and source.suffix == ".py":
        yield _file(source.name, source)
    else:
        allowed = "a folder, a .zip, a .whl or a .py file" if is_module else "a folder or a .zip"
        raise PackageError(f"{source} is none of what it may be: {allowed}")


def _in_folder(folder: Path, prefix: str, above: frozenset[str]) -> Iterator[_Entry]:
    """`above`: the folders that hold it; a link back to one of them would have no end."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        name = f"{prefix}{path.name}"
        if path.name in LEFT_OUT:
            continue
        if path.is_dir():
            real = os.path.realpath(path)
            if real not in above:
                yield _Entry(name)
                yield from _in_folder(path, f"{name}/", above | {real})
        elif path.is_file():  # no socket or pipe, and no link to what is gone
            yield _file(name, path)


def _file(name: str, path: Path) -> _Entry:
    def opened() -> IO[bytes]:
        return path.open("rb")

    status = path.stat()
    return _Entry(name, status.st_size, bool(status.st_mode & stat.S_IXUSR), opened)


def _in_zip(source: Path) -> Iterator[_Entry]:
    with zipfile.ZipFile(source) as files:
        for member in sorted(files.infolist(), key=lambda member: member.filename):
            name = PurePosixPath(member.filename)
            mode = member.external_attr >> 16
            is_executable = bool(mode & stat.S_IXUSR)
            if name.is_absolute() or ".." in name.parts:
                raise PackageError(f"{source} has a file outside of itself: {name}")
            if member.flag_bits & 1:
                raise PackageError(f"{source} is encrypted")
            if not LEFT_OUT.isdisjoint(name.parts) or stat.S_ISLNK(mode):
                continue
            if member.is_dir():
                yield _Entry(str(name))
            else:
                is_executable = bool(mode & stat.S_IXUSR)
                yield _Entry(
                    str(name), member.file_size, is_executable, partial(files.open, member)
                )
