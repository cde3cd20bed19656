"""WebSockets: handshakes, messages, and every way in which they end."""

from __future__ import annotations

import struct
import zlib
from typing import Any

from tests.integration.conformance.cases.script import (
    RECEIVE,
    Pair,
    Script,
    Step,
    ask,
    attempt,
    body,
    length,
    respond,
    send,
)
from tests.integration.conformance.wire import (
    BINARY,
    CLOSE,
    HANDSHAKE,
    PING,
    PONG,
    TEXT,
    Wire,
    close_frame,
    frame,
)

CONTINUATION = 0x0
MIB = 1 << 20
DATA = bytes(range(32, 256)) * (MIB // 224 + 1)

ACCEPT = send("websocket.accept")
HANG_UP = send("websocket.close", code=1000)
CONNECT = RECEIVE
GONE: Step = ("receive until", "websocket.disconnect")


def denial(status: int, *headers: Pair) -> Step:
    return send("websocket.http.response.start", status=status, headers=headers)


def denial_body(data: str, *, more: bool = False) -> Step:
    return send("websocket.http.response.body", body=data, more_body=more)


def shake(*headers: str | bytes, target: str = "/", steps: Any = ()) -> Script:
    """A handshake; then, where it was accepted, until the server closes."""

    def script(wire: Wire) -> None:
        wire.send(wire.handshake(target, *headers, steps=steps))
        if wire.read_response() == 101:
            wire.finish_websocket()

    return script


def talk(
    *messages: bytes, answers: int | None = None, steps: Any = (), ends: bytes = b""
) -> Script:
    """Sends frames, each with its answer awaited; then ends it from the client's side."""

    def script(wire: Wire) -> None:
        wire.send(wire.handshake("/", steps=steps))
        wire.read_response()
        wire.send(*messages)
        for _ in range(len(messages) if answers is None else answers):
            wire.read_frame()
        wire.send(ends or close_frame(1000))
        wire.read_to_end()

    return script


def refuses(data: bytes) -> Script:
    """Frames for which the server closes the connection by itself."""

    def script(wire: Wire) -> None:
        wire.send(wire.handshake("/"))
        wire.read_response()
        wire.send(data)
        wire.finish_websocket()

    return script


def bad_handshake(*headers: str | bytes, line: str = "GET /", version: str = "1.1") -> Script:
    return ask(line, *headers, version=version)


HANDSHAKES: dict[str, Script] = {
    "ws_scope": shake(
        "x-a: 1",
        "X-A: 2",
        "origin: http://example.org",
        b"x-name: caf\xe9",
        "cookie: a=1",
        target="/a%20b//c/%FF?q=1&q=%20",
        steps=[CONNECT, ACCEPT, HANG_UP],
    ),
    "ws_forwarded": shake(
        "x-forwarded-for: 203.0.113.7", "x-forwarded-proto: https", steps=[CONNECT, ACCEPT, HANG_UP]
    ),
    "ws_subprotocols": shake(
        "sec-websocket-protocol: chat, superchat",
        "sec-websocket-protocol: third",
        steps=[CONNECT, send("websocket.accept", subprotocol="superchat"), HANG_UP],
    ),
    "ws_subprotocol_none_chosen": shake(
        "sec-websocket-protocol: chat", steps=[CONNECT, ACCEPT, HANG_UP]
    ),
    "ws_subprotocol_not_offered": shake(
        steps=[CONNECT, send("websocket.accept", subprotocol="mine"), HANG_UP]
    ),
    "ws_accept_headers": shake(
        steps=[
            CONNECT,
            send(
                "websocket.accept",
                headers=[("X-A", "1"), ("set-cookie", "a=1"), ("set-cookie", "b=2"), ("x-a", "2")],
            ),
            HANG_UP,
        ]
    ),
    "ws_accept_header_latin1": shake(
        steps=[CONNECT, send("websocket.accept", headers=[("x-name", "caf\u00e9")]), HANG_UP]
    ),
    "ws_accept_without_connect": shake(steps=[ACCEPT, HANG_UP]),
    "ws_refused": shake(steps=[CONNECT, send("websocket.close")]),
    "ws_refused_with_code": shake(
        steps=[CONNECT, send("websocket.close", code=4001, reason="not you"), RECEIVE]
    ),
    "ws_denied": shake(
        steps=[
            CONNECT,
            denial(401, ("content-type", "text/plain"), length(7)),
            denial_body("not you"),
        ]
    ),
    "ws_denied_in_parts": shake(
        steps=[CONNECT, denial(429), denial_body("a", more=True), denial_body("b"), RECEIVE]
    ),
    "ws_denied_repeated_headers": shake(
        steps=[CONNECT, denial(401, ("set-cookie", "a=1"), ("Set-Cookie", "b=2")), denial_body("")]
    ),
    "ws_denied_unusual_status": shake(steps=[CONNECT, denial(599), denial_body("")]),
    "ws_denied_status_out_of_range": shake(steps=[CONNECT, denial(600), denial_body("")]),
    "ws_denied_without_body": shake(steps=[CONNECT, denial(401)]),
    "ws_raises_before_accept": shake(steps=[CONNECT, ("raise", "secret")]),
    "ws_returns_before_accept": shake(steps=[CONNECT]),
    "ws_no_key": bad_handshake(*HANDSHAKE[:3]),
    "ws_bad_key": bad_handshake(*HANDSHAKE[:3], "sec-websocket-key: short"),
    "ws_bad_version": bad_handshake(*HANDSHAKE[:2], "sec-websocket-version: 8", HANDSHAKE[3]),
    "ws_by_post": bad_handshake(*HANDSHAKE, line="POST /"),
    "ws_by_http_1_0": bad_handshake(*HANDSHAKE, version="1.0"),
    "ws_no_connection_header": bad_handshake(*HANDSHAKE[1:]),
    "ws_upgrade_in_other_case": ask(
        "GET /",
        "Connection: keep-alive, UPGRADE",
        "Upgrade: WebSocket",
        *HANDSHAKE[2:],
        steps=[CONNECT, send("websocket.close")],
    ),
}

MESSAGES: dict[str, Script] = {
    "ws_text": talk(frame(TEXT, "caf\u00e9 \U0001f600".encode())),
    "ws_bytes": talk(frame(BINARY, bytes(range(256)))),
    "ws_text_empty": talk(frame(TEXT)),
    "ws_bytes_empty": talk(frame(BINARY)),
    "ws_1_mib_bytes": talk(frame(BINARY, DATA[:MIB])),
    "ws_1_mib_text": talk(frame(TEXT, b"t" * MIB)),
    "ws_at_the_frame_limit": talk(*(frame(BINARY, DATA[: (1 << 16) + n]) for n in (-1, 0, 1))),
    "ws_many_messages": talk(b"".join(frame(TEXT, b"%d" % n) for n in range(100)), answers=100),
    "ws_interleaved_types": talk(frame(TEXT, b"a"), frame(BINARY, b"b"), frame(TEXT, b"c")),
    "ws_fragmented": talk(
        frame(TEXT, b"one ", fin=False),
        frame(CONTINUATION, b"two ", fin=False) + frame(CONTINUATION, b"three"),
        answers=1,
    ),
    "ws_fragmented_inside_a_character": talk(
        frame(TEXT, b"\xe2\x82", fin=False), frame(CONTINUATION, b"\xac"), answers=1
    ),
    "ws_fragmented_with_ping": talk(
        frame(BINARY, b"one ", fin=False), frame(PING, b"in between"), frame(CONTINUATION, b"two"),
        answers=2,
    ),
    "ws_fragment_of_nothing": talk(
        frame(TEXT, b"", fin=False), frame(CONTINUATION, b"end"), answers=1
    ),
    "ws_ping": talk(frame(PING, b"are you there"), frame(PING)),
    "ws_pong_unasked": talk(frame(PONG, b"here I am"), frame(TEXT, b"still there"), answers=1),
    "ws_server_speaks_first": shake(
        steps=[
            CONNECT, ACCEPT, send("websocket.send", text="hello"),
            send("websocket.send", bytes="\u00ff\0"), HANG_UP,
        ]
    ),
    "ws_send_both_kinds": shake(
        steps=[
            CONNECT, ACCEPT, send("websocket.send", text="text", bytes=None),
            send("websocket.send", text=None, bytes="bytes"),
            send("websocket.send", text="text", bytes="bytes"), HANG_UP,
        ]
    ),
    "ws_send_empty": shake(
        steps=[
            CONNECT, ACCEPT, send("websocket.send", text=""), send("websocket.send", bytes=""),
            HANG_UP,
        ]
    ),
    "ws_send_nothing": shake(steps=[CONNECT, ACCEPT, attempt(send("websocket.send")), HANG_UP]),
}  # fmt: skip


def deflated(wire: Wire) -> None:
    """permessage-deflate is negotiated: messages come compressed both ways."""
    offer = "sec-websocket-extensions: permessage-deflate; client_max_window_bits"
    wire.send(wire.handshake("/", offer))
    wire.read_response()
    compressor = zlib.compressobj(wbits=-12)
    for text in (b"hello " * 100, b"hello " * 100):
        data = compressor.compress(text) + compressor.flush(zlib.Z_SYNC_FLUSH)
        wire.send(frame(TEXT, data.removesuffix(b"\0\0\xff\xff"), rsv=4))
        wire.read_frame()
    wire.send(close_frame(1000))
    wire.read_to_end()


def vanish(wire: Wire) -> None:
    wire.send(wire.handshake("/"))
    wire.read_response()
    wire.send(frame(TEXT, b"hello"))
    wire.read_frame()
    wire.reset()


def vanish_by_fin(wire: Wire) -> None:
    wire.send(wire.handshake("/"))
    wire.read_response()
    wire.close_half()
    wire.read_to_end()


def vanish_in_a_message(wire: Wire) -> None:
    wire.send(wire.handshake("/"))
    wire.read_response()
    wire.send(frame(BINARY, DATA[:MIB])[:1000])
    wire.close_half()
    wire.read_to_end()


def oversized(wire: Wire) -> None:
    """The header of a frame of 16 MiB and one byte is enough."""
    wire.send(wire.handshake("/"))
    wire.read_response()
    wire.send(struct.pack("!BBQ", 0x82, 0xFF, 16 * MIB + 1) + bytes(4))
    wire.finish_websocket()


def send_after_client_closed(wire: Wire) -> None:
    talk(steps=[CONNECT, ACCEPT, GONE, attempt(send("websocket.send", text="too late"))])(wire)


ENDINGS: dict[str, Script] = {
    **{
        f"ws_client_closes_{code}": talk(frame(TEXT, b"a"), ends=close_frame(code, "bye \u20ac"))
        for code in (1000, 1001, 1011, 3000, 4999)
    },
    "ws_client_closes_without_code": talk(ends=frame(CLOSE)),
    "ws_client_closes_without_reason": talk(ends=close_frame(1000)),
    "ws_client_vanishes": vanish,
    "ws_client_half_closes": vanish_by_fin,
    "ws_client_half_closes_in_a_message": vanish_in_a_message,
    "ws_send_after_client_closed": send_after_client_closed,
    **{
        f"ws_server_closes_{code}": shake(
            steps=[
                CONNECT,
                ACCEPT,
                send("websocket.close", code=code, reason="bye \u20ac"),
                RECEIVE,
            ]
        )
        for code in (1000, 1001, 1011, 1012, 3000, 4999)
    },
    "ws_server_closes_by_default": shake(steps=[CONNECT, ACCEPT, send("websocket.close"), RECEIVE]),
    "ws_server_closes_reason_none": shake(
        steps=[CONNECT, ACCEPT, send("websocket.close", code=1000, reason=None)]
    ),
    "ws_server_closes_with_invalid_code": shake(
        steps=[CONNECT, ACCEPT, attempt(send("websocket.close", code=999)), HANG_UP]
    ),
    "ws_server_closes_with_long_reason": shake(
        steps=[
            CONNECT,
            ACCEPT,
            attempt(send("websocket.close", code=1000, reason="x" * 124)),
            HANG_UP,
        ]
    ),
    "ws_returns_open": shake(steps=[CONNECT, ACCEPT, send("websocket.send", text="bye")]),
    "ws_returns_a_value": shake(steps=[CONNECT, ACCEPT, ("return", "something")]),
    "ws_raises_open": shake(
        steps=[CONNECT, ACCEPT, send("websocket.send", text="bye"), ("raise", "secret")]
    ),
    "ws_raises_after_close": shake(steps=[CONNECT, ACCEPT, HANG_UP, ("raise", "secret")]),
    "ws_deflate": deflated,
    "ws_oversized": oversized,
    "ws_invalid_utf8": refuses(frame(TEXT, b"\xff\xfe")),
    "ws_invalid_utf8_in_reason": refuses(frame(CLOSE, struct.pack("!H", 1000) + b"\xff")),
    "ws_unmasked": refuses(b"\x81\x05hello"),
    "ws_reserved_opcode": refuses(frame(0x3, b"?")),
    "ws_reserved_bits": refuses(frame(TEXT, b"?", rsv=2)),
    "ws_continuation_of_nothing": refuses(frame(CONTINUATION, b"?")),
    "ws_text_inside_fragments": refuses(frame(TEXT, b"a", fin=False) + frame(TEXT, b"b")),
    "ws_fragmented_ping": refuses(frame(PING, b"?", fin=False)),
    "ws_long_ping": refuses(frame(PING, b"?" * 126)),
    "ws_close_of_one_byte": refuses(frame(CLOSE, b"?")),
    "ws_close_with_invalid_code": refuses(frame(CLOSE, struct.pack("!H", 999))),
    "ws_close_with_reserved_code": refuses(frame(CLOSE, struct.pack("!H", 1005))),
}

MISUSE: dict[str, Script] = {
    "ws_send_before_accept": shake(steps=[CONNECT, send("websocket.send", text="a")]),
    "ws_send_before_accept_caught": shake(
        steps=[CONNECT, attempt(send("websocket.send", text="a")), ACCEPT, HANG_UP]
    ),
    "ws_accept_twice": shake(steps=[CONNECT, ACCEPT, attempt(ACCEPT), HANG_UP]),
    "ws_send_after_close": shake(
        steps=[CONNECT, ACCEPT, HANG_UP, attempt(send("websocket.send", text="a"))]
    ),
    "ws_close_twice": shake(steps=[CONNECT, ACCEPT, HANG_UP, attempt(HANG_UP)]),
    "ws_accept_after_refusal": shake(steps=[CONNECT, send("websocket.close"), attempt(ACCEPT)]),
    "ws_send_after_denial": shake(
        steps=[CONNECT, denial(401), denial_body("no"), attempt(send("websocket.send", text="a"))]
    ),
    "ws_denial_after_accept": shake(steps=[CONNECT, ACCEPT, attempt(denial(401)), HANG_UP]),
    "ws_http_response": shake(steps=[CONNECT, attempt(respond(200)[0]), attempt(body()), HANG_UP]),
    "ws_unknown_message": shake(steps=[CONNECT, ACCEPT, attempt(send("websocket.gift")), HANG_UP]),
}

CASES = HANDSHAKES | MESSAGES | ENDINGS | MISUSE
