"""The request message as an ASGI scope (ASGI 3, HTTP and WebSocket spec 2.4)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote

from serving.v1.http_pb2 import HttpRequest

Scope = dict[str, Any]


def build_scope(request: HttpRequest, state: dict[str, Any]) -> Scope:
    """The scope that the application sees; ``state`` is the lifespan's, copied for the request."""
    raw_path = request.raw_path
    path = raw_path.decode("ascii", "replace")
    headers = list(request.headers)
    scope: Scope = {
        "type": "websocket" if request.websocket else "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": request.http_version,
        "server": (request.server_host, request.server_port or None),
        "client": (request.client_host, request.client_port),
        "scheme": request.scheme,
        "root_path": request.root_path,
        "path": unquote(path) if "%" in path else path,
        "raw_path": raw_path,
        "query_string": request.query_string,
        "headers": list(zip(headers[::2], headers[1::2], strict=True)),
        "state": state.copy(),
    }
    if request.websocket:
        scope["subprotocols"] = list(request.subprotocols)
        scope["extensions"] = {"websocket.http.response": {}}
    else:
        scope["method"] = request.method
    return scope


def flatten(headers: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    """ASGI's header pairs as the flat list that travels."""
    return [item for pair in headers for item in pair]


def check_status(status: int) -> None:
    """Raises RuntimeError for a status that HTTP has no place for."""
    if not 100 <= status < 600:
        raise RuntimeError(f"Invalid HTTP status code '{status}' in response.")


class ClientDisconnected(OSError):
    """Raised by ``send`` once the client is gone, as ASGI 2.4 has it."""
