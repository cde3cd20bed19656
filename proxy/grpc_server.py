"""The proxy's gRPC server: users' services, the built-in ones, and its life."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from serving.aio import Tasks
from serving.config import gRPCOptions
from serving.proxy.app import Proxy
from serving.proxy.grpc import GrpcExchange
from serving.proxy.grpc_builtin import Handlers, Health, built_in
from serving.v1.grpc_pb2 import GrpcMethod, GrpcServices

logger = logging.getLogger("serving.proxy")

MAX_CONNECTION_AGE_S = 20.0
"""After this time, give or take a tenth, a connection is told to take no more calls (GOAWAY). Those
that it has go on, for as long as they take, and the client opens another for the next. So a proxy
that listens no more is left without the loss of a call: a server that stops breaks off those that
arrive before its clients have heard of it."""
LEFT_S = MAX_CONNECTION_AGE_S * 1.1 + 1.0
MIN_PING_INTERVAL_MS = 500
"""A client may ping as often; one that does so more often is told to go away."""
KEEPALIVE_MS = 60_000
"""After this time without a word from a client it is asked whether it is still there."""
KEEPALIVE_TIMEOUT_MS = 20_000
CRASH_NOTICE_S = 0.1
"""After this time at the latest it is noticed that grpc.aio's server has given up."""
FOREVER_S = 1e9


class GrpcServer:
    """A proxy's gRPC server. Listens from :meth:`start` to :meth:`stop`."""

    def __init__(self, proxy: Proxy, options: gRPCOptions, services: GrpcServices) -> None:
        self.port = 0
        """Where it listens."""
        self._options = options
        self._health = Health(proxy)
        handlers = {method.name: _handler(proxy, method) for method in services.methods}
        handlers |= built_in(proxy, self._health, services if options.enable_reflection else None)
        self._services = _Services(proxy, handlers)
        self._server: grpc.aio.Server | None = None
        # Those that take no more calls, and still have some.
        self._crashed: set[grpc.aio.Server] = set()
        self._tasks = Tasks()
        self._watching: asyncio.Task[None] | None = None
        logging.getLogger("grpc._cython.cygrpc").addFilter(_is_news)

    async def start(self) -> None:
        """Listens, and serves. Raises RuntimeError where it cannot listen."""
        await self._listen()
        self._watching = self._tasks.start(self._watch(), name="watch over gRPC")

    async def _listen(self) -> None:
        host = self._options.host
        address = f"{f'[{host}]' if ':' in host else host}:{self.port or self._options.port}"
        credentials = _credentials(self._options)
        server = grpc.aio.server(options=_server_options(self._options))
        server.add_generic_rpc_handlers((self._services,))
        if credentials is None:
            self.port = server.add_insecure_port(address)
        else:
            self.port = server.add_secure_port(address, credentials)
        await server.start()
        self._server = server

    async def _watch(self) -> None:
        """Puts another server in the place of one that has given up. A single request whose path
        is not UTF-8 makes grpc.aio's do so: it takes no more calls, and those it has go on."""
        while (server := self._server) is not None:
            try:
                if not await server.wait_for_termination(CRASH_NOTICE_S):
                    return
            except Exception as error:
                logger.error("gRPC server gave up, another takes its place: %s", error)
                self._tasks.start(self._bury(server), name="calls of a gRPC server that gave up")
                await self._listen()

    async def _bury(self, server: grpc.aio.Server) -> None:
        self._crashed.add(server)
        await server.stop(FOREVER_S)
        self._crashed.discard(server)

    def notice(self) -> None:
        """What the proxy knows of applications, or whether it drains, has changed."""
        self._health.notice()

    def stop_listening(self) -> None:
        """Takes no more connections. Clients have left those that there are after ``LEFT_S``, but
        for calls that are open."""
        if self._watching is not None:
            self._watching.cancel()
        # The server has no way to do so but to stop: its socket is taken from under it.
        for fd in os.listdir("/dev/fd"):
            with contextlib.suppress(OSError), _socket(int(fd)) as found:
                if found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) and (
                    found.getsockname()[1:2] == (self.port,)
                ):
                    found.shutdown(socket.SHUT_RDWR)

    async def stop(self, grace_s: float) -> None:
        """Takes no more calls, waits for those that are open, and cuts them off after
        ``grace_s``."""
        await self._tasks.aclose()
        if self._server is not None:
            servers = (self._server, *self._crashed)
            await asyncio.gather(*(server.stop(grace_s) for server in servers))


