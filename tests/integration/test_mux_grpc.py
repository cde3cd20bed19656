"""The transport over real gRPC calls on Unix sockets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from serving.mux import (
    CallerConnection,
    ConnectionLost,
    ReplicaConnection,
    ResetCode,
    Stream,
    StreamRefused,
    StreamRejected,
    StreamReset,
    channel_options,
    server_options,
)
from serving.mux.session import DEFAULT_WINDOW, FRAME_OVERHEAD, HIGH_WATER, MAX_FRAME, Part
from serving.routing import link as link_module
from serving.routing.link import Link
from serving.routing.router import Router
from serving.v1.controller_pb2 import Deployment, Endpoint
from serving.v1.frames_pb2 import OPEN, ClientFrames, Frame
from serving.v1.replica_pb2_grpc import (
    ReplicaServicer,
    ReplicaStub,
    add_ReplicaServicer_to_server,
)

TAG = 7
DEADLINE_S = 20.0

Handler = Callable[[Stream], Any]


class Servicer(ReplicaServicer):
    """A replica whose handlers are the coroutines that ``handler`` makes; ``max_ongoing`` of them
    at a time."""

    def __init__(self, handler: Handler, max_ongoing: int = 10_000) -> None:
        self.handler = handler
        self.max_ongoing = max_ongoing
        self.connections: list[ReplicaConnection] = []
        self.tasks: set[asyncio.Task[Any]] = set()

    async def Connect(self, _: Any, context: Any) -> None:
        def push_load(_: object) -> None:
            for each in self.connections:
                each.push_load()

        def admit(stream: Stream) -> None:
            if len(self.tasks) >= self.max_ongoing:
                stream.session.reject(stream)
                return
            stream.session.accept(stream)
            task = asyncio.ensure_future(self.handler(stream))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
            task.add_done_callback(push_load)
            stream.on_early_end(task.cancel)

        connection = ReplicaConnection(context, admit, ongoing=lambda: len(self.tasks))
        self.connections.append(connection)
        await connection.run()


@contextlib.asynccontextmanager
async def serving(address: str, servicer: Servicer) -> AsyncIterator[grpc.aio.Server]:
    server = grpc.aio.server(options=server_options())
    add_ReplicaServicer_to_server(servicer, server)
    server.add_insecure_port(address)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(0)


@contextlib.asynccontextmanager
async def calling(
    address: str, options: list[tuple[str, Any]] | None = None
) -> AsyncIterator[CallerConnection]:
    """A connection that stands."""
    options = options or channel_options()
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        connection = CallerConnection(ReplicaStub(channel).Connect())
        running = asyncio.ensure_future(connection.run())
        try:
            async with asyncio.timeout(DEADLINE_S):
                await connection.ready.wait()
            yield connection
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


@contextlib.asynccontextmanager
async def joined(
    address: str, handler: Handler, **options: Any
) -> AsyncIterator[tuple[CallerConnection, Servicer]]:
    servicer = Servicer(handler, **options)
    async with serving(address, servicer), calling(address) as connection:
        yield connection, servicer


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"unix:{tmp_path}/replica.sock"


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def until_stalled(progress: Callable[[], int]) -> None:
    """Until a peer that has stopped has taken all that it can without reading."""
    before = -1
    while (now := progress()) != before:
        before = now
        await asyncio.sleep(0.2)


async def echo(stream: Stream) -> None:
    """Sends each message back, and ends when the caller has."""
    part = await stream.receive(2**31)
    while part is not None and not part.end:
        await stream.send(part.tag, part.data)
        part = await stream.receive(2**31)
    stream.write(0, part.data if part else b"", end=True)


async def hold(stream: Stream) -> None:
    await asyncio.Event().wait()


# Many streams


async def test_many_streams_of_random_sizes_both_ways_arrive_whole(address: str) -> None:
    rng = random.Random(4)
    sizes = [0, 1, 500, MAX_FRAME - 1, MAX_FRAME, MAX_FRAME + 1, 300_000, 2 * DEFAULT_WINDOW]
    plans = [
        [rng.randbytes(rng.choice(sizes[: 5 if i % 8 else 8])) for _ in range(rng.randint(1, 8))]
        for i in range(200)
    ]

    async def exchange(connection: CallerConnection, messages: list[bytes]) -> None:
        stream = connection.open(TAG, messages[0], end=len(messages) == 1)

        async def upload() -> None:
            for i, message in enumerate(messages[1:], 2):
                await stream.send(TAG, message, end=i == len(messages))

        uploading = asyncio.ensure_future(upload())
        received = []
        while (part := await stream.receive(2**31)) is not None:
            received.append(part.data)
        await uploading
        assert received == messages

    async with joined(address, echo) as (connection, servicer):
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.gather(*(exchange(connection, plan) for plan in plans))
        assert not connection.session.streams
        await until(lambda: not servicer.connections[0].session.streams)
        assert not servicer.tasks


async def test_reader_that_never_reads_holds_a_window_and_delays_nobody(address: str) -> None:
    sent = 0

    async def pour(stream: Stream) -> None:
        nonlocal sent
        part = await stream.receive()
        while part and part.data == b"pour":
            await stream.send(TAG, bytes(MAX_FRAME))
            sent += MAX_FRAME
        stream.write(TAG, b"quick", end=True)

    async with joined(address, pour) as (connection, servicer):
        slow = connection.open(TAG, b"pour", end=True)
        theirs = servicer.connections[0].session
        await until(lambda: any(stream.must_wait for stream in theirs.streams.values()))
        for _ in range(100):
            async with asyncio.timeout(DEADLINE_S):
                part = await connection.open(TAG, b"", end=True).receive()
            assert part == Part(TAG, b"quick", False, True)
        held = sum(len(part.data) + FRAME_OVERHEAD for part in slow.inbox)
        assert held <= DEFAULT_WINDOW
        assert sent <= DEFAULT_WINDOW + HIGH_WATER + 2 * MAX_FRAME
        slow.reset()
        await until(lambda: not servicer.tasks)


async def test_caller_whose_upload_nobody_reads_waits(address: str) -> None:
    async with joined(address, hold) as (connection, _):
        upload = connection.open(TAG, b"", end=False)
        sending = asyncio.ensure_future(upload.send(TAG, bytes(4 * DEFAULT_WINDOW)))
        await until(lambda: upload.accepted and not upload.queued)
        assert not sending.done()
        assert upload.unsent > HIGH_WATER
        upload.reset()
        await sending


# Ends


async def test_reset_cancels_the_handler(address: str) -> None:
    async with joined(address, hold) as (connection, servicer):
        stream = connection.open(TAG, b"", end=True)
        await until(lambda: servicer.tasks)
        stream.reset()
        await until(lambda: not servicer.tasks)
        assert not servicer.connections[0].session.streams


async def test_reset_by_the_replica_reaches_the_caller(address: str) -> None:
    async def fail(stream: Stream) -> None:
        await stream.send(TAG, b"half an answer")
        stream.abort(ResetCode.INTERNAL_ERROR, "the handler failed")

    async with joined(address, fail) as (connection, _):
        stream = connection.open(TAG, b"", end=True)
        assert await stream.receive() == Part(TAG, b"half an answer", False, False)
        with pytest.raises(StreamReset, match="INTERNAL_ERROR: the handler failed"):
            await stream.receive()
        assert not connection.session.streams


async def test_cancelled_requests_never_harm_the_connection(address: str) -> None:
    """Cancelled anywhere: a task that waited in the gRPC call itself would end it."""
    rng = random.Random(5)

    async def request(connection: CallerConnection) -> None:
        stream = connection.open(TAG, bytes(rng.choice([10, 200_000])), end=False)
        try:
            for _ in range(3):
                await stream.send(TAG, bytes(rng.choice([10, 200_000])))
                await stream.receive(2**31)
        finally:
            stream.reset()

    async with joined(address, echo) as (connection, servicer):
        for _ in range(10):
            tasks = [asyncio.ensure_future(request(connection)) for _ in range(20)]
            for task in tasks:
                await asyncio.sleep(rng.random() * 0.002)
                task.cancel()
            await asyncio.wait(tasks)
        assert await connection.open(TAG, b"fine", end=True).receive() == Part(
            0, b"fine", False, True
        )
        assert not connection.session.streams
        await until(lambda: not servicer.tasks)


async def test_goaway_refuses_new_streams_and_ends_after_the_open_ones(address: str) -> None:
    may_answer = asyncio.Event()

    async def answer(stream: Stream) -> None:
        await may_answer.wait()
        stream.write(TAG, b"done", end=True)

    async with joined(address, answer) as (connection, servicer):
        running = connection.open(TAG, b"", end=True)
        await until(lambda: servicer.tasks)
        racing = connection.open(TAG, b"", end=True)
        servicer.connections[0].goaway("draining")
        with pytest.raises(StreamRefused, match="draining"):
            await racing.receive()
        with pytest.raises(StreamRefused):
            connection.open(TAG, b"", end=True)
        may_answer.set()
        assert await running.receive() == Part(TAG, b"done", False, True)
        await until(lambda: connection.session.closed)


async def test_replica_that_is_full_rejects_and_says_when_it_has_room(address: str) -> None:
    async with joined(address, hold, max_ongoing=1) as (connection, servicer):
        running = connection.open(TAG, b"", end=True)
        await until(lambda: servicer.tasks)
        with pytest.raises(StreamRejected):
            await connection.open(TAG, b"", end=True).receive()
        servicer.handler = echo
        running.reset()
        await until(lambda: not servicer.tasks)
        assert await connection.open(TAG, b"now", end=True).receive()


async def test_caller_that_breaks_the_rules_loses_its_connection_with_a_reason(
    address: str,
) -> None:
    async with (
        serving(address, Servicer(hold)),
        grpc.aio.insecure_channel(address) as channel,
        asyncio.timeout(DEADLINE_S),
    ):
        call = ReplicaStub(channel).Connect()
        await call.write(ClientFrames(frames=[Frame(stream_id=0, type=OPEN)]))
        with pytest.raises(grpc.aio.AioRpcError, match="ids must rise"):
            await read_to_end(call)


async def read_to_end(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def test_caller_that_leaves_cancels_its_requests_quietly(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    servicer = Servicer(hold)
    async with serving(address, servicer):
        async with calling(address) as connection:
            for _ in range(10):
                connection.open(TAG, b"", end=True)
            await until(lambda: len(servicer.tasks) == 10)
        await until(lambda: not servicer.tasks)
        assert not servicer.connections[0].session.streams
    # asyncio's are gRPC's own: its poller does not like a second loop in one process.
    loud = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record for record in loud if record.name != "asyncio"] == []


async def test_server_that_stops_ends_the_connection_under_load(address: str) -> None:
    """Whoever meets the end first, reader or writer: the streams get what gRPC said."""

    async def load(connection: CallerConnection) -> None:
        while True:
            await connection.open(TAG, b"x", end=True).receive()

    servicer = Servicer(echo)
    async with serving(address, servicer) as server, calling(address) as connection:
        loads = [asyncio.ensure_future(load(connection)) for _ in range(20)]
        await until(lambda: connection.session._last_id > 200)
        await server.stop(0)
        for outcome in await asyncio.gather(*loads, return_exceptions=True):
            assert isinstance(outcome, ConnectionLost)
        assert connection.session.closed
        assert "RPC already finished" not in connection.session.closed


# Loss and reconnecting


SERVER = """
import asyncio, sys
sys.path.insert(0, {root!r})
from tests.integration.test_mux_grpc import Servicer, echo, hold, serving

