"""Which replica takes the next request, and who waits for one. Pure: no I/O, no clock.

Power of two choices over the number of requests that this caller has in flight at a replica plus
what the replica last said it does for others. When all are full, requests wait in one queue in
the order of their arrival, and the first slot that frees goes to the first of them.

A request may have a key, of something that replicas hold: it goes to one that holds it. Where none
does, the first in line for that key counts as its holder, so that all callers choose the same one
and only that has to get it. Where the holders are full, a request waits for them in a line of its
key until it is relaxed: then it takes any replica, the next in line for the key, and so a key that
is asked for more than its holders can bear spreads.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from heapq import heapify, heappop, heappush

UNLIMITED = -1


class QueueFull(Exception):
    """As many requests wait already as may."""


class Replica:
    """One replica, as its caller knows it."""

    __slots__ = ("capacity", "full", "id", "inflight", "keys", "lines", "others", "usable")

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
        self.lines: set[Line] = set()
        """Those that wait for what it holds."""

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

    __slots__ = ("arrival", "key", "line", "notify", "replica")

    def __init__(self, arrival: int, notify: Callable[[], None], key: str) -> None:
        self.arrival = arrival
        self.key = key
        self.line: Line | None = None
        """Where it waits."""
        self.notify = notify
        self.replica: Replica | None = None


class Line:
    """Waiters in the order of their arrival, in whatever order they join."""

    __slots__ = ("_heap", "_joined", "holders", "key", "length")

    def __init__(self, key: str = "") -> None:
        self.key = key
        """What its waiters wait for; empty where any replica does."""
        self.holders: list[Replica] = []
        self.length = 0
        self._joined = 0
        self._heap: list[tuple[int, int, Waiter]] = []
        """By arrival. Those that have left stay until they are met, or are too many."""

    def __iter__(self) -> Iterator[Waiter]:
        """All of them, in no order."""
        return (waiter for _, _, waiter in self._heap if waiter.line is self)

    @property
    def first(self) -> Waiter:
        """The one that arrived first. There must be one."""
        while self._heap[0][2].line is not self:
            heappop(self._heap)
        return self._heap[0][2]

    def join(self, waiter: Waiter) -> None:
        waiter.line = self
        self.length += 1
        self._joined += 1  # One that was sent away may have left an entry of its arrival.
        heappush(self._heap, (waiter.arrival, self._joined, waiter))

    def leave(self, waiter: Waiter) -> None:
        waiter.line = None
        self.length -= 1
        if len(self._heap) > 2 * self.length + 16:
            self._heap = [entry for entry in self._heap if entry[2].line is self]
            heapify(self._heap)


class Balancer:
    """The replicas of one deployment and the queue before them.

    Whoever waits in a line has no use for any slot that is free: so what frees a slot looks only
    at the lines that this slot is for.
    """

    def __init__(self, *, rng: random.Random | None = None) -> None:
        self.replicas: dict[str, Replica] = {}
        self.max_queued = UNLIMITED
        self.queued = 0
        """Requests that wait."""
        self._anyone = Line()
        """Those that take any replica: they wait because none has room."""
        self._lines: dict[str, Line] = {}
        """Those that wait for the holders of a key, by the key. None of it is empty."""
        self.arrivals = 0
        """Requests that ever came."""
        self._rng = rng or random.Random()

    def __repr__(self) -> str:
        return f"<Balancer {list(self.replicas.values())} queued={self.queued}>"

    @property
    def is_full(self) -> bool:
        """No request more may wait."""
        return 0 <= self.max_queued <= self.queued

    # Requests.

    def arrive(self) -> int:
        """A request's place in the order of arrival."""
        self.arrivals += 1
        return self.arrivals

    def acquire(self, key: str = "") -> Replica | None:
        """Takes a slot at once, or gives None: then :meth:`enqueue`."""
        if self._anyone.length:
            return None
        return self._take(key, patient=True)

    def enqueue(
        self,
        arrival: int,
        notify: Callable[[], None],
        *,
        placed: bool = False,
        key: str = "",
        patient: bool = True,
    ) -> Waiter:
        """Joins the queue at the place of its ``arrival``; one that is ``placed`` even where the
        queue is full. ``patient``: it waits for those that hold ``key``. Raises
        :class:`QueueFull`."""
        if not placed and self.is_full:
            raise QueueFull
        waiter = Waiter(arrival, notify, key)
        self._join(waiter, self._line(key) if key and patient else self._anyone)
        self._serve(waiter)
        return waiter

    def relax(self, waiter: Waiter) -> None:
        """It has waited long enough for those that hold its key: takes any replica."""
        if waiter.line not in (None, self._anyone):
            self._leave(waiter)
            self._join(waiter, self._anyone)
            self._serve(waiter)

    def abandon(self, waiter: Waiter) -> None:
        """The request is not wanted any more: leaves the queue, or gives its slot back."""
        if waiter.line is not None:
            self._leave(waiter)
        if waiter.replica is not None:
            self.release(waiter.replica)
            waiter.replica = None

    def release(self, replica: Replica) -> None:
        """Gives a slot back."""
        replica.inflight -= 1
        if self.queued:
            self._serve_slots(replica)

    # Replicas.

    def add(self, replica_id: str, capacity: int) -> Replica:
        """A replica that is to be connected to."""
        replica = self.replicas[replica_id] = Replica(replica_id, capacity)
        return replica

    def remove(self, replica_id: str) -> None:
        """A replica that takes no new requests."""
        self.unusable(self.replicas.pop(replica_id))

    def resize(self, capacity: int) -> None:
        """``max_ongoing_requests`` has changed."""
        for replica in self.replicas.values():
            replica.capacity = capacity
        self._serve_queue()

    def connected(self, replica: Replica) -> None:
        replica.usable = self.replicas.get(replica.id) is replica  # It may have been removed.
        replica.full = False
        replica.others = 0
        self._find_holders_anew()

    def unusable(self, replica: Replica) -> None:
        """It is lost, or draining."""
        replica.usable = False
        replica.keys = frozenset()  # It says anew what it holds, should it come back.
        self._find_holders_anew()

    def rejected(self, replica: Replica) -> None:
        """It had no room, whatever was known here: not asked again before it speaks."""
        replica.full = True

    def heard(self, replica: Replica, ongoing: int) -> None:
        """It said how many requests it works on, for all its callers."""
        others = ongoing - replica.inflight
        replica.others = others if others > 0 else 0
        if replica.full and ongoing < replica.capacity:
            replica.full = False
            self._serve_slots(replica)

    def holds(self, replica: Replica, keys: frozenset[str]) -> None:
        """It said what it holds."""
        news, replica.keys = replica.keys ^ keys, keys
        for line in [self._lines[key] for key in news if key in self._lines]:
            self._find_holders(line)
            while line.length and self._serve(line.first):
                pass

    # The queue.

    def _line(self, key: str) -> Line:
        if (line := self._lines.get(key)) is None:
            line = self._lines[key] = Line(key)
            self._find_holders(line)
        return line

    def _join(self, waiter: Waiter, line: Line) -> None:
        line.join(waiter)
        self.queued += 1

    def _leave(self, waiter: Waiter) -> None:
        line = waiter.line
        assert line is not None
        line.leave(waiter)
        self.queued -= 1
        if not line.length and line is not self._anyone:
            del self._lines[line.key]
            for holder in line.holders:
                holder.lines.discard(line)

    def _serve(self, waiter: Waiter) -> bool:
        """Gives it a slot, if there is one for it."""
        replica = self._take(waiter.key, patient=waiter.line is not self._anyone)
        if replica is None:
            return False
        self._grant(waiter, replica)
        return True

    def _grant(self, waiter: Waiter, replica: Replica) -> None:
        self._leave(waiter)
        waiter.replica = replica
        waiter.notify()

    def _serve_slots(self, replica: Replica) -> None:
        """Gives the free slots of one replica to those that wait for them."""
        while replica.has_room:
            firsts = [line.first for line in replica.lines]
            if self._anyone.length:
                firsts.append(self._anyone.first)
            if not firsts:
                return
            replica.inflight += 1
            self._grant(min(firsts, key=lambda waiter: waiter.arrival), replica)

    def _serve_queue(self) -> None:
        """Gives all free slots to those that wait. Looks at the whole queue."""
        if not self.queued:
            return
        waiters = [waiter for line in (self._anyone, *self._lines.values()) for waiter in line]
        hopeless: set[Line | None] = set()
        for waiter in sorted(waiters, key=lambda waiter: waiter.arrival):
            if not any(replica.has_room for replica in self.replicas.values()):
                return
            if waiter.line not in hopeless and not self._serve(waiter):
                hopeless.add(waiter.line)

    # Who holds what.

    def _find_holders_anew(self) -> None:
        """The replicas that can be used have changed."""
        for line in self._lines.values():
            self._find_holders(line)
        self._serve_queue()

    def _find_holders(self, line: Line) -> None:
        for holder in line.holders:
            holder.lines.discard(line)
        line.holders = self._holders(line.key)
        for holder in line.holders:
            holder.lines.add(line)

    def _holders(self, key: str) -> list[Replica]:
        usable = [replica for replica in self.replicas.values() if replica.usable]
        holders = [replica for replica in usable if key in replica.keys]
        if not holders and (first := first_in_line(key, usable)) is not None:
            return [first]
        return holders

    # Choice.

    def _take(self, key: str, patient: bool) -> Replica | None:
        replica = self._choose_for(key, patient) if key else self._choose()
        if replica is not None:
            replica.inflight += 1
        return replica

    def _choose_for(self, key: str, patient: bool) -> Replica | None:
        if free := [replica for replica in self._holders(key) if replica.has_room]:
            return min(free, key=lambda replica: (replica.score, self._rng.random()))
        if patient:
            return None
        return first_in_line(key, [each for each in self.replicas.values() if each.has_room])

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
