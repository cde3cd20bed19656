"""The cluster that the tests of a module share, the modes in which they run, and what they use."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.support import protos
from tests.support.cluster import Cluster, cluster_running
from tests.support.gate import Gate
from tests.support.modes import MODES, Mode, mode_of
from tests.support.record import Record


@pytest.fixture(scope="module")
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """One for each module. The module's `HTTP_OPTIONS`, if there are any, are its own.

    Where the module has `GRPC_OPTIONS`, be they none, it answers the services of `tests/protos`.
    """
    options = getattr(request.module, "HTTP_OPTIONS", {})
    if (grpc_options := getattr(request.module, "GRPC_OPTIONS", None)) is not None:
        functions = {"grpc_servicer_functions": protos.FUNCTIONS}
        options = {**options, "grpc_options": {"port": 0, **functions, **grpc_options}}
    with cluster_running(tmp_path_factory.mktemp("cluster"), **options) as running:
        yield running


@pytest.fixture
def stub(cluster: Cluster) -> Iterator[Any]:
    """Of the service `probe.Probe`, on a channel of the test's own."""
    with grpc.insecure_channel(cluster.grpc_target, options=protos.UNLIMITED) as channel:
        yield protos.probe_grpc.ProbeStub(channel)


@pytest.fixture
async def aio_stub(cluster: Cluster) -> AsyncIterator[Any]:
    """The same of grpc.aio."""
    async with grpc.aio.insecure_channel(cluster.grpc_target, options=protos.UNLIMITED) as channel:
        yield protos.probe_grpc.ProbeStub(channel)


@pytest.fixture(scope="module", params=MODES)
def mode(request: pytest.FixtureRequest) -> Iterator[Mode]:
    """On real processes, then in local testing mode: see `tests/support/modes.py`."""
    with mode_of(request) as running:
        yield running


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    gate = Gate(tmp_path / "gate")
    gate.path.touch()
    return gate


@pytest.fixture(scope="module")
def all_records(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """For applications that run for a whole module, whose tests empty it."""
    return Record(tmp_path_factory.mktemp("record") / "record")


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(tmp_path / "record")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool
