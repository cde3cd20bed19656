"""The services of `tests/protos`, compiled as users compile theirs.

Whoever imports this first compiles them into a temporary folder, which goes on `sys.path`: from
there the cluster that is started next has it, and every replica. A process that was started with
another `sys.path` needs `FOLDER` in its PYTHONPATH.
"""

from __future__ import annotations

import atexit
import importlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

SOURCES = Path(__file__).parents[1] / "protos"
FUNCTIONS = [
    "probe_pb2_grpc.add_ProbeServicer_to_server",
    "probe_pb2_grpc.add_OtherServicer_to_server",
]
"""For `gRPCOptions.grpc_servicer_functions`."""

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
"""Options of a client's channel that leave the limits to the server."""
Metadata = tuple[tuple[str, str | bytes], ...]


def to(application: str, *others: tuple[str, str | bytes], **ours: str) -> Metadata:
    """The metadata of a call of this application, with others and with those that we know."""
    return ("application", application), *ours.items(), *others


def failed(call: Callable[[], Any]) -> Any:
    """How a call failed, once it has."""
    with pytest.raises(grpc.RpcError) as failure:
        call()
    return failure.value


def _folder() -> Path:
    """That of the compiled modules: in a replica, the one that the test has made."""
    if (spec := importlib.util.find_spec("probe_pb2")) is not None and spec.origin is not None:
        return Path(spec.origin).parent
    folder = Path(tempfile.mkdtemp(prefix="serving-test-protos-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _compile(folder)
    sys.path.append(str(folder))
    return folder


def _compile(folder: Path) -> None:
    protos = [path.name for path in sorted(SOURCES.glob("*.proto"))]
    to = [f"--python_out={folder}", f"--grpc_python_out={folder}"]
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{SOURCES}", *to, *protos], check=True
    )


FOLDER = _folder()
probe: Any = importlib.import_module("probe_pb2")
"""The messages of `probe.proto`."""
parts: Any = importlib.import_module("probe_parts_pb2")
"""Those of `probe_parts.proto`."""
probe_grpc: Any = importlib.import_module("probe_pb2_grpc")
"""Its stubs."""
