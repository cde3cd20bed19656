"""WebSocket load: every connection sends five bytes, waits for the echo, and sends again.

Prints its result as one line of JSON, in the form of load.lua. A process of its own on raw
sockets, so that as little as possible of the machine goes to the load.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from array import array
from typing import cast

import uvloop

MESSAGE = b"hello"
# A text frame, final, masked with zeros (which leaves the payload as it is); and its echo.
REQUEST = bytes([0x81, 0x80 | len(MESSAGE), 0, 0, 0, 0]) + MESSAGE
RESPONSE = bytes([0x81, len(MESSAGE)]) + MESSAGE
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class EchoClient(asyncio.Protocol):
    """One connection: at most one message under way; latencies in nanoseconds."""

    def __init__(self, latencies: array[int]) -> None:
        self.latencies = latencies
        self.failed = False
        self.upgraded = False
        self.received = b""
        self.sent_ns = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(HANDSHAKE)

    def data_received(self, data: bytes) -> None:
        self.received += data
        if not self.upgraded:
            self._upgrade()
        elif self.received == RESPONSE:
            self.received = b""
            self.latencies.append(time.perf_counter_ns() - self.sent_ns)
            self._send()
        elif not RESPONSE.startswith(self.received):
            self._fail()

    def connection_lost(self, exc: Exception | None) -> None:
        self.failed = True

    def _upgrade(self) -> None:
        head, end, _ = self.received.partition(b"\r\n\r\n")
        if not end:
            return
        if not head.startswith(b"HTTP/1.1 101 "):
            self._fail()
            return
        self.upgraded, self.received = True, b""
        self._send()

    def _send(self) -> None:
        self.sent_ns = time.perf_counter_ns()
        self.transport.write(REQUEST)

    def _fail(self) -> None:
        self.failed = True
        self.transport.abort()


async def drive(port: int, connections: int, seconds: float) -> dict[str, float]:
    """Runs the load and returns its result."""
    loop = asyncio.get_running_loop()
    latencies: array[int] = array("q")
    clients: list[EchoClient] = []
    start_ns = time.perf_counter_ns()
    for _ in range(connections):
        _, client = await loop.create_connection(lambda: EchoClient(latencies), "127.0.0.1", port)
        clients.append(client)
    await asyncio.sleep(seconds)
    duration_us = (time.perf_counter_ns() - start_ns) / 1e3
    failures = sum(client.failed or not client.upgraded for client in clients)
    percentiles = statistics.quantiles(latencies, n=100) if len(latencies) > 1 else [0.0] * 99
    return {
        "count": len(latencies),
        "duration_us": duration_us,
        "p50_us": percentiles[49] / 1e3,
        "p99_us": percentiles[98] / 1e3,
        "failures": failures,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=4.0)
    args = parser.parse_args()
    result = uvloop.run(drive(args.port, args.connections, args.seconds))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
