"""Who may use the REST API. It can run code, so no web page may talk to it, whatever the verb.

A page of another site is known by its `Origin`; one whose name was made to resolve to this machine
(DNS rebinding) by its `Host`. Anywhere but on loopback the token is required as well; who shows it
is no browser that was led astray, so it may use whatever name leads here.
"""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import os
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send


@dataclass(frozen=True)
class Refusal:
    """Why a request is refused."""

    status: int
    reason: str


def refusal(headers: Headers, token: str, names: frozenset[str]) -> Refusal | None:
    """Whether to refuse a request with these headers. `token`: the one to show; empty: none is
    needed. `names`: those of this machine, beside addresses."""
    hosts, origins = headers.getlist("host"), headers.getlist("origin")
    if len(hosts) != 1:
        return Refusal(400, "one Host header is needed")
    # First match wins.
    if any(_authority(origin) != _authority(f"http://{hosts[0]}") for origin in origins):
        return Refusal(403, "pages of other sites may not use this API (Origin)")
    if token:
        return None if _shows(headers, token) else Refusal(401, "Authorization: Bearer TOKEN")
    if not _is_ours(hosts[0], names):
        return Refusal(
            403, f"this is not {hosts[0]!r}: use an address or 'localhost' (Host), or a token"
        )
    return None


def _authority(origin: str) -> tuple[str, str | None, int | None] | None:
    """None, which equals nothing of ours, where it is "null" or no URL."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(origin)
        if parts.scheme == "http" and parts.hostname:
            return parts.scheme, parts.hostname, parts.port or 80
    return None


def _is_ours(host: str, names: frozenset[str]) -> bool:
    authority = _authority(f"http://{host}")
    if authority is None:
        return False
    name = authority[1] or ""
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(name)
        return True
    return name.lower() in names


def _shows(headers: Headers, token: str) -> bool:
    scheme, _, shown = headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(shown.encode(), token.encode())


class Guard:
    """The ASGI application behind these rules."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token
        self._names = frozenset({"localhost", socket.gethostname().lower()})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        refused = refusal(Headers(scope=scope), self._token, self._names)
        if refused is None:
            await self._app(scope, receive, send)
            return
        headers = {"WWW-Authenticate": "Bearer"} if refused.status == 401 else None
        response = PlainTextResponse(f"{refused.reason}\n", refused.status, headers)
        await response(scope, receive, send)


def kept_token(path: Path) -> str:
    """The token in a file that only this user can read; made where there is none."""
    with contextlib.suppress(FileExistsError):
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with open(fd, "w") as file:
            file.write(secrets.token_urlsafe(32))
    if path.stat().st_mode & 0o077:
        raise PermissionError(f"{path} can be read by others: chmod 600 it, or remove it")
    token = path.read_text().strip()
    if not token:
        raise ValueError(f"{path} is empty: remove it, and another token is made")
    return token
