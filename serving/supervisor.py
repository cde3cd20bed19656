"""The supervisor process: `python -m serving.supervisor`.

It owns what must outlive a crash of the others: the HTTP sockets, the port of gRPC, the state
folder and the write end of the lifeline. It starts the controller and the proxies, restarts one
that dies (a proxy's connections meanwhile wait in the socket's backlog, and a controller's replicas
serve on), and ends everything in order. Replicas that a dead controller leaves become its children,
to be reaped.

Only the standard library is imported here: this process is the first thing that `serving.run`
waits for, and stays for as long as the cluster does.

Settings come as JSON in SERVING_SUPERVISOR_CONFIG: `http_options`, `logging` and `node_options`
(see `serving.config`), `grpc_options`, and, where gRPC is to be answered, `grpc_services_fd` (a
file that holds the serialized GrpcServices, for the proxies) and `grpc_sys_path` (for replicas);
`admin` (absent: no REST API), `state_dir` (absent: a private temporary folder, removed in the end),
`log` (where its output goes, for others to know) and `ready_fd`. On that descriptor it writes a
line of JSON once the controller answers, {"controller": address}, and one once the proxies
serve, {"ready": true, …} — or {"error": "…"}.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import json
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from serving import lifeline, ports
from serving.children import Children, StartError, only_line, until_ready, wait_for_end
from serving.engine.base import Process

CONFIG_VARIABLE = "SERVING_SUPERVISOR_CONFIG"
CLUSTER_FILE = "cluster.json"
LOCK_FILE = "lock"

# A Unix socket's path is limited to 108 bytes (104 on macOS); ours add at most 22.
_MAX_STATE_DIR_LENGTH = 80
# Proxies with nothing open end within this time.
_QUICK_END_S = 0.3
# The owner is gone: nobody waits for answers. Everything is to be gone within 2 s.
_ORPHANED_GRACE_S = 1.2
_STABLE_AFTER_S = 10.0
_MAX_RESTART_DELAY_S = 5.0
# How to choose another port than one that is taken.
_CHOOSE_HTTP = "--http-port, SERVING_HTTP_PORT or http_options={'port': …}"
_CHOOSE_GRPC = "--grpc-port or grpc_options={'port': …}"
_CHOOSE_ADMIN = "--admin-port, SERVING_ADMIN_PORT or admin_options={'port': …}"

log = logging.getLogger("serving.supervisor")


class Supervisor:
    """One cluster on this machine, from its sockets to its last process."""

    def __init__(self, config: dict[str, Any]) -> None:
        # Settings
        self._http: dict[str, Any] = config["http_options"]
        self._grpc: dict[str, Any] = config.get("grpc_options", {})
        self._grpc_services_fd: int | None = config.get("grpc_services_fd")
        self._grpc_sys_path: list[str] = config.get("grpc_sys_path", [])
        self._logging: dict[str, Any] = config["logging"]
        self._admin: dict[str, Any] | None = config.get("admin")
        self._log: str = config.get("log", "")
        self._node: dict[str, Any] = config.get("node_options", {})
        self._ready_fd: int | None = config.get("ready_fd")
        self._temporary = "state_dir" not in config
        self.state_dir = Path(config.get("state_dir") or _temporary_folder())

        # What it holds for the others
        self._lock_fd = -1
        self._sockets: list[socket.socket] = []
        # The proxies listen there by themselves; this keeps it theirs while none does.
        self._grpc_port: socket.socket | None = None
        self._admin_sockets: list[socket.socket] = []
        self._lifeline_read, self._lifeline_write = os.pipe()

        # Processes
        self._children = Children(self._lifeline_read)
        self._controller: Process | None = None
        self._proxies: dict[int, Process] = {}
        # By process number: what tells that a proxy takes no more connections, and the end of those
        # that do not.
        self._farewells: dict[int, asyncio.Future[bytes]] = {}
        self._leaving: dict[Process, asyncio.Future[int | None]] = {}
        self._admin_process: Process | None = None

        # Why there is no REST API though it was asked for
        self._admin_problem = ""

        # Why to end
        self._stop = asyncio.Event()
        self._orphaned = False
        self._signals = 0
        self._failed = False

    @property
    def controller_address(self) -> str:
        return f"unix:{self.state_dir}/controller.sock"

    # Life

    async def run(self) -> int:
        """Runs the cluster until it is told to end; returns the exit code."""
        try:
            async with asyncio.TaskGroup() as tasks:
                try:
                    self._prepare()
                    announcing = self._start(tasks)
                    await self._stop.wait()
                    announcing.cancel()
                finally:
                    await self._end()
        except* (StartError, OSError) as group:
            self._note_start_failure(group)
        finally:
            self._clean_up()
        return 1 if self._failed else 0

    def _note_start_failure(self, group: BaseExceptionGroup[StartError | OSError]) -> None:
        if self._signals or self._orphaned:
            return  # told to end while it started
        self._failed = True
        message = "; ".join(_text(error) for error in group.exceptions)
        self._tell({"error": message})
        if self._ready_fd is None:
            log.error("the cluster cannot start: %s", message)

    def _prepare(self) -> None:
        self._watch_for_the_end()
        self.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock()
        count = 0 if self._http.get("location") == "Disabled" else self._http["num_proxies"]
        if count:
            self._sockets = ports.listen(
                self._http["host"], self._http["port"], count, choose=_CHOOSE_HTTP
            )
            self._http["port"] = self._sockets[0].getsockname()[1]
        else:
            self._http["port"] = 0
        if self._grpc_services_fd is not None:
            self._grpc_port = ports.reserve(
                self._grpc["host"], self._grpc["port"], choose=_CHOOSE_GRPC
            )
            self._grpc["port"] = self._grpc_port.getsockname()[1]
        if self._admin is not None:
            self._listen_for_admin(self._admin)

    def _listen_for_admin(self, admin: dict[str, Any]) -> None:
        """Applications are served without it, too: where it cannot listen, that is told."""
        try:
            self._admin_sockets = ports.listen(
                admin["host"], admin["port"], 1, choose=_CHOOSE_ADMIN
            )
        except OSError as error:
            self._admin_problem = f"no REST API: {_text(error)}"
            log.warning("%s", self._admin_problem)
        else:
            admin["port"] = self._admin_sockets[0].getsockname()[1]

    @property
    def _admin_url(self) -> str:
        if self._admin is None or not self._admin_sockets:
            return ""
        host = self._admin["host"]
        return f"http://{f'[{host}]' if ':' in host else host}:{self._admin['port']}"

    def _watch_for_the_end(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        self._children.adopt_orphans()
        lifeline.watch(lambda: loop.call_soon_threadsafe(self._on_owner_gone), kill_after_s=1.6)

    def _on_signal(self) -> None:
        self._signals += 1
        self._stop.set()
        if self._signals > 1:
            log.warning("told to end again: killing what is left")
            self._cut_lifeline()
            self._kill_all()

    def _on_owner_gone(self) -> None:
        self._orphaned = True
        self._stop.set()

    def _lock(self) -> None:
        if len(os.fsencode(self.state_dir)) > _MAX_STATE_DIR_LENGTH:
            raise StartError(
                f"the state folder's path is longer than {_MAX_STATE_DIR_LENGTH} bytes, too long "
                f"for Unix sockets: {self.state_dir}; set SERVING_STATE_DIR to a shorter one"
            )
        if self.state_dir.stat().st_uid != os.getuid():
            raise StartError(f"the state folder {self.state_dir} belongs to another user")
        self.state_dir.chmod(0o700)
        self._lock_fd = os.open(self.state_dir / LOCK_FILE, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartError(f"a cluster runs in {self.state_dir} already") from None

    # Starting

    def _start(self, tasks: asyncio.TaskGroup) -> asyncio.Task[None]:
        """Starts everything at once; returns the task that tells when it is ready."""
        controller = asyncio.Event()
        proxies = [asyncio.Event() for _ in self._sockets]
        tasks.create_task(
            self._keep("the controller", self._start_controller, controller), name="controller"
        )
        for index, ready in enumerate(proxies):
            name = f"proxy-{index}"
            start = functools.partial(self._start_proxy, index)
            tasks.create_task(self._keep(name, start, ready), name=name)
        ready = asyncio.Event()
        if self._admin_sockets:
            tasks.create_task(self._keep_admin(ready), name="admin")
        return tasks.create_task(self._announce(controller, proxies, ready), name="announce")

    async def _keep_admin(self, ready: asyncio.Event) -> None:
        """Its start is not waited for, and does not slow that of the others down."""
        stopping = asyncio.ensure_future(self._stop.wait())
        is_ready = asyncio.ensure_future(ready.wait())
        await asyncio.wait((stopping, is_ready), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        is_ready.cancel()
        await self._keep("the REST API", self._start_admin, ready)

    async def _announce(
        self, controller: asyncio.Event, proxies: list[asyncio.Event], ready: asyncio.Event
    ) -> None:
        await controller.wait()
        self._tell({"controller": self.controller_address})
        for proxy in proxies:
            await proxy.wait()
        self._publish()
        ready.set()

    async def _keep(
        self, name: str, start: Callable[[], Awaitable[Process]], ready: asyncio.Event
    ) -> None:
        """Runs a process, and runs it again whenever it ends. Raises StartError where its first
        start fails."""
        failures = 0
        left: Process | None = None
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                process = await start()
                ready.set()
                if left in self._leaving:
                    os.kill(left.pid, signal.SIGUSR1)  # Another listens where it did.
                left = process if await self._is_leaving(process) else None
                if left is not None:
                    log.info("%s takes no more connections: starting another", name)
                    failures = 0
                    continue
                problem = f"{name} ended with code {await process.wait()}"
                self._children.forget(process)
            except StartError as error:
                # One that is told to end while it starts fails so, too: raised, that would break
                # off the end of the others.
                if not (ready.is_set() or self._stop.is_set()):
                    raise
                problem = str(error)
            if self._stop.is_set():
                return
            log.warning("%s: starting it again", problem)
            failures = 0 if time.monotonic() - started > _STABLE_AFTER_S else failures + 1
            if failures > 1:
                await self._pause(min(0.1 * 2 ** (failures - 2), _MAX_RESTART_DELAY_S))

    async def _is_leaving(self, process: Process) -> bool:
        """Waits for a proxy to end, or to be about to. It may take its time for that, and others
        must not wait for it. Of other processes nothing is to be waited for here."""
        farewell = self._farewells.get(process.pid)
        if farewell is None:
            return False
        ended = asyncio.ensure_future(process.wait())
        await asyncio.wait((farewell, ended), return_when=asyncio.FIRST_COMPLETED)
        del self._farewells[process.pid]
        if ended.done() or farewell.cancelled() or not farewell.result():
            farewell.cancel()
            await ended
            return False

        def forget(_: object) -> None:
            del self._leaving[process]
            self._children.forget(process)

        self._leaving[process] = ended
        ended.add_done_callback(forget)
        return True

    async def _hang_up(self) -> None:
        """Proxies that end need not wait for others that take over."""
        farewells = list(self._farewells.values())
        for farewell in farewells:
            farewell.cancel()
        if farewells:
            await asyncio.wait(farewells)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    async def _start_controller(self) -> Process:
        settings = {
            "address": self.controller_address,
            "state_dir": str(self.state_dir),
            "supervisor_pid": os.getpid(),
            "http_host": self._http["host"],
            "http_port": self._http["port"],
            "https": self._http["ssl_certfile"] is not None,
            "admin_url": self._admin_url,
            "log": self._logging["logs_dir"] or self._log,
            "http_options": self._http,
            "grpc_options": self._grpc,
            "proxies": [f"proxy-{index}" for index in range(len(self._sockets))],
            "logging": self._logging,
            "node_options": self._node,
        }
        if self._grpc_port is not None:
            settings["grpc_sys_path"] = self._grpc_sys_path
        process, told = await self._children.start(
            "serving.controller", "SERVING_CONTROLLER_CONFIG", settings
        )
        self._controller = process
        await until_ready("the controller", process, told)
        return process

    async def _start_proxy(self, index: int) -> Process:
        fds = [self._sockets[index].fileno()]
        settings = {
            "name": f"proxy-{index}",
            "controller_address": self.controller_address,
            "socket_fd": fds[0],
            "http_options": self._http,
            "logging": self._logging,
        }
        if self._grpc_services_fd is not None:
            # All share its offset: they read with pread(2).
            fds.append(self._grpc_services_fd)
            settings |= {"grpc_options": self._grpc, "grpc_services_fd": self._grpc_services_fd}
        process, told = await self._children.start(
            "serving.proxy", "SERVING_PROXY_CONFIG", settings, *fds
        )
        self._proxies[index] = process
        farewell = os.dup(told)
        try:
            await until_ready(f"proxy-{index}", process, told)
        except BaseException:
            os.close(farewell)
            raise
        self._farewells[process.pid] = asyncio.ensure_future(only_line(farewell))
        return process

    async def _start_admin(self) -> Process:
        assert self._admin is not None
        fd = self._admin_sockets[0].fileno()
        settings = {
            "controller_address": self.controller_address,
            "state_dir": str(self.state_dir),
            "socket_fd": fd,
            "admin": self._admin,
            "http_options": self._http,
            "grpc_options": self._grpc,
            "logging": self._logging,
        }
        process, told = await self._children.start(
            "serving.admin", "SERVING_ADMIN_CONFIG", settings, fd
        )
        self._admin_process = process
        await until_ready("the REST API", process, told)
        return process

    def _publish(self) -> None:
        """Lets others find the cluster, and tells those who wait that it is ready."""
        cluster = {
            "pid": os.getpid(),
            "controller": self.controller_address,
            "http_host": self._http["host"],
            "http_port": self._http["port"],
            "admin_url": self._admin_url,
            "admin_problem": self._admin_problem,
            "log": self._logging["logs_dir"] or self._log,
        }
        draft = self.state_dir / f"{CLUSTER_FILE}.new"
        draft.write_text(json.dumps(cluster))
        draft.replace(self.state_dir / CLUSTER_FILE)
        self._tell({"ready": True, "state_dir": str(self.state_dir), **cluster}, last=True)
        _notify_manager()

    def _tell(self, line: dict[str, Any], *, last: bool = False) -> None:
        if self._ready_fd is None:
            return
        with contextlib.suppress(OSError):  # nobody listens any more
            os.write(self._ready_fd, json.dumps(line).encode() + b"\n")
        if last:
            os.close(self._ready_fd)
            self._ready_fd = None

    # Ending

    async def _end(self) -> None:
        """Ends the processes: proxies first, then replicas with the controller, then what is left.

        1. Proxies, and the REST API, stop accepting and finish what is open.
        2. The controller says what is open, drains the replicas and ends.
        3. Proxies whose last requests ended with the replicas end; the rest is killed.

        Where nobody waits for answers, cutting the lifeline tells all of them at once.
        """
        in_order = self._signals and not self._orphaned and not self._failed
        self._stop.set()
        proxies = self._fronts
        await self._hang_up()
        if not in_order:
            self._cut_lifeline()
            everyone = [*proxies, self._controller] if self._controller else proxies
            await wait_for_end(everyone, _ORPHANED_GRACE_S)
        else:
            for process in proxies:
                process.terminate()
            await wait_for_end(proxies, _QUICK_END_S)
            if self._controller:
                self._controller.terminate()
                # The controller bounds this itself by the deployments' graceful_shutdown_timeout_s.
                await self._controller.wait()
            await wait_for_end(proxies, 1.0)
        self._cut_lifeline()
        self._kill_all()

    def _cut_lifeline(self) -> None:
        if self._lifeline_write >= 0:
            os.close(self._lifeline_write)
            self._lifeline_write = -1

    def _kill_all(self) -> None:
        for process in [*self._fronts, *([self._controller] if self._controller else [])]:
            process.kill()

    @property
    def _fronts(self) -> list[Process]:
        """What clients talk to: these end first."""
        admin = [self._admin_process] if self._admin_process else []
        return [*self._proxies.values(), *self._leaving, *admin]

    def _clean_up(self) -> None:
        for listening in (*self._sockets, *self._admin_sockets):
            listening.close()
        if self._grpc_port is not None:
            self._grpc_port.close()
        if self._temporary:
            shutil.rmtree(self.state_dir, ignore_errors=True)
        elif self._lock_fd >= 0:
            (self.state_dir / CLUSTER_FILE).unlink(missing_ok=True)


def _notify_manager() -> None:
    """Tells systemd, or who else speaks sd_notify(3), that the service is up."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        if address.startswith("@"):
            address = f"\0{address[1:]}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifying:
            try:
                notifying.sendto(b"READY=1", address)
            except OSError as error:
                log.warning("NOTIFY_SOCKET cannot be told: %s", _text(error))


def _temporary_folder() -> str:
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) > _MAX_STATE_DIR_LENGTH - len("/serving-12345678"):
        folder = "/tmp"
    return tempfile.mkdtemp(prefix="serving-", dir=folder)


def _text(error: BaseException) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def main() -> None:
    config = json.loads(os.environ.pop(CONFIG_VARIABLE))
    logging.basicConfig(
        level=config["logging"]["log_level"],
        format="%(levelname)s %(asctime)s supervisor -- %(message)s",
    )

    async def supervise() -> int:
        return await Supervisor(config).run()

    sys.exit(asyncio.run(supervise()))


if __name__ == "__main__":
    main()
