"""Calls that leave at once, without a task: what becomes of their answers."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from serving.calls import payload
from serving.calls.caller import Caller, Origin, Target
from serving.exceptions import DeploymentUnavailableError, ReplicaUnavailableError
from serving.mux import ResetCode, Stream
from serving.v1 import call_pb2 as pb
from tests.support.mux import turn, until
from tests.support.routing import Act, MemoryReplica, die, hold, make_deployment, preferring, reject

ORIGIN = Origin("id", "", "app", "")


def returning(value: object) -> Act:
    """Answers with a value, as a replica does."""

    def answer(replica: MemoryReplica, stream: Stream) -> None:
        message = pb.Payload()
        following = payload.encode(payload.dumps(value), message)
        stream.write(pb.RESULT, message.SerializeToString(), end=not following)
        for number, view in enumerate(following, 1):
            stream.write(pb.BUFFER, view, end=number == len(following))

    return answer


@asynccontextmanager
async def calling(*replicas: MemoryReplica) -> AsyncIterator[Caller]:
    """A caller that is connected to ``replicas``, preferred in this order, and knows them."""
    router = preferring(*replicas)
    router.update(make_deployment(*(replica.name for replica in replicas)))
    await until(lambda: all(r.usable for r in router.balancer.replicas.values()))
    directory: Any = SimpleNamespace(
        router=lambda application, deployment: router if deployment == "Model" else None,
        aclose=router.aclose,
    )

    async def heard() -> None: ...

    caller = Caller(directory, heard)
    replicas[0].script.insert(0, returning(None))
    await ask(caller)
    assert caller._knows
    try:
        yield caller
    finally:
        assert [r.inflight for r in router.balancer.replicas.values()] == [0] * len(replicas)
        await caller.aclose()


def ask(caller: Caller, *args: Any, deployment: str = "Model") -> asyncio.Future[Any]:
    target = Target(deployment, "app", "method", False, None, "")
    return caller.begin(target, ORIGIN, cast(list[Any], payload.dumps((args, {}))))


async def test_value_in_one_frame_comes_without_a_task() -> None:
    async with calling(MemoryReplica("a", returning({"key": 1}))) as caller:
        before = len(asyncio.all_tasks())
        answer = ask(caller)
        assert len(asyncio.all_tasks()) == before
        assert await answer == {"key": 1}


async def test_call_has_left_before_anyone_waits_for_it() -> None:
    replica = MemoryReplica("a", returning(1))
    async with calling(replica) as caller:
        answer = ask(caller, "argument")
        await until(lambda: len(replica.requests) == 2)
        arguments = pb.Call.FromString(replica.requests[1]).arguments
        assert pickle.loads(arguments.pickled) == (("argument",), {})
        assert await answer == 1


@pytest.mark.parametrize(
    "value", [b"x" * 200_000, bytearray(3_000_000)], ids=["frames", "more than a window"]
)
async def test_value_of_many_frames_is_read_though_nobody_waits(value: Any) -> None:
    async with calling(MemoryReplica("a", returning(pickle.PickleBuffer(value)))) as caller:
        answer = ask(caller)
        await until(answer.done)
        assert answer.result() == value


async def test_call_that_is_rejected_goes_elsewhere() -> None:
    full, other = MemoryReplica("a", reject), MemoryReplica("b", returning("b"))
    async with calling(full, other) as caller:
        assert await ask(caller) == "b"


async def test_rejected_call_waits_for_the_replica_to_speak() -> None:
    replica = MemoryReplica("a", reject, returning(1), ongoing=1)
    async with calling(replica) as caller:
        answer = ask(caller)
        await turn()
        assert not answer.done()
        replica.say_load(0)
        assert await answer == 1


async def test_call_whose_replica_died_is_lost_and_not_repeated() -> None:
    dead, other = MemoryReplica("a", die), MemoryReplica("b", returning("b"))
    async with calling(dead, other) as caller:
        with pytest.raises(ReplicaUnavailableError, match="killed"):
            await ask(caller)
        assert other.requests == []


async def test_reset_by_the_replica_is_the_answer() -> None:
    def broken(replica: MemoryReplica, stream: Stream) -> None:
        stream.reset(ResetCode.INTERNAL_ERROR, "broke")

    async with calling(MemoryReplica("a", broken)) as caller:
        with pytest.raises(ReplicaUnavailableError, match="broke"):
            await ask(caller)


async def test_call_waits_while_all_are_full() -> None:
    replica = MemoryReplica("a", hold, returning(2))
    async with calling(replica) as caller:
        first, second = ask(caller), ask(caller)
        await turn()
        assert len(replica.requests) == 2
        returning(1)(replica, replica.streams[1])
        assert (await first, await second) == (1, 2)


async def test_unknown_deployment_is_the_answer_and_not_raised_at_once() -> None:
    async with calling(MemoryReplica("a")) as caller:
        answer = ask(caller, deployment="Nobody")
        with pytest.raises(DeploymentUnavailableError, match="Nobody"):
            await answer


@pytest.mark.parametrize("when", ["at once", "sent", "answered in this turn", "begun"])
async def test_cancelling_the_answer_cancels_the_call(when: str) -> None:
    def begin(replica: MemoryReplica, stream: Stream) -> None:
        message = pb.Payload(pickled=b"pickle", buffers=[pb.Buffer(following=10)])
        stream.write(pb.RESULT, message.SerializeToString())

    replica = MemoryReplica("a", begin if when == "begun" else hold)
    async with calling(replica) as caller:
        answer = ask(caller)
        if when != "at once":
            await until(lambda: len(replica.streams) == 2)
        if when == "begun":
            await turn()
        if when == "answered in this turn":
            returning(1)(replica, replica.streams[1])
        answer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answer
        await turn()
        assert (replica.streams[1].error is None) == (when == "answered in this turn")


def _raise(kind: type[BaseException]) -> None:
    raise kind("cannot be loaded")


class Unloadable:
    def __init__(self, kind: type[BaseException]) -> None:
        self.kind = kind

    def __reduce__(self) -> tuple[Callable[..., None], tuple[type[BaseException]]]:
        return _raise, (self.kind,)


@pytest.mark.parametrize(
    ("kind", "raised"),
    [(ValueError, ValueError), (StopIteration, RuntimeError)],
    ids=["an error", "the end of an iteration"],
)
async def test_value_that_cannot_be_loaded_harms_nobody_else(
    kind: type[BaseException], raised: type[BaseException]
) -> None:
    replica = MemoryReplica("a", returning(Unloadable(kind)), returning(2))
    async with calling(replica) as caller:
        with pytest.raises(raised, match="cannot be loaded"):
            await ask(caller)
        assert await ask(caller) == 2


async def test_end_of_the_caller_cancels_what_is_open() -> None:
    async with calling(MemoryReplica("a", hold)) as caller:
        answer = ask(caller)
        await turn()
        await caller.aclose()
        assert answer.cancelled()
