"""The cases: what a client does, and what the scripted application does with it."""

from __future__ import annotations

from dataclasses import dataclass

from tests.integration.conformance.cases import (
    fastapi,
    http,
    malformed,
    misuse,
    starlette,
    websocket,
)
from tests.integration.conformance.cases.script import Script


@dataclass(frozen=True)
class Case:
    """`app` serves under its own prefix where `nested`, else the plain one passes to it."""

    name: str
    script: Script
    app: str
    nested: bool = False

    def __str__(self) -> str:
        return f"{self.app}{'-nested' if self.nested else ''}-{self.name}"


def collect() -> dict[str, Case]:
    plain = http.CASES | misuse.CASES | malformed.CASES | websocket.CASES
    cases = [Case(name, script, "plain") for name, script in plain.items()]
    for app, scripts in (("starlette", starlette.CASES), ("fastapi", fastapi.CASES)):
        for name, script in scripts.items():
            cases += [Case(name, script, app), Case(name, script, app, nested=True)]
    for app in ("no_lifespan", "idle_lifespan"):
        cases += [Case(name, http.CASES[name], app, nested=True) for name in http.BASICS]
    return {str(case): case for case in cases}


CASES = collect()
