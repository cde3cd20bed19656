"""Large gRPC messages, and streams of which one end is slow."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.integration.apps import grpc_probe
from tests.support.cluster import Cluster
from tests.support.control import until
from tests.support.gate import Gate
from tests.support.processes import memory, settled, the_proxy, the_replica
from tests.support.protos import failed, probe, probe_grpc, to
from tests.support.record import Record

GRPC_OPTIONS: dict[str, Any] = {}
TIMEOUT_S = 40.0
KiB, MiB, MB = 1024, 1024 * 1024, 1_000_000
LIMIT = 100 * MiB
"""What messages may have where nobody has said otherwise."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("flow")


@pytest.fixture(scope="module")
def gate(folder: Path) -> Gate:
    gate = Gate(folder / "gate")
    gate.path.touch()
    return gate


@pytest.fixture(scope="module")
def record(folder: Path) -> Record:
    return Record(folder / "record")


@pytest.fixture(scope="module", autouse=True)
def applications(cluster: Cluster, gate: Gate, record: Record) -> Iterator[None]:
    flow = grpc_probe.Flow.bind(gate, record)
    with cluster.running_for_grpc(kinds=grpc_probe.Coroutines.bind(), flow=flow):
        yield


# Large messages.


@pytest.mark.alone
@pytest.mark.parametrize("kind", ["One", "Chat"])
def test_message_of_100_mb_comes_back(stub: Any, kind: str) -> None:
    payload = bytes(range(256)) * (100 * MB // 256)
    request = probe.Request(payload=payload, count=1)
    given = request if kind == "One" else iter([request])
    answer = getattr(stub, kind)(given, metadata=to("kinds"), timeout=TIMEOUT_S)
    reply = answer if kind == "One" else next(answer)

    assert reply.payload == payload


@pytest.mark.parametrize("kind", ["One", "Many", "Gather", "Chat"])
def test_request_beyond_the_limit_is_exhausted_and_the_limit_named(stub: Any, kind: str) -> None:
    request = probe.Request(payload=bytes(LIMIT + 1), count=1)
    given = request if kind in ("One", "Many") else iter([request])

    failure = failure_of(getattr(stub, kind), given)

    assert failure.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(LIMIT) in failure.details()


@pytest.mark.parametrize("kind", ["One", "Many", "Gather", "Chat"])
def test_reply_beyond_the_limit_is_exhausted_and_the_limit_named(stub: Any, kind: str) -> None:
    half = probe.Request(payload=bytes(LIMIT // 2 + 1), count=1)
    request = probe.Request(size=LIMIT + 1, count=1)
    given = {"One": request, "Many": request, "Gather": iter([half] * 2), "Chat": iter([request])}

    failure = failure_of(getattr(stub, kind), given[kind])

    assert failure.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "max_send_message_bytes" in failure.details()
    assert str(LIMIT) in failure.details()


def failure_of(method: Any, given: Any) -> Any:
    """How a call of the application "kinds" failed."""

    def call() -> None:
        answer = method(given, metadata=to("kinds"), timeout=TIMEOUT_S)
        if isinstance(answer, Iterator):
            list(answer)

    return failed(call)


# Slow readers.


@pytest.mark.alone
async def test_handler_that_reads_nothing_holds_back_the_client(
    aio_stub: Any, gate: Gate, record: Record
) -> None:
    processes = the_proxy(), the_replica("flow")
    before = [memory(process) for process in processes]
    call = aio_stub.Gather(metadata=to("flow"))
    block = probe.Request(text="stuck", payload=bytes(64 * KiB))
    with gate.closed() as open_gate:
        await call.write(block)
        await asyncio.to_thread(record.wait_for, "reads stuck")
        sent = [1]

        async def send() -> None:
            while True:
                await call.write(block)
                sent[0] += 1

        sending = asyncio.create_task(send())
        await asyncio.to_thread(settled, lambda: sent[0], calls=20)
        stuck_at = sent[0]
        grown = [memory(process) - was for process, was in zip(processes, before, strict=True)]
        await others_are_served(aio_stub)
        open_gate()
        await asyncio.to_thread(until, lambda: sent[0] > 2 * stuck_at)

    sending.cancel()  # and with it the call
    await asyncio.gather(sending, return_exceptions=True)
    assert stuck_at * 64 * KiB < 32 * MiB  # gRPC's own windows grow on a fast link
    assert max(grown) < 32 * MiB
    assert await call.code() is grpc.StatusCode.CANCELLED


@pytest.mark.alone
async def test_client_that_reads_nothing_holds_back_the_generator(
    cluster: Cluster, aio_stub: Any, record: Record
) -> None:
    processes = the_proxy(), the_replica("flow")
    before = [memory(process) for process in processes]
    call = aio_stub.Many(probe.Request(text="unread", size=64 * KiB), metadata=to("flow"))
    await call.read()

    stuck_at = await asyncio.to_thread(settled, lambda: made(cluster), calls=20)
    grown = [memory(process) - was for process, was in zip(processes, before, strict=True)]
    await others_are_served(aio_stub)
    while await asyncio.to_thread(made, cluster) < 2 * stuck_at:
        await call.read()
    call.cancel()

    assert 0 < stuck_at * 64 * KiB < 32 * MiB
    assert max(grown) < 32 * MiB
    await asyncio.to_thread(record.wait_for, "closed unread", within_s=1)


def made(cluster: Cluster) -> int:
    """The replies that the generator has made."""
    with grpc.insecure_channel(cluster.grpc_target) as channel:
        stub = probe_grpc.ProbeStub(channel)
        return int(stub.One(probe.Request(), metadata=to("flow"), timeout=TIMEOUT_S).number)


async def others_are_served(stub: Any) -> None:
    """Calls on the same channel, of the same and of another application."""
    for application in ("flow", "kinds"):
        for _ in range(20):
            await stub.One(probe.Request(), metadata=to(application), timeout=2)
