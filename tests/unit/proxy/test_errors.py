"""One table of failures, for HTTP and for gRPC."""

from __future__ import annotations

import pytest
from grpc import StatusCode

from serving.mux import ConnectionLost, ResetCode, StreamError, StreamReset
from serving.proxy.errors import failure_of, unknown_application
from serving.routing.router import Overloaded, ReplicaLost, RoutingError, Unavailable


@pytest.mark.parametrize(
    ("error", "status", "code", "details"),
    [
        (Overloaded(), 503, StatusCode.RESOURCE_EXHAUSTED, "too many requests are waiting"),
        (Unavailable(), 503, StatusCode.UNAVAILABLE, "nothing runs that could answer"),
        (
            ReplicaLost(),
            502,
            StatusCode.UNAVAILABLE,
            "the replica that worked on this request was lost",
        ),
        (
            ConnectionLost("cut", sent=True),
            502,
            StatusCode.UNAVAILABLE,
            "the replica that worked on this request was lost",
        ),
        (
            StreamReset(ResetCode.TIMEOUT),
            408,
            StatusCode.DEADLINE_EXCEEDED,
            "Request Timeout",
        ),
        (StreamReset(ResetCode.CANCEL), 503, StatusCode.UNAVAILABLE, "the replica is stopping"),
        (
            StreamReset(ResetCode.INTERNAL_ERROR),
            500,
            StatusCode.INTERNAL,
            "Internal Server Error",
        ),
        (StreamReset(99), 500, StatusCode.INTERNAL, "Internal Server Error"),
    ],
)
def test_what_a_client_is_told(
    error: RoutingError | StreamError, status: int, code: StatusCode, details: str
) -> None:
    failure = failure_of(error)
    assert (failure.status, failure.code, failure.details) == (status, code, details)


@pytest.mark.parametrize(
    ("name", "known", "code", "details"),
    [
        ("", [], StatusCode.UNAVAILABLE, "no application is deployed yet"),
        ("a", [], StatusCode.UNAVAILABLE, "no application is deployed yet"),
        (
            "c",
            ["a", "b"],
            StatusCode.NOT_FOUND,
            "there is no application 'c' (metadata 'application'); there are 'a', 'b'",
        ),
        (
            "",
            ["a", "b"],
            StatusCode.NOT_FOUND,
            "the call names no application (metadata 'application'); there are 'a', 'b'",
        ),
    ],
)
def test_application_that_is_not_there(
    name: str, known: list[str], code: StatusCode, details: str
) -> None:
    failure = unknown_application(name, known)
    assert (failure.code, failure.details) == (code, details)
