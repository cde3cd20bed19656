"""The user's function on lists: how it is called, and how its answers are dealt out."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

import anyio.to_thread

from serving.batching.queue import Batch, Call

__all__ = ["ListFunction"]

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_EXHAUSTED = object()


class ListFunction:
    """A function on lists, with what is known of it."""

    def __init__(self, function: Callable[..., Any], *, is_method: bool) -> None:
        self.function = function
        self.is_method = is_method
        self.name: str = function.__qualname__
        self.is_async = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(
            function
        )
        self.streams = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
        self.item_signature = self._item_signature()

    def _item_signature(self) -> inspect.Signature:
        parameters = list(inspect.signature(self.function).parameters.values())[self.is_method :]
        if not parameters:
            raise TypeError(
                f"@serving.batch: {self.name} takes no items; give it a parameter that takes a list"
            )
        for parameter in parameters:
            if parameter.kind in _VARIADIC:
                raise TypeError(
                    f"@serving.batch: {self.name} takes {str(parameter).split(':')[0]}; name the "
                    "parameters instead, each of which gets a list"
                )
        return inspect.Signature(parameters)

    # One call.

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The item, as `batch_size_fn` sees it, and the arguments by name."""
        try:
            bound = self.item_signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.name}{self.item_signature}: {error}") from None
        given = dict(bound.arguments)
        bound.apply_defaults()
        values = tuple(bound.arguments.values())
        return values[0] if len(values) == 1 else values, given

    # A batch.

    async def execute(self, instance: Any, batch: Batch) -> None:
        """Calls the function with what the batch's calls gave, and gives them their outcomes."""
        bound = self._merge(batch.calls)
        args = (instance, *bound.args) if self.is_method else bound.args
        if self.streams:
            await self._deal_stream(batch, args, bound.kwargs)
        elif self.is_async:
            self._deal(batch.calls, await self.function(*args, **bound.kwargs))
        else:
            self._deal(batch.calls, await _in_thread(self.function, *args, **bound.kwargs))

    def _merge(self, calls: list[Call]) -> inspect.BoundArguments:
        """Each argument that a call gave, as a list with an entry for each call."""
        merged = {
            name: [call.arguments.get(name, parameter.default) for call in calls]
            for name, parameter in self.item_signature.parameters.items()
            if any(name in call.arguments for call in calls)
        }
        return inspect.BoundArguments(self.item_signature, merged)

    def _entries(self, answer: Any, calls: list[Call], verb: str) -> list[Any]:
        wanted = f"a list with one entry for each of the {len(calls)} items of its batch"
        if not _is_list(answer):
            raise TypeError(f"{self.name} must {verb} {wanted}, not {type(answer).__name__}")
        if len(answer) != len(calls):
            raise ValueError(f"{self.name} must {verb} {wanted}, but there are {len(answer)}")
        return list(answer)

    def _deal(self, calls: list[Call], answer: Any) -> None:
        for call, result in zip(calls, self._entries(answer, calls, "return"), strict=True):
            if isinstance(result, Exception):
                call.fail(result)
            else:
                call.succeed(result)

    async def _deal_stream(
        self, batch: Batch, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        generator: AsyncGenerator[Any, None]
        if self.is_async:
            generator = self.function(*args, **kwargs)
        else:
            generator = _generate_in_thread(self.function(*args, **kwargs))
        async with aclosing(generator):
            async for answer in generator:
                entries = self._entries(answer, batch.calls, "yield")
                for call, entry in zip(batch.calls, entries, strict=True):
                    _deal_entry(call, entry)
                await batch.readers()
                if batch.over:
                    return
        for call in batch.calls:
            call.succeed()


def _deal_entry(call: Call, entry: Any) -> None:
    if (
        entry is StopIteration
        or entry is StopAsyncIteration
        or isinstance(entry, StopIteration | StopAsyncIteration)
    ):
        call.succeed()
    elif isinstance(entry, Exception):
        call.fail(entry)
    else:
        call.put(entry)


def _is_list(answer: Any) -> bool:
    """Lists and what acts as one: tuples, arrays, tensors."""
    if isinstance(answer, str | bytes | bytearray | Mapping):
        return False
    return hasattr(answer, "__len__") and hasattr(answer, "__getitem__")


async def _in_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    def work() -> Any:
        try:
            return function(*args, **kwargs)
        except StopIteration as error:
            raise RuntimeError("the batched function raised StopIteration") from error

    return await anyio.to_thread.run_sync(work)


async def _generate_in_thread(generator: Any) -> AsyncGenerator[Any, None]:
    try:
        while (answer := await _in_thread(next, generator, _EXHAUSTED)) is not _EXHAUSTED:
            yield answer
    finally:
        await _in_thread(generator.close)
