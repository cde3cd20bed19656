"""Starts of clusters that answer gRPC: by scripts and by commands, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

import serving
from serving import ports
from serving.cli.exit_codes import ExitCode
from serving.exceptions import ClusterError
from tests.support.control import (
    DEADLINE_S,
    command,
    descendants,
    ended,
    isolate,
    own_cluster,
    read_until,
)
from tests.support.protos import FOLDER, probe, probe_grpc

FUNCTION = "serving.v1.replica_pb2_grpc.add_ReplicaServicer_to_server"
# What a folder has that is on nobody's sys.path but of who starts a cluster there.
SERVICES = "from probe_pb2_grpc import add_ProbeServicer_to_server as add\n"
APP = """
import probe_pb2
import serving

@serving.deployment
class Hello:
    def One(self, request):
        return probe_pb2.Reply(text=f"hello {request.text}")

app = Hello.bind()
"""


def test_port_that_is_reserved_is_kept_while_nobody_listens_and_shared_with_its_user() -> None:
    with ports.reserve("127.0.0.1", 0, choose="--grpc-port") as kept:
        address = kept.getsockname()
        with pytest.raises(ports.PortInUseError, match=r"is in use .*--grpc-port"):
            ports.reserve(*address, choose="--grpc-port")
        with pytest.raises(ports.PortInUseError):
            ports.listen(address[0], address[1], 1, choose="--http-port")
        with socket.socket() as listener:  # as gRPC's servers do
            for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
                listener.setsockopt(socket.SOL_SOCKET, option, 1)
            listener.bind(address)
            listener.listen()
            for _ in range(20):
                socket.create_connection(address, timeout=1).close()
                listener.accept()[0].close()


def test_port_can_be_reserved_while_connections_of_one_before_it_linger() -> None:
    with socket.create_server(("127.0.0.1", 0)) as before:
        address = before.getsockname()
        with socket.create_connection(address, timeout=1):
            before.accept()[0].close()  # who closes first has the connection linger

    ports.reserve(*address, choose="--grpc-port").close()


def test_port_in_use_is_told_with_its_holder_and_nothing_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        options = {"port": port, "grpc_servicer_functions": [FUNCTION]}
        message = rf"port {port} on 127.0.0.1 is in use by process {os.getpid()} .*--grpc-port"
        with own_cluster(monkeypatch, tmp_path, autostart=False):
            with pytest.raises(ClusterError, match=message):
                serving.start(grpc_options=options)
            assert not [each for each in descendants(os.getpid()) if "serving." in command(each)]


@pytest.mark.parametrize(
    ("options", "http", "message"),
    [
        ({"grpc_servicer_functions": ["no.such"]}, {}, "'no.such' cannot be imported"),
        ({"grpc_servicer_functions": ["os.getcwd"]}, {}, "'os.getcwd' is no generated add_"),
        ({"grpc_servicer_functions": [FUNCTION]}, {"location": None}, "there are no proxies"),
    ],
)
def test_services_that_cannot_be_answered_are_told_and_nothing_starts(
    options: dict[str, Any],
    http: dict[str, Any],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    with own_cluster(monkeypatch, tmp_path, autostart=False):
        before = descendants(os.getpid())
        with pytest.raises(ValueError, match=message):
            serving.start(http_options=http, grpc_options=options)
        assert descendants(os.getpid()) == before


# The command line


def serve(*arguments: str, code: int = 0, cwd: Path | None = None) -> str:
    """Runs a command, and gives what it wrote."""
    done = subprocess.run(
        [sys.executable, "-m", "serving.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE_S,
        check=False,
        cwd=cwd,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a service and an application, and no cluster."""
    isolate(monkeypatch, tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(FOLDER))
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "services.py").write_text(SERVICES)
    (folder / "app.py").write_text(APP)
    return folder


