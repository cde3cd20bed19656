"""What clients without the users' stubs find out: reflection, health, ServingAPI."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from serving.rpc import methods
from serving.v1 import api_pb2, api_pb2_grpc
from tests.integration.apps import grpc_probe
from tests.support import protos
from tests.support.cluster import Cluster
from tests.support.protos import failed, to

GRPC_OPTIONS: dict[str, Any] = {}
TIMEOUT_S = 20.0
SERVING = health_pb2.HealthCheckResponse.SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


@pytest.fixture
def channel(cluster: Cluster) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(cluster.grpc_target) as channel:
        yield channel


@pytest.fixture(scope="module", autouse=True)
def kinds(cluster: Cluster) -> Iterator[None]:
    with cluster.running_for_grpc(kinds=grpc_probe.Coroutines.bind()):
        yield


def test_methods_of_generated_functions_are_found_with_their_kinds() -> None:
    found = methods.load(protos.FUNCTIONS)

    kinds = {
        name: (each.request_streaming, each.response_streaming) for name, each in found.items()
    }
    assert kinds["/probe.Probe/One"] == (False, False)
    assert kinds["/probe.Probe/Many"] == (False, True)
    assert kinds["/probe.Probe/Gather"] == (True, False)
    assert kinds["/probe.Probe/Chat"] == (True, True)
    assert {each.service for each in found.values()} == {"probe.Probe", "probe.Other"}


def test_files_are_described_after_those_they_import() -> None:
    described = methods.describe(methods.load(protos.FUNCTIONS))

    files = [descriptor_pb2.FileDescriptorProto.FromString(file).name for file in described.files]
    assert files.index("probe_parts.proto") < files.index("probe.proto")
    assert files.index("google/protobuf/empty.proto") < files.index("probe.proto")


def test_client_without_stubs_calls_by_what_reflection_tells(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    pool = DescriptorPool(database)
    assert set(database.get_services()) >= {"probe.Probe", "probe.Other", "grpc.health.v1.Health"}

    one = pool.FindServiceByName("probe.Probe").FindMethodByName("One")
    request, reply = GetMessageClass(one.input_type), GetMessageClass(one.output_type)
    # Of a file that the service's own imports.
    label = GetMessageClass(pool.FindMessageTypeByName("probe.parts.Label"))(name="label")
    method: Any = channel.unary_unary(
        "/probe.Probe/One",
        request_serializer=request.SerializeToString,
        response_deserializer=reply.FromString,
    )
    answer = method(request(text="it", label=label), metadata=to("kinds"), timeout=TIMEOUT_S)

    assert (answer.text, answer.label.name) == ("it", "label")


def test_health_follows_an_application(cluster: Cluster, channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service="comes")
    watched = stub.Watch(request, timeout=TIMEOUT_S)
    assert stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S).status == SERVING
    assert next(watched).status == SERVICE_UNKNOWN
    assert failed(lambda: stub.Check(request)).code() is grpc.StatusCode.NOT_FOUND

    with cluster.running_for_grpc(comes=grpc_probe.Coroutines.bind()):
        assert next(watched).status == SERVING
        assert stub.Check(request, timeout=TIMEOUT_S).status == SERVING
    assert SERVICE_UNKNOWN in (update.status for update in watched)
    watched.cancel()


def test_serving_api_tells_the_applications(channel: grpc.Channel) -> None:
    stub = api_pb2_grpc.ServingAPIStub(channel)
    listed = stub.ListApplications(api_pb2.ListApplicationsRequest(), timeout=TIMEOUT_S)
    healthz = stub.Healthz(api_pb2.HealthzRequest(), timeout=TIMEOUT_S)

    assert list(listed.application_names) == ["kinds"]
    assert healthz.message == "success"
