"""Calls of a deployment's methods, as handles make them."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from serving.aio import is_being_cancelled
from serving.calls import payload
from serving.calls.errors import encode_error, is_remote
from serving.calls.shares import Shares, is_large
from serving.mux import Stream
from serving.replica.methods import Method, Methods
from serving.v1 import call_pb2 as pb

logger = logging.getLogger("serving.replica")

_TO_STREAM = "call it with handle.options(stream=True)"
_NOT_TO_STREAM = "call it without stream=True"


class CallHandler:
    """Runs the methods of one user's object."""

    def __init__(self, methods: Methods) -> None:
        self._methods = methods

    async def run(self, call: pb.Call, stream: Stream) -> None:
        """Answers one call. Raises only what ends the request's task: its own cancellation."""
        try:
            args, kwargs = payload.loads(await payload.receive(stream, call.arguments))
            method = self._methods.find(call.method)
            if call.stream:
                await self._stream(method, args, kwargs, stream)
            else:
                result = await method.value(args, kwargs, cure=_TO_STREAM)
                await _send(stream, pb.RESULT, result, end=True, of=method)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and is_being_cancelled():
                raise
            if not is_remote(error):
                logger.error("call of %s failed", call.method, exc_info=error)
            if not stream.send_ended:
                stream.write(pb.ERROR, encode_error(error), end=True)

    async def _stream(
        self, method: Method, args: tuple[Any, ...], kwargs: dict[str, Any], stream: Stream
    ) -> None:
        items = await method.items(args, kwargs, cure=_NOT_TO_STREAM)
        try:
            async for item in items:
                await _send(stream, pb.ITEM, item, end=False, of=method)
        finally:
            await items.aclose()
        stream.write(pb.ITEM, b"", end=True)


async def _send(stream: Stream, tag: int, value: Any, *, end: bool, of: Method) -> None:
    message = pb.Payload()
    try:
        following = payload.encode(payload.dumps(value), message)
    except payload.Unresolved as error:
        verb = "returned" if end else "yielded"
        cure = "iterate over it and yield its items"
        if not error.streams:
            cure = "await it before returning it" if end else "await it before yielding it"
        raise TypeError(f"{of.name} {verb} {error}: {cure}") from None
    if end and following and stream.session.shares_memory and is_large(following):
        await _send_shared(stream, tag, message, following)
        return
    stream.write(tag, message.SerializeToString(), end=end and not following)
    if stream.must_wait:
        await stream.drain()
    if following:
        await payload.send_following(stream, following, end=end)


async def _send_shared(
    stream: Stream, tag: int, message: pb.Payload, following: list[memoryview]
) -> None:
    """Sends a value that ends its stream, what is large of it in shared memory."""
    with Shares() as shares:
        await shares.place(following)
        rest = payload.share(message, following, shares.places)
        end = not shares.places
        stream.write(tag, message.SerializeToString(), end=end and not rest)
        if rest:
            await payload.send_following(stream, rest, end=end)
        if shares.places:
            # The caller resets the stream when it has read them: that is no cancellation.
            stream.on_early_end(None)
            await stream.over()