def test_run_serves_the_services_of_its_folder_and_tells_the_address(
    folder: Path, tmp_path: Path
) -> None:
    arguments = ["--grpc-port", "0", "--grpc-servicer-functions", "services.add"]
    process = subprocess.Popen(
        [sys.executable, "-m", "serving.cli", "run", "app:app", "--app-dir", folder, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
    )
    with process, ended(process):
        line = read_until(process, "is ready")
        (proxy,) = (each for each in descendants(process.pid) if "serving.proxy" in command(each))
        port = json.loads(proxy.environ()["SERVING_PROXY_CONFIG"])["grpc_options"]["port"]
        assert line == f"Application 'default' is ready, gRPC at 127.0.0.1:{port}\n"
        assert call(f"127.0.0.1:{port}") == "hello you"

        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 0


def call(target: str) -> str:
    with grpc.insecure_channel(target) as channel:
        stub = probe_grpc.ProbeStub(channel)
        return str(stub.One(probe.Request(text="you"), timeout=DEADLINE_S).text)


CONFIG = """
grpc_options:
  port: 0
  grpc_servicer_functions: [services.add]
applications:
- import_path: app:app
"""


def test_cluster_of_a_file_is_told_of_other_options_and_gives_its_own_back(folder: Path) -> None:
    file = folder / "config.yaml"
    file.write_text(CONFIG)
    try:
        started = serve("start", "--config", "config.yaml", cwd=folder)
        target = serving.status().grpc_target
        assert f"gRPC: {target}\n" in started

        # The services are found where the cluster was started, whatever is deployed from where.
        elsewhere = folder / "elsewhere"
        elsewhere.mkdir()
        (folder / "app.py").rename(elsewhere / "app.py")
        deployed = serve("deploy", "../config.yaml", cwd=elsewhere)
        assert deployed == f"Application 'default' is ready, gRPC at {target}\n"
        assert call(target) == "hello you"
        file.write_text(CONFIG.replace("port: 0", "port: 0\n  max_send_message_bytes: 7"))
        assert (
            "../config.yaml:4:27: warning: grpc_options.max_send_message_bytes: is 104857600 in "
            "the running cluster, which keeps it until it ends\n"
        ) in serve("deploy", "../config.yaml", cwd=elsewhere)
        written = yaml.safe_load(serve("config"))
        assert written["grpc_options"]["grpc_servicer_functions"] == ["services.add"]
    finally:
        serve("shutdown")


def test_what_cannot_be_answered_is_a_usage_error_and_nothing_starts(folder: Path) -> None:
    functions = ("--grpc-servicer-functions", "services.no")
    said = serve("start", *functions, code=ExitCode.USAGE, cwd=folder)
    assert said.startswith("serving: grpc_servicer_functions: 'services.no' cannot be imported: ")
    assert "Traceback" not in said
    said = serve("run", "app:app", "--grpc-port", "1", code=ExitCode.USAGE, cwd=folder)
    assert said.startswith("serving: --grpc-port: there is no gRPC service to answer for; name ")

    file = folder / "config.yaml"
    file.write_text(CONFIG.replace("services.add", "services.ad"))
    said = serve("run", "config.yaml", code=ExitCode.USAGE, cwd=folder)
    assert "'services.ad' cannot be imported" in said
    place = "config.yaml:4:29: grpc_options.grpc_servicer_functions[0]: "
    said = serve("check", "config.yaml", code=ExitCode.USAGE, cwd=folder)
    assert said.startswith(f"{place}module 'services' has no attribute 'ad'")
    said = serve("check", "--import", "config.yaml", code=ExitCode.USAGE, cwd=folder)
    assert said.startswith(f"{place}'services.ad' cannot be imported: AttributeError: ")
    file.write_text(CONFIG)
    for check in (["check"], ["check", "--import"]):
        assert serve(*check, "config.yaml", cwd=folder) == "config.yaml: no mistakes\n"
    assert "no cluster runs" in serve("status", code=ExitCode.FAILED)
