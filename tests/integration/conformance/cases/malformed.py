"""Bytes that are no HTTP: the server answers them itself."""

from __future__ import annotations

from tests.integration.conformance.cases.script import Script
from tests.integration.conformance.wire import Wire

HEAD = b"host: conformance\r\n"


def sends(data: bytes) -> Script:
    def script(wire: Wire) -> None:
        wire.send(data)
        wire.read_response()

    return script


def after_a_good_one(wire: Wire) -> None:
    wire.send(wire.request("GET /"))
    wire.read_response()
    wire.send(b"\x00\x01\x02\r\n\r\n")
    wire.read_response()


CASES: dict[str, Script] = {
    "malformed_garbage": sends(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    "malformed_line": sends(b"HELLO\r\n\r\n"),
    "malformed_method": sends(b"G@T / HTTP/1.1\r\n" + HEAD + b"\r\n"),
    "malformed_method_lower_case": sends(b"get / HTTP/1.1\r\n" + HEAD + b"\r\n"),
    "malformed_method_unknown": sends(b"FROBNICATE / HTTP/1.1\r\n" + HEAD + b"\r\n"),
    "malformed_version": sends(b"GET / HTTP/9.9\r\n" + HEAD + b"\r\n"),
    "version_missing": sends(b"GET /\r\n\r\n"),
    "malformed_http2_preface": sends(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "malformed_target": sends(b"GET nowhere HTTP/1.1\r\n" + HEAD + b"\r\n"),
    "malformed_target_with_space": sends(b"GET /a b HTTP/1.1\r\n" + HEAD + b"\r\n"),
    "malformed_header_without_colon": sends(b"GET / HTTP/1.1\r\nnonsense\r\n\r\n"),
    "malformed_header_name": sends(b"GET / HTTP/1.1\r\nbad name: 1\r\n\r\n"),
    "malformed_header_space_before_colon": sends(b"GET / HTTP/1.1\r\nhost : a\r\n\r\n"),
    "malformed_header_nul": sends(b"GET / HTTP/1.1\r\nx-a: a\0b\r\n\r\n"),
    "malformed_header_bare_cr": sends(b"GET / HTTP/1.1\r\nx-a: a\rb\r\n\r\n"),
    "malformed_length": sends(b"POST / HTTP/1.1\r\ncontent-length: five\r\n\r\nhello"),
    "malformed_length_negative": sends(b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n"),
    "malformed_length_twice": sends(
        b"POST / HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello"
    ),
    "malformed_length_and_chunked": sends(
        b"POST / HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "malformed_encoding": sends(b"POST / HTTP/1.1\r\ntransfer-encoding: brotli\r\n\r\nhello"),
    "malformed_after_a_good_one": after_a_good_one,
}
