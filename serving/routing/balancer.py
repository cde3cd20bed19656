"""Which replica takes the next request, and who waits for one. Pure: no I/O, no clock.

Power of two choices over the number of requests that this caller has in flight at a replica plus
what the replica last said it does for others. When all are full, requests wait in one queue in
the order of their arrival, and the first slot that frees goes to the first of them.

A request may have a key, of something that replicas hold: it goes to one that holds it. Where all
of those are full it waits for one of them until it is relaxed, and those behind it may pass. Where
none holds it, all callers choose the same replica, so that only one has to get it.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Iterable
from hashlib import blake2b
from itertools import takewhile

UNLIMITED = -1


class QueueFull(Exception):
    """``max_queued_requests`` requests are waiting already."""


class Replica:
    """One replica, as its caller knows it."""

    __slots__ = ("capacity", "full", "id", "inflight", "keys", "others", "usable")

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
        self.keys: frozenset[str] = frozenset()
        """What it holds, when last heard."""

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

    __slots__ = ("arrival", "key", "notify", "patient", "replica")

    def __init__(self, arrival: int, notify: Callable[[], None], key: str = "") -> None:
        self.arrival = arrival
        self.key = key
        self.patient = bool(key)
        """Waits for a replica that holds its key, if there are any."""
        self.notify = notify
        self.replica: Replica | None = None


class Balancer:
    """The replicas of one deployment and the queue before them."""

    def __init__(self, *, rng: random.Random | None = None) -> None:
        self.replicas: dict[str, Replica] = {}
        self.max_queued = UNLIMITED
        self._queue: OrderedDict[Waiter, None] = OrderedDict()
        """In the order of arrival."""
        self._patient = 0
        """How many in the queue are patient. All others wait because no replica has room."""
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

    def acquire(self, key: str = "") -> Replica | None:
        """Takes a slot at once, or gives None: then :meth:`enqueue`."""
        if self._queue and len(self._queue) > self._patient:
            return None
        return self._take(key, patient=True)

    def enqueue(
        self, arrival: int, notify: Callable[[], None], *, again: bool = False, key: str = ""
    ) -> Waiter:
        """Joins the queue; where the request had a slot before (``again``) and the replica did
        not take it, in its old place. Raises :class:`QueueFull`."""
        if not again and 0 <= self.max_queued <= len(self._queue):
            raise QueueFull
        waiter = Waiter(arrival, notify, key)
        self._queue[waiter] = None
        self._patient += waiter.patient
        if again:
            self._move_to_its_place(waiter)
        self._serve_queue()
        return waiter

    def relax(self, waiter: Waiter) -> None:
        """It has waited long enough for those that hold its key: takes any replica."""
        if waiter.patient and waiter in self._queue:
            waiter.patient = False
            self._patient -= 1
            self._serve_queue()

    def abandon(self, waiter: Waiter) -> None:
        """The request is not wanted any more: leaves the queue, or gives its slot back."""
        if waiter in self._queue:
            self._leave(waiter)
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
        self.holds(replica, frozenset())  # It says anew what it holds, should it come back.

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

    def holds(self, replica: Replica, keys: frozenset[str]) -> None:
        """It said what it holds."""
        if keys != replica.keys:
            replica.keys = keys
            if self._patient:
                self._serve_queue()

    def _move_to_its_place(self, waiter: Waiter) -> None:
        """Behind those that arrived earlier: a few, for they too were sent away by a replica."""
        earlier = list(takewhile(lambda other: other.arrival < waiter.arrival, self._queue))
        for each in (waiter, *reversed(earlier)):
            self._queue.move_to_end(each, last=False)

    def _leave(self, waiter: Waiter) -> None:
        del self._queue[waiter]
        self._patient -= waiter.patient

    def _serve_queue(self) -> None:
        if self._patient:
            self._serve_patient_queue()
            return
        while self._queue:
            waiter = next(iter(self._queue))
            if not self._serve(waiter):
                return

    def _serve_patient_queue(self) -> None:
        """Those who wait for certain replicas do not hold up those behind them."""
        hopeless: set[str] = set()
        for waiter in list(self._queue):
            if not any(replica.has_room for replica in self.replicas.values()):
                return
            if waiter.patient and waiter.key in hopeless:
                continue
            if not self._serve(waiter):
                hopeless.add(waiter.key)

    def _serve(self, waiter: Waiter) -> bool:
        replica = self._take(waiter.key, waiter.patient)
        if replica is None:
            return False
        self._leave(waiter)
        waiter.replica = replica
        waiter.notify()
        return True

    def _take(self, key: str, patient: bool) -> Replica | None:
        replica = self._choose_for(key, patient) if key else self._choose()
        if replica is not None:
            replica.inflight += 1
        return replica

    def _choose_for(self, key: str, patient: bool) -> Replica | None:
        replicas = self.replicas.values()
        holders = [replica for replica in replicas if key in replica.keys]
        if free := [replica for replica in holders if replica.has_room]:
            return min(free, key=lambda replica: (replica.score, self._rng.random()))
        if holders and patient:
            return None
        return first_in_line(key, [replica for replica in replicas if replica.has_room])

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


def first_in_line(key: str, replicas: Iterable[Replica]) -> Replica | None:
    """The replica that every caller chooses for `key` among these: the first by rendezvous
    hashing, so that a replica that comes or goes changes the choice for few keys."""

    def weight(replica: Replica) -> bytes:
        return blake2b(f"{key}\0{replica.id}".encode(), digest_size=8).digest()

    return max(replicas, key=weight, default=None)
