"""Sends requests to the replicas of one deployment: queue, choice, connection, retry.

A request is sent a second time only where that is safe: it was rejected, or refused by a replica
that drains, or lost before it left; or it may be repeated by its nature (``repeatable``) and no
answer had begun, and then once only, for a request that kills replicas must not visit all.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from functools import partial

from serving.aio import Tasks
from serving.mux import (
    ConnectionLost,
    ResetCode,
    Stream,
    StreamError,
    StreamRefused,
    StreamRejected,
    StreamReset,
)
from serving.mux.session import Part
from serving.routing import tickets
from serving.routing.balancer import Balancer, QueueFull, Replica, Waiter
from serving.routing.link import Link
from serving.v1.controller_pb2 import Deployment, TicketUpdate

logger = logging.getLogger("serving.routing")

PATIENCE_S = 0.1
"""How long a request with a key waits in all for replicas that hold it, where others have room."""
MAX_START_S = 600.0
"""How long a request waits where there is no replica and one is to come: models take minutes to
load. After the same time Kubernetes says that a deployment does not progress."""


class RoutingError(Exception):
    """A request could not be brought to a replica."""


class Overloaded(RoutingError):
    """``max_queued_requests`` requests are waiting already."""


class Unavailable(RoutingError):
    """The deployment is gone, or has no replica and none is to be expected."""


class ReplicaLost(RoutingError):
    """The replica that worked on the request died, or its connection was cut."""


class MemoryNotShared(RoutingError):
    """The replica that has room cannot read this process's memory."""


class Call:
    """A request that was sent to a replica. Must be closed."""

    __slots__ = ("_release", "arrival", "first", "replica", "stream")

    def __init__(
        self,
        stream: Stream,
        replica: Replica,
        arrival: int,
        release: Callable[[Replica, StreamError | None], None],
    ) -> None:
        self.stream = stream
        self.replica = replica
        self.arrival = arrival
        """Its place in the order of arrival."""
        self.first: Part | None = None
        """The first message of the answer, where it was waited for."""
        self._release: Callable[[Replica, StreamError | None], None] | None = release
        # Not when the answer has been read: a slow client takes no slot from others.
        stream.on_over(self._free)

    def close(self, code: ResetCode = ResetCode.CANCEL, reason: str = "") -> None:
        """Gives the slot back, and resets the stream with ``code`` (CANCEL) unless it has
        ended. Harmless the second time."""
        self.stream.reset(code, reason)
        self._free()

    def _free(self) -> None:
        release, self._release = self._release, None
        if release is not None:
            release(self.replica, self.stream.error)


