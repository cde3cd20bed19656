"""A caller's share of the tickets of one deployment: how many requests may wait in its queue.

`max_queued_requests` is one number for all callers of a deployment. The controller shares it out
(`serving.controller.tickets`). A caller that holds too few asks for more, and the request that
found no place waits a moment for the answer. Pure: the clock is an argument.
"""

from __future__ import annotations

from collections.abc import Callable

from serving.routing.balancer import UNLIMITED, Balancer
from serving.v1.controller_pb2 import TicketRequest, TicketUpdate

PATIENCE_S = 0.05
"""How long a request waits for a place: many times what an answer takes where all is well."""
PAUSE_S = 0.1
"""How long nobody asks again where there was nothing to be had, so that the controller has no more
to do where everything is full."""


class Share:
    """Bounds the queue of ``balancer`` by the tickets that there are for it."""

    def __init__(self, balancer: Balancer, on_news: Callable[[], None]) -> None:
        """``on_news`` is called when the controller is to hear something."""
        self.limit = UNLIMITED
        """Of all callers together."""
        self.held = 0
        self.seeking = 0
        """Requests that wait for an answer."""
        self._balancer = balancer
        self._on_news = on_news
        # The controller knows that there is this caller, or hears of it next.
        self._joined = False
        self._joins = False
        # A request found no place: the controller is to be asked; was asked for so many more, and
        # has not answered; until when that is waited for; until when nobody asks again.
        self._asks = False
        self._asked: int | None = None
        self._asks_until: float | None = None
        self._pauses_until = 0.0
        # To be given back: at once, in which round; and as requests leave the queue.
        self._called_back = 0
        self._keep = 0
        self._round = 0
        self._owed = 0

    def __repr__(self) -> str:
        return f"<Share {self.held} of {self.limit}, owed={self._owed}>"

    # What the controller says

    def resize(self, limit: int) -> None:
        """``max_queued_requests`` is this."""
        self.limit = limit
        if limit > 0 and not self._joined:
            self._joined = self._joins = True
            self._on_news()
        self._bound()

    def hear(self, update: TicketUpdate, now: float) -> None:
        """The controller grants tickets, or calls some back."""
        self.held += update.granted
        if self._asked is not None:
            self._asked -= update.granted
        if update.answered:
            if self._asked is not None and self._asked > 0:
                self._pauses_until = now + PAUSE_S
            self._forget_what_was_asked()
        if update.round:
            self._called_back, self._keep = update.called_back, update.keep
            self._round = update.round
            self._on_news()
        self._bound()

    # What the controller is told

    def reopen(self) -> TicketRequest | None:
        """The watch begins anew: what this caller has. Whatever was said before is forgotten."""
        self._forget_what_was_asked()
        self._called_back = self._keep = self._round = self._owed = 0
        self._bound()
        if not self._joined:
            return None
        self._joins, self._asked = False, 0
        return TicketRequest(held=self.held, wanted=0)

    def take(self) -> TicketRequest | None:
        """What the controller is to hear now; None: nothing. It must be sent."""
        request = TicketRequest()
        if self._round or self._owed:
            self._give_back(request)
        if self._asked is None and (self._joins or self._asks):
            self._joins = self._asks = False
            self._asked = request.wanted = self.seeking
        return request if request.ListFields() else None

    def _give_back(self, request: TicketRequest) -> None:
        unused = max(0, self.held - self._balancer.queued)
        request.returned = min(unused, self._called_back if self._round else self._owed)
        self.held -= request.returned
        if self._round:
            later = self._called_back - request.returned
            self._owed = max(0, min(later, self.held - self._keep))
            request.round, self._round, self._called_back = self._round, 0, 0
        else:
            self._owed -= request.returned
        self._bound()

    # Requests

    def ask(self, now: float) -> bool:
        """A request finds no place; returns whether there may be one soon, which no other caller
        needs: then the request counts as ``seeking`` while it waits."""
        if self.held + self.seeking >= self.limit or now < self._pauses_until:
            return False
        if self._asks_until is None:
            self._asks, self._asks_until = True, now + PATIENCE_S
            self._on_news()
        elif now >= self._asks_until:  # no answer is a no
            self._forget_what_was_asked()
            self._pauses_until = now + PAUSE_S
            return False
        return True

    def left(self) -> None:
        """A request has left the queue."""
        if self._owed:
            self._on_news()

    def _forget_what_was_asked(self) -> None:
        self._asks, self._asked, self._asks_until = False, None, None

    def _bound(self) -> None:
        """Whoever waits keeps its place; tickets that are owed let nobody else wait."""
        limited = self.limit != UNLIMITED
        self._balancer.max_queued = self.held - self._owed if limited else UNLIMITED
