"""What a replica does beside its requests: its control plane, its watchdog, its configuration."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import psutil
import pytest

from serving.v1.replica_pb2 import StacksRequest
from serving.v1.replica_pb2_grpc import ReplicaControlStub
from tests.integration.apps.replica import Blocks, Configured, ConfiguredAsync
from tests.integration.conformance.wire import Wire
from tests.support.cluster import Cluster
from tests.support.gate import Gate
from tests.support.processes import ongoing, spec_of, the_replica
from tests.support.record import Record


class Blocked(NamedTuple):
    """A request whose handler blocks the event loop of its replica."""

    cluster: Cluster
    wire: Wire
    release: Callable[[], None]


@pytest.fixture
def blocked(cluster: Cluster, tmp_path: Path) -> Iterator[Blocked]:
    gate, record = Gate(tmp_path / "gate"), Record(tmp_path / "record")
    with (
        cluster.running(Blocks.bind(gate, record)),
        gate.closed() as release,
        cluster.wire() as wire,
    ):
        wire.send(wire.request("GET /"))
        record.wait_for("blocking")
        yield Blocked(cluster, wire, release)


def stacks(replica: psutil.Process) -> str:
    with grpc.insecure_channel(spec_of(replica).control_address) as channel:
        return str(ReplicaControlStub(channel).Stacks(StacksRequest(), timeout=10).text)


# While user code blocks the event loop


def test_control_answers_while_user_code_blocks_the_loop(blocked: Blocked) -> None:
    replica = the_replica()

    assert ongoing(replica) == 1
    text = stacks(replica)
    assert "in pass_through" in text
    assert "the event loop is blocked" in text

    blocked.release()
    assert blocked.wire.read_response() == 200
    assert "the event loop is blocked" not in stacks(replica)
    assert the_replica().pid == replica.pid


def test_blocked_loop_is_logged_once_with_the_frame_that_blocks_it(blocked: Blocked) -> None:
    replica_id = re.escape(spec_of(the_replica()).replica_id)
    warning = rf"{replica_id} -- the event loop has been blocked for \d+\.\d s"
    blocked.cluster.logged(rf"{warning}(.*\n)+?.* in pass_through")

    blocked.release()
    assert blocked.wire.read_response() == 200
    assert len(re.findall(warning, blocked.cluster.log())) == 1


# Configuration


@pytest.mark.parametrize("deployment", [Configured, ConfiguredAsync], ids=["sync", "async"])
def test_user_config_is_given_to_reconfigure(cluster: Cluster, deployment: Any) -> None:
    config = {"threshold": 0.5, "labels": ["a", None]}
    with cluster.running(deployment.options(user_config=config).bind()):
        assert cluster.get().json() == config
