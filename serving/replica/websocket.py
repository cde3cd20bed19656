"""ASGI's ``receive`` and ``send`` for one WebSocket, over its stream."""

from __future__ import annotations

import enum
from typing import Any

from serving.mux import ResetCode, Stream, StreamError
from serving.replica.http import plain_response
from serving.replica.refusals import RETRY_AFTER_S, STATUS
from serving.replica.scope import ClientDisconnected, check_status, flatten
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
TRY_AGAIN_LATER = 1013
MAX_CLOSE_REASON = 123
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
        self._ended = False

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
            self._close = self._close or _disconnect(NO_CLOSE_FRAME)
            return self._close
        if part.tag == TEXT:
            return {"type": "websocket.receive", "text": part.data.decode()}
        if part.tag == BINARY:
            return {"type": "websocket.receive", "bytes": part.data}
        close = WebSocketClose.FromString(part.data)
        self._close = _disconnect(close.code, close.reason if close.HasField("reason") else None)
        return self._close

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

    def finish(self, *, failed: bool, refusal: str = "") -> bool:
        """The application has returned, or ``failed`` with an exception. Tells whether the
        client's handshake was left without an answer, or a refusal without its end.

        A ``refusal`` says that the exception stands for 503, or for a close that says to try
        again."""
        if self._ended or self._stream.error is not None:
            return False
        self._ended = True
        served = not failed and self._state is _State.CONNECTED
        if served or self._stream.receive_ended:
            self._stream.write(_UNTAGGED, b"", end=True)
            return False
        if refusal and self._state is _State.CONNECTING:
            retry_after = b"%d" % RETRY_AFTER_S
            head = plain_response(STATUS, refusal, b"retry-after", retry_after)
            body, head.body = head.body, b""
            self._stream.write(RESPONSE, head.SerializeToString())
            self._stream.write(BODY, body, end=True)
        elif refusal and self._state is _State.CONNECTED:
            close = WebSocketClose(code=TRY_AGAIN_LATER)
            self._stream.write(CLOSE, close.SerializeToString(), end=True)
        else:
            self._stream.abort(ResetCode.INTERNAL_ERROR, "the handler failed")
        return True

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
            check_status(message["status"])
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
            self._ended = True
            self._close = _disconnect(NO_CLOSE_FRAME)

    def _write_close(self, message: Message) -> None:
        if self._state is _State.CONNECTED:
            code, reason = message.get("code", 1000), message.get("reason") or ""
            _check_close(code, reason)
            close = WebSocketClose(code=code, reason=reason)
            self._close = _disconnect(code, reason)
        else:  # The handshake is refused: no close frame, so no code and no reason.
            close = WebSocketClose()
            self._close = _disconnect(NO_CLOSE_FRAME)
        self._state = _State.CLOSED
        self._ended = True
        self._stream.write(CLOSE, close.SerializeToString(), end=True)


def _disconnect(code: int, reason: str | None = None) -> Message:
    message: Message = {"type": "websocket.disconnect", "code": code}
    if reason is not None:
        message["reason"] = reason
    return message


def _check_close(code: int, reason: str) -> None:
    """RFC 6455, sections 5.5 and 7.4: what a close frame can carry."""
    if not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
        raise RuntimeError(f"Invalid WebSocket close code {code}.")
    if len(reason.encode()) > MAX_CLOSE_REASON:
        raise RuntimeError(f"WebSocket close reason longer than {MAX_CLOSE_REASON} bytes.")
