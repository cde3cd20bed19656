"""Request and response bodies, from nothing to a gibibyte, in bounded memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests.integration.apps import bodies
from tests.integration.apps.bodies import BLOCK, sha1
from tests.integration.conformance.wire import Wire
from tests.support.cluster import Cluster
from tests.support.control import until
from tests.support.processes import memory, ongoing, the_proxy, the_replica

KiB = 1024
MiB = 1024 * KiB
GiB = 1024 * MiB
EXPECT = "expect: 100-continue"
SIZES = [0, 1, 32 * KiB, 64 * KiB - 1, 64 * KiB, 64 * KiB + 1, 3 * MiB + 7]


@pytest.fixture(scope="module")
def served(cluster: Cluster) -> Iterator[Cluster]:
    with cluster.running(bodies.Bodies.bind()):
        yield cluster


def content(size: int) -> bytes:
    return (BLOCK * (size // len(BLOCK) + 1))[:size]


@contextmanager
def peak_growth() -> Iterator[Callable[[], int]]:
    """By how much proxy and replica together have grown at most, while the block runs."""
    processes = the_proxy(), the_replica()
    before = memory(*processes)
    samples = [before]
    over = threading.Event()

    def sample() -> None:
        while not over.wait(0.02):
            samples.append(memory(*processes))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield lambda: max(samples) - before
    finally:
        over.set()
        thread.join()


# Sizes.


@pytest.mark.parametrize("size", SIZES)
def test_upload_of_any_size_arrives(served: Cluster, size: int) -> None:
    told = served.post("/upload", data=content(size)).json()

    assert (told["size"], told["sha1"]) == (size, sha1(content(size)))


@pytest.mark.parametrize("size", SIZES)
def test_body_of_any_size_comes_back(served: Cluster, size: int) -> None:
    response = served.post("/echo", data=content(size))

    assert response.headers["content-length"] == str(size)
    assert response.content == content(size)


def test_chunked_upload_arrives(served: Cluster) -> None:
    sizes = [1, 70 * KiB, 3, 200 * KiB]
    told = served.post("/upload", data=(content(size) for size in sizes)).json()

    expected = b"".join(content(size) for size in sizes)
    assert (told["size"], told["sha1"]) == (len(expected), sha1(expected))


def test_answer_may_come_while_the_body_is_read(served: Cluster) -> None:
    with served.wire() as wire:
        wire.send(wire.request("POST /piped", "transfer-encoding: chunked"))
        for number in range(5):
            data = b"part %d" % number
            wire.send(b"%x\r\n%s\r\n" % (len(data), data))
            if number == 0:
                wire.read_head()
            assert wire.read_chunk() == data
        wire.send(b"0\r\n\r\n")
        assert wire.read_chunk() == b""


@pytest.mark.alone
@pytest.mark.parametrize("size", [10, 300 * KiB, 20 * MiB])
def test_body_that_the_handler_ignores_does_no_harm(served: Cluster, size: int) -> None:
    with served.wire() as wire:
        wire.send(wire.request("POST /ignored", body=content(size)))
        status, headers = wire.read_head()
        assert (status, wire.read(int(headers[b"content-length"]))) == (200, b'"not read"')

    until(lambda: ongoing(the_replica()) == 0, within_s=1)
    assert served.get("/whole/1").status_code == 200


# A gibibyte.


def test_gibibyte_goes_up_in_bounded_memory(served: Cluster) -> None:
    served.post("/count", data=content(MiB))
    with peak_growth() as growth, served.wire() as wire:
        wire.send(wire.request("POST /count", f"content-length: {GiB}"))
        for _ in range(GiB // MiB):
            wire.send(BLOCK * (MiB // len(BLOCK)))
        wire.read_head()
        assert wire.read_until(b"%d" % GiB)

    assert growth() < 32 * MiB


def test_gibibyte_comes_down_in_bounded_memory(served: Cluster) -> None:
    served.get("/download/16")
    with peak_growth() as growth, served.wire() as wire:
        wire.send(wire.request(f"GET /download/{GiB // len(BLOCK)}"))
        _, headers = wire.read_head()
        received = read_and_forget(wire)

    assert headers[b"content-length"] == b"%d" % GiB
    assert received == GiB
    assert growth() < 32 * MiB


def read_and_forget(wire: Wire) -> int:
    """Counts the bytes of the rest of a body of 1 GiB, keeping none."""
    received = len(wire.received) - wire.position
    buffer = bytearray(MiB)
    while received < GiB and (count := wire.socket.recv_into(buffer)):
        received += count
    return received


def test_twenty_parallel_uploads_take_bounded_memory(served: Cluster) -> None:
    body = content(8 * MiB)
    served.post("/upload", data=content(MiB))
    with peak_growth() as growth, ThreadPoolExecutor(20) as pool:
        told = list(pool.map(lambda _: served.post("/upload", data=body).json(), range(20)))

    assert {answer["sha1"] for answer in told} == {sha1(body)}
    assert growth() < 96 * MiB


@pytest.mark.alone
def test_upload_that_is_cut_frees_all(served: Cluster) -> None:
    replica = the_replica()
    for _ in range(20):
        with served.wire() as wire:
            wire.send(wire.request("POST /upload", f"content-length: {GiB}"))
            wire.send(content(3 * MiB))

    until(lambda: ongoing(replica) == 0, within_s=1)
    assert served.post("/echo", data=b"next").content == b"next"


# Files.


def test_files_of_a_form_arrive(served: Cluster) -> None:
    small, large = content(10), content(5 * MiB)
    files = {"first": ("ä.txt", small, "text/plain"), "second": ("b.bin", large, "image/png")}

    told = served.post("/files", files=files).json()

    assert told == [
        ["ä.txt", "text/plain", len(small), sha1(small)],
        ["b.bin", "image/png", len(large), sha1(large)],
    ]


# Responses without a body.


@pytest.mark.parametrize("size", [0, 5, 5 * MiB])
def test_head_has_the_length_and_no_body(served: Cluster, size: int) -> None:
    with served.wire() as wire:
        wire.send(wire.request(f"HEAD /whole/{size}"), wire.request("GET /whole/1"))
        status, headers = wire.read_head()
        assert (status, headers[b"content-length"]) == (200, b"%d" % size)
        assert wire.read_response() == 200


@pytest.mark.parametrize("status", [204, 304])
def test_status_without_a_body_has_none(served: Cluster, status: int) -> None:
    with served.wire() as wire:
        wire.send(wire.request(f"GET /status/{status}"), wire.request("GET /whole/1"))
        got, headers = wire.read_head()
        assert got == status
        assert b"transfer-encoding" not in headers
        assert wire.read_response() == 200


# Expect: 100-continue.


def test_client_is_told_to_continue_when_the_handler_reads(served: Cluster) -> None:
    with served.wire() as wire:
        wire.send(wire.request("POST /continue/true", "content-length: 4", EXPECT))
        assert wire.read_head()[0] == 100
        wire.send(b"body")
        status, headers = wire.read_head()
        assert (status, wire.read(int(headers[b"content-length"]))) == (200, b"4")


def test_client_is_not_told_to_continue_where_the_handler_answers_without(
    served: Cluster,
) -> None:
    with served.wire() as wire:
        wire.send(wire.request("POST /continue/false", "content-length: 4", EXPECT))
        status, headers = wire.read_head()
        assert (status, wire.read(int(headers[b"content-length"]))) == (200, b"-1")