class Router:
    """The way to one deployment, for one process, on one event loop."""

    def __init__(
        self,
        application: str,
        deployment: str,
        *,
        make_link: Callable[..., Link] = Link,
        on_news: Callable[[], None] = lambda: None,
    ) -> None:
        """``on_news`` is called when the controller is to hear something at once: a request waits
        and there is no replica, or ``share`` has something to say."""
        self.application = application
        self.deployment = deployment
        self._make_link = make_link
        self._on_news = on_news
        self.balancer = Balancer()
        self.share = tickets.Share(self.balancer, on_news)
        self._tickets_heard = asyncio.Event()
        self._links: dict[Replica, tuple[Link, asyncio.Task[None]]] = {}
        self._tasks = Tasks()
        # With what bounds their wait, while there is no replica.
        self._waiting: dict[asyncio.Future[None], asyncio.TimerHandle | None] = {}
        self._unavailable = ""
        """Why no replica is to be expected."""

    def __repr__(self) -> str:
        return f"<Router {self.application}#{self.deployment} {self.balancer!r}>"

    @property
    def shares_memory(self) -> bool:
        """Whether this process and every replica that it is connected to can read each other's
        memory files."""
        connections = [link.connection for link, _ in self._links.values()]
        shares = [each.session.shares_memory for each in connections if each is not None]
        return bool(shares) and all(shares)

    @property
    def ongoing(self) -> int:
        """Requests in flight, those at replicas that are leaving too."""
        return sum(replica.inflight for replica in self._links)

    def update(self, target: Deployment) -> None:
        """Takes the deployment's replicas and limits as the controller now tells them."""
        self.share.resize(target.max_queued_requests)
        known = self.balancer.replicas
        for endpoint in target.endpoints:
            if endpoint.replica_id not in known:
                self._connect(endpoint.replica_id, endpoint.address, target.max_ongoing_requests)
        listed = {endpoint.replica_id for endpoint in target.endpoints}
        for replica in [known[name] for name in known.keys() - listed]:
            self.balancer.remove(replica.id)
            if replica.inflight == 0:
                self._disconnect(replica)
        self.balancer.resize(target.max_ongoing_requests)
        self._unavailable = target.unavailable and f"has no replica: {target.unavailable}"
        if self._unavailable:
            self._refuse_waiting()
        for turn in self._waiting:
            self._bound(turn)

    def hear_tickets(self, update: TicketUpdate) -> None:
        """The controller tells of this caller's share of the queue."""
        self.share.hear(update, asyncio.get_running_loop().time())
        heard, self._tickets_heard = self._tickets_heard, asyncio.Event()
        heard.set()

    async def settled(self) -> None:
        """Waits until a connection to each replica was tried once."""
        for link, _ in list(self._links.values()):
            await link.tried.wait()

    async def start(
        self,
        tag: int,
        data: bytes,
        *,
        end: bool,
        repeatable: bool = False,
        deadline: float = 0,
        key: str = "",
        failed: Call | None = None,
        shares_memory: bool = False,
    ) -> Call:
        """Brings a request to a replica and waits until its answer begins, or, where the request
        is not at its ``end``, until the replica accepts it.

        ``deadline`` (the loop's clock; 0 for none) travels with the request as its remaining
        time. Replicas that hold ``key`` are preferred. ``failed`` is what ``start_now`` gave for
        the same request, whose stream then ended early. One that ``shares_memory`` is not sent to
        a replica that cannot: then MemoryNotShared is raised. Raises Overloaded, Unavailable,
        ReplicaLost, or StreamReset as the replica sent it.
        """
        lost = False
        # It may wait even where the queue is full: it waited before, or its replica has gone. One
        # that was rejected has as little right to wait as if it had just come.
        placed = False
        if failed is None:
            again, arrival = False, self.balancer.arrive()
        else:
            again, arrival = True, failed.arrival
            lost = self._was_started(failed, repeatable)
            placed = not isinstance(failed.stream.error, StreamRejected)
        patient_until = asyncio.get_running_loop().time() + PATIENCE_S if key else 0.0
        while True:
            replica = None if again else self.balancer.acquire(key)
            if replica is None and not placed and self.balancer.is_full:
                replica = await self._seek_place(key)
            if replica is None:
                replica = await self._wait(arrival, placed, key, patient_until)
                placed = True
            again = True
            if shares_memory:
                self._require_shared_memory(replica)
            call = self._open(replica, arrival, tag, data, end, deadline)
            if call is None:
                placed = True
                continue
            answered = False
            try:
                stream = call.stream
                call.first = await (stream.receive() if end else stream.accepted_by_peer())
                answered = True
                return call
            except StreamError as error:
                lost = self._was_started(call, repeatable and not lost)
                placed |= not isinstance(error, StreamRejected)
            finally:
                if not answered:
                    call.close()

    def start_now(self, tag: int, data: bytes) -> Call | None:
        """Sends a whole request to a replica that has room, without waiting for anything; None
        where there is none. Should its stream end early before an answer has begun, ``start`` says
        what becomes of it."""
        replica = self.balancer.acquire()
        if replica is None:
            return None
        return self._open(replica, self.balancer.arrive(), tag, data, True, 0)

    async def aclose(self) -> None:
        """The deployment is gone: who waits gets Unavailable, connections end."""
        self._unavailable = "is gone"
        self._refuse_waiting()
        await self._tasks.aclose()

    def _open(
        self, replica: Replica, arrival: int, tag: int, data: bytes, end: bool, deadline: float
    ) -> Call | None:
        """Sends a request to a replica of which it has a slot; None where that takes none."""
        timeout_us = 0
        if deadline:
            remaining_s = deadline - asyncio.get_running_loop().time()
            timeout_us = max(1, int(remaining_s * 1e6))
        connection = self._links[replica][0].connection
        try:
            if connection is None:
                raise ConnectionLost("not connected", sent=False)
            stream = connection.open(tag, data, end=end, timeout_us=timeout_us)
        except (StreamRefused, ConnectionLost) as error:
            self._release(replica, error)
            return None
        return Call(stream, replica, arrival, self._release)

    def _require_shared_memory(self, replica: Replica) -> None:
        connection = self._links[replica][0].connection
        if connection is not None and not connection.session.shares_memory:
            self._release(replica, None)
            raise MemoryNotShared

    def _was_started(self, call: Call, may_repeat: bool) -> bool:
        """Whether a replica may have worked on a request whose stream has ended early. Raises
        what becomes of it, unless it is to be sent again."""
        error = call.stream.error
        if isinstance(error, StreamReset):
            raise error
        if not isinstance(error, ConnectionLost) or not error.sent:
            return False
        if not may_repeat:
            raise self._lost(call.replica, error) from error
        return True

    async def _wait(self, arrival: int, placed: bool, key: str, patient_until: float) -> Replica:
        if self._unavailable:
            raise self._refusal(self._unavailable)
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        patient = loop.time() < patient_until
        waiter: Waiter | None = None
        patience: asyncio.TimerHandle | None = None
        self._waiting[turn] = None
        self._bound(turn)
        try:
            waiter = self.balancer.enqueue(
                arrival, partial(_wake, turn), placed=placed, key=key, patient=patient
            )
            if not self.balancer.replicas:
                self._on_news()
            if patient and waiter.replica is None:
                patience = loop.call_at(patient_until, self.balancer.relax, waiter)
            await turn
            assert waiter.replica is not None
            replica, waiter.replica = waiter.replica, None
            return replica
        except QueueFull:
            raise Overloaded(
                f"{self.deployment!r} of {self.application!r} has"
                f" {self.share.limit} requests waiting (max_queued_requests)"
            ) from None
        finally:
            bound = self._waiting.pop(turn, None)
            if bound is not None:
                bound.cancel()
            if patience is not None:
                patience.cancel()
            if waiter is not None:
                granted = waiter.replica
                self.balancer.abandon(waiter)
                self.share.left()
                if granted is not None:
                    self._disconnect_if_done(granted)

    async def _seek_place(self, key: str) -> Replica | None:
        """Waits for a place in the queue that other callers do not need, where there may be one,
        for ``tickets.PATIENCE_S`` at most. Gives a replica if one has come free meanwhile."""
        share, loop = self.share, asyncio.get_running_loop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(tickets.PATIENCE_S):
                while self.balancer.is_full and share.ask(loop.time()):
                    share.seeking += 1
                    try:
                        await self._tickets_heard.wait()
                    finally:
                        share.seeking -= 1
        return self.balancer.acquire(key)

    def _connect(self, replica_id: str, address: str, capacity: int) -> None:
        replica = self.balancer.add(replica_id, capacity)
        link = self._make_link(
            address,
            on_up=lambda: self.balancer.connected(replica),
            on_down=lambda: self.balancer.unusable(replica),
            on_load=lambda ongoing: self.balancer.heard(replica, ongoing),
            on_holdings=lambda keys: self.balancer.holds(replica, keys),
        )
        self._links[replica] = link, self._tasks.start(link.run(), name=f"link {replica_id}")

    def _disconnect(self, replica: Replica) -> None:
        _, task = self._links.pop(replica)
        task.cancel()

    def _release(self, replica: Replica, error: StreamError | None) -> None:
        """Gives a slot back; how the request ended tells of the replica too."""
        if isinstance(error, StreamRejected):
            self.balancer.rejected(replica)
        elif isinstance(error, StreamRefused | ConnectionLost):
            self.balancer.unusable(replica)
        self.balancer.release(replica)
        self._disconnect_if_done(replica)

    def _disconnect_if_done(self, replica: Replica) -> None:
        """Ends the link of a replica that was removed, after its last request. One of the same id
        may have come anew in the meantime."""
        removed = self.balancer.replicas.get(replica.id) is not replica
        if removed and replica.inflight == 0:
            self._disconnect(replica)

    def _bound(self, turn: asyncio.Future[None]) -> None:
        """Bounds the wait of a request while there is no replica, and only then."""
        bound = self._waiting[turn]
        if self.balancer.replicas:
            if bound is not None:
                bound.cancel()
                self._waiting[turn] = None
        elif bound is None:
            reason = f"has no replica: none came within {MAX_START_S:.0f} s"
            loop = asyncio.get_running_loop()
            self._waiting[turn] = loop.call_later(MAX_START_S, self._refuse, turn, reason)

    def _refuse_waiting(self) -> None:
        for turn in self._waiting:
            self._refuse(turn, self._unavailable)

    def _refuse(self, turn: asyncio.Future[None], reason: str) -> None:
        if not turn.done():  # It may have got a slot, or been cancelled, in this very turn.
            turn.set_exception(self._refusal(reason))

    def _refusal(self, reason: str) -> Unavailable:
        return Unavailable(f"{self.deployment!r} of {self.application!r} {reason}")

    def _lost(self, replica: Replica, error: ConnectionLost) -> ReplicaLost:
        logger.warning(
            "replica %s of %s#%s was lost while it worked on a request: %s",
            replica.id,
            self.application,
            self.deployment,
            error.reason,
        )
        return ReplicaLost(f"replica {replica.id} was lost: {error.reason}")


def _wake(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)
