"""Exceptions on a stream: as their own type where that can be, else as text.

Nothing here raises: who reports an error has no use for another.
"""

from __future__ import annotations

import os
import traceback
from typing import Any

import serving
from serving import code
from serving.calls import payload
from serving.exceptions import RemoteError
from serving.v1 import call_pb2 as pb

MAX_TEXT = 64 * 1024
"""Bytes of an exception's text, and of its traceback, at most."""
MAX_OWN_FRAMES = 3
"""Frames of this package in one traceback, at most: they say little about the user's code."""

_PACKAGE = os.path.join(os.path.dirname(os.path.abspath(serving.__file__)), "")
# Neither a future nor a coroutine can raise these.
_NOT_RAISED = (StopIteration, StopAsyncIteration)


def encode_error(error: BaseException) -> bytes:
    """A serialized `CallError`."""
    pickled, problem = _pickled(error)
    return pb.CallError(
        pickled=pickled,
        type_name=_bounded(_type_name(error)),
        text=_bounded(_text(error) + problem),
        traceback=_bounded(_traceback(error)),
    ).SerializeToString()


def decode_error(data: bytes) -> BaseException:
    """The exception, to be raised; a RemoteError where it cannot be had as its own type. Its cause
    is a RemoteError with the traceback in the replica."""
    try:
        message = pb.CallError.FromString(data)
    except Exception as malformed:  # protobuf's DecodeError
        return RemoteError(f"the replica sent an error that cannot be read: {malformed}")
    error = _loaded(message)
    error.__cause__ = RemoteError(message.traceback)
    return error


def is_remote(error: BaseException) -> bool:
    """Whether it came from another replica, which has logged it."""
    cause = error.__cause__
    return isinstance(cause, RemoteError) and not cause.type_name


def _pickled(error: BaseException) -> tuple[bytes, str]:
    """Its pickle, or nothing and why: its text is sent in any case."""
    # What ends a process or a task (and is no Exception) must not end another one.
    if not isinstance(error, Exception) or isinstance(error, _NOT_RAISED):
        return b"", ""
    try:
        return code.dumps(error, replace=_portable), ""
    except Exception as problem:
        return b"", f" (the exception itself cannot be sent: {_text(problem)})"


def _portable(value: object) -> _Portable | None:
    """In the place of an exception that is pickled as `cls(*args)`, which many a class refuses:
    its constructor takes other arguments than it passes on."""
    kind = type(value)
    if (
        isinstance(value, BaseException)
        and kind.__reduce__ is BaseException.__reduce__
        and kind.__reduce_ex__ is object.__reduce_ex__
    ):
        return _Portable(value)
    return None


class _Portable:
    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __reduce__(self) -> tuple[Any, ...]:
        reduced: Any = self._error.__reduce__()
        make, args, *state = reduced
        return _rebuilt, (make, args), *state


def _rebuilt(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """An exception of these `args`, with its constructor called if it takes them."""
    try:
        error = kind(*args)
    except Exception:  # whatever a constructor makes of arguments that it does not expect
        error = kind.__new__(kind, *args)
    error.args = args
    return error


def _loaded(message: pb.CallError) -> Exception:
    text = f"{message.type_name}: {message.text}" if message.text else message.type_name
    substitute = RemoteError(text, type_name=message.type_name)
    if not message.pickled:
        return substitute
    try:
        loaded = payload.loads([message.pickled])
    except Exception as problem:  # its class is missing here, say
        return RemoteError(
            f"{text} (the exception cannot be rebuilt from its args here: "
            f"{type(problem).__name__}: {_text(problem)}; give its class a __reduce__, or pass all "
            "arguments to super().__init__)",
            type_name=message.type_name,
        )
    return loaded if isinstance(loaded, Exception) else substitute


def _type_name(error: BaseException) -> str:
    kind = type(error)
    return f"{kind.__module__}.{kind.__qualname__}"


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # a user's __str__
        return "<its text cannot be made>"


def _traceback(error: BaseException) -> str:
    try:
        report = traceback.TracebackException.from_exception(error)
        _leave_out_own(report)
        return "".join(report.format())
    except Exception as failure:  # a user's __repr__ or __notes__, or too deep a chain
        return f"<the traceback cannot be made: {type(failure).__name__}>"


def _leave_out_own(report: traceback.TracebackException) -> None:
    reports = [report]
    while reports:
        report = reports.pop()
        own = [frame for frame in report.stack if frame.filename.startswith(_PACKAGE)]
        left_out = {id(frame) for frame in own[:-MAX_OWN_FRAMES]}
        report.stack[:] = [frame for frame in report.stack if id(frame) not in left_out]
        reports += [each for each in (report.__cause__, report.__context__) if each is not None]
        reports += report.exceptions or []


def _bounded(text: str) -> str:
    """The text with its middle left out where it is too long; always valid UTF-8."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) > MAX_TEXT:
        half = MAX_TEXT // 2 - 8
        data = data[:half] + b"\n...\n" + data[-half:]
    return data.decode("utf-8", "replace")
