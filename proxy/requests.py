"""An ASGI scope, as the message that travels to the replica."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from serving.routing.routes import Route
from serving.v1.http_pb2 import HttpRequest

MODEL_ID_HEADER = b"serve_multiplexed_model_id"
# What stays one word in a line of a log.
_FIT_REQUEST_ID = re.compile(rb"[!-~]{1,128}")


class RequestHead:
    """What the proxy itself reads of a request's headers, and the headers flattened."""

    __slots__ = ("expects_continue", "flat", "model_id", "request_id")

    def __init__(self, scope: dict[str, Any]) -> None:
        self.flat: list[bytes] = []
        self.expects_continue = False
        self.model_id = ""
        """The multiplexed model that it asks for; empty for none."""
        request_id = b""
        append = self.flat.append
        for name, value in scope["headers"]:
            append(name)
            append(value)
            if name == b"x-request-id":
                request_id = value
            elif name == b"expect":
                self.expects_continue = value.lower() == b"100-continue"
            elif name == MODEL_ID_HEADER:
                self.model_id = value.decode("utf-8", "replace")
        self.request_id = fit_request_id(request_id)

    def answer_headers(self, flat: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
        """A response's headers, with the request's id unless the handler set one."""
        values = list(flat)
        headers = list(zip(values[::2], values[1::2], strict=True))
        if not any(len(name) == 12 and name.lower() == b"x-request-id" for name, _ in headers):
            headers.append((b"x-request-id", self.request_id.encode()))
        return headers


def fit_request_id(sent: bytes) -> str:
    """What a request is called: as the client says where that is fit for it, else by a new id."""
    return sent.decode() if _FIT_REQUEST_ID.fullmatch(sent) else os.urandom(16).hex()


def flatten_scope(
    scope: dict[str, Any], head: RequestHead, route: Route, body: bytes
) -> HttpRequest:
    """The first message of a stream: the request, and what has arrived of its body."""
    client_host, client_port = scope["client"] or ("", 0)
    server_host, server_port = scope["server"] or ("", 0)
    prefix = "" if route.prefix == "/" else route.prefix
    return HttpRequest(
        method=scope.get("method", ""),
        scheme=scope["scheme"],
        http_version=scope["http_version"],
        raw_path=scope["raw_path"],
        query_string=scope["query_string"],
        root_path=scope["root_path"] + prefix,
        headers=head.flat,
        client_host=client_host,
        client_port=client_port,
        server_host=server_host,
        server_port=server_port or 0,
        request_id=head.request_id,
        body=body,
        websocket=scope["type"] == "websocket",
        subprotocols=scope.get("subprotocols", ()),
        route=route.prefix,
        multiplexed_model_id=head.model_id,
    )
