"""Finding a cluster, and starting one: the parent's side of the supervisor."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from serving import lifeline
from serving.config import HTTPOptions, LoggingConfig
from serving.exceptions import ClusterError
from serving.supervisor import CLUSTER_FILE, CONFIG_VARIABLE

ADDRESS_VARIABLE = "SERVING_ADDRESS"
STATE_DIR_VARIABLE = "SERVING_STATE_DIR"
_START_TIMEOUT_S = 90.0


def state_dir() -> Path:
    """The folder of the user's own cluster, the one that `serving start` starts."""
    if chosen := os.environ.get(STATE_DIR_VARIABLE):
        return Path(chosen).absolute()
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(runtime) / "serving"
    return Path(tempfile.gettempdir()) / f"serving-{os.getuid()}"


def find() -> str | None:
    """The address of the controller that SERVING_ADDRESS or the state folder names, if any.

    Raises ClusterError where SERVING_ADDRESS names one that is not there.
    """
    if address := os.environ.get(ADDRESS_VARIABLE):
        if address.startswith("/"):
            address = f"unix:{address}/controller.sock"
        if address.startswith("unix:") and not _answers(address):
            raise ClusterError(f"no cluster at {address}, which {ADDRESS_VARIABLE} names")
        return address
    try:
        cluster = json.loads((state_dir() / CLUSTER_FILE).read_bytes())
    except (OSError, ValueError):
        return None
    address = str(cluster["controller"])
    return address if _answers(address) else None


def _answers(address: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(address.removeprefix("unix:"))
        except OSError:
            return False
    return True


class OwnCluster:
    """A cluster that this process started, and that ends with it."""

    def __init__(self, http_options: HTTPOptions, logging_config: LoggingConfig) -> None:
        """Starts the supervisor; `wait_for_controller` and `wait_until_ready` wait for the rest."""
        self.address = ""
        self._lifeline_read, self._lifeline_write = os.pipe()
        os.register_at_fork(after_in_child=self._forget_in_child)
        self._lines, write = os.pipe()
        self._buffer = b""
        config = {
            "http_options": http_options.model_dump(mode="json"),
            "logging": logging_config.model_dump(mode="json"),
            "ready_fd": write,
        }
        try:
            self._supervisor = _start_supervisor(config, write, self._lifeline_read)
        finally:
            os.close(write)
            os.close(self._lifeline_read)

    def _forget_in_child(self) -> None:
        # A forked child that kept it would keep the cluster alive after us.
        with contextlib.suppress(OSError):
            os.close(self._lifeline_write)

    def wait_for_controller(self) -> None:
        """Returns once the controller answers. Raises ClusterError where it cannot start."""
        if not self.address:
            self.address = self._next_line()["controller"]

    def wait_until_ready(self) -> None:
        """Returns once the proxies serve. Raises ClusterError where they cannot."""
        self.wait_for_controller()
        if self._lines >= 0:
            self._next_line()
            os.close(self._lines)
            self._lines = -1

    def _next_line(self) -> dict[str, Any]:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._lines], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                self.stop()
                raise ClusterError(f"the cluster was not ready within {_START_TIMEOUT_S:.0f} s")
            chunk = os.read(self._lines, 65536)
            if not chunk:
                code = self._supervisor.wait()
                raise ClusterError(f"the supervisor ended with code {code} before it was ready")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        if error := message.get("error"):
            self._supervisor.wait()
            raise ClusterError(error)
        return message

    @property
    def is_running(self) -> bool:
        return self._supervisor.poll() is None

    def wait_for_end(self) -> int:
        """Returns the supervisor's exit code once the cluster ended."""
        return self._supervisor.wait()

    def stop(self) -> None:
        """Ends the cluster, letting requests finish; an interrupt meanwhile ends it at once."""
        try:
            self._signal()
            self._supervisor.wait()
        except KeyboardInterrupt:
            self._signal()
            self._supervisor.wait()
            raise
        finally:
            with contextlib.suppress(OSError):
                os.close(self._lifeline_write)

    def _signal(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._supervisor.send_signal(signal.SIGTERM)


def _start_supervisor(
    config: dict[str, Any], ready_fd: int, lifeline_fd: int | None
) -> subprocess.Popen[bytes]:
    fds = [ready_fd] if lifeline_fd is None else [ready_fd, lifeline_fd]
    env = {**os.environ, CONFIG_VARIABLE: json.dumps(config)}
    env.pop(lifeline.FD_VARIABLE, None)
    if lifeline_fd is not None:
        env[lifeline.FD_VARIABLE] = str(lifeline_fd)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "serving.supervisor"],
        env=env,
        pass_fds=fds,
        stdin=subprocess.DEVNULL,
        # A session of its own: Ctrl-C in the terminal reaches the script, which ends the rest.
        start_new_session=True,
    )
