"""How many requests may wait for a deployment, in all its callers together.

There are `max_queued_requests` tickets, and whoever has one may let one request wait. A caller that
begins to call a deployment is granted its fair share; what is more is granted where it is of use.
Callers that need more have the others called upon: these give back at once what they do not use,
and later, as requests leave their queues, what they hold beyond the fair share.

Pure: callers are told through `take`, once `on_news` has said that there is something. What is
counted as held is never less than what a caller may use: it rises before the caller is told, and
falls once the caller has said that it gave something back. A caller's other half is
`serving.routing.tickets`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from serving.v1 import controller_pb2 as pb

Key = tuple[str, str]
Caller = TypeVar("Caller", bound=Hashable)

UNLIMITED = -1


@dataclass
class Account(Generic[Caller]):
    """What one caller has of one deployment's tickets."""

    held: int = 0
    # So many more are of use to it.
    wanted: int = 0
    # It waits to be told whether there are more.
    is_asking: bool = False
    # Those that have not yet said what they give back for it, in which round.
    awaits: set[Caller] = field(default_factory=set)
    round: int = 0


@dataclass
class Pool(Generic[Caller]):
    """The tickets of one deployment."""

    limit: int = UNLIMITED
    # May be held by callers of the controller before this one, who are not back yet.
    withheld: int = 0
    accounts: dict[Caller, Account[Caller]] = field(default_factory=dict)
    round: int = 0

    def __repr__(self) -> str:
        held = [account.held for account in self.accounts.values()]
        return f"<Pool {held} + {self.withheld} of {self.limit}>"

    @property
    def free(self) -> int:
        """Those that nobody has. Fewer than none: more are held than there are now."""
        held = sum(account.held for account in self.accounts.values())
        return self.limit - self.withheld - held

    @property
    def fair(self) -> int:
        """What each caller may keep, whatever the others need."""
        return self.limit // len(self.accounts)


