"""The end of proxies that gRPC clients are connected to."""

from __future__ import annotations

import asyncio
import collections
import os
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import serving
from serving.proxy.grpc_server import LEFT_S
from tests.support.control import DEADLINE_S, command, descendants, isolate, until
from tests.support.protos import FUNCTIONS, probe, probe_grpc

CLIENTS = 4


@serving.deployment
class Echo:
    async def One(self, request: Any) -> Any:
        return probe.Reply(text=request.text)

    async def Many(self, request: Any) -> AsyncIterator[Any]:
        for number in range(request.count):
            await asyncio.sleep(request.seconds)
            yield probe.Reply(number=number)


@pytest.fixture
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a cluster of its own answers."""
    with pytest.MonkeyPatch.context() as patch:
        isolate(patch, tmp_path_factory.mktemp("cluster"))
        try:
            status = serving.start(
                http_options={"port": 0},
                grpc_options={"port": 0, "grpc_servicer_functions": FUNCTIONS},
            )
            serving.run(Echo.bind(), name="app", route_prefix=None)
            yield status.grpc_target
        finally:
            serving.shutdown()


def proxies() -> list[psutil.Process]:
    return [each for each in descendants(os.getpid()) if "-m serving.proxy" in command(each)]


def connect(target: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)])


async def test_proxy_that_is_replaced_costs_no_call(target: str) -> None:
    """Neither short calls, which go on all the time, nor a stream that is longer than the time for
    which clients are let go."""
    ended, outcomes = asyncio.Event(), collections.Counter[str]()

    async def call_on_and_on() -> None:
        async with connect(target) as channel:
            stub = probe_grpc.ProbeStub(channel)
            while not ended.is_set():
                try:
                    await stub.One(probe.Request(text="x"), timeout=DEADLINE_S)
                    outcomes["OK"] += 1
                except grpc.aio.AioRpcError as error:
                    outcomes[str(error)] += 1
                await asyncio.sleep(0.01)

    (proxy,) = proxies()
    calling = [asyncio.ensure_future(call_on_and_on()) for _ in range(CLIENTS)]
    async with connect(target) as channel:
        stub = probe_grpc.ProbeStub(channel)
        long = stub.Many(probe.Request(count=int(LEFT_S) + 2, seconds=1.0))
        await asyncio.sleep(0)
        proxy.terminate()
        numbers = [reply.number async for reply in long]
    await asyncio.to_thread(until, lambda: not proxy.is_running() or is_zombie(proxy))
    ended.set()
    await asyncio.gather(*calling)
    assert numbers == list(range(int(LEFT_S) + 2))
    assert set(outcomes) == {"OK"}
    assert proxies() != [proxy]


def is_zombie(process: psutil.Process) -> bool:
    return bool(process.status() == psutil.STATUS_ZOMBIE)


async def test_clients_hear_of_the_end_of_the_cluster_and_open_calls_are_finished(
    target: str,
) -> None:
    async with connect(target) as channel:
        stub, health = probe_grpc.ProbeStub(channel), health_pb2_grpc.HealthStub(channel)
        call = stub.Many(probe.Request(count=4, seconds=0.3))
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        assert (await call.read()).number == 0
        began = time.monotonic()
        ending = asyncio.create_task(asyncio.to_thread(serving.shutdown))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert [(await call.read()).number for _ in range(3)] == [1, 2, 3]
        assert await call.code() is grpc.StatusCode.OK
        await ending
        assert time.monotonic() - began < DEADLINE_S
