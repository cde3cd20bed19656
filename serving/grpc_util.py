"""What a method that answers gRPC calls can know of its call, and say of its answer.

A method gets a `GrpcContext` where it has a parameter of the name `grpc_context`:

class Greeter:
    async def SayHello(self, request, grpc_context):
        if not request.name:
            grpc_context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a greeting needs a name")
        grpc_context.set_trailing_metadata([("greeted", request.name)])
        return HelloReply(message=f"Hello {request.name}")
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from typing import NoReturn

import grpc

from serving.rpc import metadata
from serving.rpc.metadata import Metadata
from serving.v1.grpc_pb2 import GrpcRequest

__all__ = ["AbortError", "GrpcContext"]

MAX_INITIAL_METADATA = 4096
"""Bytes of the initial metadata of an answer, at most: clients take 8 KiB of headers as a rule."""

_KEY = re.compile(r"[0-9a-z_.-]+")
_TEXT = re.compile(r"[\x20-\x7e]*")


class AbortError(Exception):
    """Ends a call with the status that was given to `GrpcContext.abort`. Let it through."""


class GrpcContext:
    """One gRPC call, as the method that answers it sees it. Threads may use it too."""

    __slots__ = (
        "_begun",
        "_call",
        "_clock",
        "_code",
        "_deadline",
        "_details",
        "_initial_metadata",
        "_trailing_metadata",
    )

    def __init__(
        self,
        call: GrpcRequest,
        *,
        deadline: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """For the replica: ``deadline`` is a time of ``clock``; None for a call without one."""
        self._call = call
        self._deadline = deadline
        self._clock = clock
        self._begun = False
        self._code: grpc.StatusCode | None = None
        self._details = ""
        self._initial_metadata: Metadata = ()
        self._trailing_metadata: Metadata = ()

    def __repr__(self) -> str:
        return f"<GrpcContext {self._call.method} {self._call.request_id}>"

    # The request.

    def invocation_metadata(self) -> Metadata:
        """What the client sent, as pairs of key and value: bytes where the key ends in "-bin"."""
        return metadata.unflatten(self._call.metadata)

    def peer(self) -> str:
        """The client's address, as gRPC writes it: "ipv4:127.0.0.1:40512"."""
        return self._call.peer

    def request_id(self) -> str:
        """The id that the log knows the call by: the client's own, or one that the proxy made."""
        return self._call.request_id

    def application(self) -> str:
        """The application that was called."""
        return self._call.application

    def multiplexed_model_id(self) -> str:
        """The model that the client asks for; empty where it names none."""
        return self._call.multiplexed_model_id

    def time_remaining(self) -> float | None:
        """Seconds until the call's time is over; None where it has no deadline."""
        return None if self._deadline is None else max(0.0, self._deadline - self._clock())

    # The answer.

    def code(self) -> grpc.StatusCode | None:
        """The status code that was set; None before."""
        return self._code

    def details(self) -> str:
        """The details that were set; empty before."""
        return self._details

    def trailing_metadata(self) -> Metadata:
        """The trailing metadata that was set; empty before."""
        return self._trailing_metadata

    def set_code(self, code: grpc.StatusCode) -> None:
        """Sets the status code of the answer. With one that is not OK a message that a unary
        method returns is not sent; an exception keeps it."""
        if not isinstance(code, grpc.StatusCode):
            raise TypeError(
                f"set_code() takes a grpc.StatusCode, such as grpc.StatusCode.ABORTED, not {code!r}"
            )
        self._code = code

    def set_details(self, details: str) -> None:
        """Sets the text beside the status code. The client gets its first 1,024 bytes."""
        if not isinstance(details, str):
            raise TypeError(f"set_details() takes a str, not {details!r}")
        self._details = details

    def set_trailing_metadata(self, trailing_metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """Sets the metadata that ends the answer, in the place of what was set before. Where it is
        of more than 4,096 bytes, the largest entries are left out."""
        self._trailing_metadata = _checked(trailing_metadata, "set_trailing_metadata()")

    def set_initial_metadata(self, initial_metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """Sets the metadata that is sent before the first message. Raises RuntimeError once that
        has left."""
        if self._begun:
            raise RuntimeError(
                "set_initial_metadata() comes too late: the answer has begun. Call it before the "
                "first message, or use set_trailing_metadata()"
            )
        checked = _checked(initial_metadata, "set_initial_metadata()")
        if (size := metadata.size(checked)) > MAX_INITIAL_METADATA:
            raise ValueError(
                f"set_initial_metadata() takes {MAX_INITIAL_METADATA} bytes at most, not {size}: "
                "send the rest in messages"
            )
        self._initial_metadata = checked

    def abort(
        self,
        code: grpc.StatusCode,
        details: str = "",
        trailing_metadata: Iterable[tuple[str, str | bytes]] = (),
    ) -> NoReturn:
        """Ends the call with this status, by raising AbortError."""
        if code is grpc.StatusCode.OK:
            raise ValueError("abort() takes a code of failure; to end well, return")
        self.set_code(code)
        self.set_details(details)
        if entries := tuple(trailing_metadata):
            self.set_trailing_metadata(entries)
        raise AbortError(f"{code.name}: {details}")

    def begin(self) -> Metadata:
        """For the replica: the answer begins now, if it had not, and with this initial metadata."""
        self._begun = True
        entries, self._initial_metadata = self._initial_metadata, ()
        return entries


def _checked(entries: Iterable[tuple[str, str | bytes]], what: str) -> Metadata:
    """As a tuple, if it is metadata that gRPC takes; else raises what names the fix."""
    found = []
    for entry in entries:
        if not (isinstance(entry, tuple | list) and len(entry) == 2):
            raise TypeError(f'{what} takes pairs such as ("key", "value"), not {entry!r}')
        key, value = entry
        _check_key(key, what)
        _check_value(key, value, what)
        found.append((key, value))
    return tuple(found)


def _check_key(key: object, what: str) -> None:
    if not isinstance(key, str):
        raise TypeError(f"{what}: a key is a str, not {key!r}")
    if not _KEY.fullmatch(key):
        cure = f": write {key.lower()!r}" if _KEY.fullmatch(key.lower()) else ""
        raise ValueError(
            f"{what}: the key {key!r} has other characters than a-z, 0-9, '_', '-' and '.'{cure}"
        )
    if key.startswith("grpc-"):
        raise ValueError(f"{what}: the key {key!r} is one of gRPC's own: choose another")


def _check_value(key: str, value: object, what: str) -> None:
    if key.endswith("-bin"):
        if not isinstance(value, bytes):
            raise TypeError(f"{what}: the value of {key!r} is to be bytes, not {value!r}")
    elif not isinstance(value, str):
        raise TypeError(
            f"{what}: the value of {key!r} is to be a str, not {value!r}; bytes go with a key that "
            f"ends in '-bin', such as '{key}-bin'"
        )
    elif not _TEXT.fullmatch(value):
        raise ValueError(
            f"{what}: the value of {key!r} has other characters than printable ASCII: encode it, "
            f"and name it '{key}-bin'"
        )
