"""From the options of gRPC to the processes of a cluster: who is told what."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

import serving
from serving import api
from serving.v1.controller_pb2 import ReplicaSpec
from tests.support.control import (
    DEADLINE_S,
    command,
    descendants,
    get,
    isolate,
    until,
)
from tests.support.protos import FUNCTIONS, probe, probe_grpc


@serving.deployment
def inner(request: object = None) -> str:
    return "inner"


@serving.deployment
class Outer:
    def __init__(self, inner: Any) -> None:
        self.inner = inner

    async def One(self, request: Any) -> Any:
        return probe.Reply(text=f"{request.text} {await self.inner.remote()}")


def proxies() -> list[psutil.Process]:
    return [each for each in descendants(os.getpid()) if "-m serving.proxy" in command(each)]


def listens(proxy: psutil.Process, port: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return any(
            each.laddr.port == port and each.status == psutil.CONN_LISTEN
            for each in proxy.net_connections()
        )
    return False


def call(target: str) -> str:
    """Calls the application, on a connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(target, options) as channel:
        stub = probe_grpc.ProbeStub(channel)
        request = probe.Request(text="outer")
        return str(stub.One(request, timeout=DEADLINE_S, wait_for_ready=True).text)


def spec_of(deployment: str) -> ReplicaSpec:
    """What a replica was started with."""
    (application,) = serving.status().applications.values()
    (replica,) = application.deployments[deployment].replicas
    arguments = psutil.Process(replica.pid).cmdline()
    return ReplicaSpec.FromString(Path(arguments[-1]).read_bytes())


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[serving.schema.ServeStatus]:
    """Two proxies, and an application of two deployments."""
    with pytest.MonkeyPatch.context() as patch:
        isolate(patch, tmp_path_factory.mktemp("cluster"))
        try:
            started = serving.start(
                http_options={"port": 0, "num_proxies": 2},
                grpc_options=serving.gRPCOptions(
                    port=0, grpc_servicer_functions=FUNCTIONS, max_send_message_bytes=5000
                ),
            )
            serving.run(Outer.bind(inner.bind()), name="app")
            yield started
        finally:
            serving.shutdown()


def shown(*options: str) -> str:
    """What `serving status` says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SERVING_ADDRESS", str(api._address()))
        arguments = [sys.executable, "-m", "serving.cli", "status", *options]
        return subprocess.run(
            arguments, capture_output=True, text=True, timeout=DEADLINE_S, check=True
        ).stdout


def test_status_tells_the_port_that_was_picked(cluster: serving.schema.ServeStatus) -> None:
    assert cluster.grpc_port not in (0, cluster.http_port)
    assert cluster.grpc_target == f"127.0.0.1:{cluster.grpc_port}"
    assert f"gRPC: {cluster.grpc_target}" in shown().splitlines()
    assert json.loads(shown("--json"))["grpc_port"] == cluster.grpc_port


def test_proxies_share_a_port_and_get_the_services_again_when_they_are_started_again(
    cluster: serving.schema.ServeStatus,
) -> None:
    before = proxies()
    assert [listens(each, cluster.grpc_port) for each in before] == [True, True]
    assert call(cluster.grpc_target) == "outer inner"

    for proxy in before:
        proxy.kill()

        def are_there_again(gone: psutil.Process = proxy) -> bool:
            there = [listens(each, cluster.grpc_port) for each in proxies() if each != gone]
            return there == [True, True]

        until(are_there_again)
        for _ in range(10):
            assert call(cluster.grpc_target) == "outer inner"


def test_ingress_replica_alone_is_told_of_the_services(
    cluster: serving.schema.ServeStatus,
) -> None:
    settings = spec_of("Outer").grpc

    assert list(settings.servicer_functions) == FUNCTIONS
    assert settings.max_send_message_bytes == 5000
    assert settings.max_receive_message_bytes == 100 * 1024 * 1024
    assert settings.sys_path == [os.path.abspath(entry) for entry in sys.path]
    assert not spec_of("inner").HasField("grpc")


def test_application_without_a_prefix_is_no_route_of_http(
    cluster: serving.schema.ServeStatus,
) -> None:
    assert get("/-/routes").json() == {}
    assert get("/anything").status_code == 404


def test_options_for_a_cluster_that_runs_are_ignored_with_a_warning(
    cluster: serving.schema.ServeStatus,
) -> None:
    with pytest.warns(RuntimeWarning, match="grpc_options.* are ignored"):
        status = serving.start(grpc_options={"port": 1})

    assert status.grpc_port == cluster.grpc_port
