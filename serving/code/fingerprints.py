"""The hash by which two versions of the same code are told apart."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from cloudpickle import cloudpickle  # type: ignore[import-untyped]

from serving.code import sources
from serving.code.pickler import complete_classes
from serving.code.sources import Module
from serving.v1.controller_pb2 import Code


def fingerprint(codes: Iterable[Code], modules: Iterable[Module] | None = None) -> str:
    """A hex hash, the same in every process for the same code.

    Covers import paths, what was pickled, and the files of all user modules loaded in this process
    (`sources.loaded()`): code by reference or by value may use any of them.
    """
    digest = hashlib.sha256()
    for code in codes:
        _add(digest, code.import_path.encode(), _without_class_ids(code.pickled))
    for module in sources.loaded() if modules is None else modules:
        _add(digest, module.name.encode(), module.content)
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