async def main():
    async with serving(sys.argv[1], Servicer(hold if sys.argv[2] == "hold" else echo)):
        print("up", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def server_process(address: str, handler: str) -> AsyncIterator[asyncio.subprocess.Process]:
    code = SERVER.format(root=str(Path(__file__).parents[2]))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, address, handler, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            assert await process.stdout.readline() == b"up\n"
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]


async def test_streams_of_a_server_that_is_killed_are_lost_and_say_what_was_sent(
    address: str,
) -> None:
    async with server_process(address, "hold") as process, calling(address) as connection:
        started = connection.open(TAG, b"", end=False)
        await started.accepted_by_peer()
        process.send_signal(signal.SIGSTOP)
        uploads = [connection.open(TAG, bytes(MAX_FRAME), end=True) for _ in range(200)]
        await until(lambda: any(stream.on_wire for stream in uploads))
        await until_stalled(lambda: sum(stream.on_wire for stream in uploads))
        unsent = uploads[-1]
        process.send_signal(signal.SIGKILL)
        sent = []
        for stream in (started, unsent):
            async with asyncio.timeout(DEADLINE_S):
                with pytest.raises(ConnectionLost) as caught:
                    await stream.receive()
            sent.append(caught.value.sent)
        assert sent == [True, False]
        with pytest.raises(ConnectionLost):
            connection.open(TAG, b"", end=True)


