"""Calls of the controller, from a script or the command line."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import grpc

from serving import cluster
from serving.exceptions import (
    ApplicationConflictError,
    ClusterError,
    DeploymentFailedError,
    ServingError,
    StillDeployingError,
)
from serving.interrupts import uninterrupted
from serving.packages import PackageError
from serving.specs import archives
from serving.v1 import controller_pb2 as pb
from serving.v1.controller_pb2_grpc import ControllerStub

_CALL_TIMEOUT_S = 30.0
_UPLOAD_TIMEOUT_S = 300.0
# A controller that died is started again: it is called anew for as long as a call may take.
_RETRY_AFTER_S = 0.1
_CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.enable_http_proxy", 0),
]
_FAILED = {"DEPLOY_FAILED", "UPDATE_FAILED"}


class _TimeIsUpError(Exception):
    """The statuses were watched for as long as was asked."""


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

    def deploy(self, *specs: pb.ApplicationSpec, alone: bool = False) -> dict[str, int]:
        """Sets the targets of applications, of all or of none; returns their generations.
        `alone`: all others are deleted."""
        with self._errors():
            request = pb.DeployRequest(applications=specs, alone=alone)
            for application in request.applications:
                application.ClearField("sources_archive")  # uploaded where it is missing
            response: pb.DeployResponse = self._call(self._stub.Deploy, request)
            if response.missing:
                for digest, archive in archives(*specs).items():
                    if digest in response.missing:
                        self._upload(digest, archive)
                response = self._call(self._stub.Deploy, request)
            if response.missing:
                raise ClusterError("the cluster lost files that replicas run with: deploy again")
            return dict(response.generations)

    def _upload(self, digest: str, archive: Callable[[], Iterator[bytes]]) -> None:
        """Raises PackageError where the files have changed since they were named."""
        failure: list[PackageError] = []

        def requests() -> Iterator[pb.UploadRequest]:
            yield pb.UploadRequest(digest=digest)
            try:
                for chunk in archive():
                    yield pb.UploadRequest(data=chunk)
            except PackageError as error:  # gRPC would only log it
                failure.append(error)

        def upload(_: object, timeout: float) -> Any:
            return self._stub.Upload(requests(), timeout=timeout)

        try:
            self._call(upload, None, _UPLOAD_TIMEOUT_S)
        except grpc.RpcError:
            if failure:
                raise failure[0] from None
            raise

    def roll_back(self, name: str, generation: int) -> int:
        """Takes back the version `generation` of an application; returns its generation then."""
        with self._errors():
            request = pb.RollbackRequest(application=name, generation=generation)
            response: pb.RollbackResponse = self._call(self._stub.Rollback, request)
            return response.generation

    def progress(self, name: str, generation: int) -> Iterator[pb.ApplicationStatus]:
        """Yields the status of a deploy as it changes, until it runs and every proxy serves.

        Raises DeploymentFailedError where it fails, ClusterError where the application or the
        cluster goes away meanwhile.
        """
        with self._errors():
            for status in self._statuses():
                found = _named(status, name)
                if found is not None:
                    yield found
                if _runs(status, name, generation):
                    return
        raise ClusterError(f"the cluster at {self._address} ended")

    def settle(
        self,
        generations: Mapping[str, int],
        deleted: Iterable[str] = (),
        *,
        timeout_s: float,
        began: float,
        show: Callable[[pb.ApplicationStatus], None] = lambda _: None,
    ) -> dict[str, ServingError]:
        """Waits until these applications run and those are gone, however long one of them takes,
        for `timeout_s` since `began`, on the monotonic clock; returns why others do not. `show` is
        called with what changes meanwhile."""
        pending, leaving = dict(generations), set(deleted)
        failures: dict[str, ServingError] = {}
        messages: dict[str, str] = {}
        left_s = max(0.0, began + timeout_s - time.monotonic())
        with self._errors(), contextlib.suppress(_TimeIsUpError):
            for status in self._statuses(left_s):
                for found in status.applications:
                    messages[found.name] = found.message
                    if found.name in pending:
                        show(found)
                for name in list(pending):
                    try:
                        is_settled = _runs(status, name, pending[name])
                    except ServingError as error:
                        failures[name] = error
                        is_settled = True
                    if is_settled:
                        del pending[name]
                leaving &= {found.name for found in status.applications}
                if not pending and not leaving:
                    return failures
        return failures | {
            name: StillDeployingError(
                f"application {name!r} is not {what} after {timeout_s:g} s"
                f"{'; ' if messages.get(name) else ''}{messages.get(name, '')}"
            )
            for names, what in ((pending, "ready"), (leaving, "gone"))
            for name in names
        }

    def status(self) -> pb.ServeStatus:
        with self._errors():
            status: pb.ServeStatus = self._call(self._stub.GetStatus, pb.StatusRequest())
            return status

    def statuses(self) -> Iterator[pb.ServeStatus]:
        """The status now, and again whenever it changes, until the cluster ends."""
        try:
            yield from self._statuses()
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise

    def stacks(self, application: str, replica: str) -> list[pb.ReplicaStacks]:
        """What replicas are doing now."""
        with self._errors():
            request = pb.ReplicaStacksRequest(application=application, replica=replica)
            response: pb.ReplicaStacksResponse = self._call(self._stub.GetStacks, request)
            return list(response.replicas)

    def generation(self, name: str) -> int | None:
        """Of an application; None where there is none, or it is being deleted."""
        return self.generations().get(name)

    def generations(self) -> dict[str, int]:
        """Of all applications that are not being deleted, by their names."""
        applications = self.status().applications
        return {each.name: each.generation for each in applications if each.status != "DELETING"}

    def request_delete(self, name: str) -> bool:
        """Has an application deleted, without waiting for that; returns whether there was one."""
        with self._errors():
            request = pb.DeleteRequest(application=name)
            response: pb.DeleteResponse = self._call(self._stub.Delete, request)
            return response.existed

    def delete(self, name: str, say: Callable[[str], None] = lambda _: None) -> bool:
        """Deletes an application and waits until it is gone; returns whether there was one.

        `say` is called with what the end waits for.
        """
        said = ""
        with self._errors():
            existed = self.request_delete(name)
            for status in self._statuses():
                found = _named(status, name)
                if found is None or found.status != "DELETING":
                    break
                if found.message != said:
                    said = found.message
                    say(f"Application {name!r}: {said}")
            return existed

    def shutdown(self) -> None:
        """Asks the cluster to end and waits until the controller is gone."""
        with self._errors():
            changes = self._stub.WatchStatus(pb.StatusRequest())
            self._call(self._stub.Shutdown, pb.ShutdownRequest())
        with contextlib.suppress(grpc.RpcError):
            for _ in changes:
                pass

    def wait_for_end(self) -> None:
        """Returns once the cluster has ended."""
        with contextlib.suppress(grpc.RpcError):
            for _ in self._statuses():
                pass

    def _call(
        self, method: Callable[..., Any], request: object, timeout_s: float = _CALL_TIMEOUT_S
    ) -> Any:
        """Calls the controller, again where it is away. What is called is harmless twice."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return method(request, timeout=max(0.0, deadline - time.monotonic()))
            except grpc.RpcError as error:
                self._raise_unless_away(error, deadline)

    def _statuses(self, timeout_s: float = math.inf) -> Iterator[pb.ServeStatus]:
        """The status now, and again whenever it changes, whichever controller tells it.

        Raises _TimeIsUpError when this has taken so long.
        """
        end = time.monotonic() + timeout_s
        deadline = time.monotonic() + _CALL_TIMEOUT_S
        while True:
            left_s = end - time.monotonic()
            timeout = None if math.isinf(left_s) else max(0.0, left_s)
            try:
                for status in self._stub.WatchStatus(pb.StatusRequest(), timeout=timeout):
                    yield status
                    deadline = time.monotonic() + _CALL_TIMEOUT_S
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise _TimeIsUpError from None
                self._raise_unless_away(error, deadline)

    def _raise_unless_away(self, error: grpc.RpcError, deadline: float) -> None:
        """Returns after a moment where the controller is about to come back."""
        is_away = error.code() is grpc.StatusCode.UNAVAILABLE and cluster.runs(self._address)
        if not is_away or time.monotonic() > deadline:
            raise error
        time.sleep(_RETRY_AFTER_S)

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


def _runs(status: pb.ServeStatus, name: str, generation: int) -> bool:
    """Whether that version of an application serves. Raises ServingError where it will not."""
    found = _named(status, name)
    if found is None or found.generation < generation or found.status == "DELETING":
        raise ClusterError(f"application {name!r} was deleted while it was deployed")
    was_taken_back = found.instead_of >= generation
    if found.status in _FAILED or _is_unhealthy(found) or was_taken_back:
        raise DeploymentFailedError(_failure(found))
    return found.status == "RUNNING" and _proxies_serve(status)


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
