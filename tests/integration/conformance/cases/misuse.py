"""Applications that fail, or break the rules of ASGI over HTTP."""

from __future__ import annotations

from tests.integration.conformance.cases.script import (
    READ_BODY,
    Script,
    ask,
    attempt,
    body,
    length,
    respond,
    send,
    start,
)

OK = respond(200, length(2), data="ok")

CASES: dict[str, Script] = {
    "raises_before_start": ask("GET /", steps=[("raise", "secret")]),
    "raises_before_start_after_body": ask("POST /", body=b"x", steps=[READ_BODY, ("raise", "no")]),
    "raises_before_body": ask("GET /", steps=[start(200, length(5)), ("raise", "secret")]),
    "raises_in_body_with_length": ask(
        "GET /", steps=[start(200, length(5)), body("ab", more=True), ("raise", "secret")]
    ),
    "raises_in_chunks": ask("GET /", steps=[start(), body("ab", more=True), ("raise", "secret")]),
    "raises_after_response": ask("GET /", steps=[*OK, ("raise", "secret")]),
    "raises_on_head": ask("HEAD /", steps=[("raise", "secret")]),
    "returns_without_response": ask("GET /", steps=[("receive", 1)]),
    "returns_after_start": ask("GET /", steps=[start(200, length(5))]),
    "returns_in_body": ask("GET /", steps=[start(200, length(5)), body("ab", more=True)]),
    "returns_in_chunks": ask("GET /", steps=[start(), body("ab", more=True)]),
    "returns_a_value": ask("GET /", steps=[*OK, ("return", "something")]),
    "returns_a_value_without_response": ask("GET /", steps=[("return", "something")]),
    "body_before_start": ask("GET /", steps=[body("ab")]),
    "body_before_start_caught": ask("GET /", steps=[attempt(body("ab")), *OK]),
    "start_twice": ask("GET /", steps=[start(), start(), body()]),
    "start_twice_caught": ask("GET /", steps=[start(200, length(2)), attempt(start()), body("ok")]),
    "start_after_response": ask("GET /", steps=[*OK, attempt(start())]),
    "body_after_response": ask("GET /", steps=[*OK, attempt(body("more"))]),
    "unknown_message": ask("GET /", steps=[send("http.response.gift")]),
    "unknown_message_in_body": ask("GET /", steps=[start(), send("http.response.gift")]),
    "websocket_message": ask("GET /", steps=[attempt(send("websocket.accept")), *OK]),
    "status_missing": ask("GET /", steps=[send("http.response.start", headers=[])]),
    "status_of_wrong_type": ask("GET /", steps=[send("http.response.start", status="200")]),
    "status_out_of_range": ask("GET /", steps=[start(600), body()]),
    "header_name_invalid": ask("GET /", steps=[start(200, ("bad name", "v")), body()]),
    "header_name_with_newline": ask("GET /", steps=[start(200, ("bad\r\nname", "v")), body()]),
    "header_value_with_newline": ask("GET /", steps=[start(200, ("a", "v\r\nb: w")), body()]),
    "header_value_with_nul": ask("GET /", steps=[start(200, ("a", "v\0")), body()]),
    "header_of_wrong_type": ask(
        "GET /",
        steps=[send("http.response.start", status=200, headers=[["a", "b"]], as_is=True)],
    ),
    "length_invalid": ask("GET /", steps=[start(200, ("content-length", "two")), body("ok")]),
    "length_too_short": ask("GET /", steps=[start(200, length(1)), attempt(body("ok"))]),
    "length_too_short_in_parts": ask(
        "GET /", steps=[start(200, length(3)), body("ab", more=True), body("cd")]
    ),
    "length_too_long": ask("GET /", steps=[start(200, length(5)), body("ok")]),
    "length_too_long_caught": ask("GET /", steps=[start(200, length(5)), attempt(body("ok"))]),
    "length_and_no_body": ask("GET /", steps=[start(200, length(5)), body()]),
    "body_of_wrong_type": ask(
        "GET /",
        steps=[start(), send("http.response.body", body="text", as_is=True)],
    ),
    "body_on_204": ask("GET /", steps=respond(204, data="ok")),
    "body_on_304": ask("GET /", steps=respond(304, data="ok")),
    # A client that knows 204 reads no body: it would meet these bytes before its next response.
    "length_on_204": ask("GET /", "connection: close", steps=respond(204, length(2), data="ok")),
}
