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
# A close frame, code 1000, masked likewise.
CLOSE = bytes([0x88, 0x82, 0, 0, 0, 0, 0x03, 0xE8])
DEADLINE_S = 10.0
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class EchoClient(asyncio.Protocol):
    """One connection: at most one message under way; latencies in nanoseconds."""

    def __init__(self, latencies: array[int]) -> None:
        loop = asyncio.get_running_loop()
        self.upgraded = loop.create_future()
        self.done = loop.create_future()
        self._latencies = latencies
        self._received = b""
        self._sent_ns = 0
        self._stopping = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(HANDSHAKE)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self.upgraded.done():
            self._upgrade()
        elif self._received == RESPONSE:
            self._received = b""
            self._latencies.append(time.perf_counter_ns() - self._sent_ns)
            self.send()
        elif not self._stopping and not RESPONSE.startswith(self._received):
            self._fail(f"an echo that is none: {self._received!r}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail("the connection was lost")

    def send(self) -> None:
        """Sends the next message, or says goodbye after :meth:`stop`."""
        if self._stopping:
            self._transport.write(CLOSE)
            if not self.done.done():
                self.done.set_result(None)
            return
        self._sent_ns = time.perf_counter_ns()
        self._transport.write(REQUEST)

    def stop(self) -> None:
        """Closes the WebSocket after the echo that is under way."""
        self._stopping = True

    def _upgrade(self) -> None:
        head, end, _ = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        if not head.startswith(b"HTTP/1.1 101 "):
            self._fail(head.decode())
            return
        self._received = b""
        self.upgraded.set_result(None)

    def _fail(self, reason: str) -> None:
        for future in (self.upgraded, self.done):
            if not future.done():
                future.set_exception(ConnectionError(reason))
        self._transport.abort()


async def drive(port: int, connections: int, seconds: float) -> dict[str, float]:
    """Runs the load and returns its result. The handshakes are not part of it."""
    loop = asyncio.get_running_loop()
    latencies: array[int] = array("q")
    clients: list[EchoClient] = []
    for _ in range(connections):
        _, client = await loop.create_connection(lambda: EchoClient(latencies), "127.0.0.1", port)
        clients.append(client)
    await asyncio.wait_for(asyncio.gather(*(c.upgraded for c in clients)), DEADLINE_S)
    start_ns = time.perf_counter_ns()
    for client in clients:
        client.send()
    await asyncio.sleep(seconds)
    duration_us = (time.perf_counter_ns() - start_ns) / 1e3
    count = len(latencies)
    for client in clients:
        client.stop()
    await asyncio.wait_for(asyncio.gather(*(c.done for c in clients)), DEADLINE_S)
    percentiles = statistics.quantiles(latencies, n=100)
    return {
        "count": count,
        "duration_us": duration_us,
        "p50_us": percentiles[49] / 1e3,
        "p99_us": percentiles[98] / 1e3,
        "failures": 0,
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
