"""Errors of handle calls that an application lets through: it is not broken, it cannot answer now.

Whatever framework the application is made with: what counts is the exception that leaves it.
"""

from __future__ import annotations

import grpc

from serving.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
)

STATUS = 503
RETRY_AFTER_S = 1

_TEXTS: dict[type[BaseException], str] = {
    BackPressureError: "too many requests are waiting",
    DeploymentUnavailableError: "nothing runs that could answer",
}
_GRPC: dict[type[BaseException], tuple[grpc.StatusCode, str]] = {
    BackPressureError: (grpc.StatusCode.RESOURCE_EXHAUSTED, _TEXTS[BackPressureError]),
    DeploymentUnavailableError: (
        grpc.StatusCode.UNAVAILABLE,
        _TEXTS[DeploymentUnavailableError],
    ),
    # For HTTP it is a 500: the request may have been worked on, and 503 tells clients to repeat it.
    ReplicaUnavailableError: (grpc.StatusCode.UNAVAILABLE, "a replica was lost while it worked"),
}


def refusal_of(error: BaseException) -> str:
    """What the client is told with a 503; empty where the error is another."""
    for kind, text in _TEXTS.items():
        if isinstance(error, kind):
            return f"Service Unavailable: {text}"
    return ""


def status_of(error: BaseException) -> tuple[grpc.StatusCode, str] | None:
    """What a gRPC client is told; None where the error is another."""
    return next((status for kind, status in _GRPC.items() if isinstance(error, kind)), None)
