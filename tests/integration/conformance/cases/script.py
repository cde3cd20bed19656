"""Words for writing cases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.integration.conformance.wire import Wire

Script = Callable[[Wire], object]
Step = tuple[str, Any]
Pair = tuple[str, str]

READ_BODY: Step = ("receive until", "http.request")
RECEIVE: Step = ("receive", 1)
DISCONNECTED: Step = ("receive until", "http.disconnect")


def send(kind: str, **fields: Any) -> Step:
    return ("send", {"type": kind, **fields})


def attempt(step: Step) -> Step:
    """The same step, going on where `send` raises."""
    return ("attempt", step[1])


def start(status: int = 200, *headers: Pair) -> Step:
    return send("http.response.start", status=status, headers=headers)


def body(data: str = "", *, more: bool = False) -> Step:
    return send("http.response.body", body=data, more_body=more)


def respond(status: int, *headers: Pair, data: str = "") -> list[Step]:
    return [start(status, *headers), body(data)]


def stream(*chunks: str, headers: tuple[Pair, ...] = ()) -> list[Step]:
    return [start(200, *headers), *(body(chunk, more=True) for chunk in chunks), body()]


def length(count: int) -> Pair:
    return ("content-length", str(count))


def ask(line: str | bytes, *headers: str | bytes, **how: Any) -> Script:
    """Sends one request and reads its response."""

    def script(wire: Wire) -> None:
        wire.send(wire.request(line, *headers, **how))
        wire.read_response(has_body=line[:4] not in ("HEAD", b"HEAD"))

    return script


def in_turn(*scripts: Script) -> Script:
    """One after the other on the same connection."""

    def script(wire: Wire) -> None:
        for part in scripts:
            part(wire)

    return script
