"""What requests get where there is less room than they ask for, and how evenly room is given:
`python benchmarks/overload.py` prints it, `--write` keeps it in RESULTS-overload.md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import shlex
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from report import circumstances, table, verdict
from servers import ROLES, free_port

import serving

RESULTS = Path(__file__).with_name("RESULTS-overload.md")
LIBRARIES = ("uvicorn", "uvloop", "grpcio")
MIB = 1024 * 1024
# What counts as flat, with the allocator's own ups and downs.
FLAT_MIB = 8.0


class Pausing:
    """Answers after a while. With a folder, the first instance that finds it is the slow one."""

    def __init__(self, pause_s: float, slow_s: float = 0.0, folder: str = "") -> None:
        self.pause_s = pause_s
        if folder:
            with contextlib.suppress(FileExistsError):
                (Path(folder) / "slow").touch(exist_ok=False)
                self.pause_s = slow_s

    async def __call__(self, request: object) -> str:
        await asyncio.sleep(self.pause_s)
        return serving.get_replica_context().replica_id


class Never:
    def __init__(self) -> None:
        raise RuntimeError("there is to be no replica")


@dataclass
class Answers:
    """What a load got: status, seconds, and the body, which names the replica."""

    elapsed_s: float = 0.0
    all: list[tuple[int, float, str]] = field(default_factory=list)

    def rate(self, status: int = 200) -> float:
        return self.statuses[status] / self.elapsed_s

    @property
    def statuses(self) -> Counter[int]:
        return Counter(status for status, _, _ in self.all)

    def p99_ms(self, status: int = 200, but: str = "") -> float:
        """Of the answers with that status, but for those of one replica."""
        times = [s for code, s, body in self.all if code == status and body != (but or None)]
        return statistics.quantiles(times, n=100)[98] * 1e3


class Client:
    """One HTTP connection that is kept."""

    def __init__(self, port: int, path: str) -> None:
        self._port = port
        self._head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self) -> tuple[int, float, str]:
        began = time.perf_counter()
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writer.write(self._head)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.split("content-length:")[1].split("\r\n")[0])
        body = (await self._reader.readexactly(length)).decode()
        return int(head.split(" ", 2)[1]), time.perf_counter() - began, body

    async def aclose(self) -> None:
        if self._writer is not None:
            self._writer.close()
            await self._writer.wait_closed()


async def closed(port: int, path: str, users: int, seconds: float) -> Answers:
    """Each user asks again once it was answered."""
    found = Answers()
    began = time.perf_counter()

    async def user() -> None:
        client = Client(port, path)
        while time.perf_counter() - began < seconds:
            found.all.append(await client.ask())
        await client.aclose()

    await asyncio.gather(*(user() for _ in range(users)))
    found.elapsed_s = time.perf_counter() - began
    return found


async def opened(port: int, path: str, rate: float, seconds: float) -> Answers:
    """Requests at a pace, whatever the answers do; connections are used again."""
    found, idle = Answers(), list[Client]()

    async def one() -> None:
        client = idle.pop() if idle else Client(port, path)
        found.all.append(await client.ask())
        idle.append(client)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
            group.create_task(one())
        found.elapsed_s = time.perf_counter() - began
    for client in idle:
        await client.aclose()
    return found


@contextlib.contextmanager
def running(target: serving.Application, num_proxies: int = 1) -> Iterator[int]:
    """A cluster of its own with that application; gives its port."""
    serving.start(
        http_options=serving.HTTPOptions(port=free_port(), num_proxies=num_proxies),
        logging_config={"log_level": "ERROR", "enable_access_log": False},
    )
    try:
        serving.run(target)
        url = serving.status().url
        assert url is not None
        yield int(url.rsplit(":", 1)[1])
    finally:
        serving.shutdown()


def rss_mib() -> dict[str, float]:
    """Of our processes, by role; of several of one role the largest."""
    found: dict[str, float] = {}
    for process in psutil.Process().children(recursive=True):
        if role := ROLES.search(" ".join(process.cmdline())):
            size = process.memory_info().rss / MIB
            found[role[1]] = max(found.get(role[1], 0.0), size)
    return found


Row = tuple[str, str, str]


def overload(seconds: float) -> list[Row]:
    """Ten places of 100 ms and 20 in the queue, asked for ten times of what they can do; right
    after it, for four fifths."""
    options = {"max_ongoing_requests": 10, "max_queued_requests": 20}
    with running(serving.deployment(**options)(Pausing).bind(0.1)) as port:
        peak = asyncio.run(closed(port, "/", 20, 5.0)).rate()
        asyncio.run(opened(port, "/", 1000, 3.0))  # warm-up
        before = rss_mib()
        found = asyncio.run(opened(port, "/", 1000, seconds))
        after = rss_mib()
        calm = asyncio.run(opened(port, "/", 80, 3.0))
    grown = max(after[role] - before[role] for role in ("proxy", "replica", "controller"))
    others = sorted(found.statuses.keys() - {200, 503})
    share = found.rate() / peak
    # In the order of their ends: those that were refused, or waited, after the last that did not.
    waited = [number for number, (code, s, _) in enumerate(calm.all) if code != 200 or s > 0.2]
    recovered = (max(waited) + 1) / 80 * 1e3 if waited else 0.0
    text = f"1,000/s for {seconds:.0f} s, room for 100/s: "
    return [
        (text + "answered, of what a closed load gets", f"{share:.2f}", verdict(share, 0.9)),
        ("503: p99 ms", f"{found.p99_ms(503):.1f}", verdict(-found.p99_ms(503), -20)),
        (
            "answers that are neither",
            ", ".join(map(str, others)) or "none",
            "none: " + ("**missed**" if others else "reached"),
        ),
        (
            "memory grown, MiB (the process that grew most)",
            f"{grown:.1f}",
            verdict(-grown, -FLAT_MIB),
        ),
        (
            "80/s right after it: refused, or answered after 200 ms, until ms",
            f"{recovered:.0f}",
            verdict(-recovered, -1000),
        ),
    ]


def shared_limit() -> list[Row]:
    """Two places of a second and 20 in the queue, for four proxies and 200 requests at once."""
    options = {"max_ongoing_requests": 2, "max_queued_requests": 20}
    with running(serving.deployment(**options)(Pausing).bind(1.0), num_proxies=4) as port:
        found = asyncio.run(opened(port, "/", 1000, 0.2))
    taken = found.statuses[200]
    text = "4 proxies, room for 2 and 20 in the queue, 200 at once: taken (22 with one proxy)"
    # The first two may be done before the last has come.
    return [(text, str(taken), verdict(-taken, -24))]


def users() -> list[Row]:
    """One place of 100 ms, with 1, 5 and 50 users."""
    rows = []
    with running(serving.deployment(max_ongoing_requests=1)(Pausing).bind(0.1)) as port:
        for count in (1, 5, 50):
            rate = asyncio.run(closed(port, "/", count, 10.0)).rate()
            text = f"one place of 100 ms, {count} users: answers a second"
            rows.append((text, f"{rate:.2f}", verdict(rate, 9.7)))
    return rows


def slow_replica() -> list[Row]:
    """Four replicas, one of which takes ten times as long."""
    found = []
    for slow_s in (0.02, 0.2):
        with tempfile.TemporaryDirectory() as folder:
            app = serving.deployment(num_replicas=4, max_ongoing_requests=8)(Pausing)
            with running(app.bind(0.02, slow_s, folder)) as port:
                answers = asyncio.run(opened(port, "/", 150, 10.0))
        by_replica: dict[str, list[float]] = {}
        for _, seconds, replica in answers.all:
            by_replica.setdefault(replica, []).append(seconds)
        slowest = max(by_replica, key=lambda each: statistics.median(by_replica[each]))
        found.append(answers.p99_ms(but=slowest))
    ratio = found[1] / found[0]
    text = "one replica of four ten times as slow: p99 of the others, to that without it"
    return [(text, f"{ratio:.2f}", verdict(-ratio, -1.3))]


def utilisation() -> list[Row]:
    """Four proxies and eight replicas, busy to two thirds."""
    app = serving.deployment(num_replicas=8, max_ongoing_requests=4)(Pausing)
    with running(app.bind(0.05), num_proxies=4) as port:
        found = asyncio.run(opened(port, "/", 400, 10.0))
    counts = Counter(body for _, _, body in found.all).values()
    ratio = max(counts) / min(counts)
    return [("4 proxies, 8 replicas: most to least used", f"{ratio:.2f}", verdict(-ratio, -1.2))]


def health() -> list[Row]:
    """The proxy's own answer, with requests waiting and no replica there."""
    with running(serving.deployment(Pausing).bind(0.0)) as port:
        with contextlib.suppress(Exception):
            serving.run(serving.deployment(Never).bind(), name="never", route_prefix="/never")
        worst = 0.0
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        for _ in range(200):
            began = time.perf_counter()
            connection.request("GET", "/-/healthz")
            connection.getresponse().read()
            worst = max(worst, time.perf_counter() - began)
        connection.close()
    text = "/-/healthz beside an application without replicas: slowest of 200, ms"
    return [(text, f"{worst * 1e3:.1f}", verdict(-worst * 1e3, -20))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of the overload")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    args = parser.parse_args()
    rows = []
    for part in (
        lambda: overload(args.seconds),
        shared_limit,
        users,
        slow_replica,
        utilisation,
        health,
    ):
        for row in part():
            print(*row, sep=" | ", flush=True)
            rows.append(row)
    if args.write:
        command = shlex.join(["python", "benchmarks/overload.py", *sys.argv[1:]])
        head = f"# Benchmark results of overload\n\n{circumstances(command, LIBRARIES)}\n\n"
        note = "Load generator and servers share the cores; connections are kept.\n\n"
        RESULTS.write_text(head + note + table(("what", "figure", "target"), rows) + "\n")


if __name__ == "__main__":
    main()
