"""Which replica takes the next request, and who waits for one. Pure: no I/O, no clock.

Power of two choices over the number of requests that this caller has in flight at a replica plus
what the replica last said it does for others. When all are full, requests wait in one queue in
the order of their arrival, and the first slot that frees goes to the first of them.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable
from itertools import takewhile

UNLIMITED = -1


class QueueFull(Exception):
    """``max_queued_requests`` requests are waiting already."""


class Replica:
    """One replica, as its caller knows it."""

    __slots__ = ("capacity", "full", "id", "inflight", "others", "usable")

    def __init__(self, replica_id: str, capacity: int) -> None:
        self.id = replica_id
        self.capacity = capacity
        self.usable = False
        """Connected, and not draining."""
        self.inflight = 0
        """Requests of this caller."""
        self.others = 0
        """Requests of other callers, when last heard."""
        self.full = False
        """It rejected a request and has not spoken since."""

    def __repr__(self) -> str:
        return (
            f"<Replica {self.id} {self.inflight}+{self.others}/{self.capacity}"
            f"{'' if self.usable else ' unusable'}{' full' if self.full else ''}>"
        )

    @property
    def score(self) -> int:
        return self.inflight + self.others

    @property
    def has_room(self) -> bool:
        return self.usable and not self.full and self.inflight < self.capacity


class Waiter:
    """A request that waits for a slot. ``notify`` is called when ``replica`` is set."""

    __slots__ = ("arrival", "notify", "replica")

    def __init__(self, arrival: int, notify: Callable[[], None]) -> None:
        self.arrival = arrival
        self.notify = notify
        self.replica: Replica | None = None


class Balancer:
    """The replicas of one deployment and the queue before them."""

    def __init__(self, *, rng: random.Random | None = None) -> None:
        self.replicas: dict[str, Replica] = {}
        self.max_queued = UNLIMITED
        self._queue: OrderedDict[Waiter, None] = OrderedDict()
        """In the order of arrival."""
        self._arrivals = 0
        self._rng = rng or random.Random()

    def __repr__(self) -> str:
        return f"<Balancer {list(self.replicas.values())} queued={len(self._queue)}>"

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return len(self._queue)

    # Requests.

    def arrive(self) -> int:
        """A request's place in the order of arrival."""
        self._arrivals += 1
        return self._arrivals

    def acquire(self) -> Replica | None:
        """Takes a slot at once, or gives None: then :meth:`enqueue`."""
        if self._queue:
            return None
        return self._take()

    def enqueue(self, arrival: int, notify: Callable[[], None], *, again: bool = False) -> Waiter:
        """Joins the queue; where the request had a slot before (``again``) and the replica did
        not take it, in its old place. Raises :class:`QueueFull`."""
        if not again and 0 <= self.max_queued <= len(self._queue):
            raise QueueFull
        waiter = Waiter(arrival, notify)
        self._queue[waiter] = None
        if again:
            self._move_to_its_place(waiter)
        self._serve_queue()
        return waiter

    def abandon(self, waiter: Waiter) -> None:
        """The request is not wanted any more: leaves the queue, or gives its slot back."""
        self._queue.pop(waiter, None)
        if waiter.replica is not None:
            self.release(waiter.replica)
            waiter.replica = None

    def release(self, replica: Replica) -> None:
        """Gives a slot back."""
        replica.inflight -= 1
        if self._queue:
            self._serve_queue()

    # Replicas.

    def add(self, replica_id: str, capacity: int) -> Replica:
        """A replica that is to be connected to."""
        replica = self.replicas[replica_id] = Replica(replica_id, capacity)
        return replica

    def remove(self, replica_id: str) -> None:
        """A replica that takes no new requests."""
        self.replicas.pop(replica_id).usable = False

    def resize(self, capacity: int) -> None:
        """``max_ongoing_requests`` has changed."""
        for replica in self.replicas.values():
            replica.capacity = capacity
        self._serve_queue()

    def connected(self, replica: Replica) -> None:
        replica.usable = True
        replica.full = False
        replica.others = 0
        self._serve_queue()

    def unusable(self, replica: Replica) -> None:
        """It is lost, or draining."""
        replica.usable = False

    def rejected(self, replica: Replica) -> None:
        """It had no room, whatever was known here: not asked again before it speaks."""
        replica.full = True

    def heard(self, replica: Replica, ongoing: int) -> None:
        """It said how many requests it works on, for all its callers."""
        others = ongoing - replica.inflight
        replica.others = others if others > 0 else 0
        if replica.full and ongoing < replica.capacity:
            replica.full = False
            self._serve_queue()

    def _move_to_its_place(self, waiter: Waiter) -> None:
        """Behind those that arrived earlier: a few, for they too were sent away by a replica."""
        earlier = list(takewhile(lambda other: other.arrival < waiter.arrival, self._queue))
        for each in (waiter, *reversed(earlier)):
            self._queue.move_to_end(each, last=False)

    def _serve_queue(self) -> None:
        while self._queue and (replica := self._take()) is not None:
            waiter, _ = self._queue.popitem(last=False)
            waiter.replica = replica
            waiter.notify()

    def _take(self) -> Replica | None:
        replica = self._choose()
        if replica is not None:
            replica.inflight += 1
        return replica

    def _choose(self) -> Replica | None:
        replicas = list(self.replicas.values())
        if len(replicas) == 1:
            return replicas[0] if replicas[0].has_room else None
        if len(replicas) > 2:
            pair = self._rng.sample(replicas, 2)
            best = min(pair, key=lambda replica: (not replica.has_room, replica.score))
            if best.has_room:
                return best
        free = [replica for replica in replicas if replica.has_room]
        if len(free) < 2:
            return free[0] if free else None
        return min(free, key=lambda replica: (replica.score, self._rng.random()))
