"""The hash by which two versions of the same code are told apart."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from cloudpickle import cloudpickle  # type: ignore[import-untyped]

from serving.code import references
from serving.code.pickler import complete_classes
from serving.v1.controller_pb2 import Code


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
        if name == "__main__" or not isinstance(path, str) or references.is_library_file(path):
            continue
        if Path(path).is_file():
            yield name, Path(path)
