"""Exceptions on a stream: as their own type where that can be, else as text.

Nothing here raises: who reports an error has no use for another.
"""

from __future__ import annotations

import os
import traceback

import serving
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
    return pb.CallError(
        pickled=_pickled(error),
        type_name=_bounded(_type_name(error)),
        text=_bounded(_text(error)),
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


def _pickled(error: BaseException) -> bytes:
    # What ends a process or a task (and is no Exception) must not end another one.
    if not isinstance(error, Exception) or isinstance(error, _NOT_RAISED):
        return b""
    try:
        return payload.dumps_whole(error)
    except Exception:  # its text is sent in any case
        return b""


def _loaded(message: pb.CallError) -> Exception:
    text = f"{message.type_name}: {message.text}" if message.text else message.type_name
    substitute = RemoteError(text, type_name=message.type_name)
    if not message.pickled:
        return substitute
    try:
        loaded = payload.loads([message.pickled])
    except Exception:  # its class is missing here, or cannot be called with its arguments
        return substitute
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