class Tickets(Generic[Caller]):
    """The tickets of all deployments. Those without a limit have accounts of none."""

    def __init__(self, on_news: Callable[[Caller], None]) -> None:
        self._on_news = on_news
        self._pools: dict[Key, Pool[Caller]] = {}
        self._news: dict[Caller, dict[Key, pb.TicketUpdate]] = {}
        # Deployments that are gone, of which not all callers have heard.
        self._gone: set[Key] = set()

    def __repr__(self) -> str:
        return f"<Tickets {self._pools}>"

    # Deployments

    def limit(self, key: Key, limit: int) -> None:
        """A deployment has this limit from now on."""
        self._gone.discard(key)
        pool = self._pools.setdefault(key, Pool())
        if pool.limit != limit:
            pool.limit = limit
            self._call_back_what_is_too_much(key, pool)
            self._settle(key, pool)

    def remove(self, key: Key) -> None:
        """A deployment is gone. Its callers keep what they have until they hear of that: should it
        come back before, they would know of no difference."""
        pool = self._pools.get(key)
        if pool is None:
            return
        pool.limit, pool.withheld = UNLIMITED, 0
        self._gone.add(key)
        self._forget_if_unused(key)

    def withhold(self) -> None:
        """Nothing is granted that callers of the controller before this one may hold, until they
        have said what they do, or `release`."""
        for pool in self._pools.values():
            pool.withheld = max(0, pool.limit)

    def release(self) -> None:
        """Who is not back by now will not come."""
        for key, pool in self._pools.items():
            pool.withheld = 0
            self._settle(key, pool)

    # Callers

    def hear(self, caller: Caller, requests: Iterable[pb.TicketRequest]) -> None:
        """What a caller has, gives back and wants."""
        for request in requests:
            key = request.application, request.deployment
            pool = self._pools.get(key)
            if pool is not None:
                self._hear(key, pool, caller, request)

    def forget(self, caller: Caller) -> None:
        """A caller is gone, with all that it held. Should it be there yet, and only its watch have
        ended, it says so when it is back: what is too much then is called back."""
        self._news.pop(caller, None)
        for key, pool in list(self._pools.items()):
            self._leave(key, pool, caller)

    def take(self, caller: Caller) -> list[pb.TicketUpdate]:
        """What is to be told to a caller, in an update that tells of all deployments that are gone:
        it has no tickets for these any more."""
        for key in list(self._gone):
            self._leave(key, self._pools[key], caller)
        news = self._news.pop(caller, {})
        return [update for key, update in news.items() if key in self._pools]

    def _hear(
        self, key: Key, pool: Pool[Caller], caller: Caller, request: pb.TicketRequest
    ) -> None:
        if caller not in pool.accounts and not (request.held or request.HasField("wanted")):
            return  # it had not heard yet that the deployment was gone
        account = pool.accounts.setdefault(caller, Account())
        account.held = max(0, account.held + request.held - request.returned)
        if request.held:
            pool.withheld = max(0, pool.withheld - request.held)
            self._call_back_what_is_too_much(key, pool)
        if request.round:
            for other in pool.accounts.values():
                if other.round <= request.round:
                    other.awaits.discard(caller)
        if request.HasField("wanted"):
            self._want(key, pool, caller, request.wanted)
        self._settle(key, pool)

    def _want(self, key: Key, pool: Pool[Caller], caller: Caller, wanted: int) -> None:
        account = pool.accounts[caller]
        account.wanted = max(wanted, pool.fair - account.held)
        account.is_asking = True
        missing = account.wanted - max(0, pool.free)
        if pool.limit > 0 and missing > 0:
            account.awaits = self._call_back(key, pool, missing, but=caller)
            account.round = pool.round

    def _leave(self, key: Key, pool: Pool[Caller], caller: Caller) -> None:
        if pool.accounts.pop(caller, None) is None:
            return
        for other in pool.accounts.values():
            other.awaits.discard(caller)
        self._settle(key, pool)
        self._forget_if_unused(key)

    def _forget_if_unused(self, key: Key) -> None:
        if key in self._gone and not self._pools[key].accounts:
            self._gone.remove(key)
            del self._pools[key]

    # What becomes of them

    def _settle(self, key: Key, pool: Pool[Caller]) -> None:
        """Gives out what is free, and answers those that get no more."""
        if not pool.accounts:
            return
        if pool.limit > 0:
            self._grant_what_is_free(key, pool)
        for caller, account in pool.accounts.items():
            if account.is_asking and not (account.wanted and account.awaits):
                account.is_asking = False
                self._tell(caller, key).answered = True
            if not account.is_asking:  # what belongs to it, it gets when others have given it back
                lacking = max(0, pool.fair - account.held) if pool.limit > 0 else 0
                account.wanted = min(account.wanted, lacking)

    def _grant_what_is_free(self, key: Key, pool: Pool[Caller]) -> None:
        fair = pool.fair
        # What belongs to those that want it; what else they want; what belongs to the others.
        for caller, account in pool.accounts.items():
            self._grant(key, pool, caller, min(account.wanted, fair - account.held))
        for caller, account in pool.accounts.items():
            self._grant(key, pool, caller, account.wanted)
        for caller, account in pool.accounts.items():
            self._grant(key, pool, caller, fair - account.held)

    def _grant(self, key: Key, pool: Pool[Caller], caller: Caller, count: int) -> None:
        count = min(count, pool.free)
        if count > 0:
            account = pool.accounts[caller]
            account.held += count
            account.wanted = max(0, account.wanted - count)
            self._tell(caller, key).granted += count

    def _call_back_what_is_too_much(self, key: Key, pool: Pool[Caller]) -> None:
        if pool.limit != UNLIMITED and pool.free < 0:
            self._call_back(key, pool, 0)

    def _call_back(
        self, key: Key, pool: Pool[Caller], missing: int, but: Caller | None = None
    ) -> set[Caller]:
        """Calls back what is missing, and what is held beyond the limit, from each that may have
        it; returns whom."""
        pool.round += 1
        count = missing + max(0, -pool.free)
        holders = {
            caller for caller, account in pool.accounts.items() if account.held and caller != but
        }
        for caller in holders:
            update = self._tell(caller, key)
            update.called_back += count
            update.keep, update.round = pool.fair, pool.round
        return holders

    def _tell(self, caller: Caller, key: Key) -> pb.TicketUpdate:
        news = self._news.setdefault(caller, {})
        if (update := news.get(key)) is None:
            update = pb.TicketUpdate(application=key[0], deployment=key[1])
            news[key] = update
            self._on_news(caller)
        return update
