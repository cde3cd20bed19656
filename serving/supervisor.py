"""The supervisor process: `python -m serving.supervisor`.

It owns what must outlive a crash of the others: the HTTP sockets, the state folder and the write
end of the lifeline. It starts the controller and the proxies, restarts a proxy that dies (whose
connections meanwhile wait in the socket's backlog), and ends everything in order.

Only the standard library is imported here: this process is the first thing that `serving.run`
waits for, and stays for as long as the cluster does.

Settings come as JSON in SERVING_SUPERVISOR_CONFIG: `http_options` and `logging` (see
`serving.config`), `state_dir` (absent: a private temporary folder, removed in the end) and
`ready_fd`. On that descriptor it writes a line of JSON once the controller answers,
{"controller": address}, and one once the proxies serve, {"ready": true, …} — or {"error": "…"}.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from serving import lifeline, ports
from serving.engine.base import Process, ProcessSpec
from serving.engine.local import LocalEngine

CONFIG_VARIABLE = "SERVING_SUPERVISOR_CONFIG"
CLUSTER_FILE = "cluster.json"

# A Unix socket's path is limited to 108 bytes (104 on macOS); ours add at most 22.
_MAX_STATE_DIR_LENGTH = 80
_READY_TIMEOUT_S = 60.0
# How long proxies may finish what is open before the replicas are told to drain as well.
_PROXY_HEAD_START_S = 2.0
# The owner is gone: nobody waits for answers. Everything is to be gone within 2 s.
_ORPHANED_GRACE_S = 1.2
_STABLE_AFTER_S = 10.0
_MAX_RESTART_DELAY_S = 5.0

log = logging.getLogger("serving.supervisor")


class StartError(Exception):
    """The cluster cannot start; the message is for the user."""


# gRPC's news of every connection that ends are no news here. Read when grpc is imported, hence set
# by the parent; the user's own choice wins.
_QUIET = {"GRPC_VERBOSITY": "ERROR"}


class Supervisor:
    """One cluster on this machine, from its sockets to its last process."""

    def __init__(self, config: dict[str, Any]) -> None:
        # Settings
        self._http: dict[str, Any] = config["http_options"]
        self._logging: dict[str, Any] = config["logging"]
        self._ready_fd: int | None = config.get("ready_fd")
        self._temporary = "state_dir" not in config
        self.state_dir = Path(config.get("state_dir") or _temporary_folder())

        # What it holds for the others
        self._lock_fd = -1
        self._sockets: list[socket.socket] = []
        self._lifeline_read, self._lifeline_write = os.pipe()

        # Processes
        self._engine = LocalEngine()
        self._controller: Process | None = None
        self._proxies: dict[int, Process] = {}

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
                    keepers = await self._start(tasks)
                    await self._stop.wait()
                    for keeper in keepers:
                        keeper.cancel()
                finally:
                    await self._end()
        except* (StartError, OSError) as group:
            self._note_start_failure(group)
        finally:
            self._clean_up()
        return 1 if self._failed else 0

    def _note_start_failure(self, group: BaseExceptionGroup[StartError | OSError]) -> None:
        if self._stop.is_set() and not self._failed:
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
            self._sockets = ports.listen(self._http["host"], self._http["port"], count)
            self._http["port"] = self._sockets[0].getsockname()[1]
        else:
            self._http["port"] = 0

    def _watch_for_the_end(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
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
        self._lock_fd = os.open(self.state_dir / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartError(f"a cluster runs in {self.state_dir} already") from None

    # Starting

    async def _start(self, tasks: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Starts everything at once and returns when all is ready."""
        ready = [asyncio.get_running_loop().create_future() for _ in self._sockets]
        keepers = [
            tasks.create_task(self._keep_proxy(index, ready[index]), name=f"proxy-{index}")
            for index in range(len(self._sockets))
        ]
        controller = await self._start_controller(tasks)
        try:
            await _unless(self._stop, controller)
            self._tell({"controller": self.controller_address})
            for proxy in ready:
                await _unless(self._stop, proxy)
        except BaseException:
            for keeper in keepers:
                keeper.cancel()
            raise
        if not self._stop.is_set():
            self._publish()
        return keepers

    async def _start_controller(self, tasks: asyncio.TaskGroup) -> asyncio.Task[None]:
        """Starts the controller; returns the task that ends when it is ready."""
        settings = {
            "address": self.controller_address,
            "state_dir": str(self.state_dir),
            "supervisor_pid": os.getpid(),
            "http_host": self._http["host"],
            "http_port": self._http["port"],
            "proxies": [f"proxy-{index}" for index in range(len(self._sockets))],
            "logging": self._logging,
        }
        async with self._child("serving.controller", "SERVING_CONTROLLER_CONFIG", settings) as (
            process,
            ready,
        ):
            self._controller = process
        tasks.create_task(self._watch_controller(process), name="watch-controller")
        return tasks.create_task(_ready(ready, process, "the controller"), name="ready-controller")

    async def _watch_controller(self, controller: Process) -> None:
        code = await controller.wait()
        if not self._stop.is_set():
            log.error("the controller ended with code %s: ending the cluster", code)
            self._failed = True
            self._stop.set()

    async def _keep_proxy(self, index: int, first_ready: asyncio.Future[None]) -> None:
        """Runs a proxy, and runs it again whenever it ends."""
        failures = 0
        while True:
            started = time.monotonic()
            try:
                process = await self._start_proxy(index, first_ready)
                code = await process.wait()
                log.warning("proxy-%s ended with code %s: starting it again", index, code)
            except StartError as error:
                if not first_ready.done():
                    first_ready.set_exception(error)
                    return
                log.warning("%s", error)
            failures = 0 if time.monotonic() - started > _STABLE_AFTER_S else failures + 1
            if failures > 1:
                await asyncio.sleep(min(0.1 * 2 ** (failures - 2), _MAX_RESTART_DELAY_S))

    async def _start_proxy(self, index: int, first_ready: asyncio.Future[None]) -> Process:
        fd = self._sockets[index].fileno()
        settings = {
            "name": f"proxy-{index}",
            "controller_address": self.controller_address,
            "socket_fd": fd,
            "http_options": self._http,
            "logging": self._logging,
        }
        async with self._child("serving.proxy", "SERVING_PROXY_CONFIG", settings, fd) as (
            process,
            ready,
        ):
            self._proxies[index] = process
        await _ready(ready, process, f"proxy-{index}")
        if not first_ready.done():
            first_ready.set_result(None)
        return process

    @contextlib.asynccontextmanager
    async def _child(
        self, module: str, variable: str, settings: dict[str, Any], *fds: int
    ) -> AsyncIterator[tuple[Process, int]]:
        """Starts a child; yields it and the read end of its ready pipe."""
        read, write = os.pipe()
        try:
            yield (
                await self._engine.start(
                    ProcessSpec(
                        module,
                        env={
                            **_QUIET,
                            **os.environ,
                            variable: json.dumps(settings | {"ready_fd": write}),
                            lifeline.FD_VARIABLE: str(self._lifeline_read),
                        },
                        pass_fds=(self._lifeline_read, write, *fds),
                    )
                ),
                read,
            )
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)

    def _publish(self) -> None:
        """Lets others find the cluster, and tells the one who waits that it is ready."""
        cluster = {
            "pid": os.getpid(),
            "controller": self.controller_address,
            "http_host": self._http["host"],
            "http_port": self._http["port"],
        }
        draft = self.state_dir / f"{CLUSTER_FILE}.new"
        draft.write_text(json.dumps(cluster))
        draft.replace(self.state_dir / CLUSTER_FILE)
        self._tell({"ready": True, "state_dir": str(self.state_dir), **cluster}, last=True)

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

        1. Proxies stop accepting and finish what is open.
        2. The controller drains the replicas and ends.
        3. Proxies whose last requests ended with the replicas end; the rest is killed.
        """
        proxies = list(self._proxies.values())
        if self._orphaned or self._failed:
            self._cut_lifeline()
            everyone = [*proxies, self._controller] if self._controller else proxies
            await _ended(everyone, _ORPHANED_GRACE_S)
        else:
            for process in proxies:
                process.terminate()
            await _ended(proxies, _PROXY_HEAD_START_S)
            if self._controller:
                self._controller.terminate()
                # The controller bounds this itself by the deployments' graceful_shutdown_timeout_s.
                await self._controller.wait()
            await _ended(proxies, 1.0)
        self._cut_lifeline()
        self._kill_all()

    def _cut_lifeline(self) -> None:
        if self._lifeline_write >= 0:
            os.close(self._lifeline_write)
            self._lifeline_write = -1

    def _kill_all(self) -> None:
        for process in [*self._proxies.values(), *([self._controller] if self._controller else [])]:
            process.kill()

    def _clean_up(self) -> None:
        for listening in self._sockets:
            listening.close()
        if self._temporary:
            shutil.rmtree(self.state_dir, ignore_errors=True)
        elif self._lock_fd >= 0:
            (self.state_dir / CLUSTER_FILE).unlink(missing_ok=True)


async def _ready(read: int, process: Process, name: str) -> None:
    """Returns once the child says that it is ready; closes the pipe."""
    loop = asyncio.get_running_loop()
    line: asyncio.Future[bytes] = loop.create_future()
    buffer = bytearray()

    def receive() -> None:
        chunk = os.read(read, 65536)
        buffer.extend(chunk)
        if (not chunk or b"\n" in chunk) and not line.done():
            loop.remove_reader(read)
            line.set_result(bytes(buffer))

    loop.add_reader(read, receive)
    try:
        async with asyncio.timeout(_READY_TIMEOUT_S):
            message = await line
            if not message.endswith(b"\n"):
                code = await process.wait()
                raise StartError(f"{name} ended with code {code} before it was ready")
    except TimeoutError:
        process.kill()
        raise StartError(f"{name} was not ready within {_READY_TIMEOUT_S:.0f} s") from None
    finally:
        loop.remove_reader(read)
        os.close(read)
    if error := json.loads(message).get("error"):
        raise StartError(f"{name} could not start: {error}")


async def _unless(stop: asyncio.Event, future: asyncio.Future[None]) -> None:
    """Waits for the future, or for the order to stop; raises what the future raises."""
    stopping = asyncio.ensure_future(stop.wait())
    waiting: list[asyncio.Future[Any]] = [future, stopping]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
    if future.done():
        future.result()


async def _ended(processes: list[Process], timeout_s: float) -> None:
    """Waits until all ended, or for `timeout_s`."""
    if processes:
        waits = [asyncio.ensure_future(process.wait()) for process in processes]
        _, pending = await asyncio.wait(waits, timeout=timeout_s)
        for wait in pending:
            wait.cancel()


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
