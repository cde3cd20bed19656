"""Errors that users meet, by who must act.

ServingError
├── DeploymentFailedError      the user's code could not start; the message ends with its traceback
├── ClusterError               no cluster to talk to, or it could not start (port in use, …)
└── ApplicationConflictError   two applications want the same route prefix (also a ValueError)
CodeNotPortableError           an object that cannot travel to a replica (a TypeError)
UnserializableResultError      a handler returned what has no HTTP form (a TypeError)

Wrong arguments are plain `TypeError`s and `ValueError`s, raised where they are given.
"""

from __future__ import annotations

__all__ = [
    "ApplicationConflictError",
    "ClusterError",
    "CodeNotPortableError",
    "DeploymentFailedError",
    "ServingError",
    "UnserializableResultError",
]


class ServingError(Exception):
    """Base of the errors that are not about one wrong argument."""


class DeploymentFailedError(ServingError):
    """A deployment could not start. The message holds the traceback of the user's code."""


class ClusterError(ServingError):
    """There is no cluster to talk to, or it could not be started."""


class ApplicationConflictError(ServingError, ValueError):
    """The route prefix belongs to another application already."""


class CodeNotPortableError(TypeError):
    """An object cannot be sent to a replica process."""


class UnserializableResultError(TypeError):
    """A handler returned a value that cannot be made into an HTTP response."""
