"""Calls of the controller, from a script or the command line."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

import grpc

from serving.exceptions import ApplicationConflictError, ClusterError, DeploymentFailedError
from serving.interrupts import uninterrupted
from serving.v1 import controller_pb2 as pb
from serving.v1.controller_pb2_grpc import ControllerStub

_CALL_TIMEOUT_S = 30.0
_CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.enable_http_proxy", 0),
]
_FAILED = {"DEPLOY_FAILED", "UPDATE_FAILED"}


class Client:
    """A connection to a controller; closed by `with`."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._channel = grpc.insecure_channel(address, options=_CHANNEL_OPTIONS)
        self._stub = ControllerStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # gRPC waits for ever in a channel whose close was broken off, and swallows what is raised
        # in the destructors that follow.
        with uninterrupted():
            self._channel.close()
            del self._channel, self._stub

    def deploy(self, spec: pb.ApplicationSpec) -> int:
        """Sets the target of an application; returns its generation."""
        with self._errors():
            request = pb.DeployRequest(application=spec)
            response: pb.DeployResponse = self._stub.Deploy(request, timeout=_CALL_TIMEOUT_S)
            return response.generation

    def progress(self, name: str, generation: int) -> Iterator[pb.ApplicationStatus]:
        """Yields the status of a deploy as it changes, until it runs and every proxy serves.

        Raises DeploymentFailedError where it fails, ClusterError where the application or the
        cluster goes away meanwhile.
        """
        seen = False
        with self._errors():
            for status in self._stub.WatchStatus(pb.StatusRequest()):
                found = _named(status, name)
                if found is not None and found.generation >= generation:
                    seen = True
                    yield found
                    if found.status in _FAILED or _is_unhealthy(found):
                        raise DeploymentFailedError(_failure(found))
                    if found.status == "RUNNING" and _proxies_serve(status):
                        return
                elif seen:
                    raise ClusterError(f"application {name!r} was deleted while it was deployed")
        raise ClusterError(f"the cluster at {self._address} ended")

    def status(self) -> pb.ServeStatus:
        with self._errors():
            status: pb.ServeStatus = self._stub.GetStatus(
                pb.StatusRequest(), timeout=_CALL_TIMEOUT_S
            )
            return status

    def generation(self, name: str) -> int | None:
        """Of an application; None where there is none, or it is being deleted."""
        found = _named(self.status(), name)
        return found.generation if found is not None and found.status != "DELETING" else None

    def delete(self, name: str, say: Callable[[str], None] = lambda _: None) -> bool:
        """Deletes an application and waits until it is gone; returns whether there was one.

        `say` is called with what the end waits for.
        """
        said = ""
        with self._errors():
            request = pb.DeleteRequest(application=name)
            response: pb.DeleteResponse = self._stub.Delete(request, timeout=_CALL_TIMEOUT_S)
            for status in self._stub.WatchStatus(pb.StatusRequest()):
                found = _named(status, name)
                if found is None or found.status != "DELETING":
                    break
                if found.message != said:
                    said = found.message
                    say(f"Application {name!r}: {said}")
            return response.existed

    def shutdown(self) -> None:
        """Asks the cluster to end and waits until the controller is gone."""
        with self._errors():
            changes = self._stub.WatchStatus(pb.StatusRequest())
            self._stub.Shutdown(pb.ShutdownRequest(), timeout=_CALL_TIMEOUT_S)
        self.wait_for_end(changes)

    def wait_for_end(self, changes: Iterator[pb.ServeStatus] | None = None) -> None:
        """Returns once the controller is gone."""
        with contextlib.suppress(grpc.RpcError):
            for _ in changes or self._stub.WatchStatus(pb.StatusRequest()):
                pass

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Maps gRPC's errors to ours."""
        try:
            yield
        except grpc.RpcError as error:
            code, details = error.code(), error.details()
            if code is grpc.StatusCode.ALREADY_EXISTS:
                raise ApplicationConflictError(details) from None
            if code is grpc.StatusCode.INVALID_ARGUMENT:
                raise ValueError(details) from None
            raise ClusterError(
                f"the cluster at {self._address} does not answer: {details}"
            ) from error


def _named(status: pb.ServeStatus, name: str) -> pb.ApplicationStatus | None:
    return next((found for found in status.applications if found.name == name), None)


def _proxies_serve(status: pb.ServeStatus) -> bool:
    return all(proxy.status == "HEALTHY" for proxy in status.proxies)


def _is_unhealthy(status: pb.ApplicationStatus) -> bool:
    return any(deployment.status == "UNHEALTHY" for deployment in status.deployments)


def _failure(status: pb.ApplicationStatus) -> str:
    rest = {
        "UPDATE_FAILED": "; the version before it serves on",
        "UNHEALTHY": " as wanted; the cluster goes on trying",
    }.get(status.status, "")
    return f"application {status.name!r} could not be deployed{rest}\n{status.message}"
