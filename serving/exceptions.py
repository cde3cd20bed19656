"""Errors that users meet, by who must act.

ServingError
├── DeploymentFailedError      the user's code could not start; the message ends with its traceback
├── StillDeployingError        it takes longer than there was time to wait, and goes on
├── ClusterError               no cluster to talk to, or it could not start (port in use, …)
├── ApplicationConflictError   two applications want the same route prefix (also a ValueError)
├── BackPressureError          a call found the deployment's queue full: try again later
├── DeploymentUnavailableError a call found no deployment, or one that has no replica to come
├── ReplicaUnavailableError    the replica that worked on a call was lost: it may have been done
├── RequestCancelledError      a call was cancelled while synchronous code waited for it
└── RemoteError                a call failed with what cannot be sent back as it is
CodeNotPortableError           an object that cannot travel to a replica (a TypeError)
UnserializableResultError      a handler returned what has no HTTP form (a TypeError)

Wrong arguments are plain `TypeError`s and `ValueError`s, raised where they are given.
"""

from __future__ import annotations

__all__ = [
    "ApplicationConflictError",
    "BackPressureError",
    "ClusterError",
    "CodeNotPortableError",
    "DeploymentFailedError",
    "DeploymentUnavailableError",
    "RemoteError",
    "ReplicaUnavailableError",
    "RequestCancelledError",
    "ServingError",
    "StillDeployingError",
    "UnserializableResultError",
]


class ServingError(Exception):
    """Base of the errors that are not about one wrong argument."""


class DeploymentFailedError(ServingError):
    """A deployment could not start. The message holds the traceback of the user's code."""


class StillDeployingError(ServingError):
    """An application is not as wanted in the time that was given. The cluster goes on with it."""


class ClusterError(ServingError):
    """There is no cluster to talk to, or it could not be started."""


class ApplicationConflictError(ServingError, ValueError):
    """The route prefix belongs to another application already."""


class BackPressureError(ServingError):
    """`max_queued_requests` requests wait for the deployment already, and this one was not sent; or
    the reader of a streamed batch kept the others of its batch waiting for too long."""


class DeploymentUnavailableError(ServingError):
    """The deployment is gone, or has no replica and none is to be expected."""


class ReplicaUnavailableError(ServingError):
    """The replica that worked on the call died or was cut off. It may have done the work."""


class RequestCancelledError(ServingError):
    """The call was cancelled. In `async` code `asyncio.CancelledError` is raised instead."""


class RemoteError(ServingError):
    """The call failed in its replica with an exception that cannot be sent: this is its text.

    Also the cause of an exception that could be sent: then it holds the traceback in the replica.
    """

    def __init__(self, message: str, *, type_name: str = "") -> None:
        super().__init__(message)
        self.type_name = type_name
        """`"module.Type"` of the exception; empty for a traceback."""


class CodeNotPortableError(TypeError):
    """An object cannot be sent to a replica process."""


class UnserializableResultError(TypeError):
    """A handler returned a value that cannot be made into an HTTP response."""
