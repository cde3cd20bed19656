"""A replica in this process, and the connections to it, in memory.

It is what a replica process runs (`serving.replica.replica`), without the process: its user's code,
its requests and its ends of connections run in a context of its own, by which
`get_replica_context` and handles know where they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from serving.aio import Tasks
from serving.calls import local
from serving.mux import ClientCall
from serving.mux.testing import MemoryCall, memory_calls
from serving.replica.replica import Replica, UserCode
from serving.replica.service import DataService
from serving.routing.link import Link
from serving.v1.controller_pb2 import ReplicaSpec

T = TypeVar("T")

LAST_WORDS_S = 1.0
"""What the ends of cancelled requests have to reach their callers, beyond the grace."""


class LocalReplica:
    """One copy of a deployment. All of it runs on the local cluster's loop."""

    def __init__(self, spec: ReplicaSpec, user_code: UserCode, local_key: str) -> None:
        self.spec = spec
        self.is_ready = False
        self._replica = Replica(spec, whole_process=False)
        self._user_code: UserCode | None = user_code
        self._service: DataService | None = None
        self._tasks = Tasks()
        # Nothing of the test that starts it: a process would have nothing of it either.
        self._context = contextvars.Context()
        self._context.run(local.enter, local_key)

    def __repr__(self) -> str:
        return f"<LocalReplica {self.spec.replica_id} ongoing={self._replica.ongoing}>"

    @property
    def instance(self) -> Any:
        """The user's object."""
        return self._replica.instance

    async def start(self) -> None:
        """Constructs the user's object and starts its application. Raises what that raises."""
        self._service = await self._run(self._construct())
        self.is_ready = True

    async def stop(self, grace_s: float) -> None:
        """Lets requests finish, then ends the application and the user's object."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace_s
        if self.is_ready:
            self.is_ready = False
            await self._run(self._replica.drain(grace_s))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(max(deadline, loop.time() + LAST_WORDS_S)):
                    await self._tasks.join()  # the last answers are on their way
            await self._tasks.aclose()
            timeout_s = max(LAST_WORDS_S, deadline - loop.time())
            await self._run(self._replica.shut_down(timeout_s))

    def connect(self) -> MemoryCall:
        """Begins a connection to here and gives the caller's end of it."""
        ours, theirs = memory_calls()
        # In a copy: the code that connects may run in the replica's own.
        self._context.copy().run(
            self._tasks.start, self._carry(theirs), name=f"connection to {self.spec.replica_id}"
        )
        return ours

    async def _carry(self, call: MemoryCall) -> None:
        assert self._service is not None
        try:
            await self._service.carry(call)
        except asyncio.InvalidStateError:
            pass  # the caller has left while something was being written to it
        finally:
            call.cancel()

    async def _construct(self) -> DataService:
        try:
            return await self._replica.start(self._take_code)
        except (SystemExit, KeyboardInterrupt) as error:  # would end the loop, and all on it
            raise RuntimeError(f"the deployment ended its process: {error!r}") from error

    async def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return await asyncio.get_running_loop().create_task(work, context=self._context)

    def _take_code(self) -> UserCode:
        """Once: nothing here is to keep the arguments alive."""
        user_code, self._user_code = self._user_code, None
        assert user_code is not None
        return user_code


class LocalLink(Link):
    """A link whose calls are made in memory."""

    def __init__(
        self, address: str, *, connect: Callable[[str], MemoryCall], **callbacks: Any
    ) -> None:
        super().__init__(address, **callbacks)
        self._connect = connect

    @contextlib.asynccontextmanager
    async def _calling(self) -> AsyncIterator[ClientCall]:
        yield self._connect(self.address)
