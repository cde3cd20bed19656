"""Runs a case and writes down what came of it."""

from __future__ import annotations

import json
import re

from tests.integration.conformance.cases import Case
from tests.integration.conformance.journal import digest
from tests.integration.conformance.servers import Endpoint, Endpoints
from tests.integration.conformance.wire import ConnectionEnded, Wire, mask_ports

NO_ANSWER = "-- no answer"

Transcript = list[str]


def run(case: Case, endpoints: Endpoints) -> Transcript:
    """What the client received and what the application saw, a line each."""
    endpoint = endpoints[case.app if case.nested else "plain"]
    headers = (b"x-app: " + case.app.encode(),) if case.app != "plain" else ()
    names_case = b"x-case: " + str(case).encode()
    with Wire(endpoint.address, endpoint.prefix, (*headers, names_case)) as wire:
        return converse(case, wire) + seen(case, endpoint, headers, wire.ports)


def converse(case: Case, wire: Wire) -> Transcript:
    """The bytes that came, and how the connection was left."""
    outcome = ""
    try:
        case.script(wire)
    except ConnectionEnded:
        pass
    except TimeoutError:
        outcome = NO_ANSWER
    lines = split(wire.transcript())
    return [*lines, outcome or ("-- open" if wire.is_usable() else "-- closed")]


def split(data: bytes) -> Transcript:
    return [digest(line) for line in re.split(rb"(?<=\n)", data) if line]


def seen(
    case: Case, endpoint: Endpoint, headers: tuple[bytes, ...], ports: tuple[int, int]
) -> Transcript:
    """The application's journal."""
    with Wire(endpoint.address, endpoint.prefix, headers) as wire:
        wire.send(wire.request("GET /", "x-journal: " + str(case)))
        assert wire.read_response() == 200, wire.received
        exchanges = json.loads(wire.received.partition(b"\r\n\r\n")[2])
    entries = [json.dumps(entry).encode() for exchange in exchanges for entry in exchange]
    return [mask_ports(entry, ports).decode() for entry in entries]
