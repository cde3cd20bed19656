"""What code can know of the request and of the replica that it runs in.

Both follow the request into its tasks and threads: they stand in context variables.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol


class RequestScope:
    """A request that runs here: what is known of it, what it has open, what waits for its end."""

    __slots__ = ("_calls", "_ended", "_on_end", "application", "model_id", "request_id", "route")

    def __init__(
        self, request_id: str = "", route: str = "", application: str = "", model_id: str = ""
    ) -> None:
        self.request_id = request_id
        self.route = route
        """The route prefix through which it came; empty where it did not come over HTTP."""
        self.application = application
        """The application that the request came to first."""
        self.model_id = model_id
        self._calls: set[Callable[[], object]] | None = None
        self._on_end: list[Callable[[], object]] | None = None
        self._ended = False

    def __repr__(self) -> str:
        return f"<RequestScope {self.request_id} open={len(self._calls or ())}>"

    # Calls of other deployments.

    def opened(self, cancel: Callable[[], object]) -> None:
        """Notes a call that the request made: `cancel` is called if the request is cancelled."""
        if self._calls is None:
            self._calls = set()
        self._calls.add(cancel)

    def closed(self, cancel: Callable[[], object]) -> None:
        """That call has ended."""
        if self._calls is not None:
            self._calls.discard(cancel)

    def cancel_calls(self) -> None:
        """The request is cancelled, and with it every call that it made and that is still open."""
        calls, self._calls = self._calls, None
        for cancel in calls or ():
            cancel()

    # The end.

    def on_end(self, callback: Callable[[], object]) -> None:
        """Calls `callback` once when the request has ended, however it did: at once if it has, as
        work that it left behind may find."""
        if self._ended:
            callback()
            return
        if self._on_end is None:
            self._on_end = []
        self._on_end.append(callback)

    def end(self) -> None:
        """The request has ended. Calls that it left open, and that nobody cancelled, go on."""
        self._ended = True
        callbacks, self._on_end = self._on_end, None
        for callback in callbacks or ():
            callback()


_scope: ContextVar[RequestScope | None] = ContextVar("serving_request", default=None)


def current_request() -> RequestScope | None:
    """The request that this code works on; None outside of one."""
    return _scope.get()


def enter_request(scope: RequestScope | None) -> None:
    """Makes it the current one, in this context."""
    _scope.set(scope)


def get_multiplexed_model_id() -> str:
    """The model id that the current request asks for; empty where it asks for none.

    It is the header `serve_multiplexed_model_id` of an HTTP request, or the option
    `multiplexed_model_id` of a handle.
    """
    scope = _scope.get()
    return scope.model_id if scope is not None else ""


class ModelHolder(Protocol):
    """What keeps models loaded in a replica."""

    @property
    def ids(self) -> Collection[str]: ...

    async def aclose(self, timeout_s: float) -> None:
        """Unloads all of them."""


class ReplicaModels:
    """The models that are loaded in a replica, by all that load some there."""

    def __init__(self) -> None:
        self._holders: list[ModelHolder] = []
        self.on_change: Callable[[], object] = lambda: None
        """To be called when `ids` has changed."""

    @property
    def ids(self) -> list[str]:
        return sorted({model_id for holder in self._holders for model_id in holder.ids})

    def add(self, holder: ModelHolder) -> None:
        """Counts in what it holds, until the end of the replica."""
        self._holders.append(holder)

    async def aclose(self, timeout_s: float) -> None:
        """Unloads all models."""
        await asyncio.gather(*(holder.aclose(timeout_s) for holder in self._holders))


@dataclass(frozen=True)
class ReplicaContext:
    """The replica that runs this code."""

    app_name: str
    deployment: str
    """The name of the deployment."""
    replica_id: str
    servable_object: Any = None
    """The user's object; None while its constructor runs."""
    models: ReplicaModels = field(default_factory=ReplicaModels, repr=False, compare=False)
    """Those of `serving.multiplexed`."""

    @property
    def replica_tag(self) -> str:
        """Another name of `replica_id`."""
        return self.replica_id


_replica: ContextVar[ReplicaContext | None] = ContextVar("serving_replica", default=None)
# Threads that user code starts have no context of ours; a process has one replica, but for local
# testing, where there are many.
_replica_of_process: ReplicaContext | None = None


def get_replica_context() -> ReplicaContext:
    """The replica that runs this code: of use in a constructor too.

    Raises RuntimeError outside of a replica.
    """
    context = _replica.get() or _replica_of_process
    if context is None:
        raise RuntimeError("get_replica_context() was called outside of a replica")
    return context


def enter_replica(context: ReplicaContext, *, whole_process: bool) -> None:
    """Makes it the replica of the current context, and of the process if it has it for itself."""
    global _replica_of_process
    _replica.set(context)
    if whole_process:
        _replica_of_process = context


def current_replica() -> ReplicaContext | None:
    """As `get_replica_context`, or None outside of a replica."""
    return _replica.get() or _replica_of_process
