"""Finding a cluster, and starting one: the parent's side of the supervisor."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from serving import lifeline, progress
from serving.config import (
    ADDRESS_VARIABLE,
    AdminOptions,
    HTTPOptions,
    LoggingConfig,
    NodeOptions,
    gRPCOptions,
)
from serving.exceptions import ClusterError
from serving.supervisor import CLUSTER_FILE, CONFIG_VARIABLE, LOCK_FILE

STATE_DIR_VARIABLE = "SERVING_STATE_DIR"
ADMIN_TOKEN_FILE = "admin.token"
LOG_FILE = "serving.log"
NO_CLUSTER = (
    "no cluster runs: `serving start` starts one; one that a script or `serving run` started is "
    "private to that"
)
_START_TIMEOUT_S = 90.0
# Where nothing is open a cluster ends within this time.
_QUICK_END_S = 0.8
_KILL_TIMEOUT_S = 1.5
# A wait of the main thread lasts no longer, so that it hears of signals.
_HEAR_SIGNALS_S = 0.5


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
        if not runs(address):
            raise ClusterError(f"no cluster at {address}, which {ADDRESS_VARIABLE} names")
        return address
    try:
        cluster = json.loads((state_dir() / CLUSTER_FILE).read_bytes())
    except (OSError, ValueError):
        return None
    address = str(cluster["controller"])
    return address if runs(address) else None


def log_of_last() -> Path | None:
    """Where the user's own cluster logs, or where the last one did: a file, or a folder of them.
    None where that is stderr."""
    folder = state_dir()
    try:
        named = str(json.loads((folder / CLUSTER_FILE).read_bytes()).get("log", ""))
    except (OSError, ValueError):
        named = str(folder / LOG_FILE)
    log = Path(named)
    return log if named and log.exists() else None


def wait_until_gone(address: str) -> None:
    """Returns once the supervisor of a cluster on this machine ended, which gives up its lock.

    To be called when the controller is gone: then the supervisor ends what is left within seconds.
    """
    with contextlib.suppress(FileNotFoundError), (_folder(address) / LOCK_FILE).open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)


def _folder(address: str) -> Path:
    return Path(address.removeprefix("unix:")).parent


def runs(address: str) -> bool:
    """Whether a cluster's supervisor runs, though its controller may be away and be started again;
    of one on another machine nothing is known."""
    if not address.startswith("unix:"):
        return True
    try:
        with (_folder(address) / LOCK_FILE).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


@dataclass(frozen=True)
class ClusterSettings:
    """What a cluster is started with.

    Making one imports the functions that name its gRPC services. Raises ValueError where that
    fails, where a file of TLS cannot be read, or where the options of HTTP and of gRPC contradict
    each other.
    """

    http: HTTPOptions
    logging: LoggingConfig
    # None: no REST API.
    admin: AdminOptions | None = None
    node: NodeOptions = field(default_factory=NodeOptions)
    grpc: gRPCOptions = field(default_factory=gRPCOptions)
    grpc_services: bytes = field(init=False, repr=False, default=b"")
    """A serialized GrpcServices; empty: no gRPC."""

    def __post_init__(self) -> None:
        _check_readable("http_options", self.http, "ssl_certfile", "ssl_keyfile")
        if not self.grpc.grpc_servicer_functions:
            return
        _check_grpc(self.http, self.grpc)
        _check_readable("grpc_options", self.grpc, "ssl_certfile", "ssl_keyfile", "ssl_ca_certs")
        from serving.rpc.methods import describe, load  # and with it gRPC

        services = describe(load(self.grpc.grpc_servicer_functions)).SerializeToString()
        object.__setattr__(self, "grpc_services", services)

    def as_config(self) -> dict[str, Any]:
        """As the supervisor takes it."""
        config: dict[str, Any] = {
            "http_options": self.http.model_dump(mode="json"),
            "grpc_options": self.grpc.model_dump(mode="json"),
            "logging": self.logging.model_dump(mode="json"),
            "node_options": self.node.model_dump(mode="json", exclude_none=True),
            "admin": self.admin and self.admin.model_dump(mode="json"),
        }
        if self.grpc_services:
            config["grpc_sys_path"] = [os.path.abspath(entry) for entry in sys.path]
        return config

    @contextlib.contextmanager
    def shared(self) -> Iterator[dict[str, int]]:
        """What of it goes to the supervisor by file descriptors, by their names in its config."""
        if not self.grpc_services:
            yield {}
            return
        with tempfile.TemporaryFile() as file:
            file.write(self.grpc_services)
            file.flush()
            yield {"grpc_services_fd": file.fileno()}


def _check_grpc(http: HTTPOptions, grpc: gRPCOptions) -> None:
    """Raises ValueError where proxies could not answer so."""
    if http.location == "Disabled":
        raise ValueError(
            "grpc_servicer_functions are given, and there are no proxies to answer: leave "
            "proxy_location 'Disabled' out, or the functions"
        )
    if grpc.port and grpc.port == http.port:
        raise ValueError(
            f"http_options and grpc_options have the same port, {grpc.port}: give each its own"
        )


def _check_readable(name: str, options: HTTPOptions | gRPCOptions, *files: str) -> None:
    for file in files:
        if path := getattr(options, file):
            try:
                open(path, "rb").close()
            except OSError as error:
                raise ValueError(
                    f"{name}: {file} {path!r} cannot be read: {error.strerror}"
                ) from None


class OwnCluster:
    """A cluster that this process started, and that ends with it."""

    def __init__(self, settings: ClusterSettings) -> None:
        """Starts the supervisor; `wait_for_controller` and `wait_until_ready` wait for the rest."""
        self.address = ""
        lifeline_read, self._lifeline = os.pipe()
        try:
            self._start = _Start(settings, lifeline_fd=lifeline_read)
        except BaseException:
            self._cut_lifeline()
            raise
        finally:
            os.close(lifeline_read)

    def wait_for_controller(self) -> None:
        """Returns once the controller answers. Raises ClusterError where it cannot start."""
        with self._stopped_on_error():
            self.address = self.address or self._start.next_line()["controller"]

    def wait_until_ready(self) -> None:
        """Returns once the proxies serve. Raises ClusterError where they cannot."""
        self.wait_for_controller()
        if not self._start.is_complete:
            with self._stopped_on_error():
                self._start.next_line()
                self._start.close()

    @property
    def is_running(self) -> bool:
        return self._start.supervisor.poll() is None

    def wait_for_end(self, timeout_s: float | None = None) -> int | None:
        """Returns the supervisor's exit code once the cluster ended, or None after the timeout."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while deadline is None or time.monotonic() < deadline:
            # Not without a limit: a signal that gRPC's threads took, or that came just before the
            # wait, does not interrupt it, and Ctrl-C would go unheard.
            left_s = _HEAR_SIGNALS_S if deadline is None else deadline - time.monotonic()
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._start.supervisor.wait(min(_HEAR_SIGNALS_S, max(0.0, left_s)))
        return None

    def stop(self) -> None:
        """Ends the cluster, letting requests finish; an interrupt meanwhile ends it at once."""
        try:
            self._start.supervisor.terminate()
            if self.wait_for_end(_QUICK_END_S) is None:
                progress.say("Ending; press Ctrl-C to end at once")
                self.wait_for_end()
        except KeyboardInterrupt:
            self._end_at_once()
            raise
        finally:
            self.forget()

    def forget(self) -> None:
        """Lets go of it in a forked child, which else would keep the cluster alive after us."""
        self._cut_lifeline()
        self._start.close()

    def _end_at_once(self) -> None:
        supervisor = self._start.supervisor
        supervisor.terminate()  # told twice, it kills the rest
        try:
            supervisor.wait(_KILL_TIMEOUT_S)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            supervisor.kill()  # the rest loses its lifeline
            supervisor.wait()

    @contextlib.contextmanager
    def _stopped_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.stop()
            raise

    def _cut_lifeline(self) -> None:
        fd, self._lifeline = self._lifeline, -1
        if fd >= 0:
            os.close(fd)


