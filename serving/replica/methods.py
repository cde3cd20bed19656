"""The methods of the user's object, as those who call them by name find them."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio.to_thread

from serving.handle import DeploymentHandle

_END: Any = object()


class Methods:
    """What can be called of one user's object. Each method is looked up once."""

    def __init__(self, instance: Any, deployment: str) -> None:
        self.deployment = deployment
        self._instance = instance
        self._found: dict[str, Method] = {}

    def find(self, name: str) -> Method:
        """The method. Raises AttributeError that names those there are."""
        if (method := self._found.get(name)) is None:
            function = self._function(name)
            method = self._found[name] = Method(f"{self.deployment}.{name}", function)
        return method

    def _function(self, name: str) -> Callable[..., Any]:
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
            f"deployment {self.deployment!r} has no method {name!r}{hint}; it has: "
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


class Method:
    """One method: whether it is async, and whether it yields."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name = name
        self._function = function
        plain = inspect.unwrap(function)
        if not inspect.isroutine(plain):
            plain = getattr(plain, "__call__", plain)  # noqa: B004 - the method itself is wanted
        self._is_async = inspect.iscoroutinefunction(plain)
        self._yields = inspect.isgeneratorfunction(plain) or inspect.isasyncgenfunction(plain)

    def takes(self, parameter: str) -> bool:
        """Whether it has a parameter of that name."""
        signature = self._signature()
        return signature is not None and parameter in signature.parameters

    def check_takes(self, *args: Any, cure: str, **kwargs: Any) -> None:
        """Raises TypeError where it cannot be called so, and says the cure."""
        try:
            if (signature := self._signature()) is not None:
                signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.name}: {error}: {cure}") from None

    def _signature(self) -> inspect.Signature | None:
        try:
            return inspect.signature(self._function)
        except (TypeError, ValueError):  # A builtin without a signature.
            return None

    async def value(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, cure: str) -> Any:
        """What the method returns. Raises TypeError where it yields, and says the cure."""
        if self._yields:
            raise TypeError(f"{self.name} is a generator: {cure}")
        return await self._call(args, kwargs)

    async def items(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, cure: str) -> Any:
        """The items that the method yields. Raises TypeError where it does not, and says the
        cure."""
        found = self._function(*args, **kwargs) if self._yields else await self._call(args, kwargs)
        if isinstance(found, AsyncIterator):
            return found if inspect.isasyncgen(found) else _relayed(found)
        if isinstance(found, Iterator):
            return _in_threads(found)
        raise TypeError(f"{self.name} returned {type(found).__name__!r} and no generator: {cure}")

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
