"""The methods of services, as generated functions add them to a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.wrappers_pb2 import StringValue

from serving.rpc import methods
from serving.v1.replica_pb2 import DESCRIPTOR as REPLICA

HERE = __name__
GENERATED = "serving.v1.replica_pb2_grpc.add_ReplicaControlServicer_to_server"


def add_old_code_to_server(servicer: Any, server: Any) -> None:
    """As grpcio-tools before 1.64 made it: with generic handlers alone."""
    handlers = {
        "Say": grpc.unary_unary_rpc_method_handler(
            servicer.Say,
            request_deserializer=StringValue.FromString,
            response_serializer=StringValue.SerializeToString,
        ),
        "Chat": grpc.stream_stream_rpc_method_handler(servicer.Chat),
    }
    generic = grpc.method_handlers_generic_handler("test.Old", handlers)
    server.add_generic_rpc_handlers((generic,))


def add_nothing_to_server(servicer: Any, server: Any) -> None:
    """Of a service without methods."""


def add_wrong_to_server(servicer: Any, server: Any) -> None:
    raise KeyError("no servicer of mine")


def takes_no_server() -> None: ...


NOT_CALLABLE = 1


def test_generated_code_of_today_is_found_once() -> None:
    found = methods.load([GENERATED])

    assert set(found) == {
        f"/serving.v1.ReplicaControl/{method.name}"
        for method in REPLICA.services_by_name["ReplicaControl"].methods
    }
    for method in found.values():
        assert method.service == "serving.v1.ReplicaControl"
        assert method.response is not None


def test_old_generated_code_is_found() -> None:
    found = methods.load([f"{HERE}.add_old_code_to_server"])

    say, chat = found["/test.Old/Say"], found["/test.Old/Chat"]
    assert (say.request_streaming, say.response_streaming) == (False, False)
    assert (chat.request_streaming, chat.response_streaming) == (True, True)
    assert say.deserialize(say.serialize(StringValue(value="x"))) == StringValue(value="x")


def test_method_without_serializers_takes_bytes() -> None:
    chat = methods.load([f"{HERE}.add_old_code_to_server"])["/test.Old/Chat"]

    assert (chat.deserialize(b"a"), chat.serialize(b"b"), chat.response) == (b"a", b"b", None)


def test_colon_may_part_module_and_function() -> None:
    assert methods.load([f"{HERE}:add_old_code_to_server"])


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("", "'' is no import path: give one as 'helloworld_pb2_grpc.add_"),
        ("add_GreeterServicer_to_server", "is no import path"),
        ("a.b c", "is no import path"),
        ("nowhere_pb2_grpc.add_X", "cannot be imported: ModuleNotFoundError: No module named"),
        (f"{HERE}.add_missing", "cannot be imported: AttributeError: "),
        ("broken_pb2_grpc.add_X", "cannot be imported: RuntimeError: made by another protoc"),
        (f"{HERE}.NOT_CALLABLE", "is a int, and no function"),
        (f"{HERE}.takes_no_server", "is no generated add_…Servicer_to_server function: TypeError"),
        (f"{HERE}.add_wrong_to_server", "Servicer_to_server function: KeyError: 'no servicer of "),
        (
            "serving.v1.api_pb2_grpc.add_ServingAPIServicer_to_server",
            "adds serving.v1.ServingAPI, which is built in: remove it",
        ),
        (f"{HERE}.add_nothing_to_server", "added no method: it is to be a generated add_"),
    ],
)
def test_wrong_path_is_named_with_what_is_wrong(
    path: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_pb2_grpc.py").write_text("raise RuntimeError('made by another protoc')")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(ValueError, match="^grpc_servicer_functions: ") as raised:
        methods.load([GENERATED, path])

    assert repr(path) in str(raised.value)
    assert told in str(raised.value)


def test_method_that_two_functions_add_is_refused() -> None:
    with pytest.raises(ValueError, match=r"adds /serving\.v1\.ReplicaControl/\w+ a second time"):
        methods.load([GENERATED, GENERATED])


def test_description_names_methods_and_all_files_they_need() -> None:
    described = methods.describe(methods.load([GENERATED]))

    names = [FileDescriptorProto.FromString(file).name for file in described.files]
    assert names[-1] == "serving/v1/replica.proto"
    assert len(set(names)) == len(names)
    seen: set[str] = set()
    for file in map(FileDescriptorProto.FromString, described.files):
        assert set(file.dependency) <= seen
        seen.add(file.name)
    assert {method.name for method in described.methods} == set(methods.load([GENERATED]))


def test_service_that_protobuf_does_not_know_is_described_without_files() -> None:
    described = methods.describe(methods.load([f"{HERE}.add_old_code_to_server"]))

    assert [method.name for method in described.methods] == ["/test.Old/Say", "/test.Old/Chat"]
    assert not described.files
