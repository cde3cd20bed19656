"""The plain ASGI applications of the suite, and the one that serves all of them at the root."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.integration.conformance.fastapi_app import fastapi_app
from tests.integration.conformance.journal import Journal
from tests.integration.conformance.starlette_app import starlette_app


def revive(message: dict[str, Any]) -> Message:
    """The ASGI message of its JSON form, where bytes are latin-1 text and `size` makes a body."""
    if message.pop("as_is", False):
        return message
    if "size" in message:
        message["body"] = "x" * message.pop("size")
    for key in ("body", "bytes"):
        if isinstance(message.get(key), str):
            message[key] = message[key].encode("latin-1")
    if "headers" in message:
        pairs = message["headers"]
        message["headers"] = [(n.encode("latin-1"), v.encode("latin-1")) for n, v in pairs]
    return message


async def receive_until(kind: str, receive: Receive) -> None:
    """To an event of this type; "http.request" means to the end of the body."""
    message: Message = {}
    while message.get("type") != kind or message.get("more_body"):
        message = await receive()


async def scripted(steps: list[tuple[str, Any]], receive: Receive, send: Send) -> Any:
    """Does what the request's `x-script` says: a case and its application are in one place."""
    for verb, argument in steps:
        if verb == "send":
            await send(revive(argument))
        elif verb == "attempt":  # The journal keeps what `send` raised.
            with suppress(Exception):
                await send(revive(argument))
        elif verb == "receive":
            await receive()
        elif verb == "receive until":
            await receive_until(argument, receive)
        elif verb == "raise":
            raise RuntimeError(argument)
        elif verb == "return":
            return argument
    return None


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await echo_websocket(receive, send)
        return
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message.get("body", b"")
        more = message.get("more_body", False)
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": bytes(body)})


async def echo_websocket(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


async def remember(scope: Scope, receive: Receive, send: Send) -> None:
    """Tells what earlier requests left in the lifespan's state: each has a shallow copy."""
    state = scope["state"]
    visits = state["shared"].setdefault(dict(scope["headers"])[b"x-case"], [])
    content = json.dumps({"own": state.get("own"), "visits": len(visits)}).encode()
    state["own"] = "left behind"
    visits.append("visit")
    if len(visits) == 2:
        visits.clear()
    headers = [(b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})


async def dispatch(scope: Scope, receive: Receive, send: Send) -> Any:
    headers = dict(scope["headers"])
    if b"x-script" in headers:
        return await scripted(json.loads(headers[b"x-script"]), receive, send)
    if headers.get(b"x-app") == b"remember":
        return await remember(scope, receive, send)
    return await echo(scope, receive, send)


async def serve_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    scope["state"]["shared"] = {}
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


journaled = Journal(dispatch)
BY_NAME: dict[bytes, ASGIApp] = {b"starlette": starlette_app, b"fastapi": fastapi_app}


async def plain(scope: Scope, receive: Receive, send: Send) -> Any:
    """Serves what `x-app` names, so that each can be met at the root."""
    if scope["type"] == "lifespan":
        return await serve_lifespan(scope, receive, send)
    app = BY_NAME.get(dict(scope["headers"]).get(b"x-app", b""), journaled)
    return await app(scope, receive, send)


async def no_lifespan(scope: Scope, receive: Receive, send: Send) -> Any:
    """Does not know the lifespan protocol, and says so as the ASGI specification wants it."""
    if scope["type"] not in ("http", "websocket"):
        raise NotImplementedError(scope["type"])
    return await journaled(scope, receive, send)


async def idle_lifespan(scope: Scope, receive: Receive, send: Send) -> Any:
    """Returns from the lifespan scope without a word."""
    if scope["type"] != "lifespan":
        return await journaled(scope, receive, send)


async def failing_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "the database is away"})


async def lifespan_log(scope: Scope, receive: Receive, send: Send) -> None:
    """Writes the lifespan's events to the file that a request names."""
    if scope["type"] != "lifespan":
        scope["state"]["files"].append(dict(scope["headers"])[b"x-file"].decode())
        await echo(scope, receive, send)
        return
    seen = {name: value for name, value in scope.items() if name != "app"}
    events = [json.dumps({**seen, "state": sorted(scope["state"])}, sort_keys=True)]
    files: list[str] = []
    scope["state"]["files"] = files
    events.append(json.dumps(await receive()))
    await send({"type": "lifespan.startup.complete"})
    events.append(json.dumps(await receive()))
    for file in files:
        Path(file).write_text("\n".join(events))  # noqa: ASYNC240 - short, and the loop is ending
    await send({"type": "lifespan.shutdown.complete"})