def _is_news(record: logging.LogRecord) -> bool:
    """Drops the two tracebacks that grpc writes for each value of metadata that is not UTF-8: any
    client can send one, which is then read as Latin-1."""
    return not str(record.msg).startswith("Invalid encoding on ")


def read_services(fd: int) -> GrpcServices:
    """What the supervisor's file says, which other proxies read, too."""
    return GrpcServices.FromString(os.pread(fd, os.fstat(fd).st_size, 0))


@contextlib.contextmanager
def _socket(fd: int) -> Iterator[socket.socket]:
    """The socket behind a descriptor of another owner. Raises OSError where it is none."""
    copy = os.dup(fd)
    try:
        found = socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise
    with found:
        yield found


class _Services(grpc.GenericRpcHandler):
    """Finds who answers an RPC."""

    def __init__(self, proxy: Proxy, handlers: Handlers) -> None:
        self._proxy = proxy
        self._handlers = handlers
        self._names = sorted({name.split("/")[1] for name in handlers})

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        return self._handlers.get(details.method) or self._unimplemented(details.method)

    def _unimplemented(self, name: str) -> grpc.RpcMethodHandler[Any, Any]:
        served = ", ".join(self._names)
        text = f"no method {name!r} is served here; the services are {served}"

        async def refuse(_: object, context: Any) -> None:
            exchange = GrpcExchange(self._proxy, GrpcMethod(name=name), context)
            await exchange.refuse(grpc.StatusCode.UNIMPLEMENTED, text)

        return grpc.stream_stream_rpc_method_handler(refuse)


def _handler(proxy: Proxy, method: GrpcMethod) -> grpc.RpcMethodHandler[Any, Any]:
    """Passes a method's calls on. No (de)serializers: messages stay bytes."""

    async def with_message(message: bytes, context: Any) -> bytes:
        return await GrpcExchange(proxy, method, context).run(message)

    async def with_messages(_: object, context: Any) -> bytes:
        return await GrpcExchange(proxy, method, context).run()

    if method.request_streaming:
        if method.response_streaming:
            return grpc.stream_stream_rpc_method_handler(with_messages)
        return grpc.stream_unary_rpc_method_handler(with_messages)
    if method.response_streaming:
        return grpc.unary_stream_rpc_method_handler(with_message)
    return grpc.unary_unary_rpc_method_handler(with_message)


def _server_options(options: gRPCOptions) -> list[tuple[str, Any]]:
    return [
        ("grpc.so_reuseport", 1),
        ("grpc.max_receive_message_length", options.max_receive_message_bytes),
        # Replicas see to it, and name the option; this server would break the call off.
        ("grpc.max_send_message_length", -1),
        ("grpc.max_connection_age_ms", int(MAX_CONNECTION_AGE_S * 1000)),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
    ]


def _credentials(options: gRPCOptions) -> grpc.ServerCredentials | None:
    if options.ssl_certfile is None or options.ssl_keyfile is None:
        return None
    pair = Path(options.ssl_keyfile).read_bytes(), Path(options.ssl_certfile).read_bytes()
    authorities = options.ssl_ca_certs
    return grpc.ssl_server_credentials(
        [pair],
        Path(authorities).read_bytes() if authorities else None,
        require_client_auth=authorities is not None,
    )
