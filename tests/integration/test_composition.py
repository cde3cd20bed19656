"""Applications of several deployments: binding, calls in depth, cancellation down the graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

import serving
from serving.handle import DeploymentHandle
from tests.integration.apps import composed
from tests.support.control import until
from tests.support.gate import Gate
from tests.support.modes import Mode

TIMEOUT_S = 10.0


@pytest.fixture(scope="module")
def folder(mode: Mode, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("marks")


@pytest.fixture(scope="module")
def graph(mode: Mode, folder: Path) -> DeploymentHandle[Any]:
    leaf, other = composed.Leaf.bind(str(folder), add=1), composed.Leaf.bind(add=2)
    middle = composed.Middle.bind(leaf)
    ingress = composed.Ingress.bind(middle, others={"list": [leaf, other]})
    handle = mode.run(ingress, name="graph", route_prefix="/graph")
    assert handle.names.remote().result(TIMEOUT_S)
    return handle


def test_call_passes_three_deployments(graph: Any, mode: Mode) -> None:
    with mode.http as client:
        assert client.get("/graph?value=4").json() == 50


def test_same_node_is_one_deployment_and_equal_names_are_told_apart(graph: Any) -> None:
    names = list(serving.status().applications["graph"].deployments)

    assert names == ["Ingress", "Middle", "Leaf", "Leaf_1"]
    assert graph.names.remote().result(TIMEOUT_S) == ["Middle", "Leaf", "Leaf_1"]
    assert graph.add_up.remote(5).result(TIMEOUT_S) == [6, 7]


def test_request_is_known_down_the_graph_in_threads_too(graph: Any, mode: Mode) -> None:
    with mode.http as client:
        response = client.get("/graph?call=request", headers={"x-request-id": "known"})

    assert response.json() == ["known", "/graph", "graph"]


@pytest.mark.parametrize(
    ("call", "mark"),
    [
        ("wait", "wait"),
        ("start_and_wait", "start_and_wait-unawaited"),
        ("wait_in_thread", "wait_in_thread"),
    ],
)
def test_client_that_leaves_cancels_the_whole_graph(
    graph: Any, mode: Mode, folder: Path, call: str, mark: str
) -> None:
    with mode.http as client, pytest.raises(httpx.ReadTimeout):
        client.get(f"/graph?call={call}&name={call}", timeout=1)

    assert (folder / f"{mark}.begun").exists()
    assert until((folder / f"{mark}.cancelled").exists)


def test_first_token_comes_before_the_second_is_made(graph: Any, mode: Mode, folder: Path) -> None:
    gate = Gate(folder / "gate")
    with gate.closed() as open_gate:
        url = f"/graph?call=tokens&name=tokens&gate={gate.path}"
        with mode.http as client, client.stream("GET", url) as response:
            chunks = response.iter_raw()
            assert next(chunks) == b"first "
            open_gate()
            assert b"".join(chunks) == b"second"

    assert until((folder / "tokens.ended").exists)


def test_client_that_leaves_a_stream_ends_its_generator(
    graph: Any, mode: Mode, folder: Path
) -> None:
    gate = Gate(folder / "closed")
    with gate.closed():
        url = f"/graph?call=tokens&name=left&gate={gate.path}"
        with mode.http as client, client.stream("GET", url) as response:
            assert next(response.iter_raw()) == b"first "

    assert until((folder / "left.ended").exists)
