"""The processes of the test's own cluster: who they are, what they hold, what they say."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import grpc
import psutil

from serving.v1.controller_pb2 import ReplicaSpec
from serving.v1.replica_pb2 import HealthRequest
from serving.v1.replica_pb2_grpc import ReplicaControlStub
from tests.support.control import command, descendants, until


def processes(module: str) -> list[psutil.Process]:
    """Those below the test that run `python -m <module>`."""
    return [found for found in descendants(os.getpid()) if f" -m {module}" in command(found)]


def the_proxy() -> psutil.Process:
    (proxy,) = processes("serving.proxy")
    return proxy


def replicas(application: str) -> list[psutil.Process]:
    """The replica processes of an application, those included that are being stopped."""
    found = []
    for process in processes("serving.replica"):
        with contextlib.suppress(psutil.Error, FileNotFoundError):
            if spec_of(process).application == application:
                found.append(process)
    return found


def the_replica(application: str = "root") -> psutil.Process:
    """The only replica of an application, once those that are being stopped are gone."""
    until(lambda: len(replicas(application)) == 1)
    (replica,) = replicas(application)
    return replica


def spec_of(replica: psutil.Process) -> ReplicaSpec:
    """What a replica was started with."""
    return ReplicaSpec.FromString(Path(replica.cmdline()[-1]).read_bytes())


def ongoing(replica: psutil.Process) -> int:
    """The number of requests that a replica says it works on."""
    with grpc.insecure_channel(spec_of(replica).control_address) as channel:
        health = ReplicaControlStub(channel).Health(HealthRequest(), timeout=10)
    return int(health.ongoing)


def memory(*of: psutil.Process) -> int:
    """Resident bytes, of all together."""
    return sum(process.memory_info().rss for process in of)


def settled(value: Callable[[], int], *, calls: int = 10) -> int:
    """The value, once so many calls in a row gave the same."""
    seen: list[int] = []

    def is_settled() -> bool:
        seen.append(value())
        return len(seen) >= calls and len(set(seen[-calls:])) == 1

    until(is_settled)
    return seen[-1]
