"""Which object could not be sent, and where it hangs."""

from __future__ import annotations


def explain(root: object, culprit: object, error: Exception) -> str:
    return f"{root!r}: {culprit!r}: {error}"
