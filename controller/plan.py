"""The decision: from what is wanted and what runs to the next steps.

Pure: the clock is an argument, and nothing here starts, stops or waits for anything. Called again
after every change until the plan is empty, so that no step depends on an earlier one having worked.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace

from serving.controller.model import History, Plan, Replica, ReplicaState, Start, Stop, Target

MAX_FAILED_STARTS = 3
"""Failed starts in a row after which a version that never worked is given up."""
FIRST_DELAY_S = 0.1
MAX_DELAY_S = 10.0
SOON_S = 2.0
"""Callers wait for a replica that is to be started within this time."""
MAX_FAILED_CHECKS = 3
"""Failed health checks in a row after which a replica is replaced, as in Ray Serve."""
STABLE_AFTER_S = 10.0
"""A replica that stayed ready for this long makes earlier failures forgotten."""

_NEW = History()


def compute(
    target: Target | None,
    histories: Mapping[str, History],
    replicas: Sequence[Replica],
    now: float,
    *,
    is_held: bool = False,
) -> Plan:
    """The next steps of one deployment; `target` is None once it is deleted, which has to wait
    while it `is_held`."""
    live = [replica for replica in replicas if replica.state is not ReplicaState.STOPPING]
    if target is None:
        leaving = () if is_held else live
        return Plan(stop=tuple(Stop(replica.replica_id, "deleted") for replica in leaving))
    sick = [replica for replica in live if is_sick(replica)]
    live = [replica for replica in live if not is_sick(replica)]
    version = serving_version(target, histories)
    if target.waits_for and version == target.previous:
        # No more than it had: they would only be replaced.
        count = min(target.previous_replicas, target.num_replicas)
        target = replace(target, num_replicas=count)
    ours = [replica for replica in live if replica.version == version]
    others = [replica for replica in live if replica.version != version]
    wanted, most = {version: target.num_replicas}, target.num_replicas
    if target.previous not in (None, version) and not _ready(ours):
        # The new one is on trial: what serves comes first.
        wanted = {target.previous: _kept(target), **wanted}
        most = min(most, most + surge(target) - _kept(target))
    stop = (*_surplus(most, ours), *_outdated(target, wanted, ours, others))
    room = target.num_replicas + surge(target) - (len(live) - len(stop))
    if surge(target) == 0:
        room -= sum(map(_drains, replicas)) + len(stop)
    start, wake_at = _missing(wanted, histories, live, room, now)
    return Plan(start, (*_sick(sick), *stop), wake_at)


def surge(target: Target) -> int:
    """How many replicas above their number may run while one version replaces another. Those that
    finish their requests do not count: they must not hold up the next update. But where there is to
    be none above their number, they do: each has to be gone before its successor starts."""
    if target.max_surge_percent == 0:
        return 0
    shares = (target.rolling_update_percentage, target.max_surge_percent / 100)
    return max(1, min(_share(target.num_replicas, share) for share in shares))


def _spared(target: Target) -> int:
    """How many replicas may be missing during an update: one, where none may be above their
    number."""
    return 1 if surge(target) == 0 else 0


def _kept(target: Target) -> int:
    """How many replicas of the version before are to run while the new one is on trial."""
    return min(target.previous_replicas, target.num_replicas - _spared(target))


def _drains(replica: Replica) -> bool:
    """Whether it finishes its requests before another may start. One that is replaced for a fault
    is not waited for."""
    return replica.state is ReplicaState.STOPPING and not is_sick(replica)


def _share(count: int, share: float) -> int:
    return math.ceil(round(count * share, 6))  # 0.07 of 100 is 7, not 8


def held(calls: Mapping[str, Set[str]]) -> set[str]:
    """The deployments of an application that replicas of others may still call: these have to end
    first. Of those that call each other in a circle none waits for another.

    `calls`: of each deployment, those that its replicas may call, as far as there are replicas.
    """
    reached = {name: _reached(name, calls) for name in calls}
    return {
        callee
        for name, callees in reached.items()
        for callee in callees
        if name not in reached.get(callee, ())
    }


def _reached(name: str, calls: Mapping[str, Set[str]]) -> set[str]:
    """The deployments that a call of one may come to."""
    reached: set[str] = set()
    following = {name}
    while following:
        following = set().union(*(calls.get(each, set()) for each in following)) - reached
        reached |= following
    return reached


def in_order(
    targets: Mapping[str, Target],
    calls: Mapping[str, Set[str]],
    *,
    served: Set[str],
    failed: Set[str],
    ahead: Set[str],
) -> dict[str, Target]:
    """The targets of an application that is updated, each with what holds it back.

    An update goes from the callees to the callers. Where it fails all goes back, from the callers
    to the callees. So no new version calls an old one. Of those that call each other in a circle
    none waits for another.

    `calls`: of each deployment, those that its new version calls. `served`: those that the version
    before has, too; others have nothing to wait with. `ahead`: those whose new version runs.
    """
    reached = {name: _reached(name, calls) for name in targets}
    below = {
        name: {callee for callee in callees if name not in reached.get(callee, ())}
        for name, callees in reached.items()
    }
    missing = {name for name, target in targets.items() if not target.is_reached}
    needed = set[str]().union(*(below[name] for name in ahead)) - missing - failed
    back = served - needed if failed else set()
    return {
        name: replace(
            target,
            is_reached=target.is_reached and name not in back,
            waits_for=frozenset(below[name] & missing if name in served and not failed else ()),
            goes_back=name in back,
        )
        for name, target in targets.items()
    }


def to_make_room(target: Target, version: str, replicas: Sequence[Replica]) -> str | None:
    """The replica that leaves so that one of `version` finds room on a full machine: the oldest of
    another version, one at a time, and never the last that takes requests."""
    if any(replica.state is not ReplicaState.RUNNING for replica in replicas):
        return None
    others = [replica for replica in replicas if replica.version != version]
    if not others or len(replicas) == 1:
        return None
    return min(others, key=lambda replica: replica.started_at).replica_id


def after_making_room(target: Target, replica_id: str, replicas: Sequence[Replica]) -> Target:
    """The target once this replica has made room: nothing of its version takes that again."""
    left = sum(
        replica.version == target.previous and replica.replica_id != replica_id
        for replica in replicas
    )
    return replace(target, previous_replicas=left)


def with_number(target: Target, count: int) -> Target:
    """The target with another number of replicas, whichever version serves."""
    return replace(target, num_replicas=count, previous_replicas=count)


def after_reached(target: Target) -> Target:
    """The target after as many replicas as wanted were ready, all of its version."""
    return replace(target, is_reached=True)


def after_update(target: Target) -> Target:
    """The target once all of its application was updated."""
    return replace(target, previous=None, is_reached=True, waits_for=frozenset(), goes_back=False)


def is_hopeless(
    target: Target | None, histories: Mapping[str, History], replicas: Sequence[Replica], now: float
) -> bool:
    """Whether callers would wait in vain: none of it runs or starts, and none will soon."""
    if any(replica.state is not ReplicaState.STOPPING for replica in replicas):
        return False
    if target is None or (target.num_replicas == 0 and not target.wakes):
        return True
    version = serving_version(target, histories)
    soon = {version, target.previous or version}
    return all(
        has_failed(each, histories) or histories.get(each, _NEW).retry_at - now > SOON_S
        for each in soon
    )


def is_sick(replica: Replica) -> bool:
    """Whether it is to be replaced: for a fault, or as it failed too many health checks."""
    return bool(replica.fault) or replica.failed_checks >= MAX_FAILED_CHECKS


def has_failed(version: str, histories: Mapping[str, History]) -> bool:
    """Whether a version never worked and was tried often enough."""
    return _is_given_up(histories.get(version, _NEW))


def _is_given_up(history: History) -> bool:
    return not history.proven and history.failures >= MAX_FAILED_STARTS


def serving_version(target: Target, histories: Mapping[str, History]) -> str:
    """The version to have running: the wanted one, or the one before where that cannot start, or
    its turn has not come, or is over."""
    if target.previous is not None and (
        target.is_held_back or has_failed(target.version, histories)
    ):
        return target.previous
    return target.version


def is_complete(target: Target, replicas: Sequence[Replica]) -> bool:
    """Whether as many replicas as wanted are ready, all of them of the wanted version."""
    live = [replica for replica in replicas if replica.state is not ReplicaState.STOPPING]
    return (
        all(replica.version == target.version for replica in live)
        and sum(replica.state is ReplicaState.RUNNING for replica in live) >= target.num_replicas
    )


# Steps


def _missing(
    wanted: Mapping[str, int],
    histories: Mapping[str, History],
    live: Sequence[Replica],
    room: int,
    now: float,
) -> tuple[tuple[Start, ...], float | None]:
    """Replicas of each version as far as there is room, in order; and when to look again."""
    starts: list[Start] = []
    waits: list[float] = []
    for version, number in wanted.items():
        there = sum(replica.version == version for replica in live)
        count = min(number - there, room)
        history = histories.get(version, _NEW)
        if count <= 0 or _is_given_up(history):
            continue  # as wanted, or given up and nothing to fall back on
        room -= count  # also where it has to wait: others must not take it meanwhile
        if now < history.retry_at:
            waits.append(history.retry_at)
        else:
            starts += [Start(version, f"{there} of {number} replicas")] * count
    return tuple(starts), min(waits, default=None)


def _sick(sick: list[Replica]) -> tuple[Stop, ...]:
    reason = f"{MAX_FAILED_CHECKS} health checks failed in a row"
    return tuple(Stop(replica.replica_id, replica.fault or reason) for replica in sick)


def _surplus(most: int, ours: list[Replica]) -> tuple[Stop, ...]:
    """Too many of the right version: those that are not ready yet go first, then those that have
    the least to do, of these the youngest."""
    count = max(0, len(ours) - most)
    by_worth = sorted(
        ours,
        key=lambda replica: (
            replica.state is ReplicaState.RUNNING,
            replica.ongoing,
            -replica.started_at,
        ),
    )
    reason = f"{most} replicas wanted"
    return tuple(Stop(replica.replica_id, reason) for replica in by_worth[:count])


def _outdated(
    target: Target, wanted: Mapping[str, int], ours: list[Replica], others: list[Replica]
) -> tuple[Stop, ...]:
    """Replicas of another version leave as those of the right one become ready. Those that are not
    ready themselves leave at once, unless they are wanted in the place of one that was lost."""
    running = _ready(others)
    still_needed = max(0, target.num_replicas - _spared(target) - len(_ready(ours)))
    oldest_first = sorted(running, key=lambda replica: replica.started_at)
    leaving = oldest_first[: max(0, len(running) - still_needed)]
    missing = Counter(wanted)
    missing.subtract(replica.version for replica in running)
    for replica in others:
        if replica.state is ReplicaState.STARTING:
            missing[replica.version] -= 1
            if missing[replica.version] < 0:
                leaving.append(replica)
    return tuple(Stop(replica.replica_id, "another version") for replica in leaving)


def _ready(replicas: Sequence[Replica]) -> list[Replica]:
    return [replica for replica in replicas if replica.state is ReplicaState.RUNNING]


# What happened


def after_failure(
    history: History, *, started_at: float, was_ready: bool, error: str, now: float
) -> History:
    """The history after a replica could not start, or ended by itself when it was ready."""
    if started_at < history.last_failure_at:
        # Started before the last failure was known: no new evidence, at most a newer message.
        return replace(history, error=error)
    failures = 1 if now >= stable_at(history) else history.failures + 1
    # The first crash of a replica that worked is repaired at once.
    doublings = failures - 2 if was_ready else failures - 1
    delay = 0.0 if doublings < 0 else min(FIRST_DELAY_S * 2 ** min(doublings, 30), MAX_DELAY_S)
    return replace(
        history, failures=failures, last_failure_at=now, retry_at=now + delay, error=error
    )


def stable_at(history: History) -> float:
    """When earlier failures are forgotten, if none comes until then."""
    is_over = history.last_ready_at > history.last_failure_at
    return history.last_ready_at + STABLE_AFTER_S if is_over else math.inf


def after_time(history: History, *, now: float) -> History:
    """The history as time goes by. What was given up stays so."""
    if _is_given_up(history) or now < stable_at(history):
        return history
    return replace(history, failures=0, error="")


def after_check(replica: Replica, *, passed: bool) -> Replica:
    """A replica after a health check."""
    return replace(replica, failed_checks=0 if passed else replica.failed_checks + 1)


def after_ready(history: History, *, now: float) -> History:
    """The history after a replica became ready."""
    return replace(history, last_ready_at=now)


def after_complete(history: History) -> History:
    """The history after as many replicas as wanted were ready."""
    return history if history.proven else replace(history, proven=True, failures=0, error="")


def after_deploy(history: History) -> History:
    """The history when its version is asked for again: what failed before counts against nothing
    that is wanted now, and what was given up is tried again."""
    return replace(history, failures=0, retry_at=-math.inf, error="")
