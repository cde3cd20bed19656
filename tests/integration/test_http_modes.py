"""Streams and clients that leave, over HTTP: the same on processes and in local testing mode."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.integration.apps import cancellation, streaming
from tests.support.modes import Mode
from tests.support.processes import settled
from tests.support.record import Record


@pytest.fixture(scope="module")
def streams(mode: Mode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mode]:
    record = Record(tmp_path_factory.mktemp("streams") / "record")
    with mode.running(streaming.Streams.bind(record)):
        yield mode


@pytest.fixture
def client(streams: Mode) -> Iterator[httpx.Client]:
    with streams.http as client:
        yield client


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_first_chunk_comes_before_the_second_is_made(client: httpx.Client, kind: str) -> None:
    with client.stream("GET", f"/{kind}") as response:
        chunks = response.iter_raw()
        first = next(chunks)
        assert client.get("/go").status_code == 200  # only now can the second be made

        assert [first, *chunks] == [b"first", b"second"]


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_reader_that_reads_nothing_pauses_the_generator(client: httpx.Client, kind: str) -> None:
    def produced() -> int:
        return int(client.get("/produced").json())

    before = produced()
    with client.stream("GET", f"/endless/{kind}"):
        assert 0 < settled(produced) - before < 20_000_000
        paused_at = produced()
        assert settled(produced) == paused_at


@pytest.mark.parametrize("kind", ["handler", "stream"])
def test_client_that_leaves_cancels_the_handler(mode: Mode, record: Record, kind: str) -> None:
    with mode.running(cancellation.Waits.bind(record), "/waits"), mode.http as client:
        leave_early = httpx.Timeout(5, read=0.3)
        with (
            pytest.raises(httpx.ReadTimeout),
            client.stream("GET", f"/waits/{kind}/one", timeout=leave_early) as response,
        ):
            response.read()

        record.wait_for("finished", "one")
        assert record.notes() == ["started one", "cancelled one", "finished one"]
