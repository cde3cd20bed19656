"""A cluster that the tests of a module share: applications come and go, the processes stay."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

import serving
from tests.integration.conformance.wire import Wire
from tests.support.control import DEADLINE_S, until


@dataclass(frozen=True)
class Cluster:
    """Where it answers, and where it logs."""

    port: int
    logs_dir: Path
    grpc_target: str = ""
    """For `grpc.insecure_channel`."""

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def url(self, path: str = "/", *, scheme: str = "http") -> str:
        return f"{scheme}://127.0.0.1:{self.port}{path}"

    def request(self, method: str, path: str = "/", **kwargs: Any) -> requests.Response:
        """One request on a connection of its own."""
        return requests.request(method, self.url(path), timeout=DEADLINE_S, **kwargs)

    def get(self, path: str = "/", **kwargs: Any) -> requests.Response:
        return self.request("GET", path, **kwargs)

    def post(self, path: str = "/", **kwargs: Any) -> requests.Response:
        return self.request("POST", path, **kwargs)

    def wire(self) -> Wire:
        """A connection for bytes that no client library sends."""
        return Wire(self.address, headers=(b"host: test",))

    @contextmanager
    def running(
        self, application: serving.Application, route_prefix: str | None = "/"
    ) -> Iterator[None]:
        """Serves an application for as long as the block lasts; "/a/b" is named "a-b"."""
        name = (route_prefix or "").strip("/").replace("/", "-") or "root"
        serving.run(application, name=name, route_prefix=route_prefix)
        try:
            yield
        finally:
            serving.delete(name)

    @contextmanager
    def running_for_grpc(self, **applications: serving.Application) -> Iterator[None]:
        """Serves applications by their names, without HTTP, for as long as the block lasts."""

        def run(name: str) -> None:
            serving.run(applications[name], name=name, route_prefix=None)

        with ThreadPoolExecutor(len(applications)) as pool:
            try:
                list(pool.map(run, applications))
                yield
            finally:
                list(pool.map(serving.delete, applications))

    def log(self) -> str:
        """All that the processes have logged, each whole."""
        return "".join(file.read_text() for file in sorted(self.logs_dir.iterdir()))

    def logged(self, pattern: str) -> re.Match[str]:
        """Waits for the log to match."""
        return until(lambda: re.search(pattern, self.log(), re.MULTILINE))


@contextmanager
def cluster_running(
    folder: Path,
    *,
    node_options: dict[str, Any] | None = None,
    grpc_options: dict[str, Any] | None = None,
    **http_options: Any,
) -> Iterator[Cluster]:
    """A cluster of one's own on free ports, apart from all others, that logs into files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SERVING_ADDRESS", raising=False)
        patch.setenv("SERVING_STATE_DIR", str(folder / "state"))
        logs_dir = folder / "logs"
        logs_dir.mkdir()
        try:
            started = serving.start(
                http_options={"port": 0, **http_options},
                grpc_options=grpc_options,
                logging_config={"logs_dir": str(logs_dir)},
                node_options=node_options,
            )
            yield Cluster(started.http_port, logs_dir, started.grpc_target)
        finally:
            serving.shutdown()
