"""`python -m serving.admin`: the REST API's process, started by the supervisor.

It talks to the controller as any client does, so it costs the controller nothing, and neither's
death is the other's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import uvicorn

from serving import cluster, lifeline, logs
from serving.admin.app import API
from serving.admin.deploys import Deploys
from serving.admin.guard import Guard, kept_token
from serving.config import ADMIN_TOKEN_VARIABLE, AdminOptions, LoggingConfig
from serving.mux import channel_options
from serving.v1.controller_pb2_grpc import ControllerStub

LIFELINE_GRACE_S = 1.0
_END_TIMEOUT_S = 1
_MAX_REQUESTS = 64


class _Server(uvicorn.Server):
    """uvicorn, saying when it serves."""

    def __init__(self, config: uvicorn.Config, ready_fd: int) -> None:
        super().__init__(config)
        self._ready_fd = ready_fd

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        os.write(self._ready_fd, b'{"ready": true}\n')
        os.close(self._ready_fd)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM begins the end; uvicorn's own way would raise it anew after it."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.handle_exit, signal.SIGTERM, None)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGTERM)


async def serve(config: dict[str, Any]) -> None:
    """Serves until SIGTERM."""
    options = AdminOptions.model_validate(config["admin"])
    folder = Path(config["state_dir"])
    token = os.environ.get(ADMIN_TOKEN_VARIABLE, "")
    if not token and not options.is_loopback:
        token = kept_token(folder / cluster.ADMIN_TOKEN_FILE)
    address = config["controller_address"]
    async with grpc.aio.insecure_channel(address, options=channel_options()) as channel:
        api = API(
            ControllerStub(channel),
            config["http_options"],
            config["grpc_options"],
            Deploys(address),
        )
        server = _Server(
            uvicorn.Config(
                Guard(api.app(), token),
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                limit_concurrency=_MAX_REQUESTS,
                timeout_graceful_shutdown=_END_TIMEOUT_S,
            ),
            config["ready_fd"],
        )
        await server.serve(sockets=[socket.socket(fileno=config["socket_fd"])])


def main() -> None:
    config = json.loads(os.environ.pop("SERVING_ADMIN_CONFIG"))
    logs.configure("admin", LoggingConfig.model_validate(config["logging"]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The terminal's Ctrl-C is the owner's.
    lifeline.watch(lambda: os.kill(os.getpid(), signal.SIGTERM), kill_after_s=LIFELINE_GRACE_S)
    asyncio.run(serve(config))


if __name__ == "__main__":
    main()
