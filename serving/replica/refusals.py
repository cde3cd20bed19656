"""Errors of handle calls that an application lets through: it is not broken, it cannot answer now.

Whatever framework the application is made with: what counts is the exception that leaves it.
"""

from __future__ import annotations

from serving.exceptions import BackPressureError, DeploymentUnavailableError

STATUS = 503
RETRY_AFTER_S = 1

_TEXTS: dict[type[BaseException], str] = {
    BackPressureError: "Service Unavailable: too many requests are waiting",
    DeploymentUnavailableError: "Service Unavailable: nothing runs that could answer",
}


def refusal_of(error: BaseException) -> str:
    """What the client is told with a 503; empty where the error is another."""
    return next((text for kind, text in _TEXTS.items() if isinstance(error, kind)), "")
