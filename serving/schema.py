"""The status of a cluster, in the shape of Ray Serve's `ServeStatus`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

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
    DEPLOY_FAILED = "DEPLOY_FAILED"
    UPDATE_FAILED = "UPDATE_FAILED"


@dataclass(frozen=True)
class DeploymentStatusOverview:
    """One deployment."""

    status: DeploymentStatus
    replica_states: dict[str, int]
    """How many replicas are STARTING, RUNNING, STOPPING."""
    message: str
    """Why it is not healthy; empty where it is."""


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
    http_host: str = ""
    http_port: int = 0
    """The port that the proxies listen on; 0 where there are none."""
    https: bool = False
    """Whether they speak TLS."""

    @property
    def url(self) -> str:
        """Where the proxies listen, "http://127.0.0.1:8000"; empty where there are none."""
        if not self.http_port:
            return ""
        host = f"[{self.http_host}]" if ":" in self.http_host else self.http_host
        return f"{'https' if self.https else 'http'}://{host}:{self.http_port}"


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
    )


def _application(message: pb.ApplicationStatus) -> ApplicationStatusOverview:
    return ApplicationStatusOverview(
        status=ApplicationStatus(message.status),
        message=message.message,
        last_deployed_time_s=message.last_deployed_time_s,
        route_prefix=message.route_prefix or None,
        deployments={
            deployment.name: DeploymentStatusOverview(
                status=DeploymentStatus(deployment.status),
                replica_states=dict(Counter(replica.state for replica in deployment.replicas)),
                message=deployment.message,
            )
            for deployment in message.deployments
        },
    )
