"""The hash by which two versions of the same code are told apart."""

from __future__ import annotations

import hashlib
import re
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from cloudpickle import cloudpickle  # type: ignore[import-untyped]

from serving.code.pickler import complete_classes
from serving.v1.controller_pb2 import Code

_OWN_FOLDER = str(Path(__file__).parents[1])


def fingerprint(codes: Iterable[Code]) -> str:
    """A hex hash, the same in every process for the same code.

    Covers import paths, what was pickled, and the source of all user modules loaded in this
    process (those neither of the standard library nor in site-packages): code by reference or by
    value may use any of them.
    """
    digest = hashlib.sha256()
    for code in codes:
        _add(digest, code.import_path.encode(), _without_class_ids(code.pickled))
    for name, path in sorted(_user_modules()):
        _add(digest, name.encode(), path.read_bytes())
    return digest.hexdigest()


def _add(digest: hashlib._Hash, *parts: bytes) -> None:
    for part in parts:
        digest.update(len(part).to_bytes(8))
        digest.update(part)


def _without_class_ids(pickled: bytes) -> bytes:
    """The bytes with whatever identifies a class in this process replaced by a running number.

    cloudpickle gives each class a random id; pydantic names a class by its address.
    """
    tracked = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID
    ids = {key.encode() for key in tracked} | {b":%d" % id(cls) for cls in complete_classes}
    numbers: dict[bytes, bytes] = {}

    def number(match: re.Match[bytes]) -> bytes:
        name = match[0]  # other strings may have the same form
        return numbers.setdefault(name, b"class %d" % len(numbers)) if name in ids else name

    return re.sub(rb"[0-9a-f]{32}|:[0-9]{6,20}", number, pickled)


def _user_modules() -> Iterator[tuple[str, Path]]:
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if name == "__main__" or not isinstance(path, str) or not _is_users(path):
            continue
        if Path(path).is_file():
            yield name, Path(path)


@lru_cache(maxsize=8192)
def _is_users(path: str) -> bool:
    return not path.startswith(_library_folders())


@lru_cache(maxsize=1)
def _library_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    folders = [paths[kind] for kind in ("stdlib", "platstdlib", "purelib", "platlib")]
    folders += [*site.getsitepackages(), site.getusersitepackages(), _OWN_FOLDER]
    return tuple({f"{spelled}/" for f in folders for spelled in (f, str(Path(f).resolve()))})
