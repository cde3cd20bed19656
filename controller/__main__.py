"""The controller process: `python -m serving.controller`.

Settings come as JSON in SERVING_CONTROLLER_CONFIG: `address` and `state_dir`; and, where a
supervisor starts it, `ready_fd`, `supervisor_pid`, `http_host`, `http_port`, `https`,
`admin_url`, `log`, `proxies`, `logging`, `http_options` and `grpc_options`; and, where the proxies
answer gRPC, `grpc_sys_path`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import grpc

from serving import lifeline, logs
from serving.config import LoggingConfig, NodeOptions
from serving.controller.inspection import what_is_open
from serving.controller.node import this_node
from serving.controller.packages import PackageStore
from serving.controller.publisher import Publisher
from serving.controller.reconciler import Reconciler
from serving.controller.recovery import find_replicas
from serving.controller.replica import Surroundings
from serving.controller.service import ControllerService
from serving.controller.sqlite import SQLiteStore
from serving.controller.store import StoreError
from serving.engine.local import LocalEngine
from serving.mux import server_options
from serving.v1 import controller_pb2 as pb, controller_pb2_grpc

CONFIG_VARIABLE = "SERVING_CONTROLLER_CONFIG"
STORE_FILE = "store.sqlite"
PACKAGES_FOLDER = "packages"
# How long proxies may finish what is open before the replicas are told to drain as well: requests
# that wait in a proxy still need a replica.
_PROXY_HEAD_START_S = 2.0
# The supervisor is gone: replicas end by themselves, having the same lifeline, or are made to.
_ORPHANED_GRACE_S = 0.9
_LAST_TURNS_S = 0.1
# That of a cluster in this folder that was killed just now may not have ended yet.
_PREDECESSOR_END_S = 2.0
_SERVER_OPTIONS = [
    # Those who watch ask, by the same rules as callers, whether the controller is alive.
    *server_options(),
    # Applications may be sent by value, with their arguments.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
]

log = logging.getLogger("serving.controller")


def raise_file_limit() -> None:
    """A replica takes two descriptors, of its process and of its control server, and the usual soft
    limit is 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def serve(config: dict[str, Any]) -> None:
    """Runs the controller until it is told to end."""
    loop = asyncio.get_running_loop()
    stop, orphaned = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    lifeline.watch(lambda: loop.call_soon_threadsafe(orphaned.set), kill_after_s=1.0)

    state_dir = Path(config["state_dir"])
    store = SQLiteStore(state_dir / STORE_FILE, wait_s=_PREDECESSOR_END_S)
    publisher = Publisher(store.next_epoch())
    packages = PackageStore(state_dir / PACKAGES_FOLDER)
    around = Surroundings(
        LocalEngine(),
        state_dir,
        config["address"],
        packages,
        (this_node(NodeOptions(**config.get("node_options", {}))),),
        json.dumps(config.get("logging", {})),
        _grpc_settings(config),
    )
    reconciler = Reconciler(around, store, publisher)
    found = store.load()
    # Nobody hears anything of this controller before it knows what runs.
    reconciler.recover(found, await find_replicas(around, found.replicas))
    service = ControllerService(
        reconciler,
        publisher,
        packages,
        cluster=pb.ServeStatus(
            http_host=config.get("http_host", ""),
            http_port=config.get("http_port", 0),
            https=config.get("https", False),
            admin_url=config.get("admin_url", ""),
            controller_pid=os.getpid(),
            log=config.get("log", ""),
            grpc_host=config["grpc_options"]["host"] if "grpc_sys_path" in config else "",
            grpc_port=config["grpc_options"]["port"] if "grpc_sys_path" in config else 0,
            options_json=json.dumps(
                {
                    "http_options": config.get("http_options", {}),
                    "grpc_options": config.get("grpc_options", {}),
                    "logging_config": config.get("logging", {}),
                }
            ),
        ),
        proxies=config.get("proxies", []),
        on_shutdown=lambda: _request_end(config.get("supervisor_pid"), stop),
    )
    server = grpc.aio.server(options=_SERVER_OPTIONS)
    controller_pb2_grpc.add_ControllerServicer_to_server(service, server)
    server.add_insecure_port(config["address"])
    settling = asyncio.create_task(publisher.settle_tickets(), name="settle tickets")
    await server.start()
    _say(config.get("ready_fd"), {"ready": True})

    loop_task = asyncio.create_task(reconciler.run(), name="reconcile")
    sweeping = asyncio.create_task(
        packages.keep_swept(reconciler.registry.packages_in_use), name="sweep packages"
    )
    try:
        await _first(asyncio.shield(loop_task), stop.wait(), orphaned.wait())
        if not loop_task.done():
            service.is_shutting_down = True
            sweeping.cancel()  # what comes back needs its packages
            proxies = set(config.get("proxies", []))
            if not orphaned.is_set():
                await _first(_end_in_order(reconciler, publisher, proxies), orphaned.wait())
            if orphaned.is_set():
                # The cluster was killed: what is wanted stays in the store, for the next one.
                loop_task.cancel()
                await _first(reconciler.all_ended(), asyncio.sleep(_ORPHANED_GRACE_S))
    finally:
        # Unless it was told to end, what runs goes on: the next controller takes it over.
        if service.is_shutting_down:
            reconciler.kill()
        loop_task.cancel()
        sweeping.cancel()
        settling.cancel()
        await server.stop(0.1)
        await _others_ended(_LAST_TURNS_S)
        store.close()


