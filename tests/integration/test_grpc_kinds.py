"""The four kinds of gRPC call, to every form of method, by both of grpcio's clients."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.empty_pb2 import Empty

from tests.integration.apps import grpc_probe
from tests.support.cluster import Cluster
from tests.support.protos import UNLIMITED, parts, probe, probe_grpc, to

GRPC_OPTIONS: dict[str, Any] = {}
TIMEOUT_S = 20.0
KiB, MiB = 1024, 1024 * 1024
FORMS = ["coroutines", "threads", "returned"]

LABEL = parts.Label(name="label", notes={"key": "value"})
REQUESTS = [
    probe.Request(text="first", payload=b"\0\xff", count=2, size=3, label=LABEL),
    probe.Request(text="second", count=1),
]
A0, A1 = (
    probe.Reply(text="first", payload=b"\0\xff\0\0\0", number=number, label=LABEL)
    for number in range(2)
)
EXPECTED = {
    "One": [A0],
    "Many": [A0, A1],
    "Gather": [probe.Reply(text="first second", payload=b"\0\xff", number=2)],
    "Chat": [A0, A1, probe.Reply(text="second", number=2)],
}


@pytest.fixture(scope="module", autouse=True)
def applications(cluster: Cluster) -> Iterator[None]:
    with cluster.running_for_grpc(
        coroutines=grpc_probe.Coroutines.bind(),
        threads=grpc_probe.Threads.bind(),
        returned=grpc_probe.Returned.bind(),
    ):
        yield


def called(stub: Any, kind: str, requests: list[Any], application: str) -> list[Any]:
    """The replies to a call by a synchronous client."""
    argument = requests[0] if kind in ("One", "Many") else iter(requests)
    answer = getattr(stub, kind)(argument, metadata=to(application), timeout=TIMEOUT_S)
    return [answer] if kind in ("One", "Gather") else list(answer)


async def called_aio(stub: Any, kind: str, requests: list[Any], application: str) -> list[Any]:
    """The replies to a call by an asynchronous one."""
    argument = requests[0] if kind in ("One", "Many") else iter(requests)
    call = getattr(stub, kind)(argument, metadata=to(application), timeout=TIMEOUT_S)
    return [await call] if kind in ("One", "Gather") else [reply async for reply in call]


# Kinds and forms.


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", EXPECTED)
def test_call_by_a_synchronous_client_is_answered(stub: Any, kind: str, form: str) -> None:
    assert called(stub, kind, REQUESTS, form) == EXPECTED[kind]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", EXPECTED)
async def test_call_by_an_asynchronous_client_is_answered(
    aio_stub: Any, kind: str, form: str
) -> None:
    assert await called_aio(aio_stub, kind, REQUESTS, form) == EXPECTED[kind]


@pytest.mark.parametrize("form", FORMS)
def test_streams_may_be_empty(stub: Any, form: str) -> None:
    assert called(stub, "Many", [probe.Request(count=0)], form) == []
    assert called(stub, "Gather", [], form) == [probe.Reply()]
    assert called(stub, "Chat", [], form) == []


# From below what travels with the head of a call to above what one frame holds.
SIZES = [0, 40 * KiB, 48 * KiB, 64 * KiB, 65 * KiB, 3 * MiB]


@pytest.mark.parametrize("form", ["coroutines", "threads"])
@pytest.mark.parametrize("size", SIZES)
def test_messages_of_any_size_arrive_whole(stub: Any, size: int, form: str) -> None:
    payload = bytes(range(256)) * (size // 256)
    one = probe.Request(payload=payload, count=2)

    for kind, times in {"One": 1, "Many": 2, "Chat": 4}.items():
        answers = called(stub, kind, [one, one], form)
        assert [answer.payload for answer in answers] == [payload] * times
    (gathered,) = called(stub, "Gather", [one, one], form)
    assert gathered.payload == payload * 2


def test_many_small_messages_arrive_in_order(stub: Any) -> None:
    requests = [probe.Request(text=str(number), count=1) for number in range(2000)]

    replies = called(stub, "Chat", requests, "coroutines")

    assert [reply.text for reply in replies] == [request.text for request in requests]
    assert [reply.number for reply in replies] == list(range(2000))


async def test_calls_at_the_same_time_get_their_own_answers(aio_stub: Any) -> None:
    async def one(number: int) -> None:
        kind = list(EXPECTED)[number % 4]
        request = probe.Request(text=str(number), count=1)
        (reply,) = await called_aio(aio_stub, kind, [request], FORMS[number % 3])
        assert reply.text == str(number)

    await asyncio.gather(*(one(number) for number in range(200)))


def test_other_services_reach_the_same_applications(cluster: Cluster) -> None:
    with grpc.insecure_channel(cluster.grpc_target) as channel:
        stub = probe_grpc.OtherStub(channel)
        reply = stub.Ping(probe.Request(text="it"), metadata=to("coroutines"), timeout=TIMEOUT_S)

    assert reply.text == "pong it"


# The cases of gRPC's own interoperability tests that are not elsewhere, by their names there:
# custom_metadata, status_code_and_message, special_status_message, unimplemented_method and
# unimplemented_service stand in test_grpc_statuses.py, cancel_after_begin,
# cancel_after_first_response and timeout_on_sleeping_server in test_grpc_cancellation.py.


def test_interop_empty_unary(stub: Any) -> None:
    assert stub.Empty(Empty(), metadata=to("coroutines"), timeout=TIMEOUT_S) == Empty()


def test_interop_large_unary(stub: Any) -> None:
    request = probe.Request(payload=bytes(271_828), size=314_159 - 271_828)

    (reply,) = called(stub, "One", [request], "coroutines")

    assert reply.payload == bytes(314_159)


def test_interop_client_streaming(stub: Any) -> None:
    sizes = [27_182, 8, 1_828, 45_904]

    (reply,) = called(
        stub, "Gather", [probe.Request(payload=bytes(size)) for size in sizes], "coroutines"
    )

    assert (len(reply.payload), reply.number) == (74_922, 4)


REPLIES = [31_415, 9, 2_653, 58_979]
"""Bytes of the replies in the ping-pong case."""
PINGS = [
    probe.Request(payload=bytes(size), size=wanted - size if wanted > size else 0, count=1)
    for size, wanted in zip([27_182, 8, 1_828, 45_904], REPLIES, strict=True)
]


def test_interop_server_streaming(stub: Any) -> None:
    request = probe.Request(size=REPLIES[0], count=4)

    replies = called(stub, "Many", [request], "coroutines")

    assert [len(reply.payload) for reply in replies] == [REPLIES[0]] * 4


@pytest.mark.parametrize("form", ["coroutines", "threads"])
def test_interop_ping_pong(stub: Any, form: str) -> None:
    to_send: queue.Queue[Any] = queue.Queue()
    replies = stub.Chat(iter(to_send.get, None), metadata=to(form), timeout=TIMEOUT_S)

    for ping, size in zip(PINGS, REPLIES, strict=True):
        to_send.put(ping)
        assert len(next(replies).payload) == size
    to_send.put(None)
    assert list(replies) == []


@pytest.mark.parametrize("form", ["coroutines", "threads"])
async def test_interop_ping_pong_of_an_asynchronous_client(aio_stub: Any, form: str) -> None:
    call = aio_stub.Chat(metadata=to(form), timeout=TIMEOUT_S)

    for ping, size in zip(PINGS, REPLIES, strict=True):
        await call.write(ping)
        assert len((await call.read()).payload) == size
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_interop_empty_stream(aio_stub: Any) -> None:
    call = aio_stub.Chat(metadata=to("coroutines"), timeout=TIMEOUT_S)
    await call.done_writing()

    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


# One channel, and many.


async def test_channels_of_many_clients_are_served(cluster: Cluster) -> None:
    async def client(number: int) -> None:
        # Of its own: a pool of gRPC's would give all of them one connection.
        options = [*UNLIMITED, ("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(cluster.grpc_target, options=options) as channel:
            stub = probe_grpc.ProbeStub(channel)
            (reply,) = await called_aio(stub, "One", [probe.Request(text=str(number))], "threads")
            assert reply.text == str(number)

    await asyncio.gather(*(client(number) for number in range(50)))


async def test_requests_may_come_from_an_asynchronous_iterator(aio_stub: Any) -> None:
    async def requests() -> AsyncIterator[Any]:
        for request in REQUESTS:
            await asyncio.sleep(0)
            yield request

    call = aio_stub.Chat(requests(), metadata=to("coroutines"), timeout=TIMEOUT_S)

    assert [reply async for reply in call] == EXPECTED["Chat"]
