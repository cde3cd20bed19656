"""Who finds room, who waits, and for what."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, strategies as st

from serving.controller.resources import (
    CPU,
    GPU,
    MEMORY,
    UNIT,
    Grant,
    Ledger,
    Node,
    Request,
    Shortage,
    amounts,
    grant_of,
    request_of,
)
from serving.v1 import controller_pb2 as pb

GIB = 2**30


def node(cpus: float = 4, gpus: int = 2, memory: int = 8 * GIB, **custom: float) -> Node:
    totals = amounts({CPU: cpus, MEMORY: memory, **custom})
    return Node("local", totals, tuple(str(number) for number in range(gpus)))


def request(deployment: str = "D", at_most: int = 0, **asked: float) -> Request:
    return Request(amounts(asked), ("app", deployment), at_most)


def gpus_of(grant: Grant | Shortage) -> tuple[str, ...]:
    assert isinstance(grant, Grant), grant
    return grant.gpus


def test_whole_gpus_are_for_one_and_shares_are_packed() -> None:
    ledger = Ledger([node(gpus=3)])

    assert gpus_of(ledger.grant("a", request(GPU=0.5))) == ("0",)
    assert gpus_of(ledger.grant("b", request(GPU=1))) == ("1",)
    assert gpus_of(ledger.grant("c", request(GPU=0.4))) == ("0",)
    assert gpus_of(ledger.grant("d", request(GPU=0.4))) == ("2",)
    assert gpus_of(ledger.grant("e", request(GPU=0.1))) == ("0",)
    assert isinstance(ledger.grant("f", request(GPU=1)), Shortage)

    ledger.release("d")
    assert gpus_of(ledger.grant("f", request(GPU=1))) == ("2",)


def test_three_thirds_fit_on_one() -> None:
    ledger = Ledger([node(gpus=1)])

    for name in "abc":
        assert gpus_of(ledger.grant(name, request(GPU=1 / 3))) == ("0",)


def test_replica_that_asks_for_nothing_always_finds_room() -> None:
    ledger = Ledger([Node("local")])

    assert all(isinstance(ledger.grant(str(n), request()), Grant) for n in range(100))


@pytest.mark.parametrize(
    ("asked", "reason", "is_permanent"),
    [
        ({"GPU": 1}, "1 GPU: 0 of 2 free", False),
        ({"GPU": 2}, "2 GPUs: 0 of 2 free", False),
        ({"GPU": 0.6}, "0.6 GPU: at most 0.5 of one free", False),
        ({"GPU": 3}, "3 GPUs: there are 2", True),
        ({"CPU": 1.5}, "1.5 CPUs: 1 of 4 free", False),
        ({"CPU": 5}, "5 CPUs: there are 4", True),
        ({"memory": 6 * GIB}, "6 GiB of memory: 5.5 GiB of 8 GiB free", False),
        ({"license": 1}, "1 of 'license': 0 of 1 free", False),
        ({"fpga": 1}, "1 of 'fpga': there are 0", True),
    ],
)
def test_shortage_says_what_is_missing_and_how_much(
    asked: dict[str, Any], reason: str, is_permanent: bool
) -> None:
    ledger = Ledger([node(license=1)])
    ledger.grant("a", request(GPU=0.5, CPU=3, memory=2.5 * GIB, license=1))
    ledger.grant("b", request(GPU=0.5))
    ledger.grant("c", request(GPU=1))
    ledger.release("b")

    assert ledger.grant("d", request(**asked)) == Shortage(reason, is_permanent)
    assert bool(ledger.impossible(request(**asked))) is is_permanent


def test_replicas_on_one_machine_are_limited_by_deployment() -> None:
    ledger = Ledger([node()])

    assert isinstance(ledger.grant("a", request(at_most=1)), Grant)
    assert ledger.grant("b", request(at_most=1)) == Shortage(
        "another machine: max_replicas_per_node is 1"
    )
    assert isinstance(ledger.grant("b", request("E", at_most=1)), Grant)
    ledger.release("a")
    assert isinstance(ledger.grant("c", request(at_most=1)), Grant)


def test_second_machine_takes_what_the_first_has_no_room_for() -> None:
    ledger = Ledger([node(gpus=1), Node("other", {}, ("0",))])

    granted = [ledger.grant(str(n), request(GPU=1)) for n in range(3)]

    assert [each.node for each in granted if isinstance(each, Grant)] == ["local", "other"]


def test_what_would_be_free_without_some() -> None:
    ledger = Ledger([node(gpus=2)])
    ledger.grant("mine", request(GPU=1))
    ledger.grant("other", request(GPU=1))

    assert ledger.fits_without(request(GPU=1), {"mine"})
    assert not ledger.fits_without(request(GPU=2), {"mine"})
    assert isinstance(ledger.grant("new", request(GPU=1)), Shortage)


def test_request_is_what_the_options_say() -> None:
    asked = {
        "num_cpus": 0.5,
        "num_gpus": 2,
        "memory": 1e6,
        "resources": {"a": 1},
        "accelerator_type": "A100",
    }
    options = pb.DeploymentOptions(
        ray_actor_options_json=json.dumps(asked), max_replicas_per_node=3
    )
    spec = pb.DeploymentSpec(name="D", options=options)

    found = request_of("app", spec)

    assert found == Request(
        {CPU: UNIT // 2, GPU: 2 * UNIT, MEMORY: 10**6, "a": UNIT, "accelerator_type:A100": 10},
        ("app", "D"),
        3,
    )
    replica = pb.ReplicaSpec(application="app", deployment=spec, node="local", gpus=["0", "1"])
    assert grant_of(replica) == Grant("local", found, ("0", "1"))
    assert request_of("app", pb.DeploymentSpec(name="D")) == Request({}, ("app", "D"))


asked = st.fixed_dictionaries(
    {},
    optional={
        GPU: st.one_of(st.integers(1, 4), st.sampled_from([0.1, 0.25, 1 / 3, 0.5, 0.7])),
        CPU: st.sampled_from([0.5, 1, 3]),
        MEMORY: st.integers(1, 8 * GIB),
    },
)
steps = st.lists(st.one_of(asked, st.integers(0, 20)), max_size=40)


@given(steps=steps, gpus=st.integers(0, 4))
def test_machine_is_never_overcommitted_and_gpus_stay(steps: list[Any], gpus: int) -> None:
    """A step asks for something, or ends one of those that run. A ledger made anew of what they
    hold, as by the next controller, agrees."""
    machine = node(gpus=gpus)
    ledger = Ledger([machine])
    grants: dict[str, Grant] = {}
    for number, step in enumerate(steps):
        if isinstance(step, int):
            if grants:
                ended = sorted(grants)[step % len(grants)]
                ledger.release(ended)
                del grants[ended]
            continue
        wanted = request(**step)
        again = Ledger([machine])
        for holder, grant in grants.items():
            again.hold(holder, grant)
        granted = ledger.grant(str(number), wanted)
        assert again.grant(str(number), wanted) == granted
        if isinstance(granted, Grant):
            grants[str(number)] = granted
            assert_within(machine, grants)


def assert_within(machine: Node, grants: dict[str, Grant]) -> None:
    taken: Counter[str] = Counter()
    on_gpu: Counter[str] = Counter()
    for grant in grants.values():
        taken.update(grant.request.amounts)
        asked_for = grant.request.amounts.get(GPU, 0)
        whole = asked_for >= UNIT
        assert len(set(grant.gpus)) == len(grant.gpus)
        assert len(grant.gpus) == (asked_for // UNIT if whole else bool(asked_for))
        on_gpu.update(dict.fromkeys(grant.gpus, UNIT if whole else asked_for))
    assert all(taken[kind] <= machine.totals.get(kind, 0) for kind in (CPU, MEMORY))
    assert all(share <= UNIT for share in on_gpu.values())
    assert on_gpu.keys() <= set(machine.gpus)


@given(st.lists(asked, max_size=15), st.integers(1, 4))
def test_everything_that_fits_alone_starts_in_the_end(wanted: list[Any], gpus: int) -> None:
    """Each in its turn, those that wait first, and one that runs ends whenever none fits."""
    ledger = Ledger([node(gpus=gpus)])
    waiting = {str(n): request(**each) for n, each in enumerate(wanted)}
    waiting = {name: each for name, each in waiting.items() if not ledger.impossible(each)}
    running: list[str] = []
    while waiting:
        started = [
            name for name, each in waiting.items() if isinstance(ledger.grant(name, each), Grant)
        ]
        for name in started:
            del waiting[name]
        running += started
        assert started or running
        if running and not started:
            ledger.release(running.pop(0))
