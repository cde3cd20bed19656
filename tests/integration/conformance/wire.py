"""A client that sends exactly the bytes it is given and keeps exactly those that come back."""

from __future__ import annotations

import json
import re
import socket
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Self

ANSWER_WITHIN_S = 10.0

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
HANDSHAKE = (
    b"connection: Upgrade",
    b"upgrade: websocket",
    b"sec-websocket-version: 13",
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
)


def octets(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> bytes:
    """A WebSocket frame of a client. Its mask is zero, which leaves the payload as it is."""
    first = (fin << 7) | (rsv << 4) | opcode
    if len(payload) < 126:
        head = struct.pack("!BB", first, 0x80 | len(payload))
    elif len(payload) < 1 << 16:
        head = struct.pack("!BBH", first, 0x80 | 126, len(payload))
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, len(payload))
    return head + bytes(4) + payload


def close_frame(code: int, reason: str = "") -> bytes:
    return frame(CLOSE, struct.pack("!H", code) + reason.encode())


class ConnectionEnded(Exception):
    """The server closed the connection where more was expected."""


class Wire:
    """One TCP connection. `received` holds all that came, `ended` whether the server closed it.

    `headers` go with each request that is built here, `prefix` before its path.
    """

    def __init__(
        self, address: tuple[str, int], prefix: str = "", headers: tuple[bytes, ...] = ()
    ) -> None:
        self.prefix = prefix
        self.headers = headers
        self.received = bytearray()
        self.position = 0
        self.ended = False
        self.socket = socket.create_connection(address, timeout=ANSWER_WITHIN_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.ports = (self.socket.getsockname()[1], address[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def request(
        self,
        line: str | bytes,
        *headers: str | bytes,
        body: bytes | None = None,
        chunks: Iterable[bytes] | None = None,
        steps: Sequence[object] = (),
        version: str = "1.1",
    ) -> bytes:
        """The bytes of a request; `steps` are what the scripted application does."""
        method, target = octets(line).split(b" ", 1)
        lines = [b"%s %s%s HTTP/%s" % (method, octets(self.prefix), target, octets(version))]
        lines += [*self.headers, *map(octets, headers)]
        if not any(line.lower().startswith(b"host:") for line in lines):
            lines.insert(1, b"host: conformance")
        if steps:
            lines.append(b"x-script: " + json.dumps(steps).encode())
        if body is not None:
            lines.append(b"content-length: %d" % len(body))
        if chunks is not None:
            lines.append(b"transfer-encoding: chunked")
            body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))
        return b"\r\n".join([*lines, b"", body or b""])

    def handshake(self, target: str, *headers: str | bytes, steps: Sequence[object] = ()) -> bytes:
        return self.request("GET " + target, *HANDSHAKE, *headers, steps=steps)

    def send(self, *segments: bytes) -> None:
        """Sends each segment by a write of its own."""
        for segment in segments:
            try:
                self.socket.sendall(segment)
            except ConnectionError:
                return  # What the server said before it closed is still to be read.

    def close_half(self) -> None:
        """Sends no more: the peer meets the end of what it reads."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Vanishes: the peer gets a TCP reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()
        self.ended = True

    def _fill(self) -> None:
        try:
            data = self.socket.recv(1 << 20)
        except ConnectionError:
            data = b""
        if not data:
            self.ended = True
            raise ConnectionEnded
        self.received += data

    def read(self, count: int) -> bytes:
        while len(self.received) < self.position + count:
            self._fill()
        self.position += count
        return bytes(self.received[self.position - count : self.position])

    def read_until(self, mark: bytes) -> bytes:
        while (found := self.received.find(mark, self.position)) < 0:
            self._fill()
        return self.read(found + len(mark) - self.position)

    def read_to_end(self) -> None:
        """Until the server closes the connection."""
        try:
            while True:
                self._fill()
        except ConnectionEnded:
            self.position = len(self.received)

    def read_head(self) -> tuple[int, dict[bytes, bytes]]:
        lines = self.read_until(b"\r\n\r\n").split(b"\r\n")
        fields = (line.split(b": ", 1) for line in lines[1:] if line)
        return int(lines[0].split(b" ")[1]), {name.lower(): value for name, value in fields}

    def read_chunk(self) -> bytes:
        """A chunk's data; empty for the last one."""
        size = int(self.read_until(b"\r\n"), 16)
        return self.read(size + 2)[:size]

    def read_response(self, *, has_body: bool = True) -> int:
        """One response, as far as its framing says; returns the status."""
        status, headers = self.read_head()
        if not has_body or status < 200 or status in (204, 304):
            pass
        elif headers.get(b"transfer-encoding") == b"chunked":
            while self.read_chunk():
                pass
        elif b"content-length" in headers:
            self.read(int(headers[b"content-length"]))
        else:
            self.read_to_end()
        if headers.get(b"connection") == b"close":
            self.read_to_end()
        return status

    def read_frame(self) -> tuple[int, bytes]:
        """The opcode and payload of the next WebSocket frame."""
        first, length = self.read(2)
        if length == 126:
            (length,) = struct.unpack("!H", self.read(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", self.read(8))
        return first & 0xF, self.read(length)

    def finish_websocket(self) -> None:
        """Reads to the closing frame, answers it, reads to the end."""
        opcode, payload = self.read_frame()
        while opcode != CLOSE:
            opcode, payload = self.read_frame()
        self.send(frame(CLOSE, payload))
        self.read_to_end()

    def is_usable(self) -> bool:
        """Whether the server answers once more on this connection: only use can tell."""
        if self.ended:
            return False
        self.headers = tuple(line for line in self.headers if not line.startswith(b"x-case"))
        try:
            self.send(self.request("GET /still-open"))
            self.read_response()
        except ConnectionEnded:
            return False
        return True

    def transcript(self) -> bytes:
        """All that came, without what differs between any two runs."""
        data = bytes(self.received)
        for boundary in re.findall(rb"multipart/byteranges; boundary=(\w+)", data):
            data = data.replace(boundary, b"<boundary>")
        for pattern, replacement in MASKS:
            data = re.sub(pattern, replacement, data)
        return mask_ports(data, self.ports)


def sort_methods(found: re.Match[bytes]) -> bytes:
    """Starlette writes them as a set gives them."""
    return b"allow: " + b", ".join(sorted(found[1].split(b", ")))


MASKS: list[tuple[bytes, bytes | Callable[[re.Match[bytes]], bytes]]] = [
    (rb"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", b"<date>"),
    (rb"(?s)\x1f\x8b\x08\x00.{4}", b"<gzip header and its time>"),
    (rb"\ballow: ([A-Z, ]+)", sort_methods),
]


def mask_ports(data: bytes, ports: tuple[int, int]) -> bytes:
    for name, port in zip((b"<client port>", b"<server port>"), ports, strict=True):
        data = re.sub(rb"\b%d\b" % port, name, data)
    return data
