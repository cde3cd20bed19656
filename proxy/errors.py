"""Why a request failed, as the client is told: one table, used for HTTP, WebSocket and gRPC."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from grpc import StatusCode

from serving.mux import ResetCode, StreamError, StreamReset
from serving.routing.router import Overloaded, ReplicaLost, RoutingError, Unavailable


@dataclass(frozen=True, slots=True)
class Failure:
    """An answer to a request that no handler answered."""

    status: int
    """Of HTTP."""
    code: StatusCode
    """Of gRPC."""
    text: str
    """HTTP's reason phrase, and behind a colon what there is to say."""
    headers: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def details(self) -> str:
        """What there is to say."""
        phrase, _, details = self.text.partition(": ")
        return details or phrase


RETRY_SOON = ((b"retry-after", b"1"),)

NO_ROUTE = Failure(404, StatusCode.NOT_FOUND, "Not Found")
NOTHING_DEPLOYED = Failure(
    503,
    StatusCode.UNAVAILABLE,
    "Service Unavailable: no application is deployed yet",
    RETRY_SOON,
)
TIMED_OUT = Failure(408, StatusCode.DEADLINE_EXCEEDED, "Request Timeout")
HANDLER_FAILED = Failure(500, StatusCode.INTERNAL, "Internal Server Error")
REPLICA_LOST = Failure(
    502,
    StatusCode.UNAVAILABLE,
    "Bad Gateway: the replica that worked on this request was lost",
)
OVERLOADED = Failure(
    503,
    StatusCode.RESOURCE_EXHAUSTED,
    "Service Unavailable: too many requests are waiting",
    RETRY_SOON,
)
UNAVAILABLE = Failure(
    503,
    StatusCode.UNAVAILABLE,
    "Service Unavailable: nothing runs that could answer",
    RETRY_SOON,
)
CANCELLED_BY_REPLICA = Failure(
    503,
    StatusCode.UNAVAILABLE,
    "Service Unavailable: the replica is stopping",
    RETRY_SOON,
)

CLIENT_LEFT = 499
"""What the access log says where a client of HTTP did not wait for the answer."""


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


def unknown_application(name: str, known: Collection[str]) -> Failure:
    """What a gRPC call gets whose application is not there, or that names none of several."""
    if not known:
        return NOTHING_DEPLOYED
    problem = f"there is no application {name!r}" if name else "the call names no application"
    listed = ", ".join(map(repr, known))
    return Failure(
        404,
        StatusCode.NOT_FOUND,
        f"Not Found: {problem} (metadata 'application'); there are {listed}",
    )


class ResponseBroken(Exception):
    """Raised into the server to break a response off: its connection is closed, so that the
    client does not take what it has for the whole."""
