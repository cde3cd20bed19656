"""What a proxy's gRPC server makes of input that no well-meaning client sends."""

from __future__ import annotations

import asyncio
import logging

import grpc
import grpc.aio
import pytest

from tests.integration.test_grpc_front import Held, channel, count, failure, start
from tests.support.front import DEADLINE_S, Front, ReplicaCall, front, until

FRAME = 64 * 1024
"""Bytes that a frame to a replica holds."""


async def send(running: Front, path: bytes, *headers: tuple[bytes, bytes]) -> None:
    """Sends a call of an empty message as the bytes that it is, and waits for an answer."""
    fields = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"test"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        *headers,
    ]
    block = b"".join(b"\0" + sized(name) + sized(value) for name, value in fields)
    settings = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + h2_frame(4, 0, 0, b"")
    reader, writer = await asyncio.open_connection("127.0.0.1", running.server.port)
    writer.write(settings + h2_frame(1, 4, 1, block) + h2_frame(0, 1, 1, bytes(5)))
    async with asyncio.timeout(DEADLINE_S):
        kind = 0
        while kind != 1:  # HEADERS
            head = await reader.readexactly(9)
            await reader.readexactly(int.from_bytes(head[:3]))
            kind = head[3]
    writer.close()
    await writer.wait_closed()


def h2_frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def sized(text: bytes) -> bytes:
    assert len(text) < 127
    return bytes([len(text)]) + text


async def test_path_that_is_not_text_costs_no_other_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It makes grpc.aio's server give up."""
    held = Held()
    async with front(held) as running, channel(running) as connection:
        before = start(connection, "UnaryUnary")
        await until(lambda: held.calls)
        port = running.server.port

        await send(running, b"/test.Echo/\xff")
        after = start(connection, "UnaryUnary", wait_for_ready=True)
        await until(lambda: len(held.calls) == 2)

        assert running.server.port == port
        for call in held.calls:
            call.end(message=b"well")
            call.ended_early.set()
        assert (await before, await after) == (b"well", b"well")
    assert "gRPC server gave up, another takes its place" in caplog.text
    caplog.clear()


async def test_path_of_several_lines_is_one_word_of_the_log() -> None:
    async with front(count) as running:
        await send(running, b"/a b\nINFO forged")
        (line,) = await running.logged()
        assert ' gRPC "/a\\u0020b\\nINFO\\u0020forged" UNIMPLEMENTED ' in line


async def test_metadata_that_is_not_text_reaches_the_handler_and_no_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    found: list[bytes] = []

    async def note(call: ReplicaCall) -> None:
        found.extend(call.request.metadata)
        call.end(message=b"")

    async with front(note) as running:
        await send(
            running, b"/test.Echo/UnaryUnary", (b"note", b"caf\xe9"), (b"request_id", b"\xff")
        )
        ((*_, request_id),) = [line.split() for line in await running.logged()]
    assert "café".encode() in found
    assert len(request_id) == 32
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("unknown", ["application", "method"])
async def test_name_that_is_long_is_told_in_details_that_clients_take(unknown: str) -> None:
    """Of trailers that are larger they would say RESOURCE_EXHAUSTED."""
    async with front(count) as running, channel(running) as connection:
        name = "x" * 7000
        if unknown == "application":
            call = start(connection, "UnaryUnary", metadata=(("application", name),))
        else:
            call = connection.unary_unary(f"/test.Echo/{name}")(b"")
        code, details = await failure(call)
        assert code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED)
        assert len(details.encode()) == 1024


async def test_message_and_metadata_that_are_more_than_a_frame_arrive() -> None:
    async def sizes(call: ReplicaCall) -> None:
        message = await call.message() or b""
        call.end(message=b"%d %d" % (len(message), len(call.request.multiplexed_model_id)))

    async with front(sizes) as running, channel(running) as connection:
        model, message = "m" * 8500, bytes(48 * 1024)
        assert 2 * len(model) + len(message) > FRAME
        code = grpc.StatusCode.RESOURCE_EXHAUSTED
        while code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            # gRPC refuses a part of calls with metadata of more than 8 KiB, at random.
            metadata = (("multiplexed_model_id", model),)
            call = start(connection, "UnaryUnary", message, metadata=metadata)
            async with asyncio.timeout(DEADLINE_S):
                code = await call.code()
        assert await call == b"49152 8500"
