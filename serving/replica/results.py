"""What a plain callable returned, as an HTTP response.

`str`, `bytes` and `None` are answered as they are; everything else becomes the JSON that
Starlette's `JSONResponse(jsonable_encoder(value))` would send. The C encoder walks the value by
itself and asks `jsonable_encoder` only about the objects it does not know, so plain containers
never pay for it, and FastAPI is imported only by those who return something richer.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from types import GeneratorType
from typing import Any

from serving.exceptions import UnserializableResultError

_TEXT = (b"content-type", b"text/plain; charset=utf-8")
_BINARY = (b"content-type", b"application/octet-stream")
_JSON = (b"content-type", b"application/json")


def to_response(value: object) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Return the status, the headers and the body that answer a request with `value`.

    The body is whole and its length declared. A Starlette `Response` is not for this function:
    it is sent as it is.

    Raises:
        UnserializableResultError: `value` has no JSON form; the message names its type.
    """
    if isinstance(value, str):
        return _whole(_TEXT, _encode_text(value, value))
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _whole(_BINARY, bytes(value))
    if value is None:
        return 200, [(b"content-length", b"0")], b""
    return _whole(_JSON, _to_json(value))


def _whole(
    content_type: tuple[bytes, bytes], body: bytes
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    return 200, [(b"content-length", b"%d" % len(body)), content_type], body


def _to_json(value: object) -> bytes:
    if isinstance(value, GeneratorType):  # jsonable_encoder would drain it, even an endless one
        raise _unserializable(value, "it is a generator")
    if isinstance(value, Awaitable):
        raise _unserializable(value, "it is not awaited")
    try:
        try:
            text = _encoder.encode(value)
        except UnserializableResultError:
            raise
        except TypeError:  # a key that JSON does not know, such as an Enum or a UUID
            text = _encoder.encode(_to_jsonable(value))
    except UnserializableResultError:
        raise
    except (TypeError, ValueError, RecursionError) as error:
        raise _unserializable(value, str(error)) from error
    return _encode_text(text, value)


def _encode_text(text: str, value: object) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair
        raise _unserializable(value, str(error)) from error


def _to_jsonable(value: object) -> Any:
    if isinstance(value, Awaitable):  # of which FastAPI would send what it is made of
        raise _unserializable(value, "it is not awaited") from None
    from fastapi.encoders import jsonable_encoder

    try:
        return jsonable_encoder(value, custom_encoder=_library_encoders())
    except (TypeError, ValueError, AssertionError) as error:
        # FastAPI's own words are those of its last two guesses, `dict()` and `vars()`.
        raise ValueError(f"{_type_name(value)} has no JSON form") from error


_encoder = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_to_jsonable
)


def _library_encoders() -> dict[Any, Callable[[Any], Any]]:
    """Encoders for types of libraries which this process may not even have imported."""
    encoders: dict[Any, Callable[[Any], Any]] = {Exception: str}
    if numpy := sys.modules.get("numpy"):
        encoders[numpy.ndarray] = lambda array: array.tolist()
        encoders[numpy.generic] = lambda scalar: scalar.item()
    if pandas := sys.modules.get("pandas"):
        encoders[pandas.DataFrame] = lambda frame: frame.to_dict(orient="records")
    return encoders


def _unserializable(value: object, reason: str) -> UnserializableResultError:
    if isinstance(value, (GeneratorType, AsyncIterator)):
        fix = "to stream it, return starlette.responses.StreamingResponse(generator)"
    elif isinstance(value, Awaitable):
        fix = "await it before returning it"
    elif "JSON compliant" in reason:
        fix = "JSON has no NaN and no infinity: replace them, for instance with None"
    else:
        fix = (
            "return str, bytes, None, a value that JSON can hold, a pydantic model, a dataclass "
            "or a starlette.responses.Response"
        )
    return UnserializableResultError(
        f"a result of type {_type_name(value)} cannot be sent over HTTP ({reason}); {fix}"
    )


def _type_name(value: object) -> str:
    kind = type(value)
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )
