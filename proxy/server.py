"""The life of a proxy process: uvicorn on a socket that was bound for it, and a gRPC server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import uvicorn

from serving.aio import Tasks, settle_gc
from serving.config import HTTPOptions, LoggingConfig, gRPCOptions
from serving.logs import configure
from serving.proxy.access_log import AccessLog
from serving.proxy.app import Proxy
from serving.proxy.errors import ResponseBroken
from serving.proxy.grpc_server import LEFT_S, GrpcServer, read_services
from serving.proxy.protocol import ProxyProtocol
from serving.routing.watch import watch
from serving.v1.controller_pb2 import WatchUpdate

FIRST_SNAPSHOT_TIMEOUT_S = 30.0
DRAIN_TIMEOUT_S = 30.0
LINGER_S = 30.0
"""For this long clients of a proxy that is replaced may send a last request."""


@dataclass(frozen=True)
class ProxyConfig:
    """What the supervisor tells a proxy, in the environment variable SERVING_PROXY_CONFIG."""

    name: str
    controller_address: str
    socket_fd: int
    ready_fd: int
    http_options: HTTPOptions
    logging: LoggingConfig
    grpc_options: gRPCOptions | None = None
    """None: no gRPC."""
    grpc_services_fd: int = -1
    """A file with the serialized GrpcServices."""

    @classmethod
    def from_environment(cls) -> ProxyConfig:
        """Reads it."""
        raw = json.loads(os.environ["SERVING_PROXY_CONFIG"])
        return cls(
            **{key: raw[key] for key in ("name", "controller_address", "socket_fd", "ready_fd")},
            http_options=HTTPOptions.model_validate(raw["http_options"]),
            logging=LoggingConfig.model_validate(raw.get("logging", {})),
            **_grpc(raw),
        )


def _grpc(raw: dict[str, Any]) -> dict[str, Any]:
    if "grpc_services_fd" not in raw:
        return {}
    options = gRPCOptions.model_validate(raw["grpc_options"])
    return {"grpc_options": options, "grpc_services_fd": raw["grpc_services_fd"]}


class _Server(uvicorn.Server):
    """uvicorn, saying when it serves and when it begins to stop.

    Told to end, it lets another proxy take over: that accepts the connections from then on, and
    those that there are have time for one more request, whose response tells the client that it is
    the last. So a client of a kept connection never sends a request into its end. gRPC's clients
    are let go once the other one listens, which SIGUSR1 says. Where the supervisor does not listen
    any more, the whole cluster ends, and there is nothing to wait for.
    """

    def __init__(
        self, config: uvicorn.Config, proxy: Proxy, grpc: GrpcServer | None, supervisor_fd: int
    ) -> None:
        super().__init__(config)
        self._proxy = proxy
        self._grpc = grpc
        self._supervisor_fd = supervisor_fd
        # Nobody has a last request to send, or may send it any more.
        self._may_end = asyncio.Event()
        self._is_replaced = asyncio.Event()
        self._grpc_left = grpc is None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._grpc is not None:
            await self._grpc.start()
        settle_gc()
        os.write(self._supervisor_fd, b'{"ready": true}\n')

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM begins the shutdown; SIGUSR1 says that another proxy listens. (uvicorn's own way
        raises SIGTERM anew in the end, which kills the process before it has closed what it
        holds.)"""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._on_sigterm)
        loop.add_signal_handler(signal.SIGUSR1, self._is_replaced.set)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGTERM)
            loop.remove_signal_handler(signal.SIGUSR1)

    def _on_sigterm(self) -> None:
        if self.should_exit:
            self._may_end.set()
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._proxy.draining = True
        if self._grpc is not None:
            self._grpc.notice()
        try:
            os.write(self._supervisor_fd, b'{"leaving": true}\n')
        except BrokenPipeError:
            pass  # the cluster ends
        else:
            await self._let_leave()
        async with asyncio.TaskGroup() as ending:
            ending.create_task(super().shutdown(sockets))
            if self._grpc is not None:
                ending.create_task(self._grpc.stop(DRAIN_TIMEOUT_S))

    async def _let_leave(self) -> None:
        for server in self.servers:
            server.close()
        await asyncio.sleep(0)  # for those that were accepted just now
        for connection in list(self.server_state.connections):
            if isinstance(connection, ProxyProtocol):
                connection.leave(self._note_left)
        leaving = Tasks()
        leaving.start(self._let_grpc_leave(), name="leave gRPC")
        try:
            async with asyncio.timeout(LINGER_S):
                await self._may_end.wait()
        except TimeoutError:
            pass
        finally:
            await leaving.aclose()

    async def _let_grpc_leave(self) -> None:
        if self._grpc is not None:
            await self._is_replaced.wait()
            self._grpc.stop_listening()
            await asyncio.sleep(LEFT_S)
            self._grpc_left = True
        self._note_left()

    def _note_left(self) -> None:
        connections = self.server_state.connections
        kept = any(isinstance(connection, ProxyProtocol) for connection in connections)
        if self._grpc_left and not kept:
            self._may_end.set()


async def serve(config: ProxyConfig) -> None:
    """Serves until SIGTERM: then open requests are finished, and it returns. A second SIGTERM ends
    the time that kept connections have for a last request."""
    stream = configure(config.name, config.logging)
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    access_log = None
    if config.logging.enable_access_log:
        as_json = config.logging.encoding == "JSON"
        access_log = AccessLog(stream, component=config.name, as_json=as_json)
    proxy = Proxy(config.http_options, access_log, grpc_options=config.grpc_options)
    grpc = None
    if config.grpc_options is not None:
        services = read_services(config.grpc_services_fd)
        grpc = GrpcServer(proxy, config.grpc_options, services)
    tasks = Tasks()
    synced = asyncio.Event()

    async def apply(update: WatchUpdate) -> None:
        proxy.directory.apply(update)
        await proxy.directory.settled()
        if grpc is not None:
            grpc.notice()
        synced.set()

    try:
        reporter = proxy.directory.reporter
        tasks.start(watch(config.controller_address, config.name, apply, reporter), name="watch")
        await asyncio.wait_for(synced.wait(), FIRST_SNAPSHOT_TIMEOUT_S)
        settings = _uvicorn_config(proxy, config.http_options)
        server = _Server(settings, proxy, grpc, config.ready_fd)
        await server.serve(sockets=[socket.socket(fileno=config.socket_fd)])
    finally:
        await proxy.aclose()
        await tasks.aclose()


def _uvicorn_config(proxy: Proxy, options: HTTPOptions) -> uvicorn.Config:
    return uvicorn.Config(
        proxy,
        http=ProxyProtocol,
        lifespan="off",
        log_config=None,
        access_log=False,
        root_path=options.root_path,
        timeout_keep_alive=options.keep_alive_timeout_s,  # type: ignore[arg-type]
        timeout_graceful_shutdown=int(DRAIN_TIMEOUT_S),
        ssl_certfile=options.ssl_certfile,
        ssl_keyfile=options.ssl_keyfile,
    )


def _is_news(record: logging.LogRecord) -> bool:
    """Drops what uvicorn says of responses that were broken off, and of WebSockets that were
    refused, on purpose."""
    error: Any = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, ResponseBroken) or "completing handshake" in str(record.msg))