async def test_link_reconnects_to_a_server_that_comes_back(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    news: list[str] = []
    link = Link(
        address,
        on_up=lambda: news.append("up"),
        on_down=lambda: news.append("down"),
        on_load=lambda ongoing: None,
    )
    running = asyncio.ensure_future(link.run())
    try:
        for _ in range(2):
            async with server_process(address, "echo") as process:
                await until(lambda: link.connection)
                assert link.connection is not None
                assert await link.connection.open(TAG, b"hello", end=True).receive()
                process.send_signal(signal.SIGKILL)
                await until(lambda: link.connection is None)
        assert news == ["up", "down"] * 2
        assert repr(link) == f"<Link {address} down>"
    finally:
        running.cancel()
        await asyncio.wait((running,))


async def test_link_backs_off_while_nobody_answers(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def recorded(delay: float) -> None:
        pauses.append(delay)
        await sleep(0)

    news: list[object] = []
    link = Link(
        address,
        on_up=lambda: news.append("up"),
        on_down=lambda: news.append("down"),
        on_load=news.append,
    )
    running = asyncio.ensure_future(link.run())
    monkeypatch.setattr("serving.routing.link.asyncio.sleep", recorded)
    try:
        async with asyncio.timeout(DEADLINE_S):
            while len(pauses) < 8:
                await sleep(0.01)
    finally:
        running.cancel()
        await asyncio.wait((running,))
    assert news == []
    assert pauses[0] <= 1.5 * link_module.FIRST_BACKOFF_S
    assert min(pauses[6:]) >= 0.5 * link_module.MAX_BACKOFF_S
    assert max(pauses) <= 1.5 * link_module.MAX_BACKOFF_S


async def test_idle_replica_that_rejected_is_asked_again(address: str) -> None:
    """Two callers on one replica with one slot, as fast as they can: nobody waits for ever."""

    async def answer(stream: Stream) -> None:
        await asyncio.sleep(0)
        stream.write(TAG, b"done", end=True)

    async def load(router: Router) -> None:
        for _ in range(100):
            (await router.start(TAG, b"", end=True)).close()

    servicer = Servicer(answer, max_ongoing=1)
    target = Deployment(
        max_ongoing_requests=1,
        max_queued_requests=-1,
        endpoints=[Endpoint(replica_id="r", address=address)],
    )
    routers = [Router("app", f"caller {i}") for i in range(3)]
    async with serving(address, servicer):
        try:
            for router in routers:
                router.update(target)
            async with asyncio.timeout(DEADLINE_S):
                await asyncio.gather(*(load(router) for router in routers for _ in range(3)))
        finally:
            for router in routers:
                await router.aclose()


def test_options_are_those_that_grpc_knows() -> None:
    for options in (channel_options(), server_options()):
        names = [name for name, _ in options]
        assert len(set(names)) == len(names)
        assert all(name.startswith("grpc.") and isinstance(value, int) for name, value in options)


async def test_keepalive_of_the_caller_is_accepted_by_the_server(address: str) -> None:
    """A server that finds its caller's pings too many ends the connection (ENHANCE_YOUR_CALM)."""
    fast = [("grpc.keepalive_time_ms", 5_000)]
    options = [*(each for each in channel_options() if each[0] != fast[0][0]), *fast]
    async with serving(address, Servicer(echo)), calling(address, options) as connection:
        assert await connection.open(TAG, b"hello", end=True).receive()
        assert connection.session.closed is None
