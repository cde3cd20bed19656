"""Responses in parts: when they come, how they are cut, who waits for whom, and how they break."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.integration.apps import streaming
from tests.integration.conformance.wire import Wire
from tests.support.cluster import Cluster
from tests.support.control import until
from tests.support.processes import memory, settled, the_proxy, the_replica
from tests.support.record import Record

MiB = 1024 * 1024


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    return Record(tmp_path_factory.mktemp("streams") / "record")


@pytest.fixture(scope="module")
def deployed(cluster: Cluster, record: Record) -> Iterator[Cluster]:
    with cluster.running(streaming.Streams.bind(record)):
        yield cluster


@pytest.fixture
def streams(deployed: Cluster, record: Record) -> Cluster:
    record.path.unlink(missing_ok=True)
    return deployed


def ask(cluster: Cluster, path: str) -> Wire:
    wire = cluster.wire()
    wire.send(wire.request(f"GET {path}"))
    return wire


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_first_chunk_arrives_while_the_generator_runs(streams: Cluster, kind: str) -> None:
    with ask(streams, f"/{kind}") as wire:
        wire.read_head()
        first = wire.read_chunk()
        assert streams.get("/go").status_code == 200  # only now can the second be made
        rest = [wire.read_chunk(), wire.read_chunk()]

    assert [first, *rest] == [b"first", b"second", b""]


def test_first_chunk_of_a_plain_generator_arrives_while_it_runs(cluster: Cluster) -> None:
    application = streaming.PlainStream.bind()
    with cluster.running(application, "/plain"), ask(cluster, "/plain") as wire:
        wire.read_head()
        first = wire.read_chunk()
        assert cluster.get("/plain/go").status_code == 200
        rest = [wire.read_chunk(), wire.read_chunk()]

    assert [first, *rest] == [b"first", b"second", b""]


def test_chunks_keep_their_boundaries(streams: Cluster) -> None:
    with ask(streams, "/chunks") as wire:
        wire.read_head()
        sizes = [len(chunk) for chunk in iter(wire.read_chunk, b"")]

    assert sizes == list(streaming.CHUNK_SIZES)


def test_server_sent_events_come_one_a_chunk(streams: Cluster) -> None:
    with ask(streams, "/events") as wire:
        _, headers = wire.read_head()
        events = list(iter(wire.read_chunk, b""))

    assert headers[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert events == [b"id: %d\ndata: {}\n\n" % number for number in range(3)]


@pytest.mark.alone
@pytest.mark.parametrize("kind", ["async", "sync"])
def test_reader_that_reads_nothing_holds_back_its_generator_alone(
    streams: Cluster, record: Record, kind: str
) -> None:
    for _ in range(20):
        streams.get("/produced")
    processes = the_proxy(), the_replica()
    before = memory(*processes)
    produced_before = streams.get("/produced").json()

    with ask(streams, f"/endless/{kind}") as wire:
        wire.read_head()
        produced = settled(lambda: streams.get("/produced").json()) - produced_before
        answers = {streams.get("/events").status_code for _ in range(100)}
        grown = memory(*processes) - before
        assert streams.get("/produced").json() - produced_before == produced
        assert record.notes() == []

    record.wait_for("closed", within_s=1)
    assert answers == {200}
    assert produced <= 8 * MiB
    assert grown < 16 * MiB


@pytest.mark.alone
def test_reader_that_reads_again_gets_all_of_it(streams: Cluster, record: Record) -> None:
    with ask(streams, "/endless/async") as wire:
        settled(lambda: streams.get("/produced").json())
        wire.read_head()
        assert wire.read(32 * MiB) == b"x" * 32 * MiB

    record.wait_for("closed", within_s=1)


@pytest.mark.alone
def test_slow_readers_together_take_bounded_memory(streams: Cluster, record: Record) -> None:
    produced_before = streams.get("/produced").json()
    processes = the_proxy(), the_replica()
    before = memory(*processes)

    wires = [ask(streams, "/endless/async") for _ in range(10)]
    produced = settled(lambda: streams.get("/produced").json()) - produced_before
    grown = memory(*processes) - before
    for wire in wires:
        wire.socket.close()

    until(lambda: record.count("closed") == 10, within_s=1)
    assert produced <= 10 * 8 * MiB
    assert grown < 10 * 4 * MiB


@pytest.mark.parametrize("kind", ["chunked", "declared"])
def test_error_in_mid_stream_breaks_the_connection(streams: Cluster, kind: str) -> None:
    with ask(streams, f"/broken/{kind}") as wire:
        status, headers = wire.read_head()
        wire.read_to_end()

    assert status == 200
    assert (b"content-length" in headers) == (kind == "declared")
    assert b"first" in wire.received
    assert not wire.received.endswith(b"0\r\n\r\n")
    request_id = headers[b"x-request-id"].decode()
    logged = streams.logged(
        rf"(?s)request_id={request_id} .*?request failed.*?ValueError: the stream broke"
    )
    assert "Traceback" in logged[0]


@pytest.mark.alone
def test_client_that_leaves_early_is_no_error(streams: Cluster, record: Record) -> None:
    errors = streams.log().count("Traceback")
    with ask(streams, "/endless/async") as wire:
        wire.read_head()
        wire.socket.shutdown(socket.SHUT_RDWR)

    record.wait_for("closed", within_s=1)
    streams.logged(r"/endless/async 499 ")
    assert streams.log().count("Traceback") == errors


def test_connection_is_kept_after_a_stream(streams: Cluster) -> None:
    with ask(streams, "/chunks") as wire:
        wire.read_response()
        wire.send(wire.request("GET /events"))
        assert wire.read_response() == 200
