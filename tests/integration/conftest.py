"""The cluster that the tests of a module share, the modes in which they run, and what they use."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, cluster_running
from tests.support.gate import Gate
from tests.support.modes import MODES, Mode, mode_of
from tests.support.record import Record


@pytest.fixture(scope="module")
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """One for each module. The module's `HTTP_OPTIONS`, if there are any, are its own."""
    options = getattr(request.module, "HTTP_OPTIONS", {})
    with cluster_running(tmp_path_factory.mktemp("cluster"), **options) as running:
        yield running


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


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(tmp_path / "record")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool
