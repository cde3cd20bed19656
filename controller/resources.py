"""What the machines have, what replicas hold of it, and which of those to start find room.

Pure: nothing here starts or waits. Amounts are logical and whole numbers, so that what fits does
not hang on rounding: of ten-thousandths (as in Ray), or, of memory, of bytes.

GPUs are things and not only a number. A replica that asks for whole ones gets them for itself; one
that asks for a part of one shares it with others that do, and goes where least is left, so that
whole ones stay free. What a replica got stays the same until its process has ended.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from serving.v1 import controller_pb2 as pb

CPU, GPU, MEMORY = "CPU", "GPU", "memory"
UNIT = 10_000
"""The whole of anything but memory."""
_OF_ACCELERATOR = 10
"""What a replica takes of `accelerator_type:…`, which only says where it may run."""
_SCALES = {MEMORY: 1}


@dataclass(frozen=True)
class Node:
    """A machine."""

    name: str
    totals: Mapping[str, int] = field(default_factory=dict)
    # As CUDA_VISIBLE_DEVICES names them. `totals` leaves them out.
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """What a replica asks for."""

    amounts: Mapping[str, int] = field(default_factory=dict)
    # Its deployment, and how many replicas of that may be on one machine; 0: any number.
    deployment: tuple[str, str] = ("", "")
    max_per_node: int = 0


@dataclass(frozen=True)
class Grant:
    """What a replica has until its process has ended."""

    node: str
    request: Request
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shortage:
    """Why a replica finds no room, in words."""

    reason: str
    # Not even where nothing else runs.
    is_permanent: bool = False


class Ledger:
    """Who holds what. A release by `release` is all that makes room."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = {node.name: node for node in nodes}
        self._grants: dict[str, Grant] = {}
        self._books = {node.name: _Book(node) for node in nodes}

    def grant(self, holder: str, request: Request) -> Grant | Shortage:
        """Gives a replica what it asks for, on the first machine that has it."""
        shortages = []
        for name, book in self._books.items():
            found = book.find(request)
            if isinstance(found, tuple):
                granted = Grant(name, request, found)
                self.hold(holder, granted)
                return granted
            shortages.append(found)
        return min(shortages, key=lambda shortage: shortage.is_permanent)

    def hold(self, holder: str, grant: Grant) -> None:
        """Notes what a replica has already."""
        self._grants[holder] = grant
        if grant.node in self._books:
            self._books[grant.node].add(grant, 1)

    def release(self, holder: str) -> None:
        """Takes back what an ended replica had, if it had anything."""
        grant = self._grants.pop(holder, None)
        if grant is not None and grant.node in self._books:
            self._books[grant.node].add(grant, -1)

    def impossible(self, request: Request) -> str:
        """Why it would find no room on machines where nothing runs; empty where it would."""
        found = Ledger(list(self._nodes.values())).grant("", request)
        return found.reason if isinstance(found, Shortage) else ""

    def fits_without(self, request: Request, holders: Collection[str]) -> bool:
        """Whether it would find room if these were gone."""
        other = Ledger(list(self._nodes.values()))
        for holder, grant in self._grants.items():
            if holder not in holders:
                other.hold(holder, grant)
        return isinstance(other.grant("", request), Grant)


class _Book:
    """What is taken of one machine."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._taken: Counter[str] = Counter()
        self._gpus: dict[str, int] = dict.fromkeys(node.gpus, 0)
        self._replicas: Counter[tuple[str, str]] = Counter()

    def add(self, grant: Grant, sign: int) -> None:
        for kind, amount in grant.request.amounts.items():
            self._taken[kind] += sign * amount
        for gpu in grant.gpus:
            share = grant.request.amounts[GPU] // len(grant.gpus)
            self._gpus[gpu] = self._gpus.get(gpu, 0) + sign * share
        self._replicas[grant.request.deployment] += sign

    def find(self, request: Request) -> tuple[str, ...] | Shortage:
        """The GPUs for it, or why there is no room."""
        for kind, amount in request.amounts.items():
            if kind != GPU and (shortage := self._lacks(kind, amount)):
                return shortage
        there = self._replicas[request.deployment]
        if 0 < request.max_per_node <= there:
            return Shortage(f"another machine: max_replicas_per_node is {request.max_per_node}")
        return self._find_gpus(request.amounts.get(GPU, 0))

    def _lacks(self, kind: str, amount: int) -> Shortage | None:
        total = self._node.totals.get(kind, 0)
        free = max(0, total - self._taken[kind])
        if amount <= free:
            return None
        return _shortage(kind, amount, free, total)

    def _find_gpus(self, amount: int) -> tuple[str, ...] | Shortage:
        free = {gpu: UNIT - self._gpus[gpu] for gpu in self._node.gpus}
        whole = [gpu for gpu, left in free.items() if left == UNIT]
        total = len(free) * UNIT
        if amount == 0:
            return ()
        if amount % UNIT == 0:
            count = amount // UNIT
            if count <= len(whole):
                return tuple(whole[:count])
            return _shortage(GPU, amount, len(whole) * UNIT, total)
        fitting = [gpu for gpu, left in free.items() if left >= amount]
        if fitting:
            return (min(fitting, key=lambda gpu: free[gpu]),)
        most = max(0, *free.values()) if free else 0
        return _shortage(GPU, amount, most, total, of_one=len(free) > 1)


def _shortage(kind: str, amount: int, free: int, total: int, *, of_one: bool = False) -> Shortage:
    if amount > total:
        return Shortage(f"{_text(kind, amount)}: there are {_number(kind, total)}", True)
    left = (
        f"at most {_number(kind, free)} of one"
        if of_one
        else (f"{_number(kind, free)} of {_number(kind, total)}")
    )
    return Shortage(f"{_text(kind, amount)}: {left} free")


def _text(kind: str, amount: int) -> str:
    number = _number(kind, amount)
    if kind == MEMORY:
        return f"{number} of memory"
    if kind in (CPU, GPU):
        return f"{number} {kind}{'s' if amount > UNIT else ''}"
    return f"{number} of {kind!r}"


def _number(kind: str, amount: int) -> str:
    if kind != MEMORY:
        return f"{amount / UNIT:g}"
    for unit, name in ((2**30, "GiB"), (2**20, "MiB")):
        if amount >= unit:
            return f"{amount / unit:.1f} {name}".replace(".0 ", " ")
    return f"{amount} bytes"


# From the words of users


def amounts(given: Mapping[str, float]) -> dict[str, int]:
    """Numbers as users give them, as amounts; those of nothing are left out."""
    scaled = {kind: round(number * _SCALES.get(kind, UNIT)) for kind, number in given.items()}
    return {kind: amount for kind, amount in scaled.items() if amount}


def request_of(application: str, spec: pb.DeploymentSpec) -> Request:
    """What a replica of a deployment asks for. No CPU unless told to: two cores do not mean two
    replicas."""
    options = json.loads(spec.options.ray_actor_options_json or "{}")
    asked = dict(options.get("resources", {}))
    for option, kind in (("num_cpus", CPU), ("num_gpus", GPU), ("memory", MEMORY)):
        asked[kind] = options.get(option, 0)
    wanted = amounts(asked)
    if accelerator := options.get("accelerator_type"):
        wanted[accelerator_kind(accelerator)] = _OF_ACCELERATOR
    return Request(wanted, (application, spec.name), spec.options.max_replicas_per_node)


def accelerator_kind(accelerator_type: str) -> str:
    """The resource that machines with such an accelerator have, by Ray's name."""
    return f"accelerator_type:{accelerator_type}"


def grant_of(spec: pb.ReplicaSpec) -> Grant:
    """What a replica was started with."""
    return Grant(spec.node, request_of(spec.application, spec.deployment), tuple(spec.gpus))
