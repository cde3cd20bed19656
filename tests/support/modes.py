"""Tests that run twice: on a real cluster, and in local testing mode.

A test that takes the fixture `mode` of `tests/integration/conftest.py` runs in both. It serves
with `mode.run(...)` where it would call `serving.run(...)`, and speaks HTTP with `mode.http`, an
`httpx.Client`; handles, `serving.status`, `serving.delete` and the rest are the same. So are module
fixtures that take `mode`: one that runs an application runs it once in each mode.

What is about processes (one that dies, the command line, logs) is marked with `@processes_only`.
What the application does and the test wants to see goes through files, as ever: `Gate`, `Record`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

import serving
from serving.calls import local
from serving.handle import DeploymentHandle
from serving.testing import cluster as local_clusters
from tests.support.cluster import Cluster
from tests.support.control import DEADLINE_S

MODES = ["processes", "local"]

processes_only = pytest.mark.parametrize("mode", ["processes"], indirect=True)
local_only = pytest.mark.parametrize("mode", ["local"], indirect=True)


@dataclass(frozen=True)
class Mode:
    """How the tests' applications run."""

    name: str
    cluster: Cluster | None

    @property
    def is_local(self) -> bool:
        return self.cluster is None

    def run(
        self,
        application: serving.Application,
        *,
        name: str = "default",
        route_prefix: str | None = "/",
    ) -> DeploymentHandle[Any]:
        """`serving.run`."""
        return serving.run(
            application,
            name=name,
            route_prefix=route_prefix,
            _local_testing_mode=self.is_local,
        )

    @contextmanager
    def running(
        self, application: serving.Application, route_prefix: str | None = "/"
    ) -> Iterator[DeploymentHandle[Any]]:
        """Serves an application for as long as the block lasts; "/a/b" is named "a-b"."""
        name = (route_prefix or "").strip("/").replace("/", "-") or "root"
        handle = self.run(application, name=name, route_prefix=route_prefix)
        try:
            yield handle
        finally:
            serving.delete(name)

    def get(self, path: str = "/") -> httpx.Response:
        """One request, by a client of its own."""
        with self.http as client:
            return client.get(path)

    @property
    def http(self) -> httpx.Client:
        """A new client of all that runs; `with` closes it."""
        if self.cluster is not None:
            return httpx.Client(base_url=self.cluster.url(""), timeout=DEADLINE_S)
        from serving.testing.httpx_transport import make_client

        here = local_clusters.find(local.current_key())
        assert here is not None, "nothing runs yet: mode.run(...) first"
        return make_client(here, {"timeout": DEADLINE_S})


@contextmanager
def mode_of(request: pytest.FixtureRequest) -> Iterator[Mode]:
    """For the fixture `mode`, whose parameter is the name."""
    name: str = request.param
    cluster = request.getfixturevalue("cluster") if name == "processes" else None
    try:
        yield Mode(name, cluster)
    finally:
        if cluster is None and local.current_key():  # not the module's cluster in its place
            serving.shutdown()