def start_detached(settings: ClusterSettings) -> dict[str, Any]:
    """Starts the user's own cluster, which stays until `serving shutdown`; returns what it told.

    It logs to LOG_FILE in the state folder, unless `logs_dir` says otherwise.
    """
    folder = state_dir()
    log = folder / LOG_FILE
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        output = log.open("ab")
    except OSError as error:
        raise ClusterError(
            f"{error.filename} cannot be written: {error.strerror}; "
            f"{STATE_DIR_VARIABLE} names the folder of the cluster"
        ) from None
    with output:
        own = {"state_dir": str(folder), "log": str(log)}
        start = _Start(settings, own, output_fd=output.fileno())
    try:
        start.next_line()
        return start.next_line()
    finally:
        start.close()


def become(settings: ClusterSettings) -> NoReturn:
    """Makes this process the supervisor of the user's own cluster, which logs to stderr."""
    with settings.shared() as fds:
        for fd in fds.values():
            os.set_inheritable(fd, True)
        config = settings.as_config() | fds | {"state_dir": str(state_dir())}
        env = {**os.environ, CONFIG_VARIABLE: json.dumps(config)}
        env.pop(lifeline.FD_VARIABLE, None)
        os.execve(sys.executable, [sys.executable, "-P", "-m", "serving.supervisor"], env)


