"""A module that only the script can import: what it needs is not there in a replica."""

from __future__ import annotations

import sys

import serving

main = sys.modules["__main__"].__spec__
if main is not None and main.name.startswith("serving.replica"):
    raise ModuleNotFoundError("No module named 'weights'")


@serving.deployment
class Unimportable:
    async def __call__(self, request: object) -> str:
        raise AssertionError("it never runs")
