"""HTTP as it may be spoken: methods, paths, headers, bodies, connections."""

from __future__ import annotations

from tests.integration.conformance.cases.script import (
    DISCONNECTED,
    READ_BODY,
    RECEIVE,
    Script,
    ask,
    body,
    in_turn,
    length,
    respond,
    start,
    stream,
)
from tests.integration.conformance.wire import Wire

MIB = 1 << 20
DATA = (bytes(range(32, 256)) * (MIB // 224 + 1))[:MIB]

METHODS: dict[str, Script] = {
    "get": ask("GET /"),
    "post": ask("POST /", body=b"hello"),
    "put": ask("PUT /thing", body=b"hello"),
    "delete": ask("DELETE /thing"),
    "patch": ask("PATCH /thing", body=b"{}"),
    "head": ask("HEAD /"),
    "options": ask("OPTIONS /"),
    "options_asterisk": ask("OPTIONS *"),
    "trace": ask("TRACE /"),
    "webdav_method": ask("PROPFIND /folder", "depth: 1"),
    "purge": ask("PURGE /cached"),
    "connect": ask("CONNECT example.org:443"),
}


def path_of_our_own(wire: Wire) -> None:
    """Without the name of a case: what uvicorn's application sees is beside the point."""
    wire.send(b"GET /-/healthz HTTP/1.1\r\nhost: conformance\r\n\r\n")
    wire.read_response()


PATHS: dict[str, Script] = {
    "path_percent_encoded": ask("GET /a%20b/%E2%82%AC/c%2Fd"),
    "path_percent_invalid_utf8": ask("GET /%FF%fe"),
    "path_percent_malformed": ask("GET /100%/%zz/%4"),
    "path_percent_nul": ask("GET /a%00b%0d%0ac"),
    "path_double_slashes": ask("GET //a///b//"),
    "path_dots": ask("GET /a/../b/./c/.."),
    "path_semicolons": ask("GET /a;v=1/b;w=2?c=3;d=4"),
    "path_reserved_characters": ask("GET /!$&'()*+,:=@[]|^`{}\"<>~"),
    "path_raw_utf8": ask("GET /caf\u00e9"),
    "path_backslash": ask("GET /a\\b"),
    "path_fragment": ask("GET /a#b?c"),
    "path_dashes": ask("GET /-/other"),
    "path_of_our_own": path_of_our_own,
    "path_long": ask("GET /" + "a/b" * 10_000),
    "path_absolute_form": ask("GET http://example.org:81/a%20b?c=d"),
    "path_absolute_form_bare": ask("GET http://example.org"),
    "query": ask("GET /?a=1&b=&a=2&c"),
    "query_empty": ask("GET /?"),
    "query_odd": ask("GET /?a?b=/c%20d+e%&&=;\"'<>"),
    "query_raw_utf8": ask("GET /?q=caf\u00e9"),
    "query_long": ask("GET /?" + "q=1&" * 10_000),
}

REQUEST_HEADERS: dict[str, Script] = {
    "headers_repeated": ask("GET /", "x-a: 1", "X-A: 2", "cookie: a=1", "cookie: b=2", "x-a:3"),
    "header_latin1": ask("GET /", b"x-name: caf\xe9 \xff"),
    "header_tabs_and_spaces": ask("GET /", b"x-name: \t a\tb  \t"),
    "header_empty": ask("GET /", "x-empty:", "x-blank:   "),
    "header_odd_name": ask("GET /", "x!#$%&'*+-.^_`|~1: yes"),
    "header_folded": ask("GET /", "x-folded: a\r\n b\r\n\tc"),
    "header_large": ask("GET /", "x-large: " + "v" * 30_000),
    "headers_many": ask("GET /", *(f"x-{number}: {number}" for number in range(300))),
    # What travels to the replica is larger than what came: 72 kB.
    "headers_larger_than_a_frame": ask("GET /", *["a:1"] * 12_000),
    "host_repeated": ask("GET /", "host: first", "host: second"),
    "host_with_port": ask("GET /", "Host: example.org:8080"),
    "host_missing": ask("GET /", version="1.0"),
    "forwarded_for": ask("GET /", "x-forwarded-for: 203.0.113.7"),
    "forwarded_for_chain": ask("GET /", "x-forwarded-for: 203.0.113.7, 198.51.100.2, 127.0.0.1"),
    "forwarded_for_twice": ask(
        "GET /", "x-forwarded-for: 203.0.113.7", "x-forwarded-for: 10.0.0.1"
    ),
    "forwarded_for_with_port": ask("GET /", "x-forwarded-for: 203.0.113.7:4711"),
    "forwarded_for_ipv6": ask("GET /", "x-forwarded-for: [2001:db8::1]:4711"),
    "forwarded_for_nonsense": ask("GET /", "x-forwarded-for: unknown"),
    "forwarded_proto": ask("GET /", "x-forwarded-proto: https"),
    "forwarded_proto_nonsense": ask("GET /", "x-forwarded-proto: gopher"),
    "forwarded_host_ignored": ask(
        "GET /", "x-forwarded-host: example.org", "forwarded: for=1.2.3.4"
    ),
    "request_id_taken": ask("GET /", "x-request-id: client-7"),
    "upgrade_unknown": ask("GET /", "connection: upgrade, http2-settings", "upgrade: h2c"),
    "te_trailers": ask("GET /", "te: trailers", "connection: te"),
}


def split_request(wire: Wire) -> None:
    data = wire.request("POST /split", "x-long: " + "v" * 100, body=b"one two three")
    wire.send(*(data[at : at + 40] for at in range(0, len(data), 40)))
    wire.read_response()


def large_body_in_segments(wire: Wire) -> None:
    data = wire.request("POST /", body=DATA)
    wire.send(*(data[at : at + 50_000] for at in range(0, len(data), 50_000)))
    wire.read_response()


def chunked(raw: bytes, *headers: str) -> Script:
    """A body whose chunks are written out."""

    def script(wire: Wire) -> None:
        wire.send(wire.request("POST /", "transfer-encoding: chunked", *headers) + raw)
        wire.read_response()

    return script


def longer_than_declared(wire: Wire) -> None:
    """What is left over is taken for the next request."""
    wire.send(wire.request("POST /", body=b"hello") + b" world\r\n\r\n")
    wire.read_response()
    wire.read_response()


def shorter_than_declared(wire: Wire) -> None:
    wire.send(wire.request("POST /", "content-length: 10") + b"short")
    wire.close_half()
    wire.read_to_end()


def expect_continue(wire: Wire) -> None:
    head = wire.request("POST /", "expect: 100-continue", "content-length: 5")
    wire.send(head)
    wire.read_response()
    wire.send(b"hello")
    wire.read_response()


def expect_continue_unread(wire: Wire) -> None:
    """The application answers without the body: the client gets the final status at once."""
    steps = respond(403, length(2), data="no")
    wire.send(wire.request("POST /", "expect: 100-continue", "content-length: 5", steps=steps))
    wire.read_response()
    wire.send(b"hello")


def answer_before_the_body_ends(wire: Wire) -> None:
    steps = [RECEIVE, *respond(200, length(5), data="early")]
    wire.send(wire.request("POST /", "content-length: 10", steps=steps) + b"first")
    wire.read_response()
    wire.send(b"later")


REQUEST_BODIES: dict[str, Script] = {
    "body_length_zero": ask("POST /", body=b""),
    "body_without_length": ask("POST /"),
    "body_on_get": ask("GET /", body=b"odd but legal"),
    "body_on_delete": ask("DELETE /", body=b"odd but legal"),
    "body_binary": ask("POST /", body=bytes(range(256))),
    "body_chunked": ask("POST /", chunks=[b"hello", b" ", b"world"]),
    "body_chunked_empty": ask("POST /", chunks=[]),
    "body_chunked_large": ask("POST /", chunks=[DATA[:100_000]] * 10),
    "body_chunked_trailers": chunked(b"5\r\nhello\r\n0\r\nx-sum: 7\r\n\r\n", "trailer: x-sum"),
    "body_chunked_extensions": chunked(b'5;a=1;b="2"\r\nhello\r\n0;c\r\n\r\n'),
    "body_chunked_size_in_any_form": chunked(b"0005\r\nhello\r\nA\r\n0123456789\r\n000\r\n\r\n"),
    "body_chunked_malformed_size": chunked(b"5\r\nhello\r\nworld\r\n0\r\n\r\n"),
    "body_chunked_longer_than_its_size": chunked(b"5\r\nhello world\r\n0\r\n\r\n"),
    "body_longer_than_declared": longer_than_declared,
    "body_shorter_than_declared": shorter_than_declared,
    "body_1_mib": ask("POST /", body=DATA),
    "body_at_the_frame_limit": ask("POST /", body=DATA[: 1 << 16]),
    "body_over_the_frame_limit": ask("POST /", body=DATA[: (1 << 16) + 1]),
    "body_1_mib_in_segments": large_body_in_segments,
    "body_in_segments": split_request,
    "body_unread": ask("POST /", body=b"ignored", steps=respond(200, length(2), data="ok")),
    "body_unread_1_mib": ask("POST /", body=DATA, steps=respond(200, length(2), data="ok")),
    "body_answered_early": answer_before_the_body_ends,
    "expect_continue": expect_continue,
    "expect_continue_unread": expect_continue_unread,
    "expect_unknown": ask("POST /", "expect: a-miracle", body=b"hello"),
}

RESPONSES: dict[str, Script] = {
    **{
        f"status_{status}": ask("GET /", steps=respond(status, length(2), data="ok"))
        for status in (200, 201, 206, 299, 301, 400, 404, 418, 451, 500, 503, 599)
    },
    "status_204": ask("GET /", steps=respond(204)),
    "status_205": ask("GET /", steps=respond(205, length(0))),
    "status_304": ask("GET /", steps=respond(304, ("etag", '"a"'))),
    "response_without_length": ask("GET /", steps=respond(200, data="all at once")),
    "response_empty": ask("GET /", steps=respond(200)),
    "response_length_zero": ask("GET /", steps=respond(200, length(0))),
    "response_defaults": ask(
        "GET /",
        steps=[
            ("send", {"type": "http.response.start", "status": 200}),
            ("send", {"type": "http.response.body"}),
        ],
    ),
    "response_in_parts_with_length": ask(
        "GET /", steps=stream("abc", "", "de", headers=(length(5),))
    ),
    "response_in_chunks": ask("GET /", steps=stream("a", "bc", "def")),
    "response_last_part_with_data": ask(
        "GET /", steps=[start(), body("first", more=True), body("last")]
    ),
    "response_empty_chunks": ask("GET /", steps=stream("", "a", "", "", "b")),
    "response_many_chunks": ask("GET /", steps=stream(*(f"chunk {n}\n" for n in range(100)))),
    "response_1_mib": ask(
        "GET /", steps=[start(200, length(MIB)), ("send", {**body()[1], "size": MIB})]
    ),
    "response_chunk_of_1_mib": ask(
        "GET /", steps=[start(), ("send", {**body(more=True)[1], "size": MIB}), body("end")]
    ),
    "response_chunks_around_the_frame_limit": ask(
        "GET /",
        steps=[
            start(),
            *(("send", {**body(more=True)[1], "size": (1 << 16) + n}) for n in (-1, 0, 1)),
            body(),
        ],
    ),
    "response_chunked_by_itself": ask(
        "GET /", steps=stream("abc", headers=(("transfer-encoding", "chunked"),))
    ),
    "response_headers_repeated": ask(
        "GET /",
        steps=respond(200, length(0), ("set-cookie", "a=1"), ("Set-Cookie", "b=2"), ("X-A", "1")),
    ),
    "response_header_latin1": ask(
        "GET /", steps=respond(200, length(0), ("x-name", "caf\u00e9\t\u00ff"))
    ),
    "response_header_empty": ask("GET /", steps=respond(200, length(0), ("x-empty", ""))),
    "response_header_large": ask(
        "GET /", steps=[start(200, length(0), ("x-large", "v" * 30_000)), body()]
    ),
    "response_own_server_and_date": ask(
        "GET /", steps=respond(200, length(0), ("server", "own"), ("date", "some day"))
    ),
    "response_own_request_id": ask("GET /", steps=respond(200, length(0), ("x-request-id", "own"))),
    "response_closes": ask(
        "GET /", steps=respond(200, length(2), ("connection", "close"), data="ok")
    ),
    "response_closes_without_length": ask(
        "GET /", steps=respond(200, ("Connection", "Close"), data="ok")
    ),
    "response_keep_alive_header": ask(
        "GET /", steps=respond(200, length(2), ("connection", "keep-alive"), data="ok")
    ),
    "head_with_length": ask("HEAD /", steps=respond(200, length(5))),
    "head_with_body": ask("HEAD /", steps=respond(200, length(5), data="hello")),
    "head_without_length": ask("HEAD /", steps=respond(200, data="hello")),
    "head_streamed": ask("HEAD /", steps=stream("a", "b")),
    "server_sent_events": ask(
        "GET /events",
        "accept: text/event-stream",
        steps=stream(
            *(f"event: tick\ndata: {n}\n\n" for n in range(5)),
            headers=(("content-type", "text/event-stream"), ("cache-control", "no-store")),
        ),
    ),
}


def pipelined(wire: Wire) -> None:
    requests = [
        wire.request("GET /1"),
        wire.request("POST /2", body=b"two"),
        wire.request("GET /3"),
    ]
    wire.send(b"".join(requests))
    for _ in requests:
        wire.read_response()


def pipelined_after_close(wire: Wire) -> None:
    wire.send(wire.request("GET /1", "connection: close") + wire.request("GET /2"))
    wire.read_response()


def client_closes_its_half(wire: Wire) -> None:
    """After a complete exchange: the server closes too."""
    ask("GET /")(wire)
    wire.close_half()
    wire.read_to_end()


def vanish_in_stream(wire: Wire) -> None:
    wire.send(wire.request("GET /", steps=[start(), body("first", more=True), DISCONNECTED]))
    wire.read_head()
    wire.read_chunk()
    wire.reset()


def vanish_in_upload(wire: Wire) -> None:
    steps = [start(), body("first", more=True), DISCONNECTED]
    wire.send(wire.request("POST /", "content-length: 100", steps=steps) + b"half")
    wire.read_head()
    wire.read_chunk()
    wire.reset()


CONNECTIONS: dict[str, Script] = {
    "connection_keep_alive": in_turn(ask("GET /1"), ask("POST /2", body=b"two"), ask("GET /3")),
    "connection_close": ask("GET /", "connection: close"),
    "connection_close_chunked": ask("GET /", "connection: close", steps=stream("a", "b")),
    "connection_pipelined": pipelined,
    "connection_pipelined_after_close": pipelined_after_close,
    "connection_half_closed": client_closes_its_half,
    "http_1_0": ask("GET /", version="1.0"),
    "http_1_0_keep_alive": ask("GET /", "connection: keep-alive", version="1.0"),
    "http_1_0_chunked": ask("GET /", version="1.0", steps=stream("a", "b")),
    "http_1_0_post": ask("POST /", version="1.0", body=b"hello"),
    "client_vanishes_in_stream": vanish_in_stream,
    "client_vanishes_in_upload": vanish_in_upload,
    "receive_after_response": ask(
        "POST /", body=b"hello", steps=[READ_BODY, *respond(200, length(0)), RECEIVE, RECEIVE]
    ),
    "receive_after_response_body_unread": ask(
        "POST /", body=b"hello", steps=[*respond(200, length(0)), RECEIVE]
    ),
    "state_is_copied_shallowly": in_turn(
        ask("GET /", "x-app: remember"), ask("GET /", "x-app: remember")
    ),
}

BASICS = ["get", "post", "response_in_chunks", "path_percent_encoded", "receive_after_response"]
CASES = METHODS | PATHS | REQUEST_HEADERS | REQUEST_BODIES | RESPONSES | CONNECTIONS
