"""An application in this process: its deployments, and their replicas."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

from serving.controller.plan import held
from serving.deployment import Application as Bound
from serving.exceptions import DeploymentFailedError
from serving.replica.hooks import user_traceback
from serving.replica.replica import UserCode
from serving.schema import (
    ApplicationStatus,
    ApplicationStatusOverview,
    DeploymentStatus,
    DeploymentStatusOverview,
    DeploymentStatusTrigger,
)
from serving.specs import Graph, options_message
from serving.testing.arguments import Handles
from serving.testing.replica import LocalReplica
from serving.v1 import controller_pb2 as pb


class Application:
    """On the local cluster's loop, but for `status`."""

    def __init__(
        self,
        graph: Graph,
        name: str,
        route_prefix: str | None,
        local_key: str,
        handle: Callable[[str, str], object],
    ) -> None:
        self.name = name
        self.route_prefix = route_prefix
        self.is_ending = False
        self.replicas: dict[str, list[LocalReplica]] = {}
        """Of each deployment, the ingress's first."""
        self._specs: dict[str, pb.DeploymentSpec] = {}
        self._ended: set[str] = set()
        """Deployments that take no more requests."""
        self._deployed_at_s = time.time()
        for node in graph.nodes:  # grows as handles are put in the place of nodes
            calls: set[str] = set()

            def handle_of(bound: Bound, calls: set[str] = calls) -> object:
                calls.add(graph.name(bound))
                return handle(graph.name(bound), name)

            deployment = node.deployment
            args, kwargs = Handles(handle_of).put_into((node.args, node.kwargs))
            adapter = deployment.config.http_adapter
            user_code = UserCode(deployment.func_or_class, args, kwargs, adapter)
            spec = pb.DeploymentSpec(
                name=graph.name(node), options=options_message(deployment), calls=calls
            )
            self._specs[spec.name] = spec
            self.replicas[spec.name] = [
                LocalReplica(self._replica_spec(spec), user_code, local_key)
                for _ in range(max(1, spec.options.num_replicas))  # nothing starts one later
            ]

    def __repr__(self) -> str:
        return f"<Application {self.name} {list(self.replicas)}>"

    @property
    def ingress(self) -> str:
        """The deployment that takes the application's requests."""
        return next(iter(self._specs))

    @property
    def max_ongoing_requests(self) -> int:
        """Of all replicas together."""
        return sum(each.spec.deployment.options.max_ongoing_requests for each in self._all())

    async def start(self, changed: Callable[[], None]) -> None:
        """Starts all replicas at once; `changed` is called as each becomes ready. Raises
        DeploymentFailedError where one cannot start, once none is starting any more."""
        starting = [asyncio.ensure_future(self._start(each, changed)) for each in self._all()]
        try:
            await asyncio.gather(*starting)
        finally:
            for task in starting:
                task.cancel()
            await asyncio.wait(starting)

    async def stop(self, grace_s: float | None, changed: Callable[[], None]) -> None:
        """Stops all replicas, letting requests finish, each for `grace_s` at most. A deployment
        ends after those that call it; `changed` is called as it takes no more requests."""
        left = {name: frozenset(spec.calls) for name, spec in self._specs.items()}
        stopping: dict[asyncio.Future[Any], str] = {}
        try:
            while left:
                free = left.keys() - held(left) - self._ended
                self._ended |= free
                changed()
                stopping |= {self._stop(name, grace_s): name for name in free}
                ended, _ = await asyncio.wait(stopping, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    task.result()
                    del left[stopping.pop(task)]
        finally:
            for task in stopping:
                task.cancel()

    # What the routers are told.

    def route(self) -> pb.Route | None:
        """Its route; None where it has none."""
        if not self.route_prefix or self.is_ending:
            return None
        return pb.Route(application=self.name, route_prefix=self.route_prefix, ingress=self.ingress)

    def deployments(self) -> Iterator[pb.Deployment]:
        """Its deployments, with the replicas that take new requests."""
        for name, spec in self._specs.items():
            ready = self._ready(name)
            yield pb.Deployment(
                application=self.name,
                name=name,
                max_ongoing_requests=spec.options.max_ongoing_requests,
                max_queued_requests=spec.options.max_queued_requests,
                endpoints=[_endpoint(each.spec.replica_id) for each in ready],
            )

    def replica(self, replica_id: str) -> LocalReplica | None:
        """One that takes new requests."""
        ready = chain.from_iterable(map(self._ready, self._specs))
        return next((each for each in ready if each.spec.replica_id == replica_id), None)

    def status(self) -> ApplicationStatusOverview:
        """What it does."""
        states = [replica.is_ready for replica in self._all()]
        word = ApplicationStatus.RUNNING if all(states) else ApplicationStatus.DEPLOYING
        if self.is_ending:
            word = ApplicationStatus.DELETING
        return ApplicationStatusOverview(
            status=word,
            message="",
            last_deployed_time_s=self._deployed_at_s,
            route_prefix=self.route_prefix,
            deployments={name: _status(found) for name, found in self.replicas.items()},
        )

    async def _start(self, replica: LocalReplica, changed: Callable[[], None]) -> None:
        try:
            await replica.start()
        except Exception as error:
            raise DeploymentFailedError(
                f"application {self.name!r} could not be deployed\n"
                f"deployment {replica.spec.deployment.name!r} could not start: "
                f"{type(error).__name__}: {error}\n{user_traceback(error)}"
            ) from error
        changed()

    def _stop(self, deployment: str, grace_s: float | None) -> asyncio.Future[Any]:
        stopping = []
        for replica in self.replicas[deployment]:
            own_grace_s = replica.spec.deployment.options.graceful_shutdown_timeout_s
            stopping.append(replica.stop(own_grace_s if grace_s is None else grace_s))
        return asyncio.gather(*stopping)

    def _ready(self, deployment: str) -> list[LocalReplica]:
        if deployment in self._ended:
            return []
        return [each for each in self.replicas[deployment] if each.is_ready]

    def _all(self) -> Iterator[LocalReplica]:
        return chain.from_iterable(self.replicas.values())

    def _replica_spec(self, deployment: pb.DeploymentSpec) -> pb.ReplicaSpec:
        return pb.ReplicaSpec(
            application=self.name,
            replica_id=f"{self.name}#{deployment.name}#{secrets.token_hex(4)}",
            deployment=deployment,
            is_ingress=deployment.name == self.ingress,
            route_prefix=self.route_prefix or "",
        )


def _endpoint(replica_id: str) -> pb.Endpoint:
    return pb.Endpoint(replica_id=replica_id, address=replica_id)


def _status(replicas: list[LocalReplica]) -> DeploymentStatusOverview:
    ready = sum(replica.is_ready for replica in replicas)
    states = {"RUNNING": ready, "STARTING": len(replicas) - ready}
    is_complete = ready == len(replicas)
    return DeploymentStatusOverview(
        status=DeploymentStatus.HEALTHY if is_complete else DeploymentStatus.UPDATING,
        status_trigger=DeploymentStatusTrigger.CONFIG_UPDATE_COMPLETED
        if is_complete
        else DeploymentStatusTrigger.CONFIG_UPDATE_STARTED,
        replica_states={state: count for state, count in states.items() if count},
        message="",
        target_num_replicas=len(replicas),
    )
