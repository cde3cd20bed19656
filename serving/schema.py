"""The status of a cluster, in the shape of Ray Serve's `ServeStatus`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from serving.config import LoggingConfig as LoggingConfig
from serving.v1 import controller_pb2 as pb


class ProxyStatus(StrEnum):
    """Whether a proxy takes requests."""

    STARTING = "STARTING"
    HEALTHY = "HEALTHY"


class ApplicationStatus(StrEnum):
    """Where an application is on the way to what was asked for."""

    DEPLOYING = "DEPLOYING"
    RUNNING = "RUNNING"
    UNHEALTHY = "UNHEALTHY"
    DEPLOY_FAILED = "DEPLOY_FAILED"
    UPDATE_FAILED = "UPDATE_FAILED"
    """The newest version could not start; the one before it serves."""
    DELETING = "DELETING"


class DeploymentStatus(StrEnum):
    """Where a deployment is on the way to what was asked for."""

    UPDATING = "UPDATING"
    HEALTHY = "HEALTHY"
    UNHEALTHY = "UNHEALTHY"
    UPSCALING = "UPSCALING"
    """More replicas start, because the load asks for them."""
    DEPLOY_FAILED = "DEPLOY_FAILED"
    UPDATE_FAILED = "UPDATE_FAILED"


class DeploymentStatusTrigger(StrEnum):
    """What led to a deployment's status."""

    UNSPECIFIED = "UNSPECIFIED"
    CONFIG_UPDATE_STARTED = "CONFIG_UPDATE_STARTED"
    CONFIG_UPDATE_COMPLETED = "CONFIG_UPDATE_COMPLETED"
    UPSCALE_COMPLETED = "UPSCALE_COMPLETED"
    DOWNSCALE_COMPLETED = "DOWNSCALE_COMPLETED"
    AUTOSCALING = "AUTOSCALING"
    REPLICA_STARTUP_FAILED = "REPLICA_STARTUP_FAILED"
    HEALTH_CHECK_FAILED = "HEALTH_CHECK_FAILED"
    INTERNAL_ERROR = "INTERNAL_ERROR"
    DELETING = "DELETING"


@dataclass(frozen=True)
class ReplicaOverview:
    """One replica."""

    replica_id: str
    state: str
    """STARTING, RUNNING or STOPPING."""
    pid: int
    """0 until its process runs."""
    version: str
    start_time_s: float
    """Seconds since the epoch."""


@dataclass(frozen=True)
class Decision:
    """What the controller did to a deployment, and why."""

    time_s: float
    """Seconds since the epoch."""
    text: str


@dataclass(frozen=True)
class ReplicaFailure:
    """Why a replica could not start, ended, or was replaced."""

    time_s: float
    """Seconds since the epoch."""
    replica_id: str
    error: str
    """What went wrong, then the traceback if there is one."""


@dataclass(frozen=True)
class DeploymentStatusOverview:
    """One deployment."""

    status: DeploymentStatus
    status_trigger: DeploymentStatusTrigger
    replica_states: dict[str, int]
    """How many replicas are STARTING, RUNNING, STOPPING."""
    message: str
    """Why it is not healthy; empty where it is."""
    target_num_replicas: int = 0
    """How many replicas there are to be."""
    replicas: list[ReplicaOverview] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    """The last ones, oldest first. A controller that was started again begins with none."""
    last_failures: list[ReplicaFailure] = field(default_factory=list)
    """The last ones, oldest first; they stay when all is well again."""
    policy_error: str = ""
    """What its autoscaling policy raised when it was asked last."""


@dataclass(frozen=True)
class ApplicationStatusOverview:
    """One application."""

    status: ApplicationStatus
    message: str
    last_deployed_time_s: float
    """Seconds since the epoch."""
    route_prefix: str | None
    deployments: dict[str, DeploymentStatusOverview] = field(default_factory=dict)


@dataclass(frozen=True)
class ServeStatus:
    """All applications and proxies of a cluster, by name."""

    proxies: dict[str, ProxyStatus] = field(default_factory=dict)
    applications: dict[str, ApplicationStatusOverview] = field(default_factory=dict)
    target_capacity: float | None = None
    """Always None: it has no counterpart here."""
    http_host: str = ""
    http_port: int = 0
    """The port that the proxies listen on; 0 where there are none."""
    https: bool = False
    """Whether they speak TLS."""
    admin_url: str = ""
    """Where the REST API answers; empty where it does not."""
    grpc_host: str = ""
    grpc_port: int = 0
    """The port on which the proxies answer gRPC; 0 where they do not."""

    @property
    def url(self) -> str:
        """Where the proxies listen, "http://127.0.0.1:8000"; empty where there are none."""
        if not self.http_port:
            return ""
        return f"{'https' if self.https else 'http'}://{_target(self.http_host, self.http_port)}"

    @property
    def grpc_target(self) -> str:
        """What a gRPC client connects to, "127.0.0.1:9000"; empty where there is no gRPC."""
        return _target(self.grpc_host, self.grpc_port) if self.grpc_port else ""

    def where(self, route_prefix: str | None) -> str:
        """The end of a sentence that says of an application that it answers."""
        http = f" at {self.url}{route_prefix}" if self.url and route_prefix else ""
        return f"{http}, gRPC at {self.grpc_target}" if self.grpc_target else http


def _target(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def from_message(message: pb.ServeStatus) -> ServeStatus:
    """Translates what the controller answers."""
    return ServeStatus(
        proxies={proxy.name: ProxyStatus(proxy.status) for proxy in message.proxies},
        applications={
            application.name: _application(application) for application in message.applications
        },
        http_host=message.http_host,
        http_port=message.http_port,
        https=message.https,
        admin_url=message.admin_url,
        grpc_host=message.grpc_host,
        grpc_port=message.grpc_port,
    )


def _application(message: pb.ApplicationStatus) -> ApplicationStatusOverview:
    return ApplicationStatusOverview(
        status=ApplicationStatus(message.status),
        message=message.message,
        last_deployed_time_s=message.last_deployed_time_s,
        route_prefix=message.route_prefix or None,
        deployments={
            deployment.name: _deployment(deployment) for deployment in message.deployments
        },
    )


def _deployment(message: pb.DeploymentStatus) -> DeploymentStatusOverview:
    return DeploymentStatusOverview(
        status=DeploymentStatus(message.status),
        status_trigger=DeploymentStatusTrigger(message.status_trigger),
        replica_states=dict(Counter(replica.state for replica in message.replicas)),
        message=message.message,
        target_num_replicas=message.target_num_replicas,
        replicas=[
            ReplicaOverview(
                replica.replica_id,
                replica.state,
                replica.pid,
                replica.version,
                replica.started_at_s,
            )
            for replica in message.replicas
        ],
        decisions=[Decision(decision.at_s, decision.text) for decision in message.decisions],
        last_failures=[
            ReplicaFailure(failure.at_s, failure.replica_id, failure.error)
            for failure in message.last_failures
        ],
        policy_error=message.policy_error,
    )
