"""Where the applications of the suite are served: by uvicorn alone, or by us."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import serving
from tests.integration.conformance import deployments

ROOT = Path(__file__).parents[3]
HERE = "tests.integration.conformance"

PREFIXES = {
    "plain": "",
    "starlette": "/starlette",
    "fastapi": "/fast/api",
    "no_lifespan": "/no-lifespan",
    "idle_lifespan": "/idle-lifespan",
}
IMPORTS = {
    "plain": "apps:plain",
    "starlette": "starlette_app:starlette_app",
    "fastapi": "fastapi_app:fastapi_app",
    "no_lifespan": "apps:no_lifespan",
    "idle_lifespan": "apps:idle_lifespan",
}


@dataclass(frozen=True)
class Endpoint:
    """Where an application answers. `prefix` is what a client writes before the path."""

    address: tuple[str, int]
    prefix: str = ""


Endpoints = Mapping[str, Endpoint]

# The applications fail a hundred times on purpose.
QUIET = {"log_level": "CRITICAL", "enable_access_log": False}


@contextmanager
def ours(state_dir: Path) -> Iterator[Endpoints]:
    """A cluster of our own, with the applications under their prefixes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SERVING_STATE_DIR", str(state_dir))
        port = serving.start(http_options={"port": 0}, logging_config=QUIET).http_port
        try:
            for name, deployment in deployments.BY_NAME.items():
                serving.run(deployment.bind(), name=name, route_prefix=PREFIXES[name] or "/")
            address = ("127.0.0.1", port)
            yield {name: Endpoint(address, prefix) for name, prefix in PREFIXES.items()}
        finally:
            serving.shutdown()


@contextmanager
def uvicorn_alone(imports: Mapping[str, str] = IMPORTS) -> Iterator[Endpoints]:
    """One process. A root path stands for our prefix: uvicorn puts it before the path itself."""
    arguments, endpoints = [], {}
    with ExitStack() as stack:
        for name, path in imports.items():
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            listener.set_inheritable(True)
            endpoints[name] = Endpoint(listener.getsockname())
            arguments += [f"{HERE}.{path}", str(listener.fileno()), PREFIXES.get(name, "")]
        process = subprocess.Popen(
            [sys.executable, "-m", f"{HERE}.alone", *arguments], cwd=ROOT, close_fds=False
        )
    try:
        yield endpoints
    finally:
        process.terminate()
        process.wait(10)
