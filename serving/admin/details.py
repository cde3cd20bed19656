"""What `GET /api/serve/applications/` answers: the shape of Ray Serve's `ServeInstanceDetails`.

Clients written for Ray Serve read it strictly, so no field is added to theirs, and words that they
do not know are told as the nearest that they do: UPDATE_FAILED as DEPLOY_FAILED. What has no
counterpart here (actors, workers, nodes) is null.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel

from serving.v1 import controller_pb2 as pb

_AS_RAY_SAYS = {"UPDATE_FAILED": "DEPLOY_FAILED"}


class ProcessDetails(BaseModel):
    """`ServeActorDetails`: a process of the cluster."""

    node_id: str | None = None
    node_ip: str | None = None
    node_instance_id: str | None = None
    actor_id: str | None = None
    actor_name: str | None = None
    """What the process is called in the log."""
    worker_id: str | None = None
    log_file_path: str | None = None


class ProxyDetails(ProcessDetails):
    """A proxy."""

    status: Literal["STARTING", "HEALTHY"]


class ReplicaDetails(ProcessDetails):
    """A replica."""

    replica_id: str
    state: Literal["STARTING", "RUNNING", "STOPPING"]
    pid: int | None
    start_time_s: float


class DeploymentConfig(BaseModel):
    """`DeploymentSchema`: the options that apply."""

    name: str
    num_replicas: int
    max_ongoing_requests: int
    max_queued_requests: int
    user_config: Any = None
    autoscaling_config: dict[str, Any] | None = None
    graceful_shutdown_timeout_s: float
    graceful_shutdown_wait_loop_s: float
    health_check_period_s: float
    health_check_timeout_s: float
    ray_actor_options: dict[str, Any]


class DeploymentDetails(BaseModel):
    """A deployment."""

    name: str
    status: str
    status_trigger: str
    message: str
    deployment_config: DeploymentConfig
    target_num_replicas: int
    required_resources: dict[str, float]
    replicas: list[ReplicaDetails]
    autoscaling_detail: dict[str, Any] | None = None


class ApplicationDetails(BaseModel):
    """An application."""

    name: str
    route_prefix: str | None
    docs_path: str | None = None
    status: Literal["DEPLOYING", "DEPLOY_FAILED", "RUNNING", "UNHEALTHY", "DELETING"]
    message: str
    last_deployed_time_s: float
    deployed_app_config: dict[str, Any] | None = None
    source: Literal["imperative", "declarative"] = "imperative"
    deployments: dict[str, DeploymentDetails]
    external_scaler_enabled: bool = False
    deployment_topology: dict[str, Any] | None = None


class HTTPDetails(BaseModel):
    """`HTTPOptionsSchema`: how the proxies listen."""

    host: str
    port: int
    root_path: str
    request_timeout_s: float | None
    keep_alive_timeout_s: float


class GrpcDetails(BaseModel):
    """`gRPCOptionsSchema`: how the proxies listen to gRPC clients."""

    port: int
    grpc_servicer_functions: list[str]
    request_timeout_s: float | None


class Target(BaseModel):
    """Where a route is served."""

    ip: str
    port: int
    instance_id: str = ""
    name: str


class TargetGroup(BaseModel):
    """A route, and where it is served."""

    targets: list[Target]
    route_prefix: str
    protocol: Literal["HTTP", "gRPC"] = "HTTP"


class InstanceDetails(BaseModel):
    """`ServeInstanceDetails`: the cluster and all that runs on it."""

    controller_info: ProcessDetails
    proxy_location: Literal["Disabled", "HeadOnly", "EveryNode"]
    http_options: HTTPDetails | None
    grpc_options: GrpcDetails | None
    proxies: dict[str, ProxyDetails]
    deploy_mode: Literal["MULTI_APP"] = "MULTI_APP"
    applications: dict[str, ApplicationDetails]
    target_capacity: float | None = None
    target_groups: list[TargetGroup]


def instance_details(
    status: pb.ServeStatus, http: dict[str, Any], grpc: dict[str, Any]
) -> InstanceDetails:
    """Translates what the controller answers; `http` and `grpc` are the options that the proxies
    were started with."""
    log = status.log or None
    return InstanceDetails(
        controller_info=ProcessDetails(actor_name="controller", log_file_path=log),
        proxy_location=http["location"],
        http_options=HTTPDetails(**{name: http[name] for name in HTTPDetails.model_fields}),
        grpc_options=GrpcDetails(**{name: grpc[name] for name in GrpcDetails.model_fields}),
        proxies={
            proxy.name: ProxyDetails(
                actor_name=proxy.name,
                log_file_path=log,
                status="HEALTHY" if proxy.status == "HEALTHY" else "STARTING",
            )
            for proxy in status.proxies
        },
        applications={each.name: _application(each, log) for each in status.applications},
        target_groups=list(_target_groups(status)),
    )


def _target_groups(status: pb.ServeStatus) -> Iterator[TargetGroup]:
    names = [proxy.name for proxy in status.proxies]
    if status.http_port:
        targets = [Target(ip=status.http_host, port=status.http_port, name=name) for name in names]
        for each in status.applications:
            if each.route_prefix:
                yield TargetGroup(targets=targets, route_prefix=each.route_prefix)
    if status.grpc_port:
        targets = [Target(ip=status.grpc_host, port=status.grpc_port, name=name) for name in names]
        # Applications are told apart by metadata there: it is one group, at "/", as Ray Serve says.
        yield TargetGroup(targets=targets, route_prefix="/", protocol="gRPC")


def _application(message: pb.ApplicationStatus, log: str | None) -> ApplicationDetails:
    return ApplicationDetails.model_validate(
        {
            "name": message.name,
            "route_prefix": message.route_prefix or None,
            "status": _AS_RAY_SAYS.get(message.status, message.status),
            "message": message.message,
            "last_deployed_time_s": message.last_deployed_time_s,
            "deployed_app_config": json.loads(message.config_json or "null"),
            "source": "declarative" if message.config_json else "imperative",
            "deployments": {each.name: _deployment(each, log) for each in message.deployments},
        }
    )


def _deployment(message: pb.DeploymentStatus, log: str | None) -> DeploymentDetails:
    options = message.options
    resources: dict[str, Any] = json.loads(options.ray_actor_options_json or "{}")
    return DeploymentDetails(
        name=message.name,
        status=_AS_RAY_SAYS.get(message.status, message.status),
        status_trigger=message.status_trigger,
        message=message.message,
        target_num_replicas=message.target_num_replicas,
        required_resources=_required(resources),
        deployment_config=DeploymentConfig(
            name=message.name,
            num_replicas=options.num_replicas,
            max_ongoing_requests=options.max_ongoing_requests,
            max_queued_requests=options.max_queued_requests,
            user_config=json.loads(options.user_config_json or "null"),
            autoscaling_config=json.loads(options.autoscaling_config_json or "null"),
            graceful_shutdown_timeout_s=options.graceful_shutdown_timeout_s,
            graceful_shutdown_wait_loop_s=options.graceful_shutdown_wait_loop_s,
            health_check_period_s=options.health_check_period_s,
            health_check_timeout_s=options.health_check_timeout_s,
            ray_actor_options=resources,
        ),
        replicas=[
            ReplicaDetails.model_validate(
                {
                    "actor_name": each.replica_id,
                    "log_file_path": log,
                    "replica_id": each.replica_id,
                    "state": each.state,
                    "pid": each.pid or None,
                    "start_time_s": each.started_at_s,
                }
            )
            for each in message.replicas
        ],
    )


def _required(options: dict[str, Any]) -> dict[str, float]:
    """`ray_actor_options` as Ray names resources."""
    named = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
    found = {ray: options[name] for name, ray in named.items() if options.get(name)}
    return found | (options.get("resources") or {})
