"""One replica process, from its start to its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from serving import lifeline
from serving.controller.model import Replica, ReplicaState
from serving.controller.node import VISIBLE_GPUS
from serving.controller.packages import PackageStore
from serving.controller.resources import Grant, Node, grant_of
from serving.controller.store import ReplicaRecord
from serving.engine.base import Engine, Process, ProcessSpec
from serving.v1 import controller_pb2 as pb, replica_pb2, replica_pb2_grpc

log = logging.getLogger("serving.controller")

_CONTROL_TIMEOUT_S = 5.0
# A reconfigure may load a model: it has the time that Kubernetes gives a deployment to progress.
_RECONFIGURE_TIMEOUT_S = 600.0
# A replica has two gRPC servers. gRPC's default waits for all connections in one thread, whosever
# they are, which wakes the thread of the other server for half the messages. This one has each
# server wait for its own: with poll(2), which a replica's few callers do not burden.
_POLLER = "GRPC_POLL_STRATEGY"
# Time to exit after the last request, for shutdown hooks; and after SIGTERM.
_EXIT_TIMEOUT_S = 6.0
_TERMINATE_TIMEOUT_S = 2.0
# For the answer of a replica that is about to end, or for its end.
_ENDING_TIMEOUT_S = 1.0
_CHANNEL_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.enable_http_proxy", 0),
]

Call = Callable[[str, Any, float], Awaitable[Any]]
"""Calls a method of `ReplicaControl`, with its request and timeout."""


class Control:
    """Calls one replica's `ReplicaControl`. Its channel is opened by the first call and kept: one
    for each call takes twice the time. It is closed with the last reference to it."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._stub: replica_pb2_grpc.ReplicaControlStub | None = None

    async def __call__(self, method: str, request: Any, timeout_s: float) -> Any:
        if self._stub is None:
            channel = grpc.aio.insecure_channel(self._address, _CHANNEL_OPTIONS)
            self._stub = replica_pb2_grpc.ReplicaControlStub(channel)
        return await getattr(self._stub, method)(request, timeout=timeout_s)


@dataclass(frozen=True)
class Surroundings:
    """What all replicas of a cluster share."""

    engine: Engine
    state_dir: Path
    controller_address: str
    packages: PackageStore
    # The machines, one today.
    nodes: tuple[Node, ...] = (Node("local"),)
    # For SERVING_LOGGING.
    logging_json: str = "{}"
    # What those need that answer gRPC; None: there is none.
    grpc: pb.GrpcSettings | None = None
    # What calls the replica whose control server has an address.
    connect: Callable[[str], Call] = Control


@dataclass(frozen=True)
class Settings:
    """What a replica can take over while it runs."""

    max_ongoing_requests: int
    user_config_json: str


def settings_of(options: pb.DeploymentOptions) -> Settings:
    """What the options of a deployment say."""
    return Settings(options.max_ongoing_requests, options.user_config_json)


