"""Why a request failed, as the client is told: one table, used for HTTP and WebSocket."""

from __future__ import annotations

from dataclasses import dataclass

from serving.mux import ResetCode, StreamError, StreamReset
from serving.routing.router import Overloaded, ReplicaLost, RoutingError, Unavailable


@dataclass(frozen=True, slots=True)
class Failure:
    """An answer to a request that no handler answered."""

    status: int
    text: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


RETRY_SOON = ((b"retry-after", b"1"),)

NO_ROUTE = Failure(404, "Not Found")
NOTHING_DEPLOYED = Failure(503, "Service Unavailable: no application is deployed yet", RETRY_SOON)
TIMED_OUT = Failure(408, "Request Timeout")
HANDLER_FAILED = Failure(500, "Internal Server Error")
REPLICA_LOST = Failure(502, "Bad Gateway: the replica that worked on this request was lost")
OVERLOADED = Failure(503, "Service Unavailable: too many requests are waiting", RETRY_SOON)
UNAVAILABLE = Failure(503, "Service Unavailable: nothing runs that could answer", RETRY_SOON)
CANCELLED_BY_REPLICA = Failure(503, "Service Unavailable: the replica is stopping", RETRY_SOON)

CLIENT_LEFT = 499
"""What the access log says where the client did not wait for the answer."""


def failure_of(error: RoutingError | StreamError) -> Failure:
    """What a client is told of ``error``."""
    if isinstance(error, Overloaded):
        return OVERLOADED
    if isinstance(error, Unavailable):
        return UNAVAILABLE
    if isinstance(error, StreamReset):
        if error.code == ResetCode.TIMEOUT:
            return TIMED_OUT
        if error.code == ResetCode.CANCEL:
            return CANCELLED_BY_REPLICA
        return HANDLER_FAILED
    assert isinstance(error, (ReplicaLost, StreamError))
    return REPLICA_LOST


class ResponseBroken(Exception):
    """Raised into the server to break a response off: its connection is closed, so that the
    client does not take what it has for the whole."""
