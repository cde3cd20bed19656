"""The RPCs of users' services, as a replica finds them when it starts."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

import pytest

from serving.replica.hooks import user_traceback
from serving.replica.replica import Replica, UserCode
from serving.v1.controller_pb2 import ReplicaSpec

FUNCTION = "words_pb2_grpc.add_WordsServicer_to_server"
GENERATED = """
import grpc

def add_WordsServicer_to_server(servicer, server):
    handlers = {"Say": grpc.unary_unary_rpc_method_handler(servicer.Say)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Words", handlers),))
"""


class Words:
    async def Say(self, request: bytes) -> bytes:
        return request


class Broken:
    def __init__(self) -> None:
        raise RuntimeError("no words")


def replica(folder: Path) -> Replica:
    spec = ReplicaSpec(application="words", replica_id="words#Words#1")
    spec.deployment.name = "Words"
    spec.grpc.servicer_functions.append(FUNCTION)
    spec.grpc.sys_path.extend([sys.path[0], str(folder)])
    return Replica(spec, whole_process=False)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That of a module of its own, which nobody has imported."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.delitem(sys.modules, "words_pb2_grpc", raising=False)
    return tmp_path


async def test_services_are_found_where_the_cluster_was_started(folder: Path) -> None:
    (folder / "words_pb2_grpc.py").write_text(GENERATED)
    before = sys.path.copy()

    await replica(folder).start(lambda: UserCode(Words))

    # What the replica has of its own comes first, and nothing twice.
    assert sys.path == [*before, str(folder)]
    assert "words_pb2_grpc" in sys.modules


async def test_function_that_cannot_be_imported_fails_the_start_with_its_traceback(
    folder: Path,
) -> None:
    (folder / "words_pb2_grpc.py").write_text("def check():\n    1 / 0\n\ncheck()\n")

    with pytest.raises(ValueError, match="grpc_servicer_functions") as raised:
        await replica(folder).start(lambda: UserCode(Words))

    told = user_traceback(raised.value)
    assert f"{FUNCTION!r} cannot be imported: ZeroDivisionError: division by zero" in told
    assert f'{folder}/words_pb2_grpc.py", line 2, in check' in told


async def test_function_that_is_not_there_fails_the_start(folder: Path) -> None:
    with pytest.raises(ValueError, match="No module named 'words_pb2_grpc'") as raised:
        await replica(folder).start(lambda: UserCode(Words))

    assert FUNCTION in str(raised.value)


async def test_object_that_cannot_be_made_is_what_fails_the_start(folder: Path) -> None:
    with pytest.raises(RuntimeError, match="no words") as raised:
        await replica(folder).start(lambda: UserCode(Broken))

    assert "words_pb2_grpc" not in "".join(traceback.format_exception(raised.value))
