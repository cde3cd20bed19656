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
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).parents[1] / "protos"
FUNCTIONS = [
    "probe_pb2_grpc.add_ProbeServicer_to_server",
    "probe_pb2_grpc.add_OtherServicer_to_server",
]
"""For `gRPCOptions.grpc_servicer_functions`."""


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
