"""What the controller asks of a replica, answered on a thread beside the event loop."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import grpc

from serving import stacks
from serving.v1 import replica_pb2 as pb
from serving.v1.replica_pb2_grpc import (
    ReplicaControlServicer,
    add_ReplicaControlServicer_to_server,
)

STACKS_TIMEOUT_S = 1.0
RECONFIGURE_TIMEOUT_S = 600.0
"""Where the caller names no time of its own."""
THREADS = 4
"""One may wait for `check_health` and one for `reconfigure`; the others answer meanwhile."""


class Controlled(Protocol):
    """What the control plane reads and does. Called on the control server's threads."""

    @property
    def ongoing(self) -> int: ...
    @property
    def loop_lag_s(self) -> float: ...
    @property
    def has_check(self) -> bool: ...
    def describe(self) -> pb.DescribeResponse: ...
    def resize(self, max_ongoing_requests: int) -> None: ...
    def reconfigure(self, user_config_json: str, timeout_s: float) -> str: ...
    def check_health(self, timeout_s: float) -> str: ...
    def begin_drain(self, grace_s: float) -> None: ...


class ControlServer(ReplicaControlServicer):
    """Serves ReplicaControl on ``address`` from threads of its own: it answers even while user
    code blocks the event loop."""

    def __init__(self, address: str, replica: Controlled, loop: asyncio.AbstractEventLoop) -> None:
        self._replica = replica
        self._loop = loop
        self._server = grpc.server(ThreadPoolExecutor(THREADS, thread_name_prefix="control"))
        add_ReplicaControlServicer_to_server(self, self._server)
        self._server.add_insecure_port(address)

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        """Stops answering."""
        self._server.stop(grace=0).wait()

    def Health(self, request: pb.HealthRequest, context: object) -> pb.HealthResponse:
        unhealthy = ""
        if request.check_timeout_s:
            unhealthy = self._replica.check_health(request.check_timeout_s)
        return pb.HealthResponse(
            ongoing=self._replica.ongoing,
            loop_lag_s=self._replica.loop_lag_s,
            unhealthy=unhealthy,
            has_check=self._replica.has_check,
        )

    def Describe(self, request: pb.DescribeRequest, context: object) -> pb.DescribeResponse:
        return self._replica.describe()

    def Reconfigure(
        self, request: pb.ReconfigureRequest, context: grpc.ServicerContext
    ) -> pb.ReconfigureResponse:
        self._replica.resize(request.max_ongoing_requests)
        error = ""
        if request.HasField("user_config_json"):
            remaining_s = context.time_remaining() or RECONFIGURE_TIMEOUT_S
            error = self._replica.reconfigure(request.user_config_json, remaining_s)
        return pb.ReconfigureResponse(error=error)

    def Drain(self, request: pb.DrainRequest, context: object) -> pb.DrainResponse:
        self._replica.begin_drain(request.grace_s)
        return pb.DrainResponse()

    def Stacks(self, request: pb.StacksRequest, context: object) -> pb.StacksResponse:
        return pb.StacksResponse(text=stacks.of_threads() + self._task_stacks())

    def _task_stacks(self) -> str:
        done, text = threading.Event(), []

        def write() -> None:
            text.append(stacks.of_tasks(self._loop))
            done.set()

        self._loop.call_soon_threadsafe(write)
        if not done.wait(STACKS_TIMEOUT_S):
            return "(the event loop is blocked: no stacks of tasks)\n"
        return "".join(text)
