"""The proxy's gRPC server with real clients, before replicas in memory: what it relays, what it
refuses, what a client that leaves puts an end to."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from serving.mux import ResetCode, StreamReset
from serving.proxy import grpc_server
from serving.rpc import methods
from serving.v1 import api_pb2, api_pb2_grpc
from tests.support import protos
from tests.support.front import DEADLINE_S, Front, ReplicaCall, front, until

KINDS = ["UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream"]
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]


def channel(running: Front) -> Any:
    return grpc.aio.insecure_channel(running.address, options=UNLIMITED)


def start(connection: Any, kind: str, *messages: bytes, **options: Any) -> Any:
    """A call of one of the four kinds, begun. A client that streams does not half-close unless all
    of its messages are given."""
    make = {
        "UnaryUnary": connection.unary_unary,
        "UnaryStream": connection.unary_stream,
        "StreamUnary": connection.stream_unary,
        "StreamStream": connection.stream_stream,
    }[kind](f"/test.Echo/{kind}")
    if kind.startswith("Unary"):
        return make(messages[0] if messages else b"", **options)
    return make(stream_of(*messages) if messages else None, **options)


async def stream_of(*messages: bytes) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


async def failure(call: Any) -> tuple[grpc.StatusCode, str]:
    """How a call ends, which it must not do well."""
    async with asyncio.timeout(DEADLINE_S):
        return await call.code(), await call.details()


class Held:
    """A handler that keeps its calls open, and what came of them."""

    def __init__(self, begin: Callable[[ReplicaCall], Any] | None = None) -> None:
        self.calls: list[ReplicaCall] = []
        self._begin = begin

    async def __call__(self, call: ReplicaCall) -> None:
        self.calls.append(call)
        if self._begin is not None:
            await self._begin(call)
        await call.ended_early.wait()

    def resets(self) -> list[int]:
        errors = [call.stream.error for call in self.calls]
        return [error.code for error in errors if isinstance(error, StreamReset)]


async def count(call: ReplicaCall) -> None:
    """Answers with the number of the messages and of their bytes, in one or in two."""
    sizes = []
    while (message := await call.message()) is not None:
        sizes.append(len(message))
    if call.request.method.endswith("Stream"):
        for size in sizes:
            await call.answer(b"%d" % size)
        call.end(trailing_metadata=[b"own", b"trailer"])
    else:
        call.end(message=b"%d %d" % (len(sizes), sum(sizes)))


@pytest.mark.parametrize("size", [0, 5, 48 * 1024 + 1, 3_000_000])
async def test_request_of_any_size_arrives_whole(size: int) -> None:
    async with front(count) as running, channel(running) as connection:
        assert await start(connection, "UnaryUnary", bytes(size)) == b"1 %d" % size
        many = start(connection, "StreamStream", bytes(size), b"x")
        assert [message async for message in many] == [b"%d" % size, b"1"]
        assert ("own", "trailer") in tuple(await many.trailing_metadata())


async def test_half_close_without_a_message_arrives() -> None:
    async with front(count) as running, channel(running) as connection:
        call = connection.stream_unary("/test.Echo/StreamUnary")()
        await call.done_writing()
        assert await call == b"0 0"


async def test_answer_of_any_size_arrives_whole() -> None:
    async def large(call: ReplicaCall) -> None:
        await call.answer(b"a" * 3_000_000)
        call.end()

    async with front(large) as running, channel(running) as connection:
        assert len(await start(connection, "UnaryUnary")) == 3_000_000
        chunks = [len(message) async for message in start(connection, "UnaryStream")]
        assert chunks == [3_000_000]


@pytest.mark.parametrize("kind", KINDS)
async def test_call_that_failed_before_its_answer_is_made_again_by_a_policy_of_the_client(
    kind: str,
) -> None:
    """Clients do so only where nothing, no empty message either, came before the status."""
    ends: Iterator[dict[str, Any]] = iter([{"code": 14}, {"message": b"now"}])
    policy = {
        "maxAttempts": 2,
        "initialBackoff": "0.01s",
        "maxBackoff": "0.01s",
        "backoffMultiplier": 1,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    config = {"methodConfig": [{"name": [{"service": "test.Echo"}], "retryPolicy": policy}]}

    async def second_time(call: ReplicaCall) -> None:
        call.end(**next(ends))

    options = [*UNLIMITED, ("grpc.service_config", json.dumps(config))]
    async with (
        front(second_time) as running,
        grpc.aio.insecure_channel(running.address, options=options) as connection,
    ):
        call = start(connection, kind, b"x", timeout=DEADLINE_S)
        answer = [part async for part in call] if kind.endswith("Stream") else [await call]

        assert answer == [b"now"]
        first, second = await running.logged()
        assert (" UNAVAILABLE " in first, " OK " in second) == (True, True)


# Leaving.


@pytest.mark.parametrize("kind", KINDS)
async def test_client_that_cancels_resets_the_stream(kind: str) -> None:
    held = Held()
    async with front(held) as running, channel(running) as connection:
        call = start(connection, kind)
        await until(lambda: held.calls)
        call.cancel()
        await until(held.resets)
        assert held.resets() == [ResetCode.CANCEL]
        await until(lambda: not running.inflight)
        (line,) = await running.logged()
        assert f" gRPC /test.Echo/{kind} CANCELLED " in line


@pytest.mark.parametrize("kind", KINDS)
async def test_client_that_cancels_leaves_the_queue(kind: str) -> None:
    held = Held()
    async with front(held, capacity=1) as running, channel(running) as connection:
        first = start(connection, "UnaryUnary")
        await until(lambda: held.calls)
        queued = start(connection, kind)
        await until(lambda: running.inflight == 2)
        queued.cancel()
        await until(lambda: running.inflight == 1)
        first.cancel()
        await until(lambda: not running.inflight)
        assert len(held.calls) == 1


async def test_client_that_cancels_while_a_write_waits_for_it_resets_the_stream() -> None:
    sent = 0

    async def flood(call: ReplicaCall) -> None:
        nonlocal sent
        while not call.ended_early.is_set():
            await call.answer(bytes(50_000))
            sent += 50_000

    held = Held(flood)
    async with front(held) as running, channel(running) as connection:
        call = start(connection, "UnaryStream")
        await call.read()
        before = -1
        while before != sent:  # nobody reads: sooner or later it stands
            before = sent
            await asyncio.sleep(0.2)
        assert sent < 10_000_000
        call.cancel()
        await until(held.resets)
        assert held.resets() == [ResetCode.CANCEL]
        await until(lambda: not running.inflight)


async def test_client_stops_where_the_handler_does_not_read() -> None:
    held = Held()
    written = 0
    async with front(held) as running, channel(running) as connection:
        call = start(connection, "StreamUnary")

        async def write() -> None:
            nonlocal written
            while True:
                await call.write(bytes(50_000))
                written += 50_000

        writing = asyncio.ensure_future(write())
        before = -1
        while before != written:
            before = written
            await asyncio.sleep(0.2)
        assert 1_000_000 <= written < 10_000_000
        writing.cancel()
        call.cancel()
        await until(held.resets)


async def test_answer_before_the_end_of_the_requests_ends_the_call() -> None:
    async def early(call: ReplicaCall) -> None:
        await call.message()
        call.end(code=9, details="enough")

    async with front(early) as running, channel(running) as connection:
        call = connection.stream_stream("/test.Echo/StreamStream")()
        await call.write(b"first")
        assert await failure(call) == (grpc.StatusCode.FAILED_PRECONDITION, "enough")


# Time.


@pytest.mark.parametrize("kind", KINDS)
async def test_time_of_the_proxy_is_over(kind: str) -> None:
    held = Held()
    async with (
        front(held, request_timeout_s=0.2) as running,
        channel(running) as connection,
    ):
        code, details = await failure(start(connection, kind, timeout=DEADLINE_S))
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "request_timeout_s" in details
        assert len(held.resets()) == 1
        assert 0 < held.calls[0].stream.timeout_us <= 200_000
        (line,) = await running.logged()
        assert " DEADLINE_EXCEEDED " in line


async def test_time_is_over_while_a_write_waits_for_the_client() -> None:
    async def flood(call: ReplicaCall) -> None:
        while not call.ended_early.is_set():
            await call.answer(bytes(50_000))

    held = Held(flood)
    async with (
        front(held, request_timeout_s=0.5) as running,
        channel(running) as connection,
    ):
        call = start(connection, "UnaryStream")
        assert await call.read() == bytes(50_000)
        await until(held.resets)
        await until(lambda: not running.inflight)

        async def read_on() -> None:
            while await call.read() is not grpc.aio.EOF:
                pass

        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await read_on()
        assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_time_of_the_client_travels_along() -> None:
    held = Held()
    async with (
        front(held, request_timeout_s=60) as running,
        channel(running) as connection,
    ):
        code, _ = await failure(start(connection, "UnaryUnary", timeout=0.3))
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert 0 < held.calls[0].stream.timeout_us <= 300_000
        await until(lambda: not running.inflight)
        (line,) = await running.logged()
        assert " DEADLINE_EXCEEDED " in line


# Limits.


@pytest.mark.parametrize("kind", KINDS)
async def test_too_large_request_is_refused_with_both_sizes(kind: str) -> None:
    held = Held()
    async with (
        front(held, max_receive_message_bytes=1000) as running,
        channel(running) as connection,
    ):
        code, details = await failure(start(connection, kind, bytes(1001)))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "1001 vs. 1000" in details
        await until(lambda: not running.inflight)


# Who is asked for.


@pytest.mark.parametrize(
    ("applications", "metadata", "code", "details"),
    [
        ((), (), grpc.StatusCode.UNAVAILABLE, "no application is deployed yet"),
        (
            ("a", "b"),
            (),
            grpc.StatusCode.NOT_FOUND,
            "the call names no application (metadata 'application'); there are 'a', 'b'",
        ),
        (
            ("a",),
            (("application", "c"),),
            grpc.StatusCode.NOT_FOUND,
            "there is no application 'c' (metadata 'application'); there are 'a'",
        ),
    ],
    ids=["none", "several", "unknown"],
)
async def test_call_without_an_application(
    applications: tuple[str, ...],
    metadata: tuple[tuple[str, str], ...],
    code: grpc.StatusCode,
    details: str,
) -> None:
    async with front(count, applications=applications) as running, channel(running) as connection:
        call = start(connection, "UnaryUnary", metadata=(*metadata, ("request_id", "my-id")))
        assert await failure(call) == (code, details)
        assert tuple(await call.trailing_metadata()) == (("request_id", "my-id"),)


@pytest.mark.parametrize("sent", ["", "two words", "x" * 129])
async def test_request_id_that_is_not_fit_for_one_is_replaced(sent: str) -> None:
    async with front(count) as running, channel(running) as connection:
        call = start(connection, "UnaryUnary", metadata=(("request_id", sent),))
        await call
        ((_, found),) = tuple(await call.trailing_metadata())
        assert len(found) == 32


async def test_method_that_nobody_added_is_unimplemented() -> None:
    async with front(count) as running, channel(running) as connection:
        call = connection.unary_unary("/test.Echo/Nothing")(b"")
        code, details = await failure(call)
        assert code is grpc.StatusCode.UNIMPLEMENTED
        assert "'/test.Echo/Nothing'" in details
        assert "test.Echo" in details.partition("services are")[2]
        (line,) = await running.logged()
        assert " - - gRPC /test.Echo/Nothing UNIMPLEMENTED " in line


# TLS.


@pytest.mark.parametrize("mutual", [False, True], ids=["server", "both"])
async def test_tls(tmp_path: Path, mutual: bool) -> None:
    key, certificate = make_certificate(tmp_path)
    options: dict[str, Any] = {"ssl_keyfile": str(key), "ssl_certfile": str(certificate)}
    if mutual:
        options["ssl_ca_certs"] = str(certificate)
    async with front(count, **options) as running:
        target = f"localhost:{running.server.port}"
        root = certificate.read_bytes()
        anonymous = grpc.ssl_channel_credentials(root)
        known = grpc.ssl_channel_credentials(root, key.read_bytes(), root)
        async with grpc.aio.secure_channel(target, known) as connection:
            assert await start(connection, "UnaryUnary", b"abc") == b"1 3"
        async with grpc.aio.secure_channel(target, anonymous) as connection:
            call = start(connection, "UnaryUnary", b"abc")
            if mutual:
                assert (await failure(call))[0] is grpc.StatusCode.UNAVAILABLE
            else:
                assert await call == b"1 3"


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A key, and a certificate of it for localhost that it has signed itself."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-noenc", "-days", "2"]
        + ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        + ["-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )
    return key, certificate


# What is built in.

CHECK = health_pb2.HealthCheckRequest
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


async def test_health_follows_the_applications() -> None:
    async with front(count) as running, channel(running) as connection:
        health = health_pb2_grpc.HealthStub(connection)
        assert (await health.Check(CHECK())).status == SERVING
        assert (await health.Check(CHECK(service="app"))).status == SERVING
        assert (await failure(health.Check(CHECK(service="b"))))[0] is grpc.StatusCode.NOT_FOUND
        watch = health.Watch(CHECK(service="b"))
        assert (await watch.read()).status == SERVICE_UNKNOWN
        running.serve("app", "b")
        assert (await watch.read()).status == SERVING
        listed = await health.List(health_pb2.HealthListRequest())
        assert set(listed.statuses) == {"", "app", "b"}
        running.serve("app")
        assert (await watch.read()).status == SERVICE_UNKNOWN
        watch.cancel()


async def test_health_of_a_proxy_that_drains() -> None:
    async with front(count) as running, channel(running) as connection:
        health = health_pb2_grpc.HealthStub(connection)
        watch = health.Watch(CHECK(service="app"))
        assert (await watch.read()).status == SERVING
        running.proxy.draining = True
        running.server.notice()
        assert (await watch.read()).status == NOT_SERVING
        assert await watch.read() is grpc.aio.EOF
        assert (await health.Check(CHECK())).status == NOT_SERVING
        healthz = api_pb2_grpc.ServingAPIStub(connection).Healthz(api_pb2.HealthzRequest())
        assert await failure(healthz) == (grpc.StatusCode.UNAVAILABLE, "draining")


async def test_serving_api_tells_of_the_applications() -> None:
    async with front(count, applications=("b", "a")) as running, channel(running) as connection:
        stub = api_pb2_grpc.ServingAPIStub(connection)
        listed = await stub.ListApplications(api_pb2.ListApplicationsRequest())
        assert list(listed.application_names) == ["a", "b"]
        assert (await stub.Healthz(api_pb2.HealthzRequest())).message == "success"


async def test_reflection_tells_of_services_and_their_messages() -> None:
    services = methods.describe(methods.load(protos.FUNCTIONS))

    def ask(address: str) -> tuple[set[str], list[str]]:
        with grpc.insecure_channel(address) as connection:
            database = ProtoReflectionDescriptorDatabase(connection)
            pool = descriptor_pool.DescriptorPool(database)
            service = pool.FindServiceByName("probe.Probe")
            own = pool.FindServiceByName("serving.v1.ServingAPI")
            return set(database.get_services()), [
                service.methods_by_name["One"].input_type.full_name,
                own.methods_by_name["Healthz"].output_type.full_name,
            ]

    async with front(count, services=services) as running:
        names, types = await asyncio.to_thread(ask, running.address)
    assert names >= {"probe.Probe", "probe.Other", "grpc.health.v1.Health", methods.SERVING_API}
    assert types == ["probe.Request", "serving.v1.HealthzResponse"]


async def test_reflection_can_be_turned_off() -> None:
    async with front(count, enable_reflection=False) as running, channel(running) as connection:
        call = connection.stream_stream(f"/{methods.REFLECTION}/ServerReflectionInfo")()
        await call.done_writing()
        assert (await failure(call))[0] is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    "function",
    [
        "grpc_health.v1.health_pb2_grpc.add_HealthServicer_to_server",
        "serving.v1.api_pb2_grpc.add_ServingAPIServicer_to_server",
    ],
)
def test_service_that_is_built_in_cannot_be_added(function: str) -> None:
    with pytest.raises(ValueError, match="which is built in: remove it"):
        methods.load([function])


# The end.


async def test_call_that_is_open_when_the_server_stops_is_finished() -> None:
    may_end = asyncio.Event()

    async def slow(call: ReplicaCall) -> None:
        await may_end.wait()
        call.end(message=b"done")

    async with front(slow) as running, channel(running) as connection:
        call = start(connection, "UnaryUnary")
        await until(lambda: running.inflight)
        stopping = asyncio.ensure_future(running.server.stop(DEADLINE_S))
        may_end.set()
        assert await call == b"done"
        await stopping


async def test_call_is_cut_at_the_end_of_the_grace() -> None:
    held = Held()
    async with front(held) as running, channel(running) as connection:
        call = start(connection, "StreamStream")
        await until(lambda: held.calls)
        await running.server.stop(0.2)
        assert (await failure(call))[0] in (
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.CANCELLED,
        )
        await until(lambda: not running.inflight)


async def test_client_moves_to_the_next_proxy_without_the_loss_of_a_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grpc_server, "MAX_CONNECTION_AGE_S", 1.0)
    served = []

    def by(name: str) -> Callable[[ReplicaCall], Any]:
        async def answer(call: ReplicaCall) -> None:
            served.append(name)
            call.end(message=name.encode())

        return answer

    async with front(by("old")) as old, channel(old) as connection:
        assert await start(connection, "UnaryUnary") == b"old"
        old.server.stop_listening()  # first: it knows its sockets in this process by their port
        async with front(by("new"), port=old.server.port):
            async with asyncio.timeout(DEADLINE_S):
                while await start(connection, "UnaryUnary") != b"new":
                    pass
            await old.server.stop(0)
            assert await start(connection, "UnaryUnary") == b"new"
    assert served.index("new") == served.count("old")
