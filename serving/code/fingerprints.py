"""The hash by which two versions of the same code are told apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from serving.v1.controller_pb2 import Code


def fingerprint(codes: Iterable[Code]) -> str:
    return hashlib.sha256(b"".join(c.pickled for c in codes)).hexdigest()
