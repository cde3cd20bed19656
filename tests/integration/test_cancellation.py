"""Requests that nobody waits for any more: what becomes of their handlers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest

from tests.integration.apps import cancellation
from tests.integration.conformance.wire import HANDSHAKE, Wire
from tests.support.cluster import Cluster
from tests.support.control import until
from tests.support.processes import ongoing, the_proxy, the_replica
from tests.support.record import Record


@pytest.fixture
def record(all_records: Record) -> Record:
    all_records.path.unlink(missing_ok=True)
    return all_records


@pytest.fixture(scope="module")
def waits(cluster: Cluster, all_records: Record) -> Iterator[Cluster]:
    with cluster.running(cancellation.Waits.bind(all_records)):
        yield cluster


@pytest.fixture(scope="module")
def narrow(cluster: Cluster, all_records: Record) -> Iterator[Cluster]:
    """One request at a time: the others queue."""
    narrow = cancellation.Waits.options(max_ongoing_requests=1)
    with cluster.running(narrow.bind(all_records), "/narrow"):
        yield cluster


def ask(cluster: Cluster, line: str, *headers: str, body: bytes | None = None) -> Wire:
    wire = cluster.wire()
    wire.send(wire.request(line, *headers, body=body))
    return wire


def begun(cluster: Cluster, record: Record, kind: str, name: str) -> Wire:
    """A request whose handler runs."""
    wire = ask(cluster, f"GET /{kind}/{name}")
    record.wait_for("started", name)
    return wire


# Queued.

HOST = b"host: test\r\n"
QUEUED = {
    "whole": b"GET /narrow/quick/whole HTTP/1.1\r\n" + HOST + b"\r\n",
    "part": b"POST /narrow/handler/part HTTP/1.1\r\n"
    + HOST
    + b"content-length: 100000\r\n\r\n"
    + b"x" * 10_000,
    "head": b"POST /narrow/handler/head HTTP/1.1\r\n" + HOST + b"content-length: 9\r\n\r\n",
    "expecting": b"POST /narrow/handler/expecting HTTP/1.1\r\n"
    + HOST
    + b"content-length: 9\r\nexpect: 100-continue\r\n\r\n",
    "socket": b"GET /narrow/socket/socket HTTP/1.1\r\n"
    + HOST
    + b"\r\n".join([*HANDSHAKE, b"", b""]),
}


@pytest.mark.parametrize("kind", QUEUED)
def test_client_that_leaves_the_queue_never_reaches_a_handler(
    narrow: Cluster, record: Record, kind: str
) -> None:
    first = begun(narrow, record, "narrow/handler", "first")
    with first, narrow.wire() as queued:
        queued.send(QUEUED[kind])
        queued.socket.close()
        narrow.logged(rf"/narrow/\w+/{kind} 499 ")

    record.wait_for("finished", "first")
    assert narrow.get("/narrow/quick/last").status_code == 200
    assert record.notes() == ["started first", "cancelled first", "finished first", "quick last"]


def test_queued_requests_are_served_in_order_past_those_that_left(
    narrow: Cluster, record: Record
) -> None:
    first = begun(narrow, record, "narrow/handler", "first")
    queued = [ask(narrow, f"GET /narrow/quick/{number}") for number in range(20)]
    for wire in queued[::2]:
        wire.socket.close()
    narrow.logged(r"/quick/18 499 ")
    first.socket.close()
    for wire in queued[1::2]:
        assert wire.read_response() == 200
        wire.socket.close()

    served = [note for note in record.notes() if note.startswith("quick")]
    assert served == [f"quick {number}" for number in range(1, 20, 2)]


# Running.


@pytest.mark.alone
@pytest.mark.parametrize("kind", ["handler", "stream", "dependency"])
def test_client_that_leaves_cancels_its_handler(waits: Cluster, record: Record, kind: str) -> None:
    with begun(waits, record, kind, "it"):
        pass

    record.wait_for("finished", "it", within_s=1)
    assert record.count("cancelled") == 1
    if kind == "dependency":
        record.wait_for("disposed", "it", within_s=1)


@pytest.mark.alone
def test_client_that_resets_the_connection_cancels_its_handler(
    waits: Cluster, record: Record
) -> None:
    begun(waits, record, "handler", "it").reset()

    record.wait_for("cancelled", "it", within_s=1)


@pytest.mark.alone
@pytest.mark.parametrize("expect", ["", "expect: 100-continue"])
def test_client_that_leaves_before_its_upload_is_over_cancels_its_handler(
    waits: Cluster, record: Record, expect: str
) -> None:
    with ask(waits, "POST /handler/it", "content-length: 100", *filter(None, [expect])):
        record.wait_for("started", "it")

    record.wait_for("cancelled", "it", within_s=1)


@pytest.mark.alone
def test_cleaning_up_may_await(waits: Cluster, record: Record) -> None:
    with begun(waits, record, "cleaning", "it"):
        pass
    record.wait_for("cancelled", "it", within_s=1)
    assert ongoing(the_replica()) == 1  # it still works

    waits.get("/release")
    record.wait_for("cleaned", "it")


@pytest.mark.alone
def test_shielded_work_goes_on(waits: Cluster, record: Record) -> None:
    with begun(waits, record, "shielded", "it"):
        pass
    record.wait_for("cancelled", "it", within_s=1)

    waits.get("/release")
    record.wait_for("survived", "it")


# Threads.


def test_thread_runs_to_its_end_and_its_result_is_dropped(waits: Cluster, record: Record) -> None:
    with begun(waits, record, "thread", "it"):
        pass
    waits.logged("/thread/it 499 ")

    assert record.notes() == ["started it"]
    assert ongoing(the_replica()) == 1
    waits.get("/release")
    record.wait_for("finished", "it")
    until(lambda: ongoing(the_replica()) == 0)
    assert record.count("cancelled") == 0


def test_slot_of_a_thread_is_free_when_it_has_ended(cluster: Cluster, record: Record) -> None:
    narrow = cancellation.PlainThread.options(max_ongoing_requests=1)
    with cluster.running(narrow.bind(record), "/thread"):
        with ask(cluster, "GET /thread/first"):
            record.wait_for("started", "first")
        cluster.logged("/first 499 ")
        with ask(cluster, "GET /thread/second") as second:
            release(record, "second")
            assert ongoing(the_replica("thread")) == 1
            release(record, "first")
            assert second.read_response() == 200

    assert record.notes() == [
        *("started first", "finished first"),
        *("started second", "finished second"),
    ]


def release(record: Record, name: str) -> None:
    record.path.with_name(f"release-{name}").touch()


# The connection between proxy and replica.


@pytest.mark.alone
def test_death_of_the_proxy_cancels_what_it_asked_for(waits: Cluster, record: Record) -> None:
    wires = [begun(waits, record, "handler", "plain"), begun(waits, record, "stream", "streamed")]
    proxy = the_proxy()

    proxy.kill()

    for name in ("plain", "streamed"):
        record.wait_for("cancelled", name, within_s=2)
    until(lambda: ongoing(the_replica()) == 0)
    for wire in wires:
        wire.socket.close()
    assert until(lambda: answers(waits))


def answers(cluster: Cluster) -> bool:
    try:
        return cluster.get("/quick/again").status_code == 200
    except OSError:
        return False


# Many.

STORM = 1_000
AT_ONCE = 100


@pytest.mark.alone
async def test_storm_of_cut_requests_leaves_nothing_behind(waits: Cluster, record: Record) -> None:
    replica = the_replica()
    for batch in range(STORM // AT_ONCE):
        async with asyncio.TaskGroup() as group:
            for number in range(AT_ONCE):
                group.create_task(cut_somewhere(waits, f"{batch}-{number}"))

    until(lambda: ongoing(replica) == 0, within_s=1)
    until(lambda: record.count("started") == record.count("finished"), within_s=1)
    until(lambda: record.count("closed") <= record.count("opened"), within_s=1)
    assert waits.get("/quick/last").status_code == 200
    assert record.count("started") > STORM // 4
    assert record.count("cancelled") > STORM // 20


async def cut_somewhere(cluster: Cluster, name: str) -> None:
    """Sends a request, perhaps not all of it, and leaves at some point of it or of its answer."""
    chance = random.Random(name)
    request = (
        b"POST /storm/%s HTTP/1.1\r\nhost: test\r\ncontent-length: 2000\r\n\r\n" % name.encode()
    ) + b"b" * 2000
    reader, writer = await asyncio.open_connection(*cluster.address)
    try:
        if chance.random() < 0.2:
            request = request[: chance.randrange(len(request))]
        writer.write(request)
        await asyncio.wait_for(reader.read(-1), chance.uniform(0, 0.3))
    except (TimeoutError, ConnectionError):
        pass
    finally:
        if chance.random() < 0.5:
            writer.transport.abort()
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
