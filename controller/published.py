"""What callers are told of an application: its route, and where its replicas are."""

from __future__ import annotations

from serving.controller.state import ApplicationState, DeploymentState
from serving.controller.status import unavailable
from serving.v1 import controller_pb2 as pb


def route_of(state: ApplicationState) -> pb.Route | None:
    """None: no request from outside leads to it, by no name and no path."""
    routed = state.routed
    if routed is None:
        return None
    return pb.Route(
        application=state.name, route_prefix=routed.route_prefix, ingress=routed.ingress
    )


def deployments_of(state: ApplicationState, now: float) -> dict[str, pb.Deployment]:
    """Its deployments, by name."""
    return {
        name: _deployment(state.name, name, deployment, now)
        for name, deployment in state.deployments.items()
    }


def _deployment(
    application: str, name: str, deployment: DeploymentState, now: float
) -> pb.Deployment:
    options, scaled = deployment.spec.options, deployment.scaled
    return pb.Deployment(
        application=application,
        name=name,
        max_ongoing_requests=options.max_ongoing_requests,
        max_queued_requests=options.max_queued_requests,
        endpoints=[
            pb.Endpoint(replica_id=replica.seen.replica_id, address=replica.address)
            for replica in deployment.ready
        ],
        unavailable=unavailable(deployment, now),
        load_interval_s=scaled.autoscaler.config.metrics_interval_s if scaled else 0,
    )