class _Start:
    """A supervisor that was started, and what it tells of its start."""

    def __init__(
        self,
        settings: ClusterSettings,
        config: Mapping[str, str] = {},
        *,
        lifeline_fd: int | None = None,
        output_fd: int | None = None,
    ) -> None:
        """`config` is added to that of the settings."""
        self._lines, write = os.pipe()
        self._buffer = b""
        self._deadline = time.monotonic() + _START_TIMEOUT_S
        env = dict(os.environ)
        env.pop(lifeline.FD_VARIABLE, None)
        inherited = [write]
        if lifeline_fd is not None:
            env[lifeline.FD_VARIABLE] = str(lifeline_fd)
            inherited.append(lifeline_fd)
        try:
            with settings.shared() as fds:
                told = settings.as_config() | fds | {**config, "ready_fd": write}
                self.supervisor = subprocess.Popen(
                    [sys.executable, "-P", "-m", "serving.supervisor"],
                    env=env | {CONFIG_VARIABLE: json.dumps(told)},
                    pass_fds=[*inherited, *fds.values()],
                    stdin=subprocess.DEVNULL,
                    stdout=output_fd,
                    stderr=output_fd,
                    # Its own session: Ctrl-C in the terminal reaches the script, which ends the
                    # rest.
                    start_new_session=True,
                )
        except BaseException:
            self.close()
            raise
        finally:
            os.close(write)

    @property
    def is_complete(self) -> bool:
        return self._lines < 0

    def next_line(self) -> dict[str, Any]:
        """The next message. Raises ClusterError where it is an error, or none comes."""
        while b"\n" not in self._buffer:
            left_s = max(0.0, self._deadline - time.monotonic())
            if not select.select([self._lines], [], [], min(_HEAR_SIGNALS_S, left_s))[0]:
                if left_s > 0:
                    continue
                raise ClusterError(f"the cluster was not ready within {_START_TIMEOUT_S:.0f} s")
            chunk = os.read(self._lines, 65536)
            if not chunk:
                code = self.supervisor.wait()
                raise ClusterError(f"the supervisor ended with code {code} before it was ready")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        if error := message.get("error"):
            raise ClusterError(error)
        return message

    def close(self) -> None:
        if self._lines >= 0:
            os.close(self._lines)
            self._lines = -1
