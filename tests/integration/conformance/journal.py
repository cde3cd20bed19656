"""An ASGI middleware that keeps what the application saw, for a client to compare."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

COMPARED = [
    *("type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string"),
    *("root_path", "headers", "client", "server", "subprotocols", "extensions"),
]
FINISHED_WITHIN_S = 5.0


def digest(data: bytes) -> str:
    """`data` as text, or what identifies it where it is long."""
    if len(data) <= 512:
        return data.decode("latin-1")
    return f"<{len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}>"


def plain(value: Any) -> Any:
    """`value` in types that JSON knows."""
    if isinstance(value, bytes):
        return digest(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def describe(error: BaseException) -> str:
    """The error's message and first type that is no server's own."""
    for kind in type(error).__mro__:
        if kind.__module__.partition(".")[0] not in ("uvicorn", "serving"):
            return f"{kind.__name__}: {error}"
    raise AssertionError("every exception is an object")


@dataclass
class Exchange:
    """One request: `entries` in the order of their happening."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    body: bytearray = field(default_factory=bytearray)

    def saw_scope(self, scope: Scope) -> None:
        seen = {name: plain(scope[name]) for name in COMPARED if name in scope}
        state = sorted(scope["state"]) if "state" in scope else None
        self.entries.append({"scope": seen, "keys": sorted(scope), "state": state})

    def saw_event(self, message: Message) -> None:
        """How a body was cut is the server's choice: only its content counts."""
        if message["type"] != "http.request":
            self.entries.append({"received": plain(message)})
            return
        if not self.entries or "body" not in self.entries[-1]:
            self.entries.append({"body": ""})
        self.body += message.get("body", b"")
        complete = not message.get("more_body", False)
        self.entries[-1] = {"body": digest(bytes(self.body)), "complete": complete}


class Journal:
    """Records each exchange that names its case in `x-case`.

    A request with `x-journal: <case>` waits for the case's exchanges and takes them away.
    The application may append to `scope["journal"]`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.cases: defaultdict[str, list[Exchange]] = defaultdict(list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        headers = dict(scope.get("headers", []))
        if b"x-journal" in headers:
            await self.hand_out(headers[b"x-journal"].decode(), send)
        elif b"x-case" in headers:
            # What the application returns is for the server to judge.
            return await self.record(headers[b"x-case"].decode(), scope, receive, send)
        else:
            return await self.app(scope, receive, send)

    async def hand_out(self, case: str, send: Send) -> None:
        exchanges = self.cases.pop(case, [])
        async with asyncio.timeout(FINISHED_WITHIN_S):
            for exchange in exchanges:
                await exchange.finished.wait()
        content = json.dumps([exchange.entries for exchange in exchanges]).encode()
        length = [(b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": length})
        await send({"type": "http.response.body", "body": content})

    async def record(self, case: str, scope: Scope, receive: Receive, send: Send) -> Any:
        exchange = Exchange()
        self.cases[case].append(exchange)
        exchange.saw_scope(scope)

        async def recorded_receive() -> Message:
            message = await receive()
            exchange.saw_event(message)
            return message

        async def recorded_send(message: Message) -> None:
            try:
                await send(message)
            except Exception as error:
                exchange.entries.append({"send": message["type"], "raised": describe(error)})
                raise

        scope["journal"] = exchange.entries
        outcome = "returned"
        try:
            return await self.app(scope, recorded_receive, recorded_send)
        except BaseException as error:
            outcome = describe(error)
            raise
        finally:
            exchange.entries.append({"ended": outcome})
            exchange.finished.set()
