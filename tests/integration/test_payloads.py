"""Large arrays through handles: whole, writable, in bounded memory, and freed whoever dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import psutil
import pytest

import serving
from serving import memory
from serving.calls import shares
from serving.context import ReplicaModels
from serving.exceptions import ReplicaUnavailableError
from serving.handle import DeploymentHandle
from serving.replica.runner import Runner
from serving.replica.service import DataService
from serving.routing.link import Link
from serving.v1.replica_pb2_grpc import add_ReplicaServicer_to_server
from tests.integration.apps.payloads import Arrays, Relay
from tests.support.cluster import Cluster
from tests.support.control import until
from tests.support.processes import replicas, settled, spec_of

TIMEOUT_S = 20.0
SIZE = 100_000_000

Handle = DeploymentHandle[Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("marks")


@pytest.fixture(scope="module")
def arrays(cluster: Cluster, folder: Path) -> Handle:
    handle = serving.run(Arrays.bind(str(folder)), name="arrays", route_prefix=None)
    assert handle.remote("first").result(TIMEOUT_S) == "first"
    return handle


@pytest.fixture
def relay(cluster: Cluster, tmp_path: Path) -> Iterator[Handle]:
    yield serving.run(Relay.bind(Arrays.bind(str(tmp_path))), name="relay", route_prefix=None)
    serving.delete("relay")


def replica_of(application: str, deployment: str) -> psutil.Process:
    (found,) = [p for p in replicas(application) if spec_of(p).deployment.name == deployment]
    return found


def shared_bytes(*processes: psutil.Process) -> int:
    """What the processes hold of shared memory, but for what they offer each other."""
    total = 0
    for process in processes:
        for fd in Path(f"/proc/{process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed by now
                if "memfd:serving" in os.readlink(fd) and (size := fd.stat().st_size) > 16:
                    total += size
    return total


def open_files(process: psutil.Process) -> int:
    return len(os.listdir(f"/proc/{process.pid}/fd"))


@pytest.fixture
def peak_of() -> Any:
    """Gives a function that begins to watch a process and returns how to ask for the bytes by
    which its memory has grown at most since."""

    def begin(process: psutil.Process) -> Any:
        Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # the peak is what there is now
        before = _peak(process)
        return lambda: _peak(process) - before

    return begin


def _peak(process: psutil.Process) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def test_100_mb_go_there_and_back_in_bounded_memory(arrays: Handle, peak_of: Any) -> None:
    replica, script = replica_of("arrays", "Arrays"), psutil.Process()
    sent = np.random.default_rng(1).integers(0, 256, SIZE, np.uint8)
    peaks = peak_of(script), peak_of(replica)

    received = arrays.remote(sent).result(TIMEOUT_S)

    assert np.array_equal(received, sent)
    received[0] = 7
    assert peaks[0]() < 2.5 * SIZE  # A copy of what was sent, and what came back.
    assert peaks[1]() < 1.5 * SIZE
    assert shared_bytes(script, replica) == 0


def test_array_goes_between_replicas(relay: Handle) -> None:
    assert relay.through.remote(SIZE).result(TIMEOUT_S)


@pytest.mark.parametrize("size", [1_000, 100_000, 2_000_000, 20_000_000])
def test_array_of_any_size_is_writable_on_arrival(arrays: Handle, size: int) -> None:
    sent = np.arange(size // 8)

    assert np.array_equal(arrays.doubled_in_place.remote(sent).result(TIMEOUT_S), 2 * sent)


def test_several_arrays_of_several_sizes_keep_their_places(arrays: Handle) -> None:
    one: list[Any] = [np.full(size, size) for size in (3, 30_000, 3_000_000)]
    other: dict[str, Any] = {
        "matrix": np.arange(6_000_000.0).reshape(2_000, 3_000),
        "bytes": b"b" * 2_000_000,
    }

    received = arrays.swapped.remote(one, other=other).result(TIMEOUT_S)

    assert np.array_equal(received["one"]["matrix"], other["matrix"])
    assert received["one"]["bytes"] == other["bytes"]
    sent_back, *rest = received["other"]
    assert all(np.array_equal(a, b) for a, b in zip(sent_back, one, strict=True))
    assert rest == ["and", 1]


def test_arrays_are_items_of_a_stream(arrays: Handle) -> None:
    sent = np.arange(1_000_000)

    items = arrays.options(stream=True).shifted.remote(sent, 3)
    for number, item in enumerate(items):
        assert np.array_equal(item, sent + number)


@pytest.mark.parametrize("size", [1_000, 200_000, 50_000_000])
def test_array_that_is_changed_after_the_call_arrives_as_it_was(arrays: Handle, size: int) -> None:
    sent = np.zeros(size, np.uint8)
    response = arrays.remote(sent)
    sent[:] = 1

    assert not response.result(TIMEOUT_S).any()


def test_small_call_is_answered_beside_a_large_one(arrays: Handle, folder: Path) -> None:
    holding = arrays.hold.remote(np.ones(SIZE, np.uint8))

    assert arrays.remote("small").result(TIMEOUT_S) == "small"
    assert until((folder / "begun").exists)
    holding.cancel()
    assert until((folder / "cancelled").exists)


def test_no_descriptors_stay_behind(arrays: Handle) -> None:
    replica, script = replica_of("arrays", "Arrays"), psutil.Process()
    array = np.ones(2_000_000, np.uint8)
    arrays.remote(array).result(TIMEOUT_S)
    until(lambda: shared_bytes(script, replica) == 0)
    # What earlier tests left to be closed goes meanwhile, and must not hide what stays.
    before = settled(lambda: open_files(script)), settled(lambda: open_files(replica))

    kept = [arrays.remote(array).result(TIMEOUT_S) for _ in range(20)]

    assert len(kept) == 20
    assert until(lambda: open_files(script) <= before[0] and open_files(replica) <= before[1])


def test_killed_replica_frees_memory_and_fails_the_call(cluster: Cluster, tmp_path: Path) -> None:
    handle = serving.run(Arrays.bind(str(tmp_path)), name="killed", route_prefix=None)
    response = handle.hold.remote(np.ones(SIZE, np.uint8))
    until((tmp_path / "begun").exists)
    replica_of("killed", "Arrays").kill()

    with pytest.raises(ReplicaUnavailableError):
        response.result(TIMEOUT_S)
    assert shared_bytes(psutil.Process()) == 0
    assert shares._Process.size == 0
    serving.delete("killed")


def test_replica_that_is_killed_before_it_reads_frees_memory(
    cluster: Cluster, tmp_path: Path
) -> None:
    handle = serving.run(Arrays.bind(str(tmp_path)), name="stopped", route_prefix=None)
    assert handle.remote(1).result(TIMEOUT_S) == 1
    replica = replica_of("stopped", "Arrays")
    replica.suspend()
    response = handle.remote(np.ones(SIZE, np.uint8))
    assert until(lambda: shared_bytes(psutil.Process()) == SIZE)
    replica.kill()

    with pytest.raises(ReplicaUnavailableError):
        response.result(TIMEOUT_S)
    assert until(lambda: shared_bytes(psutil.Process()) == 0)
    assert shares._Process.size == 0
    serving.delete("stopped")


def test_killed_caller_frees_memory_and_cancels_the_handler(relay: Handle, tmp_path: Path) -> None:
    assert relay.through.remote(1).result(TIMEOUT_S)  # They are connected.
    response = relay.hold.remote(SIZE)
    until((tmp_path / "begun").exists)
    caller, holder = replica_of("relay", "Relay"), replica_of("relay", "Arrays")
    # The handler runs, so the call is under way; its caller has placed the array until it answers.
    assert shared_bytes(caller) == SIZE
    os.kill(caller.pid, signal.SIGKILL)

    assert until((tmp_path / "cancelled").exists)
    assert shared_bytes(holder) == 0
    with pytest.raises(ReplicaUnavailableError):
        response.result(TIMEOUT_S)


@asynccontextmanager
async def linked(address: str) -> AsyncIterator[Link]:
    """A link to a replica's data plane at the address."""

    async def app(*_: Any) -> None:
        """Gets no requests."""

    server = grpc.aio.server()
    service = DataService(Runner(app, max_ongoing=1, state={}), ReplicaModels())
    add_ReplicaServicer_to_server(service, server)
    port = server.add_insecure_port(address)
    await server.start()
    up = asyncio.Event()
    link = Link(
        address if address.startswith("unix:") else f"127.0.0.1:{port}",
        on_up=up.set,
        on_down=lambda: None,
        on_load=lambda ongoing: None,
    )
    running = asyncio.ensure_future(link.run())
    try:
        await asyncio.wait_for(up.wait(), TIMEOUT_S)
        yield link
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await server.stop(0)


def shares_memory(link: Link) -> bool:
    assert link.connection is not None
    return link.connection.session.shares_memory


async def test_memory_is_shared_over_a_unix_socket(tmp_path: Path) -> None:
    async with linked(f"unix:{tmp_path}/replica") as link:
        assert shares_memory(link)


async def test_memory_is_not_shared_over_tcp() -> None:
    async with linked("127.0.0.1:0") as link:
        assert not shares_memory(link)


@pytest.mark.parametrize("answers", [[False], [True, False]], ids=["replica", "caller"])
async def test_memory_is_not_shared_where_one_cannot_read_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: list[bool]
) -> None:
    asked = iter(answers)
    monkeypatch.setattr(memory, "accept", lambda offered: next(asked))

    async with linked(f"unix:{tmp_path}/replica") as link:
        assert not shares_memory(link)
    assert next(asked, None) is None
