"""Calls of a deployment's methods, as handles make them."""

from __future__ import annotations

import asyncio
import difflib
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio.to_thread

from serving.aio import is_being_cancelled
from serving.calls import payload
from serving.calls.errors import encode_error, is_remote
from serving.calls.shares import Shares, is_large
from serving.handle import DeploymentHandle
from serving.mux import Stream
from serving.v1 import call_pb2 as pb

logger = logging.getLogger("serving.replica")

_END: Any = object()


class CallHandler:
    """Runs the methods of one user's object."""

    def __init__(self, instance: Any, deployment: str) -> None:
        self._instance = instance
        self._deployment = deployment
        self._methods: dict[str, _Method] = {}

    async def run(self, call: pb.Call, stream: Stream) -> None:
        """Answers one call. Raises only what ends the request's task: its own cancellation."""
        try:
            args, kwargs = payload.loads(await payload.receive(stream, call.arguments))
            method = self._method(call.method)
            if call.stream:
                await self._stream(method, args, kwargs, stream)
            else:
                result = await method.value(args, kwargs)
                await _send(stream, pb.RESULT, result, end=True, of=method)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and is_being_cancelled():
                raise
            if not is_remote(error):
                logger.error("call of %s failed", call.method, exc_info=error)
            if not stream.send_ended:
                stream.write(pb.ERROR, encode_error(error), end=True)

    async def _stream(
        self, method: _Method, args: tuple[Any, ...], kwargs: dict[str, Any], stream: Stream
    ) -> None:
        items = await method.items(args, kwargs)
        try:
            async for item in items:
                await _send(stream, pb.ITEM, item, end=False, of=method)
        finally:
            await items.aclose()
        stream.write(pb.ITEM, b"", end=True)

    def _method(self, name: str) -> _Method:
        if (method := self._methods.get(name)) is None:
            function = self._find(name)
            method = self._methods[name] = _Method(f"{self._deployment}.{name}", function)
        return method

    def _find(self, name: str) -> Callable[..., Any]:
        found: Callable[..., Any] | None
        if inspect.isfunction(self._instance):
            found = self._instance if name == "__call__" else None
        else:
            found = getattr(self._instance, name, None)
        if (
            found is not None
            and callable(found)
            and (name == "__call__" or not name.startswith("__"))
        ):
            return found
        names = self._names()
        near = difflib.get_close_matches(name, names, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise AttributeError(
            f"deployment {self._deployment!r} has no method {name!r}{hint}; it has: "
            f"{', '.join(names) or 'none'}"
        )

    def _names(self) -> list[str]:
        if inspect.isfunction(self._instance):
            return ["__call__"]
        kind = type(self._instance)
        return [
            name
            for name in dir(kind)
            if callable(getattr(kind, name, None))
            and (name == "__call__" or not name.startswith("_"))
        ]


class _Method:
    """One method: whether it is async, and whether it yields."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name = name
        self._function = function
        plain = inspect.unwrap(function)
        if not inspect.isroutine(plain):
            plain = getattr(plain, "__call__", plain)  # noqa: B004 - the method itself is wanted
        self._is_async = inspect.iscoroutinefunction(plain)
        self._yields = inspect.isgeneratorfunction(plain) or inspect.isasyncgenfunction(plain)

    async def value(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the method returns. Raises TypeError where it yields."""
        if self._yields:
            raise TypeError(f"{self.name} is a generator: call it with handle.options(stream=True)")
        return await self._call(args, kwargs)

    async def items(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The items that the method yields. Raises TypeError where it does not."""
        found = self._function(*args, **kwargs) if self._yields else await self._call(args, kwargs)
        if isinstance(found, AsyncIterator):
            return found if inspect.isasyncgen(found) else _relayed(found)
        if isinstance(found, Iterator):
            return _in_threads(found)
        raise TypeError(
            f"{self.name} returned {type(found).__name__!r} and no generator: "
            "call it without stream=True"
        )

    async def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._is_async:
            return await self._function(*args, **kwargs)
        result = await anyio.to_thread.run_sync(lambda: self._function(*args, **kwargs))
        # A handle is awaitable too, only to say that it is not.
        is_awaited = inspect.isawaitable(result) and not isinstance(result, DeploymentHandle)
        return await result if is_awaited else result


async def _relayed(items: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for item in items:
        yield item


async def _in_threads(items: Iterator[Any]) -> AsyncIterator[Any]:
    """The items of a plain iterator, each made in a thread; it is closed in the end."""
    try:
        while (item := await anyio.to_thread.run_sync(next, items, _END)) is not _END:
            yield item
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()


async def _send(stream: Stream, tag: int, value: Any, *, end: bool, of: _Method) -> None:
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