def _grpc_settings(config: dict[str, Any]) -> pb.GrpcSettings | None:
    """What replicas need to answer gRPC; None where the proxies do not."""
    if "grpc_sys_path" not in config:
        return None
    options = config["grpc_options"]
    return pb.GrpcSettings(
        servicer_functions=options["grpc_servicer_functions"],
        sys_path=config["grpc_sys_path"],
        max_receive_message_bytes=options["max_receive_message_bytes"],
        max_send_message_bytes=options["max_send_message_bytes"],
    )


def _request_end(supervisor_pid: int | None, stop: asyncio.Event) -> None:
    """Ends the cluster: by the supervisor, who ends the proxies first, where there is one."""
    if supervisor_pid is not None and os.getppid() == supervisor_pid:
        os.kill(supervisor_pid, signal.SIGTERM)
    else:
        stop.set()


async def _end_in_order(reconciler: Reconciler, publisher: Publisher, proxies: set[str]) -> None:
    """Lets the proxies finish, then the replicas."""
    began = time.monotonic()
    if open_requests := await what_is_open(reconciler.registry.replicas.values()):
        log.warning("%s", open_requests)
    await publisher.unwatched(proxies, timeout_s=_PROXY_HEAD_START_S)
    await reconciler.shut_down(spent_s=time.monotonic() - began)


async def _first(*awaitables: Any) -> None:
    """Returns when the first of them does, raising what it raises; cancels the rest."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()


async def _others_ended(timeout_s: float) -> None:
    """Lets tasks end by themselves: gRPC prints a traceback for each of its that is cancelled."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=timeout_s)


def _say(ready_fd: int | None, line: dict[str, Any]) -> None:
    """Tells the supervisor, once."""
    if ready_fd is not None:
        os.write(ready_fd, json.dumps(line).encode() + b"\n")
        os.close(ready_fd)


def main() -> None:
    config = json.loads(os.environ.pop(CONFIG_VARIABLE))
    raise_file_limit()
    logs.configure("controller", LoggingConfig(**config.get("logging", {})))
    try:
        asyncio.run(serve(config))
    except StoreError as error:
        log.error("%s", error)
        _say(config.get("ready_fd"), {"error": str(error)})
        sys.exit(1)
    except Exception:
        log.exception("the controller failed; what runs goes on until it is back")
        logging.shutdown()
        # Not through the interpreter's end: asyncio would kill every child, which are replicas.
        os._exit(1)


if __name__ == "__main__":
    main()
