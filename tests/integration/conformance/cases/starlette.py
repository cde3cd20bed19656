"""Starlette: routing, responses, middleware, exception handlers, background tasks."""

from __future__ import annotations

from tests.integration.conformance.cases.script import Script, ask, in_turn
from tests.integration.conformance.wire import TEXT, Wire, close_frame, frame

FORM = b"a=1&b=two+words&a=%E2%82%AC"
MULTIPART = (
    b'--limit\r\ncontent-disposition: form-data; name="note"\r\n\r\nhello\r\n'
    b'--limit\r\ncontent-disposition: form-data; name="file"; filename="a.bin"\r\n'
    b"content-type: application/octet-stream\r\n\r\n"
    + bytes(range(256)) * 40
    + b"\r\n--limit--\r\n"
)
URLENCODED = "content-type: application/x-www-form-urlencoded"
MULTIPART_TYPE = "content-type: multipart/form-data; boundary=limit"


def open_websocket(wire: Wire, target: str, *headers: str) -> bool:
    wire.send(wire.handshake(target, *headers))
    return wire.read_response() == 101


def ws_echo(wire: Wire) -> None:
    open_websocket(wire, "/ws/echo", "sec-websocket-protocol: one, two")
    for text in (b"first", b"", "caf\u00e9".encode()):
        wire.send(frame(TEXT, text))
        wire.read_frame()
    wire.send(close_frame(3333, "done"))
    wire.read_to_end()


def ws_json(wire: Wire) -> None:
    open_websocket(wire, "/ws/json?q=1")
    wire.send(frame(TEXT, b'{"a": [1, null]}'))
    wire.finish_websocket()


def ws_vanishes(wire: Wire) -> None:
    open_websocket(wire, "/ws/echo")
    wire.reset()


def ws_wrong_kind(wire: Wire) -> None:
    """The handler waits for text and breaks off on bytes."""
    open_websocket(wire, "/ws/echo")
    wire.send(frame(0x2, b"bytes"))
    wire.finish_websocket()


def refused(target: str) -> Script:
    return lambda wire: open_websocket(wire, target)


CASES: dict[str, Script] = {
    "home": ask("GET /"),
    "home_head": ask("HEAD /"),
    "url_for": ask("GET /items/7?a=1&a=2&b=%20", "x-many: 1", "x-many: 2", "cookie: a=1; b=2; c"),
    "url_for_forwarded": ask("GET /items/7", "x-forwarded-proto: https"),
    "param_of_wrong_type": ask("GET /items/seven"),
    "not_found": ask("GET /nowhere"),
    "method_not_allowed": ask("POST /", body=b"x"),
    "options_not_allowed": ask("OPTIONS /"),
    "redirect_slash_added": ask("GET /slash?a=1"),
    "redirect_slash_removed": ask("GET /items/7/"),
    "redirect_response": ask("GET /old"),
    "lifespan_state": in_turn(ask("GET /state"), ask("GET /state")),
    "request_body": ask("POST /body", body=b"hello"),
    "request_body_chunked": ask("PUT /body", chunks=[b"hello", b" world"]),
    "request_body_1_mib": ask("POST /body", body=b"x" * (1 << 20)),
    "request_stream": ask("POST /stream-body", body=b"x" * 300_000),
    "form_urlencoded": ask("POST /form", URLENCODED, body=FORM),
    "form_multipart": ask("POST /form", MULTIPART_TYPE, body=MULTIPART),
    "form_multipart_broken": ask("POST /form", MULTIPART_TYPE, body=MULTIPART[20:]),
    "cookies": ask("GET /cookies"),
    "streaming": ask("GET /stream"),
    "streaming_head": ask("HEAD /stream"),
    "streaming_from_thread": ask("GET /stream-in-thread"),
    "streaming_broken": ask("GET /stream-broken"),
    "file": ask("GET /file"),
    "file_head": ask("HEAD /file"),
    "file_range": ask("GET /file", "range: bytes=3-7"),
    "file_range_suffix": ask("GET /file", "range: bytes=-4"),
    "file_range_multiple": ask("GET /file", "range: bytes=0-1, 5-6"),
    "file_range_unsatisfiable": ask("GET /file", "range: bytes=100-"),
    "file_range_malformed": ask("GET /file", "range: letters=1-2"),
    "static_file": ask("GET /static/letters.txt"),
    "static_index": ask("GET /static/"),
    "static_mount_redirect": ask("GET /static"),
    "static_not_found": ask("GET /static/nothing.txt"),
    "static_outside": ask("GET /static/..%2fapps.py"),
    "background_task": ask("GET /background"),
    "background_task_raises": ask("GET /background-raises"),
    "handler_raises": ask("GET /raises"),
    "http_exception": ask("GET /http-error"),
    "exception_handler": ask("GET /teapot"),
    "endpoint_class": in_turn(ask("GET /resource"), ask("DELETE /resource"), ask("PUT /resource")),
    "mounted": ask("GET /sub/leaf/a%20b"),
    "mounted_not_found": ask("GET /sub/nowhere"),
    "mounted_redirect": ask("GET /sub"),
    "cors": ask("GET /cors/", "origin: https://example.org"),
    "cors_other_origin": ask("GET /cors/", "origin: https://example.com"),
    "cors_preflight": ask(
        "OPTIONS /cors/", "origin: https://example.org", "access-control-request-method: PUT"
    ),
    "cors_preflight_refused": ask(
        "OPTIONS /cors/", "origin: https://example.org", "access-control-request-method: PATCH"
    ),
    "gzip": ask("GET /gzip/", "accept-encoding: gzip"),
    "gzip_not_accepted": ask("GET /gzip/"),
    "gzip_streaming": ask("GET /gzip/stream", "accept-encoding: gzip"),
    "trusted_host": ask("GET /trusted/"),
    "untrusted_host": ask("GET /trusted/", "host: evil.example"),
    "base_middleware": ask("GET /base/"),
    "base_middleware_streaming": ask("GET /base/stream"),
    "base_middleware_body": ask("POST /base/body", body=b"hello"),
    "base_middleware_raises": ask("GET /base/raises"),
    "websocket_echo": ws_echo,
    "websocket_json": ws_json,
    "websocket_denied": refused("/ws/denied"),
    "websocket_http_error": refused("/ws/http-error"),
    "websocket_refused": refused("/ws/refused"),
    "websocket_raises": refused("/ws/raises"),
    "websocket_not_found": refused("/ws/nowhere"),
    "websocket_vanishes": ws_vanishes,
    "websocket_wrong_kind": ws_wrong_kind,
    "websocket_to_http_route": refused("/cookies"),
    "http_to_websocket_route": ask("GET /ws/echo"),
}
