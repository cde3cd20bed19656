"""Against the fields that Ray Serve's clients know (ray.serve.schema, which forbids others)."""

from __future__ import annotations

import json

import pytest

from serving.admin.details import InstanceDetails, instance_details
from serving.config import HTTPOptions, gRPCOptions
from serving.v1 import controller_pb2 as pb

PROCESS = {
    "node_id",
    "node_ip",
    "node_instance_id",
    "actor_id",
    "actor_name",
    "worker_id",
    "log_file_path",
}
INSTANCE = {
    "controller_info",
    "proxy_location",
    "http_options",
    "grpc_options",
    "proxies",
    "deploy_mode",
    "applications",
    "target_capacity",
    "target_groups",
}
APPLICATION = {
    "name",
    "route_prefix",
    "docs_path",
    "status",
    "message",
    "last_deployed_time_s",
    "deployed_app_config",
    "source",
    "deployments",
    "external_scaler_enabled",
    "deployment_topology",
}
DEPLOYMENT = {
    "name",
    "status",
    "status_trigger",
    "message",
    "deployment_config",
    "target_num_replicas",
    "required_resources",
    "replicas",
    "autoscaling_detail",
}


def cluster(word: str = "RUNNING", deployment_word: str = "HEALTHY") -> pb.ServeStatus:
    options = pb.DeploymentOptions(
        num_replicas=2,
        max_ongoing_requests=5,
        max_queued_requests=-1,
        user_config_json='{"a": 1}',
        autoscaling_config_json='{"max_replicas": 3}',
        ray_actor_options_json='{"num_cpus": 0.5, "resources": {"tpu": 1.0}}',
    )
    replica = pb.ReplicaStatus(
        replica_id="app#D#1", state="RUNNING", pid=7, version="v", started_at_s=3.0
    )
    deployment = pb.DeploymentStatus(
        name="D",
        status=deployment_word,
        status_trigger="CONFIG_UPDATE_COMPLETED",
        target_num_replicas=2,
        options=options,
        replicas=[replica],
    )
    application = pb.ApplicationStatus(
        name="app", route_prefix="/a", status=word, deployments=[deployment]
    )
    return pb.ServeStatus(
        applications=[application],
        proxies=[pb.ProxyStatus(name="proxy-0", status="HEALTHY")],
        http_host="127.0.0.1",
        http_port=8000,
        log="/logs",
    )


def details(status: pb.ServeStatus, grpc: gRPCOptions | None = None) -> InstanceDetails:
    http = HTTPOptions(port=8000).model_dump(mode="json")
    return instance_details(status, http, (grpc or gRPCOptions()).model_dump(mode="json"))


def test_details_have_the_fields_of_rays_and_no_others() -> None:
    found = json.loads(details(cluster()).model_dump_json())

    assert found.keys() == INSTANCE
    assert found["controller_info"].keys() == PROCESS
    assert found["proxies"]["proxy-0"].keys() == PROCESS | {"status"}
    application = found["applications"]["app"]
    assert application.keys() == APPLICATION
    deployment = application["deployments"]["D"]
    assert deployment.keys() == DEPLOYMENT
    (replica,) = deployment["replicas"]
    assert replica.keys() == PROCESS | {"replica_id", "state", "pid", "start_time_s"}
    assert (replica["pid"], replica["state"], replica["start_time_s"]) == (7, "RUNNING", 3.0)
    assert deployment["deployment_config"]["user_config"] == {"a": 1}
    assert deployment["deployment_config"]["autoscaling_config"] == {"max_replicas": 3}
    assert deployment["required_resources"] == {"CPU": 0.5, "tpu": 1.0}
    (group,) = found["target_groups"]
    assert (group["route_prefix"], group["targets"][0]["port"]) == ("/a", 8000)


@pytest.mark.parametrize("word", ["DEPLOY_FAILED", "UPDATE_FAILED"])
def test_failed_update_is_told_in_the_words_that_rays_clients_know(word: str) -> None:
    application = details(cluster(word, word)).applications["app"]

    assert application.status == "DEPLOY_FAILED"
    assert application.deployments["D"].status == "DEPLOY_FAILED"


def test_cluster_without_http_has_no_targets() -> None:
    status = cluster()
    status.http_port = 0

    assert details(status).target_groups == []


def test_grpc_is_told_with_rays_fields_and_a_target_group_of_its_own() -> None:
    status = cluster()
    status.grpc_host, status.grpc_port = "127.0.0.1", 9000

    found = details(status, gRPCOptions(grpc_servicer_functions=["pb.add"], request_timeout_s=2))

    assert found.grpc_options is not None
    assert found.grpc_options.model_dump() == {
        "port": 9000,
        "grpc_servicer_functions": ["pb.add"],
        "request_timeout_s": 2,
    }
    http, grpc = found.target_groups
    assert (http.protocol, http.route_prefix) == ("HTTP", "/a")
    assert (grpc.protocol, grpc.route_prefix, grpc.targets[0].port) == ("gRPC", "/", 9000)
