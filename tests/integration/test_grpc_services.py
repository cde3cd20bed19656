"""Services as their generated code describes them, without a cluster."""

from __future__ import annotations

from google.protobuf import descriptor_pb2

from serving.rpc import methods
from tests.support import protos


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