class ReplicaProcess:
    """A replica and its process. Its owner starts or adopts it, awaits `wait`, and ends it with
    `stop` or `end`."""

    def __init__(
        self,
        around: Surroundings,
        record: ReplicaRecord,
        seen: Replica,
        grant: Grant | None = None,
    ) -> None:
        self.record = record
        self.seen = seen
        # What it holds of its machine; known of one that was adopted by what it was started with.
        self.grant = grant
        # What it was started with.
        self.spec = pb.ReplicaSpec()
        self.pid = 0
        # Why it ended or could not start, as far as it told.
        self.error = ""
        # For how long it has been starting and where it is, once that is news.
        self.slowness = ""
        # What it runs with; None where a change of it failed halfway.
        self.settings: Settings | None = None
        self.is_reconfiguring = False
        # Somebody asks it again and again whether its event loop turns.
        self.loop_is_watched = False
        # It has a check_health, or has not said yet that it has none.
        self.has_check = True
        # Time that it may take to finish its requests.
        self.grace_s = 0.0

        self._around = around
        self._socket = f"unix:{around.state_dir}/r-{record.token}.sock"
        self._control_socket = f"unix:{around.state_dir}/c-{record.token}.sock"
        self._spec_path = around.state_dir / f"{record.token}.replica"
        self._call = around.connect(self._control_socket)
        self._process: Process | None = None
        self._exited = asyncio.Event()
        self._stopping = False

    def __repr__(self) -> str:
        return f"ReplicaProcess({self.seen.replica_id!r}, {self.seen.state.value}, pid={self.pid})"

    @property
    def address(self) -> str:
        return self._socket

    def become(self, state: ReplicaState, now: float) -> None:
        self.seen = replace(self.seen, state=state, since=now)
        self.record = replace(self.record, state=state.value)

    async def start(self, spec: pb.ReplicaSpec) -> None:
        """Starts its process. Raises OSError where that is impossible."""
        spec.address = self._socket
        spec.control_address = self._control_socket
        spec.controller_address = self._around.controller_address
        self._name_files(spec)
        if spec.is_ingress and self._around.grpc is not None:
            spec.grpc.CopyFrom(self._around.grpc)
        if self.grant is not None:
            spec.node, spec.gpus[:] = self.grant.node, self.grant.gpus
        self.spec = spec
        self.settings = settings_of(spec.deployment.options)
        self.grace_s = spec.deployment.options.graceful_shutdown_timeout_s
        await asyncio.to_thread(self._spec_path.write_bytes, spec.SerializeToString())
        self._hold(await self._around.engine.start(self._process_spec(spec.deployment)))
        if self._stopping:
            self.kill()

    def _name_files(self, spec: pb.ReplicaSpec) -> None:
        deployment = spec.deployment
        named = [*deployment.py_modules]
        if deployment.HasField("working_dir"):
            named.insert(0, deployment.working_dir)
            spec.working_dir = str(self._around.packages.path(deployment.working_dir.digest))
        spec.import_folders.extend(
            str(self._around.packages.path(package.digest)) for package in named
        )
        spec.sources_dir = self._around.packages.sources_of(deployment)

    def adopt(self) -> bool:
        """Takes over the process that another controller started; False where it has ended."""
        engine, identity = self._around.engine, self.record.process
        process = engine.adopt(identity) if identity else engine.find(self._bare_process_spec())
        if process is None:
            return False
        self._hold(process)
        with contextlib.suppress(OSError, DecodeError):  # nothing but limits is lost with it
            self.spec = pb.ReplicaSpec.FromString(self._spec_path.read_bytes())
        self.grant = grant_of(self.spec)
        deployment = self.spec.deployment
        self.seen = replace(self.seen, calls=frozenset(deployment.calls))
        self.settings = self.settings or settings_of(deployment.options)
        self.grace_s = deployment.options.graceful_shutdown_timeout_s
        return True

    def _hold(self, process: Process) -> None:
        self._process = process
        self.pid = process.pid
        self.record = replace(self.record, process=process.identity)

    async def wait(self) -> int | None:
        """Waits for the end of its process and returns the exit code, if that can be known."""
        assert self._process is not None
        return await self._process.wait()

    def has_ended(self) -> None:
        """To be called when its process has ended, or could not be started."""
        self._exited.set()
        self._spec_path.unlink(missing_ok=True)
        for address in (self._socket, self._control_socket):
            Path(address.removeprefix("unix:")).unlink(missing_ok=True)

    def _process_spec(self, deployment: pb.DeploymentSpec) -> ProcessSpec:
        resources = json.loads(deployment.options.ray_actor_options_json or "{}")
        env = {_POLLER: os.environ.get(_POLLER, "poll")} | self._visible_gpus()
        env |= _expanded(resources.get("runtime_env", {}).get("env_vars", {}))
        env["SERVING_LOGGING"] = self._around.logging_json
        fd = lifeline.inherited_fd()
        if fd is not None:
            env[lifeline.FD_VARIABLE] = str(fd)
        return replace(self._bare_process_spec(), env=env, pass_fds=() if fd is None else (fd,))

    def _visible_gpus(self) -> dict[str, str]:
        """Those that it got, and no others; where we know of no GPU, we hide none."""
        nodes = {node.name: node for node in self._around.nodes}
        if self.grant is None or self.grant.node not in nodes or not nodes[self.grant.node].gpus:
            return {}
        return {VISIBLE_GPUS: ",".join(self.grant.gpus)}

    def _bare_process_spec(self) -> ProcessSpec:
        return ProcessSpec("serving.replica", (str(self._spec_path),))

    async def stop(self, unpublished: Callable[[], Awaitable[None]]) -> None:
        """Ends a replica that took requests, once these are done.

        1. Callers are told and confirm that they send no more (`unpublished`).
        2. Open requests end, for up to the deployment's grace.
        3. SIGTERM, SIGKILL.
        """
        await unpublished()
        patience_s = self.grace_s + _EXIT_TIMEOUT_S if await self._drain() else 0.0
        await self.end(patience_s)

    async def end(self, patience_s: float = 0.0) -> None:
        """Ends the process: waits for it to do so by itself, then insists."""
        self._stopping = True
        if await self.ends_within(patience_s):
            return
        if self._process is not None:
            self._process.terminate()
            if not await self.ends_within(_TERMINATE_TIMEOUT_S):
                log.warning("%s did not end when told to: killing it", self.seen.replica_id)
                self._process.kill()
        await self._exited.wait()

    def kill(self) -> None:
        self._stopping = True
        if self._process is not None:
            self._process.kill()

    async def _drain(self) -> bool:
        try:
            await self._control("Drain", replica_pb2.DrainRequest(grace_s=self.grace_s))
        except grpc.aio.AioRpcError as error:
            # One that ends already, by itself or with the cluster, answers no more.
            if await self.ends_within(_ENDING_TIMEOUT_S):
                return True
            log.warning("%s cannot be drained: %s", self.seen.replica_id, error.details())
            return False
        return True

    async def ongoing(self) -> int:
        """The requests that it works on, as far as it answers."""
        try:
            answer = await self._control("Health", replica_pb2.HealthRequest(), _ENDING_TIMEOUT_S)
        except grpc.aio.AioRpcError:
            return 0
        return int(answer.ongoing)

    async def describe(self, timeout_s: float) -> replica_pb2.DescribeResponse | None:
        """What it says that it is; None where it does not answer."""
        try:
            answer = await self._control("Describe", replica_pb2.DescribeRequest(), timeout_s)
        except grpc.aio.AioRpcError:
            return None
        assert isinstance(answer, replica_pb2.DescribeResponse)
        self.settings = Settings(answer.max_ongoing_requests, answer.user_config_json)
        return answer

    async def stacks(self) -> pb.ReplicaStacks:
        """What it is doing now."""
        told = pb.ReplicaStacks(replica_id=self.seen.replica_id, pid=self.pid)
        try:
            told.text = (await self._control("Stacks", replica_pb2.StacksRequest())).text
        except grpc.aio.AioRpcError as error:
            told.error = f"the replica does not answer: {error.details()}"
        return told

    async def reconfigure(self, settings: Settings) -> str:
        """Takes over what needs no new process; gives what went wrong, or nothing."""
        request = replica_pb2.ReconfigureRequest(max_ongoing_requests=settings.max_ongoing_requests)
        timeout_s = _CONTROL_TIMEOUT_S
        config = settings.user_config_json
        if config and (self.settings is None or self.settings.user_config_json != config):
            request.user_config_json = config
            timeout_s = _RECONFIGURE_TIMEOUT_S
        self.is_reconfiguring, self.settings = True, None
        try:
            error = str((await self._control("Reconfigure", request, timeout_s)).error)
        except grpc.aio.AioRpcError as failure:
            error = f"the replica did not answer: {failure.details()}"
        finally:
            self.is_reconfiguring = False
        if self._exited.is_set():
            return ""
        if not error:
            self.settings = settings
        return error

    async def loop_lag_s(self, timeout_s: float) -> float | None:
        """For how long its event loop has been blocked; None where it does not answer."""
        try:
            answer = await self._control("Health", replica_pb2.HealthRequest(), timeout_s)
        except grpc.aio.AioRpcError:
            return None
        return float(answer.loop_lag_s)

    async def check_health(self, timeout_s: float) -> str:
        """What is wrong with it, or nothing: what the user's check_health complains of, or that its
        control thread does not answer, which it does however busy the event loop is. One without a
        check_health is asked for nothing but an answer. One that ends is heard of otherwise."""
        request = replica_pb2.HealthRequest(check_timeout_s=timeout_s if self.has_check else 0)
        within_s = 2 * timeout_s + _CONTROL_TIMEOUT_S if self.has_check else timeout_s
        try:
            answer = await self._control("Health", request, within_s)
        except grpc.aio.AioRpcError as error:
            # One that ends, by itself or because it is to, answers no more.
            ended = await self.ends_within(_ENDING_TIMEOUT_S)
            if ended or self.seen.state is not ReplicaState.RUNNING:
                return ""
            return f"its control thread did not answer within {within_s:g} s: {error.details()}"
        self.has_check = answer.has_check
        return str(answer.unhealthy)

    async def _control(
        self, method: str, request: object, timeout_s: float = _CONTROL_TIMEOUT_S
    ) -> Any:
        return await self._call(method, request, timeout_s)

    async def ends_within(self, timeout_s: float) -> bool:
        """Whether its process has ended by then."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._exited.wait()
        except TimeoutError:
            return False
        return True


def _expanded(variables: Mapping[str, str]) -> dict[str, str]:
    """With `${NAME}` replaced by what the variable is here."""
    return {
        name: re.sub(r"\$\{(\w+)\}", lambda match: os.environ.get(match[1], ""), value)
        for name, value in variables.items()
    }


def new_token() -> str:
    """Eight characters that name a replica and its sockets."""
    return os.urandom(4).hex()
