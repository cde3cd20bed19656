"""Handles: what code holds of a deployment, and what it gets when it calls it.

A call begins at `.remote(...)`, whether or not its response is waited for.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import difflib
import os
from collections.abc import AsyncIterator, Awaitable, Coroutine, Generator, Iterator
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    Literal,
    NoReturn,
    ParamSpec,
    Protocol,
    TypeVar,
    final,
    overload,
)

from serving.calls import local, payload, process
from serving.calls.caller import Caller, Origin, Target
from serving.calls.items import END, Items
from serving.context import RequestScope, current_replica, current_request
from serving.exceptions import CodeNotPortableError, RequestCancelledError

P = ParamSpec("P")
R = TypeVar("R")
First = TypeVar("First")
R_co = TypeVar("R_co", covariant=True)
_OPTIONS = ("method_name", "stream", "multiplexed_model_id", "timeout_s")
_UNSET: Any = object()

if TYPE_CHECKING:
    from typing_extensions import TypeVar as _TypeVar

    T_co = _TypeVar("T_co", covariant=True, default=Any)
else:
    T_co = TypeVar("T_co", covariant=True)


class Streaming(Generic[T_co]):
    """Only in types: a `DeploymentHandle[Streaming[Model]]` has the option `stream=True`."""


if TYPE_CHECKING:

    class _Calls(Protocol[P, R_co]):
        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...

    @final
    class _Unknown:
        """Nothing but Any is taken for this: a handle of it is one that nothing is known of."""


class DeploymentHandle(Generic[T_co]):
    """Names a deployment that runs, and calls it. Cheap, picklable, for any thread and loop.

    In types, T is the deployed class or function; docs/typing.md tells what is checked.
    """

    __slots__ = ("_model_id", "_target")

    def __init__(self, deployment_name: str, app_name: str = "default") -> None:
        key = local.current_key()
        self._target = Target(deployment_name, app_name, "__call__", False, None, key)
        self._model_id: str | None = None

    @property
    def deployment_name(self) -> str:
        return self._target.deployment

    @property
    def app_name(self) -> str:
        return self._target.application

    @overload
    def options(
        self: DeploymentHandle[Streaming[R]],
        *,
        stream: Literal[False],
        multiplexed_model_id: str = ...,
        timeout_s: float | None = ...,
    ) -> DeploymentHandle[R]: ...
    @overload
    def options(
        self: DeploymentHandle[Streaming[R]],
        *,
        stream: Literal[True],
        multiplexed_model_id: str = ...,
        timeout_s: float | None = ...,
    ) -> DeploymentHandle[Streaming[R]]: ...
    @overload
    def options(
        self,
        *,
        stream: Literal[True],
        multiplexed_model_id: str = ...,
        timeout_s: float | None = ...,
    ) -> DeploymentHandle[Streaming[T_co]]: ...
    @overload
    def options(
        self,
        *,
        stream: Literal[False] = ...,
        multiplexed_model_id: str = ...,
        timeout_s: float | None = ...,
    ) -> DeploymentHandle[T_co]: ...
    @overload
    def options(
        self,
        *,
        method_name: str = ...,
        stream: bool = ...,
        multiplexed_model_id: str = ...,
        timeout_s: float | None = ...,
    ) -> DeploymentHandle[Any]: ...
    def options(
        self,
        *,
        method_name: str = _UNSET,
        stream: bool = _UNSET,
        multiplexed_model_id: str = _UNSET,
        timeout_s: float | None = _UNSET,
        **unknown: object,
    ) -> DeploymentHandle[Any]:
        """The same handle with other options for its calls.

        Arguments:
            method_name: what is called; `__call__` unless given.
            stream: the method yields items, which come one by one.
            multiplexed_model_id: the model that the call is for.
            timeout_s: seconds after which a call is cancelled and raises TimeoutError.

        Raises TypeError for an unknown option, ValueError for a wrong value.
        """
        if unknown:
            raise TypeError(_unknown_option(next(iter(unknown))))
        if multiplexed_model_id is not _UNSET and not isinstance(multiplexed_model_id, str):
            raise TypeError(f"multiplexed_model_id must be a str, not {multiplexed_model_id!r}")
        old = self._target
        if timeout_s is not _UNSET and timeout_s is not None and timeout_s <= 0:
            raise ValueError(f"timeout_s must be above 0, not {timeout_s!r}")
        return self._with(
            Target(
                old.deployment,
                old.application,
                old.method if method_name is _UNSET else method_name,
                old.stream if stream is _UNSET else stream,
                old.timeout_s if timeout_s is _UNSET else timeout_s,
                old.local_key,
            ),
            self._model_id if multiplexed_model_id is _UNSET else multiplexed_model_id,
        )

    def __getattr__(self, name: str) -> DeploymentHandle[Any]:
        if name.startswith("_"):
            raise AttributeError(f"{name!r}: to call a private method, use options(method_name=…)")
        return self.options(method_name=name)

    @overload
    def remote(self: DeploymentHandle[_Unknown], *args: Any, **kwargs: Any) -> Any: ...
    @overload
    def remote(
        self: DeploymentHandle[_Calls[P, Coroutine[Any, Any, R]]], *args: P.args, **kwargs: P.kwargs
    ) -> DeploymentResponse[R]: ...
    @overload
    def remote(
        self: DeploymentHandle[_Calls[Concatenate[First, P], Coroutine[Any, Any, R]]],
        first: DeploymentResponse[First],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> DeploymentResponse[R]: ...
    @overload
    def remote(
        self: DeploymentHandle[_Calls[P, R]], *args: P.args, **kwargs: P.kwargs
    ) -> DeploymentResponse[R]: ...
    @overload
    def remote(
        self: DeploymentHandle[_Calls[Concatenate[First, P], R]],
        first: DeploymentResponse[First],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> DeploymentResponse[R]: ...
    @overload
    def remote(
        self: DeploymentHandle[Streaming[_Unknown]], *args: Any, **kwargs: Any
    ) -> DeploymentResponseGenerator[Any]: ...
    @overload
    def remote(
        self: DeploymentHandle[Streaming[_Calls[P, AsyncIterator[R] | Iterator[R]]]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> DeploymentResponseGenerator[R]: ...
    @overload
    def remote(
        self: DeploymentHandle[
            Streaming[_Calls[Concatenate[First, P], AsyncIterator[R] | Iterator[R]]]
        ],
        first: DeploymentResponse[First],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> DeploymentResponseGenerator[R]: ...
    def remote(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[misc]
        """Calls the deployment, at once; the result is a DeploymentResponse, or with the option
        `stream` a DeploymentResponseGenerator.

        Responses of other calls among the arguments are waited for first, without blocking.
        Raises ClusterError where there is no cluster, CodeNotPortableError for an argument that
        cannot be sent.
        """
        caller, scope = process.current(self._target.local_key), current_request()
        origin = _origin(scope, self._target.application, self._model_id)
        try:
            arguments: Awaitable[list[Any]] | list[Any] = payload.capture((args, kwargs))
        except payload.Unresolved:
            arguments = _resolved(self._target, args, kwargs)
        except CodeNotPortableError as error:
            raise _refused(self._target, args, kwargs, error) from error.__cause__
        if self._target.stream:
            return DeploymentResponseGenerator(caller, self._target, origin, arguments, scope)
        return DeploymentResponse(caller, self._target, origin, arguments, scope)

    if not TYPE_CHECKING:  # checkers know that a handle has neither

        def __call__(self, *args: object, **kwargs: object) -> NoReturn:
            raise TypeError(f"{_call_of(self._target)} is called with .remote(...)")

        def __await__(self) -> NoReturn:
            raise TypeError(f"{_call_of(self._target)} is called with .remote(...): await that")

    def __reduce__(self) -> tuple[Any, ...]:
        return _handle, (self._target, self._model_id)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DeploymentHandle):
            return NotImplemented
        return (self._target, self._model_id) == (other._target, other._model_id)

    def __hash__(self) -> int:
        return hash((self._target, self._model_id))

    def __repr__(self) -> str:
        target = self._target
        method = "" if target.method == "__call__" else f", method_name={target.method!r}"
        return f"DeploymentHandle({target.deployment!r}, app_name={target.application!r}{method})"

    def _with(self, target: Target, model_id: str | None) -> DeploymentHandle[Any]:
        return _handle(target, model_id)


def _handle(target: Target, model_id: str | None) -> DeploymentHandle[Any]:
    handle: DeploymentHandle[Any] = DeploymentHandle.__new__(DeploymentHandle)
    handle._target = target
    handle._model_id = model_id
    return handle


def _call_of(target: Target) -> str:
    return f"{target.deployment}.{target.method}"


def _unknown_option(name: str) -> str:
    near = difflib.get_close_matches(name, _OPTIONS, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"a handle has no option {name!r}{hint}; allowed: {', '.join(_OPTIONS)}"


def _origin(scope: RequestScope | None, application: str, model_id: str | None) -> Origin:
    if scope is None:
        return Origin(os.urandom(16).hex(), "", application, model_id or "")
    model = scope.model_id if model_id is None else model_id
    return Origin(scope.request_id, scope.route, scope.application, model)


class _Response:
    """What a call and a call that streams have in common."""

    def __init__(
        self, caller: Caller, target: Target, origin: Origin, scope: RequestScope | None
    ) -> None:
        self._caller = caller
        self._target = target
        self._scope = scope
        self._origin = origin
        self._cancelled = False

    @property
    def request_id(self) -> str:
        """Of the request that made the call; the logs know it by this."""
        return self._origin.request_id

    @property
    def _on_loop(self) -> bool:
        return _running_loop() is self._caller.loop

    def _refuse_on_loop(self, instead: str) -> None:
        if _running_loop() is not None:
            replica = current_replica()
            if replica is not None and replica.servable_object is None:
                instead = f"make the constructor `async def __init__`, and there {instead}"
            raise RuntimeError(f"this would block the event loop that runs here: {instead}")


class DeploymentResponse(_Response, Generic[T_co]):
    """The answer of a call that is under way. `await` it, or take `.result()` in plain code."""

    def __init__(
        self,
        caller: Caller,
        target: Target,
        origin: Origin,
        arguments: Awaitable[list[Any]] | list[Any],
        scope: RequestScope | None,
    ) -> None:
        super().__init__(caller, target, origin, scope)
        self._outcome: concurrent.futures.Future[T_co] | None = None
        self._answer: asyncio.Future[T_co] | None = None
        if self._on_loop:
            self._begin(target, arguments)
        else:
            self._outcome = concurrent.futures.Future()
            caller.loop.call_soon_threadsafe(self._begin, target, arguments)

    def cancel(self) -> None:
        """Cancels the call, and with it the code that works on it. Harmless when it is done."""
        if self._on_loop:
            self._cancel_here()
        else:
            self._caller.loop.call_soon_threadsafe(self._cancel_here)

    def result(self, timeout_s: float | None = None) -> T_co:
        """What the method returned, for code that is not `async`.

        Raises what the method raised; TimeoutError after `timeout_s`, while the call goes on;
        RequestCancelledError where it was cancelled; RuntimeError on a running event loop.
        """
        self._refuse_on_loop("await the response instead of taking its result()")
        outcome = self._outcome
        if outcome is None:
            outcome = asyncio.run_coroutine_threadsafe(self._wait(), self._caller.loop)
        try:
            return outcome.result(timeout_s)
        except concurrent.futures.CancelledError:
            raise RequestCancelledError("the call was cancelled") from None
        except concurrent.futures.TimeoutError:
            if outcome.done():
                raise
            raise TimeoutError(f"no result within {timeout_s} s; the call goes on") from None

    def __await__(self) -> Generator[Any, None, T_co]:
        if self._answer is not None and self._on_loop:
            return (yield from self._answer.__await__())
        return (yield from self._wait_elsewhere().__await__())

    def __reduce__(self) -> NoReturn:
        raise payload.Unresolved(f"the response of {_call_of(self._target)}")

    if not TYPE_CHECKING:  # checkers know that it has no items

        def __iter__(self) -> NoReturn:
            raise TypeError(
                f"the response of {_call_of(self._target)} is one value: await it; or call a "
                "generator with handle.options(stream=True) and iterate over its items"
            )

        def __aiter__(self) -> NoReturn:
            self.__iter__()

    # On the caller's loop.

    def _begin(self, target: Target, arguments: Awaitable[list[Any]] | list[Any]) -> None:
        if isinstance(arguments, list):
            answer = self._caller.begin(target, self._origin, arguments)
        else:
            answer = self._caller.run(self._call_with(target, arguments))
        self._answer = answer
        if self._cancelled:
            answer.cancel()
        if self._scope is not None:
            self._scope.opened(answer.cancel)
        answer.add_done_callback(self._done)

    def _done(self, answer: asyncio.Future[T_co]) -> None:
        if self._scope is not None:
            self._scope.closed(answer.cancel)
        outcome = self._outcome
        if outcome is None or outcome.cancelled():
            return
        if answer.cancelled():
            outcome.cancel()
        elif (error := answer.exception()) is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(answer.result())

    def _cancel_here(self) -> None:
        self._cancelled = True
        if self._answer is not None:
            self._answer.cancel()

    async def _call_with(self, target: Target, arguments: Awaitable[list[Any]]) -> Any:
        return await self._caller.call(target, self._origin, await arguments)

    async def _wait(self) -> T_co:
        assert self._answer is not None
        return await asyncio.shield(self._answer)

    async def _wait_elsewhere(self) -> T_co:
        outcome = self._outcome
        if outcome is None or self._on_loop:
            outcome = asyncio.run_coroutine_threadsafe(self._wait(), self._caller.loop)
        try:
            return await asyncio.wrap_future(outcome)
        except asyncio.CancelledError:
            self.cancel()
            raise


class DeploymentResponseGenerator(_Response, Generic[T_co]):
    """The items of a call that streams. Iterate with `async for`, or with `for` in plain code.

    Leaving the loop early, or letting go of this object, cancels the call.
    """

    def __init__(
        self,
        caller: Caller,
        target: Target,
        origin: Origin,
        arguments: Awaitable[list[Any]] | list[Any],
        scope: RequestScope | None,
    ) -> None:
        super().__init__(caller, target, origin, scope)
        self._items = Items(caller, target, origin, arguments, scope)
        if self._on_loop:
            self._items.begin()
        else:
            caller.loop.call_soon_threadsafe(self._items.begin)

    def cancel(self) -> None:
        """Cancels the call and the generator that works on it. Harmless when it is done."""
        if self._on_loop:
            self._items.close()
        else:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and the call with it
                self._caller.loop.call_soon_threadsafe(self._items.close)

    def __reduce__(self) -> NoReturn:
        raise payload.Unresolved(f"the stream of {_call_of(self._target)}", streams=True)

    if not TYPE_CHECKING:  # checkers know that it has none

        def result(self, timeout_s: float | None = None) -> NoReturn:
            raise TypeError(
                f"the call of {_call_of(self._target)} streams: iterate over it, or call it "
                "without stream=True"
            )

    def __aiter__(self) -> AsyncIterator[T_co]:
        return _Loop(self)

    async def __anext__(self) -> T_co:
        if self._on_loop:
            item = await self._items.next()
        else:
            item = await asyncio.wrap_future(self._next_elsewhere())
        if item is END:
            raise StopAsyncIteration
        return item  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[T_co]:
        return _Loop(self)

    def __next__(self) -> T_co:
        self._refuse_on_loop("iterate with `async for`")
        try:
            item = self._next_elsewhere().result()
        except concurrent.futures.CancelledError:
            raise RequestCancelledError("the call was cancelled") from None
        if item is END:
            raise StopIteration
        return item  # type: ignore[no-any-return]

    def __del__(self) -> None:
        if not self._items.closed:
            self.cancel()

    def _next_elsewhere(self) -> concurrent.futures.Future[Any]:
        return asyncio.run_coroutine_threadsafe(self._items.next(), self._caller.loop)


class _Loop:
    """What a loop holds: gone with it, and then the call is cancelled, whoever else holds it."""

    def __init__(self, response: DeploymentResponseGenerator[Any]) -> None:
        self._response = response

    def __aiter__(self) -> _Loop:
        return self

    def __anext__(self) -> Awaitable[Any]:
        return self._response.__anext__()

    def __iter__(self) -> _Loop:
        return self

    def __next__(self) -> Any:
        return next(self._response)

    def __del__(self) -> None:
        if not self._response._items.closed:
            self._response.cancel()


def _refused(
    target: Target, args: Any, kwargs: Any, error: CodeNotPortableError
) -> CodeNotPortableError:
    """The error with the argument that is at fault."""
    named = {f"argument {number}": value for number, value in enumerate(args, 1)}
    named |= {f"argument {name!r}": value for name, value in kwargs.items()}
    for name, value in named.items():
        try:
            payload.dumps(value)
        except payload.Unresolved:
            continue
        except CodeNotPortableError as own:
            return CodeNotPortableError(f"{_call_of(target)}, {name}: {own}")
    return CodeNotPortableError(f"{_call_of(target)}: {error}")


async def _resolved(target: Target, args: Any, kwargs: Any) -> list[Any]:
    """The arguments with what the responses among them gave."""
    responses: dict[int, DeploymentResponse[Any]] = {}
    _find((args, kwargs), responses)
    values = await asyncio.gather(*responses.values())
    found = dict(zip(responses, values, strict=True))
    args, kwargs = _filled((args, kwargs), found)
    try:
        return payload.capture((args, kwargs))
    except payload.Unresolved as error:
        cure = "pass it by itself, or in a list, tuple or dict; or await it first"
        if error.streams:
            cure = "iterate over it, and pass a list of its items"
        raise TypeError(f"{_call_of(target)}: {error} is no argument: {cure}") from None
    except CodeNotPortableError as error:
        raise _refused(target, args, kwargs, error) from error.__cause__


def _find(value: Any, found: dict[int, DeploymentResponse[Any]]) -> None:
    if isinstance(value, DeploymentResponse):
        found[id(value)] = value
    elif isinstance(value, dict):
        for item in value.values():
            _find(item, found)
    elif isinstance(value, list | tuple):
        for item in value:
            _find(item, found)


def _filled(value: Any, found: dict[int, Any]) -> Any:
    if isinstance(value, DeploymentResponse):
        return found[id(value)]
    if type(value) is dict:
        return {key: _filled(item, found) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_filled(item, found) for item in value)
    return value


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
