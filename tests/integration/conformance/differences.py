"""Where our transcripts differ from uvicorn's, and why. The suite holds us to exactly these."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher

# In every transcript of ours: what is written differently, and how uvicorn has it.
EVERYWHERE = [
    # A response carries the id under which the logs know its request.
    (re.compile(r"^x-request-id: [0-9a-f]{32}\r\n$"), ""),
    # `send` tells of a client that has left, as ASGI 2.4 has it and uvicorn's WebSockets do.
    (re.compile(r'(?<="http", "asgi": \{"version": "3.0", "spec_version": )"2.4"'), '"2.3"'),
]

INTERNAL_SERVER_ERROR = (
    "+ HTTP/1.1 500 Internal Server Error\r\n",
    "+ date: <date>\r\n",
    "+ server: uvicorn\r\n",
    "+ content-type: text/plain; charset=utf-8\r\n",
    "+ content-length: 21\r\n",
    "+ connection: close\r\n",
    "+ \r\n",
    "+ Internal Server Error",
)
SCOPE = (
    '{"scope": {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"},'
    ' "http_version": "1.1", "method": "POST", "scheme": "http", "path": "/", "raw_path": "/",'
    ' "query_string": "", "root_path": "", "headers": [["host", "conformance"],'
    ' ["x-case", "plain-body_chunked_trailers"], ["transfer-encoding", "chunked"],'
    ' ["trailer", "x-sum"]%s], "client": ["127.0.0.1", <client port>],'
    ' "server": ["127.0.0.1", <server port>]}, "keys": ["asgi", "client", "headers",'
    ' "http_version", "method", "path", "query_string", "raw_path", "root_path", "scheme",'
    ' "server", "state", "type"], "state": ["shared"]}'
)
CLOSED_WITH_1011 = "\x88\x17\x03\xf3Internal Server Error"
BAD_STATUS = "RuntimeError: Invalid HTTP status code '600' in response."


def raises(kind: str, theirs: str, ours: str, *, uncaught: bool = True) -> tuple[str, ...]:
    """What `send` raises; and the application, where it does not catch it."""

    def lines(sign: str, error: str) -> Iterator[str]:
        yield f"{sign} " + json.dumps({"send": kind, "raised": error})
        if uncaught:
            yield f"{sign} " + json.dumps({"ended": error})

    return (*lines("-", theirs), *lines("+", ours))


@dataclass(frozen=True)
class Difference:
    """`lines` as a diff has them: "- " what uvicorn's transcript has, "+ " what ours has.

    Each of `starlette` and `fastapi` is met at the root and under a prefix.
    """

    why: str
    lines: tuple[str, ...]
    plain: tuple[str, ...] = ()
    starlette: tuple[str, ...] = ()
    fastapi: tuple[str, ...] = ()

    def cases(self) -> Iterator[str]:
        for name in self.plain:
            yield f"plain-{name}"
        for app, names in (("starlette", self.starlette), ("fastapi", self.fastapi)):
            for name in names:
                yield f"{app}-{name}"
                yield f"{app}-nested-{name}"


ALL = [
    Difference(
        why="An HTTP client that leaves cancels the handler's task; under uvicorn a handler that"
        " does not call receive() works on for nobody.",
        lines=(
            '- {"received": {"type": "http.disconnect"}}',
            '- {"ended": "returned"}',
            '+ {"ended": "CancelledError: "}',
        ),
        plain=(
            "body_chunked_malformed_size",
            "body_chunked_longer_than_its_size",
            "client_vanishes_in_stream",
            "client_vanishes_in_upload",
        ),
    ),
    Difference(
        why="The same, and a body that ends before its end is answered with 400.",
        lines=(
            "+ HTTP/1.1 400 Bad Request\r\n",
            "+ date: <date>\r\n",
            "+ server: uvicorn\r\n",
            "+ content-type: text/plain; charset=utf-8\r\n",
            "+ content-length: 44\r\n",
            "+ connection: close\r\n",
            "+ \r\n",
            "+ The request's body is shorter than declared.",
            '- {"received": {"type": "http.disconnect"}}',
            '- {"ended": "returned"}',
            '+ {"ended": "CancelledError: "}',
        ),
        plain=("body_shorter_than_declared",),
    ),
    Difference(
        why="Trailers are dropped, as HTTP allows. uvicorn appends to the headers those that come"
        " soon enough, where they pass for headers.",
        lines=("- " + SCOPE % ', ["x-sum", "7"]', "+ " + SCOPE % ""),
        plain=("body_chunked_trailers",),
    ),
    Difference(
        why="ASGI 2.4: Starlette hears of a client that left from send(), so it need not call"
        " receive() beside a streaming response.",
        lines=(
            '- {"body": "", "complete": true}',
            '- {"received": {"type": "http.disconnect"}}',
        ),
        starlette=(
            "streaming",
            "streaming_head",
            "streaming_from_thread",
            "file",
            "file_range",
            "file_range_suffix",
            "file_range_multiple",
            "static_file",
            "static_index",
            "gzip_streaming",
            "base_middleware_streaming",
        ),
        fastapi=("dependency_outlives_stream",),
    ),
    Difference(
        why="ASGI 2.4, too: the generator fails before receive() would have returned.",
        lines=('- {"body": "", "complete": true}',),
        starlette=("streaming_broken",),
    ),
    Difference(
        why="A response that is complete is not taken back: the connection stays usable whatever"
        " the application does after it.",
        lines=("- -- closed", "+ -- open"),
        plain=("raises_after_response", "returns_a_value"),
        starlette=("handler_raises", "background_task_raises", "base_middleware_raises"),
        fastapi=("handler_raises",),
    ),
    Difference(
        why="A client is told of a response that could not begin; uvicorn closes without a word.",
        lines=INTERNAL_SERVER_ERROR,
        plain=(
            "returns_a_value_without_response",
            "status_missing",
            "header_name_invalid",
            "header_name_with_newline",
            "header_value_with_newline",
            "header_value_with_nul",
            "header_of_wrong_type",
            "length_invalid",
        ),
    ),
    Difference(
        why="The same, and an error that says more than KeyError.",
        lines=(*INTERNAL_SERVER_ERROR, *raises("http.response.start", "KeyError: 600", BAD_STATUS)),
        plain=("status_out_of_range",),
    ),
    Difference(
        why="The same, with a status of a wrong type.",
        lines=(
            *INTERNAL_SERVER_ERROR,
            *raises(
                "http.response.start",
                "KeyError: '200'",
                "TypeError: '<=' not supported between instances of 'int' and 'str'",
            ),
        ),
        plain=("status_of_wrong_type",),
    ),
    Difference(
        why="Two paths are the proxy's own: /-/healthz and /-/routes.",
        lines=(
            "- content-length: 0\r\n",
            "+ content-type: text/plain\r\n",
            "+ content-length: 7\r\n",
            "+ success",
        ),
        plain=("path_of_our_own",),
    ),
    Difference(
        why="A client's own request id is answered.",
        lines=("+ x-request-id: client-7\r\n",),
        plain=("request_id_taken",),
    ),
    Difference(
        why="The same kind of error, in other words.",
        lines=raises(
            "http.response.body",
            "TypeError: sequence item 1: expected a bytes-like object, str found",
            "TypeError: string argument without an encoding",
        ),
        plain=("body_of_wrong_type",),
    ),
    Difference(
        why="send() tells what is wrong with a closing frame by RuntimeError, as all misuse;"
        " uvicorn lets its WebSocket library's own error through.",
        lines=raises(
            "websocket.close",
            "ProtocolError: invalid status code",
            "RuntimeError: Invalid WebSocket close code 999.",
            uncaught=False,
        ),
        plain=("ws_server_closes_with_invalid_code",),
    ),
    Difference(
        why="The same, for a reason that is too long.",
        lines=raises(
            "websocket.close",
            "ProtocolError: control frame too long",
            "RuntimeError: WebSocket close reason longer than 123 bytes.",
            uncaught=False,
        ),
        plain=("ws_server_closes_with_long_reason",),
    ),
    Difference(
        why="The error has a message.",
        lines=raises("websocket.send", "OSError: ", "OSError: the client is gone", uncaught=False),
        plain=("ws_send_after_client_closed",),
    ),
    Difference(
        why="A WebSocket whose handler failed is closed with 1011; uvicorn drops the connection.",
        lines=(f"+ {CLOSED_WITH_1011}",),
        starlette=("websocket_wrong_kind",),
    ),
    Difference(
        why="The same, after a message.",
        lines=("- \x81\x03bye", f"+ \x81\x03bye{CLOSED_WITH_1011}"),
        plain=("ws_raises_open",),
    ),
]
DIFFERENCES = {case: difference for difference in ALL for case in difference.cases()}


def as_uvicorn_has_it(transcript: list[str]) -> list[str]:
    """Our transcript, without what differs everywhere."""
    lines = []
    for line in transcript:
        for pattern, replacement in EVERYWHERE:
            line = pattern.sub(replacement, line)
        if line:
            lines.append(line)
    return lines


def compare(expected: list[str], got: list[str]) -> tuple[str, ...]:
    """The lines in which they differ, as a diff has them."""
    lines: list[str] = []
    matcher = SequenceMatcher(None, expected, got, autojunk=False)
    for tag, from_expected, to_expected, from_got, to_got in matcher.get_opcodes():
        if tag != "equal":
            lines += [f"- {line}" for line in expected[from_expected:to_expected]]
            lines += [f"+ {line}" for line in got[from_got:to_got]]
    return tuple(lines)
