"""Options of the HTTP front, each on a cluster of its own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from serving.config import HTTPOptions
from tests.integration.apps.admission import Counts
from tests.integration.apps.routes import Tells
from tests.support.cluster import cluster_running
from tests.support.control import until
from tests.support.gate import Gate
from tests.support.record import Record


@pytest.mark.parametrize(
    "variable", [None, "SERVING_HTTP_KEEP_ALIVE_TIMEOUT_S", "RAY_SERVE_HTTP_KEEP_ALIVE_TIMEOUT_S"]
)
def test_idle_connection_is_closed_after_its_timeout(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str | None
) -> None:
    """A variable wins over the option."""
    timeout_s = 0.5
    if variable is not None:
        monkeypatch.setenv(variable, str(timeout_s))
    option_s = timeout_s if variable is None else 60.0
    with (
        cluster_running(tmp_path, keep_alive_timeout_s=option_s) as cluster,
        cluster.wire() as wire,
    ):
        for _ in range(3):
            wire.send(wire.request("GET /-/healthz"))
            assert wire.read_response() == 200
        answered_at = time.monotonic()
        wire.read_to_end()

        assert timeout_s - 0.1 < time.monotonic() - answered_at < 5


def test_idle_connection_outlives_those_of_load_balancers() -> None:
    assert HTTPOptions().keep_alive_timeout_s >= 75


def test_new_name_of_the_variable_wins_over_the_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVING_HTTP_KEEP_ALIVE_TIMEOUT_S", "7")
    monkeypatch.setenv("RAY_SERVE_HTTP_KEEP_ALIVE_TIMEOUT_S", "8")

    assert HTTPOptions(keep_alive_timeout_s=9).keep_alive_timeout_s == 7


def test_root_path_is_put_before_the_path_that_arrives(tmp_path: Path) -> None:
    with (
        cluster_running(tmp_path, root_path="/outside") as cluster,
        cluster.running(Tells.bind("a"), "/a"),
    ):
        told = cluster.get("/a/x").json()

        assert (told["path"], told["root_path"]) == ("/outside/a/x", "/outside/a")
        assert cluster.get("/outside/a/x").status_code == 404
        assert cluster.get("/-/routes").json() == {"/a": "a"}
        assert cluster.get("/-/healthz").text == "success"


def test_several_proxies_serve_one_port_and_keep_the_limit_together(tmp_path: Path) -> None:
    deployment: Any = Counts
    record, gate = Record(tmp_path / "record"), Gate(tmp_path / "gate")
    application = deployment.options(max_ongoing_requests=3).bind(gate, record)
    with (
        cluster_running(tmp_path, num_proxies=2) as cluster,
        cluster.running(application),
        gate.closed() as open_gate,
    ):
        wires = [cluster.wire() for _ in range(40)]
        for number, wire in enumerate(wires):
            wire.send(wire.request(f"GET /{number}"))
        until(lambda: record.count("began") == 3)
        open_gate()
        assert [wire.read_response() for wire in wires] == [200] * len(wires)
        for wire in wires:
            wire.socket.close()

        assert cluster.get("/last").json() == 3
        served = {
            cluster.logged(rf"(proxy-\d) -- .* GET /{number} 200 ")[1] for number in range(40)
        }
        assert served == {"proxy-0", "proxy-1"}


def test_shutdown_loses_no_line_of_the_log(tmp_path: Path) -> None:
    with cluster_running(tmp_path) as cluster:
        for number in range(10):
            cluster.get(f"/{number}")

    for number in range(10):
        assert f" GET /{number} 503 " in cluster.log()
