"""ASGI's ``receive`` and ``send`` for one WebSocket, over its stream."""

from __future__ import annotations

import enum
from typing import Any

from serving.mux import ResetCode, Stream, StreamError
from serving.replica.scope import ClientDisconnected, flatten
from serving.v1.http_pb2 import (
    ACCEPT,
    BINARY,
    BODY,
    CLOSE,
    RESPONSE,
    TEXT,
    HttpResponse,
    WebSocketAccept,
    WebSocketClose,
)

Message = dict[str, Any]

NO_CLOSE_FRAME = 1006
_UNTAGGED = 0


class _State(enum.Enum):
    CONNECTING = enum.auto()
    CONNECTED = enum.auto()
    DENYING = enum.auto()
    CLOSED = enum.auto()


class WebSocketBridge:
    """One WebSocket, as the application sees it."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._state = _State.CONNECTING
        self._connect_told = False
        self._close: Message | None = None

    async def receive(self) -> Message:
        """The next ASGI message of the client."""
        if not self._connect_told:
            self._connect_told = True
            return {"type": "websocket.connect"}
        if self._close is not None:
            return self._close
        try:
            part = await self._stream.receive(max_bytes=2**31)
        except StreamError:
            part = None
        if part is None:
            return self._disconnected(NO_CLOSE_FRAME, "")
        if part.tag == TEXT:
            return {"type": "websocket.receive", "text": part.data.decode()}
        if part.tag == BINARY:
            return {"type": "websocket.receive", "bytes": part.data}
        close = WebSocketClose.FromString(part.data)
        return self._disconnected(close.code, close.reason)

    async def send(self, message: Message) -> None:
        """Takes the application's next ASGI message. Waits while the client reads too slowly.

        Raises ClientDisconnected once the client is gone, RuntimeError for a message that may not
        come now."""
        if self._stream.error is not None or self._stream.receive_ended:
            raise ClientDisconnected("the client is gone")
        if self._state is _State.CONNECTING:
            self._answer_handshake(message)
        elif self._state is _State.CONNECTED:
            self._send_message(message)
        elif self._state is _State.DENYING:
            self._send_denial(message)
        else:
            raise RuntimeError(
                f"Unexpected ASGI message '{message['type']}', after sending 'websocket.close'."
            )
        if self._stream.must_wait:
            await self._stream.drain()

    def finish(self, error: BaseException | None) -> None:
        """The application has returned, or raised ``error``."""
        if self._state is _State.CLOSED or self._stream.error is not None:
            return
        if error is None and self._state is _State.CONNECTED:
            self._stream.write(_UNTAGGED, b"", end=True)
        elif self._stream.receive_ended:
            self._stream.reset(ResetCode.CANCEL)
        else:
            self._stream.reset(ResetCode.INTERNAL_ERROR, "the handler failed")
        self._state = _State.CLOSED

    def client_left(self) -> None:
        """The stream ended early; ``receive`` learns of it from the stream."""

    def _disconnected(self, code: int, reason: str) -> Message:
        self._close = {"type": "websocket.disconnect", "code": code, "reason": reason}
        return self._close

    def _answer_handshake(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.accept":
            self._state = _State.CONNECTED
            accept = WebSocketAccept(
                subprotocol=message.get("subprotocol") or "",
                headers=flatten(message.get("headers", ())),
            )
            self._stream.write(ACCEPT, accept.SerializeToString())
        elif kind == "websocket.close":
            self._write_close(message)
        elif kind == "websocket.http.response.start":
            self._state = _State.DENYING
            head = HttpResponse(
                status=message["status"], headers=flatten(message.get("headers", ()))
            )
            self._stream.write(RESPONSE, head.SerializeToString())
        else:
            raise RuntimeError(
                "Expected ASGI message 'websocket.accept', 'websocket.close' "
                f"or 'websocket.http.response.start' but got '{kind}'."
            )

    def _send_message(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.send":
            data, text = message.get("bytes"), message.get("text")
            if data is not None:
                self._stream.write(BINARY, bytes(data))
            elif text is not None:
                self._stream.write(TEXT, text.encode())
        elif kind == "websocket.close":
            self._write_close(message)
        else:
            raise RuntimeError(
                f"Expected ASGI message 'websocket.send' or 'websocket.close', but got '{kind}'."
            )

    def _send_denial(self, message: Message) -> None:
        kind = message["type"]
        if kind != "websocket.http.response.body":
            raise RuntimeError(
                f"Expected ASGI message 'websocket.http.response.body' but got '{kind}'."
            )
        end = not message.get("more_body", False)
        self._stream.write(BODY, message.get("body", b""), end=end)
        if end:
            self._state = _State.CLOSED

    def _write_close(self, message: Message) -> None:
        accepted = self._state is _State.CONNECTED
        self._state = _State.CLOSED
        self._disconnected(message.get("code", 1000) if accepted else NO_CLOSE_FRAME, "")
        close = WebSocketClose(code=message.get("code", 1000), reason=message.get("reason") or "")
        self._stream.write(CLOSE, close.SerializeToString(), end=True)
