"""FastAPI: parameters, dependencies, documentation, errors, WebSockets."""

from __future__ import annotations

from tests.integration.conformance.cases.script import Script, ask, in_turn
from tests.integration.conformance.cases.starlette import open_websocket, refused
from tests.integration.conformance.wire import TEXT, Wire, close_frame, frame

JSON = "content-type: application/json"
UPLOAD = b"".join(
    b'--limit\r\ncontent-disposition: form-data; name="files"; filename="%b"\r\n\r\n%b\r\n' % pair
    for pair in ((b"a.txt", b"text"), (b"b.bin", bytes(range(256)) * 1000))
)
UPLOAD += b'--limit\r\ncontent-disposition: form-data; name="note"\r\n\r\nhello\r\n--limit--\r\n'


def chat(wire: Wire) -> None:
    open_websocket(wire, "/ws/7?token=t")
    wire.send(frame(TEXT, b"hello"))
    wire.read_frame()
    wire.send(close_frame(1001))
    wire.read_to_end()


def chat_expelled(wire: Wire) -> None:
    open_websocket(wire, "/ws/7?token=late")
    wire.finish_websocket()


def chat_vanishes(wire: Wire) -> None:
    open_websocket(wire, "/ws/7?token=t")
    wire.reset()


CASES: dict[str, Script] = {
    "parameters": ask("GET /items/7?q=a&q=b&limit=5", "x-token: t", "cookie: session=s"),
    "path_parameter_invalid": ask("GET /items/seven"),
    "query_parameter_invalid": ask("GET /items/7?limit=11"),
    "body": ask("POST /items", JSON, body=b'{"name": "pen", "tags": ["b", "a"]}'),
    "body_invalid": ask("POST /items", JSON, body=b'{"name": "p", "price": "much"}'),
    "body_not_json": ask("POST /items", JSON, body=b"{nonsense"),
    "body_missing": ask("POST /items"),
    "body_of_wrong_type": ask("POST /items", "content-type: text/plain", body=b'{"name": "pen"}'),
    "handler_in_thread": ask("GET /in-thread"),
    "dependency": ask("GET /dependency"),
    "dependency_sees_exception": ask("GET /dependency?fails=1"),
    "dependency_outlives_stream": ask("GET /dependency-stream"),
    "http_exception": ask("GET /forbidden"),
    "handler_raises": ask("GET /raises"),
    "background_task": ask("GET /background"),
    "lifespan_state": in_turn(ask("GET /state"), ask("GET /state")),
    "no_content": ask("DELETE /items/7"),
    "html": ask("GET /html"),
    "upload": ask("POST /upload", "content-type: multipart/form-data; boundary=limit", body=UPLOAD),
    "upload_missing": ask("POST /upload"),
    "router": ask("GET /api/v1/routed/a/b%2Fc"),
    "mounted": ask("GET /sub/leaf"),
    "mounted_openapi": ask("GET /sub/openapi.json"),
    "mounted_docs": ask("GET /sub/docs"),
    "openapi": ask("GET /openapi.json"),
    "docs": ask("GET /docs"),
    "redoc": ask("GET /redoc"),
    "not_found": ask("GET /nowhere"),
    "method_not_allowed": ask("PUT /items/7"),
    "head_not_allowed": ask("HEAD /html"),
    "redirect_slash_removed": ask("GET /items/7/"),
    "websocket": chat,
    "websocket_refused_by_exception": refused("/ws/7"),
    "websocket_parameter_invalid": refused("/ws/seven?token=t"),
    "websocket_expelled": chat_expelled,
    "websocket_vanishes": chat_vanishes,
}
