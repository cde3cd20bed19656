"""The packages that replicas run with, in the state folder: each a folder named by its digest.

A package is there whole or not at all, and stays as long as something that may be started refers to
it. What nothing refers to is removed after a while, in which it may be referred to yet: a client
uploads first, and deploys then.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import BinaryIO

from serving import packages
from serving.packages import PackageError
from serving.v1 import controller_pb2 as pb

log = logging.getLogger("serving.controller")

KEPT_S = 600.0
"""A package that nothing refers to stays for so long after it was uploaded or asked for last."""
SWEEP_PERIOD_S = 60.0
# Of folders that are not packages: not yet, or not any more.
_UNFINISHED = "."


class PackageStore:
    """The packages in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, digest: str) -> Path:
        """Where a package is, or would be."""
        return self._folder / digest

    def sources_of(self, deployment: pb.DeploymentSpec) -> str:
        """The folder of the modules that a deployment keeps; empty where it keeps none."""
        return str(self.path(deployment.sources.digest)) if deployment.HasField("sources") else ""

    def missing(self, digests: Iterable[str]) -> list[str]:
        """Those that are not here; the others stay for a while."""
        return [digest for digest in dict.fromkeys(digests) if not self._touch(digest)]

    def _touch(self, digest: str) -> bool:
        if not packages.is_digest(digest):
            return False
        try:
            os.utime(self.path(digest))
        except FileNotFoundError:
            return False
        return True

    async def receive(self, digest: str, archive: AsyncIterator[bytes]) -> None:
        """Keeps a package. Raises PackageError where it is not what its name says, and OSError."""
        if not packages.is_digest(digest):
            raise PackageError(f"no digest: {digest!r}")
        self._folder.mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryFile(dir=self._folder) as file:
            await _spool(digest, archive, file)
            await asyncio.to_thread(self._install, digest, file)

    def _install(self, digest: str, file: BinaryIO) -> None:
        file.seek(0)
        draft = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=self._folder))
        try:
            packages.unpack(file, draft / digest)
            _sync(draft / digest)
            try:
                (draft / digest).replace(self.path(digest))
            except OSError as error:
                # Of a folder that is not empty: the package is here, perhaps since this moment.
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            self._touch(digest)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    async def keep_swept(self, wanted: Callable[[], set[str]]) -> None:
        """Removes what is not wanted any more, for as long as it is awaited."""
        while True:
            unwanted = self.set_aside(wanted(), time.time())
            for folder in unwanted:
                log.debug("removing %s", folder)
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            await asyncio.sleep(SWEEP_PERIOD_S)

    def set_aside(self, wanted: set[str], now: float) -> list[Path]:
        """Renames what is to be removed, so that half a package is never taken for one."""
        aside = []
        for path in self._folder.iterdir() if self._folder.is_dir() else ():
            if path.name in wanted or now - path.stat().st_mtime < KEPT_S:
                continue
            if not path.name.startswith(_UNFINISHED):
                draft = tempfile.mkdtemp(prefix=_UNFINISHED, dir=self._folder)
                path = path.replace(draft)
            aside.append(path)
        return aside


async def _spool(digest: str, archive: AsyncIterator[bytes], file: BinaryIO) -> None:
    hashed, size = hashlib.sha256(), 0
    async for chunk in archive:
        size += len(chunk)
        if size > packages.MAX_BYTES:
            raise PackageError(f"a package has {packages.MAX_BYTES // 2**20} MiB at most")
        hashed.update(chunk)
        await asyncio.to_thread(file.write, chunk)
    if hashed.hexdigest() != digest:
        raise PackageError("the files of a runtime_env changed meanwhile: deploy it again")


def _sync(folder: Path) -> None:
    """Puts the files on the disk: the store, which names them, survives a loss of power too."""
    for parent, _, names in os.walk(folder):
        for name in names:
            fd = os.open(os.path.join(parent, name), os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def digests(deployments: Iterable[pb.DeploymentSpec]) -> set[str]:
    """The packages that deployments refer to."""
    return {
        package.digest
        for deployment in deployments
        for package in (deployment.working_dir, *deployment.py_modules, deployment.sources)
        if package.digest
    }
