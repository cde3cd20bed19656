"""The cluster that the tests of a module share, and the modes in which they run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.cluster import Cluster, cluster_running
from tests.support.modes import MODES, Mode, mode_of


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
