from __future__ import annotations

import importlib
from pathlib import Path

import pytest

import serving


@pytest.mark.fastapi_compat
@pytest.mark.parametrize(
    "name",
    ["frames_pb2", "http_pb2", "replica_pb2", "replica_pb2_grpc", "controller_pb2_grpc"],
)
def test_generated_code_runs_with_the_installed_grpc_and_protobuf(name: str) -> None:
    importlib.import_module(f"serving.v1.{name}")


@pytest.mark.parametrize("name", ["controller", "proxy"])
def test_folders_at_the_top_are_subpackages(name: str) -> None:
    module = importlib.import_module(f"serving.{name}")

    assert module.__name__ == f"serving.{name}"
    assert module.__spec__ is not None
    assert module.__spec__.parent == f"serving.{name}"


def test_package_declares_its_types() -> None:
    assert serving.__file__ is not None
    assert Path(serving.__file__).with_name("py.typed").exists()
