"""How many replicas the load asks for: who is asked when, and what callers tell."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Coroutine, Hashable, Iterable
from dataclasses import replace

from serving.aio import Tasks
from serving.config import AutoscalingContext
from serving.controller import plan
from serving.controller.autoscale import Autoscaler, Decision, Load
from serving.controller.model import Target
from serving.controller.packages import PackageStore
from serving.controller.policy import PolicyProcess
from serving.controller.queue import Queue
from serving.controller.registry import Registry
from serving.controller.scaled import Key, Scaled, config_of, what_is_followed
from serving.controller.state import ApplicationState, DeploymentState
from serving.v1 import controller_pb2 as pb

log = logging.getLogger("serving.controller")


class Scaling:
    """The autoscalers of all deployments, and the numbers that come of them."""

    def __init__(
        self, registry: Registry, queue: Queue, tasks: Tasks, packages: PackageStore
    ) -> None:
        self._registry = registry
        self._queue = queue
        self._tasks = tasks
        self._packages = packages
        self._scaled: dict[Key, Scaled] = {}

    # What it follows

    def follow(self, state: ApplicationState, now: float) -> None:
        """The deployments of an application as they are wanted now."""
        wanted = {
            (state.name, name): deployment.spec
            for name, deployment in state.deployments.items()
            if deployment.target and deployment.spec.options.autoscaling_config_json
        }
        for key in [key for key in self._scaled if key[0] == state.name and key not in wanted]:
            self._drop(key)
        for key, spec in wanted.items():
            known = self._scaled.get(key)
            if known is None or known.follows != what_is_followed(spec):
                self._begin(key, spec, now)
        for name, deployment in state.deployments.items():
            deployment.scaled = self._scaled.get((state.name, name))

    def _begin(self, key: Key, spec: pb.DeploymentSpec, now: float) -> None:
        config = config_of(spec.options)
        assert config is not None
        known = self._scaled.get(key)
        if known is None:
            known = Scaled(("", ""), Autoscaler(config, now), None, now)
            self._scaled[key] = known
        known.follows = what_is_followed(spec)
        known.autoscaler.config, known.wake_at = config, now
        if known.policy is not None:
            known.policy.close()
        known.policy = None
        if spec.HasField("autoscaling_policy"):
            sources_dir = self._packages.sources_of(spec)
            known.policy = PolicyProcess(spec.autoscaling_policy, sources_dir)
        known.policy_error = ""

    def _drop(self, key: Key) -> None:
        policy = self._scaled.pop(key).policy
        if policy is not None:
            policy.close()

    def close(self) -> None:
        """Ends the policies' processes."""
        for key in list(self._scaled):
            self._drop(key)

    # What callers tell

    def hear(self, caller: Hashable, loads: Iterable[pb.Load]) -> None:
        """A caller tells what it has queued and in flight."""
        now = time.monotonic()
        for load in loads:
            scaled = self._scaled.get((load.application, load.deployment))
            if scaled is None:
                continue
            begins = load.queued > 0 and not scaled.autoscaler.queued
            heard = Load(load.queued, load.ongoing, load.is_active)
            scaled.autoscaler.hear(caller, heard, now)
            if begins or scaled.wake_at is None:
                scaled.wake_at = now
                self._queue.wake()

    def forget(self, caller: Hashable) -> None:
        """A caller is gone."""
        now = time.monotonic()
        for scaled in self._scaled.values():
            scaled.autoscaler.forget(caller, now)

    # What comes of it

    @property
    def wake_at(self) -> float | None:
        """When somebody is to be asked."""
        moments = (each.wake_at for each in self._scaled.values() if not each.is_busy)
        return min((moment for moment in moments if moment is not None), default=None)

    def turn(self, now: float) -> None:
        """Asks those whose moment has come."""
        due = [
            key
            for key, scaled in self._scaled.items()
            if not scaled.is_busy and scaled.wake_at is not None and scaled.wake_at <= now
        ]
        for key in due:
            self._scale(key, now)

    def _scale(self, key: Key, now: float, asked: float | None = None) -> None:
        """Asks for the number of replicas of one deployment."""
        deployment = self._registry.applications[key[0]].deployments[key[1]]
        target, scaled = deployment.target, deployment.scaled
        if target is None or scaled is None:
            return
        running = len(deployment.ready)
        if scaled.policy is not None and asked is None and target.num_replicas:
            context = scaled.context(key, running, target.num_replicas, now)
            self._ask(key, scaled, self._ask_policy(key, scaled, scaled.policy, context))
            return
        if scaled.policy is not None and asked is None:
            asked = math.nan
        decision = scaled.autoscaler.decide(target.num_replicas, now, asked, running=running)
        scaled.wake_at = decision.wake_at
        if decision.target < target.num_replicas:
            self._ask(key, scaled, self._scale_in(key, deployment, target, decision))
        elif decision.reason:
            self._set_number(key, deployment, target, decision)

    def _ask(self, key: Key, scaled: Scaled, work: Coroutine[None, None, None]) -> None:
        """Finds out what a decision needs. Until then no other is made for that deployment."""

        async def ask() -> None:
            try:
                await work
            finally:
                scaled.is_busy = False
                self._queue.wake()

        scaled.is_busy = True
        self._tasks.start(ask(), name="scale {}#{}".format(*key))

    async def _ask_policy(
        self, key: Key, scaled: Scaled, policy: PolicyProcess, context: AutoscalingContext
    ) -> None:
        answer = await policy.ask(context)
        if scaled.policy is not policy or self._scaled.get(key) is not scaled:
            return  # it is another one's turn
        scaled.is_busy = False
        if answer.error != scaled.policy_error:
            scaled.policy_error = answer.error
            if answer.error:
                log.warning("the autoscaling policy of %s#%s failed: %s", *key, answer.error)
            self._queue.add(key[0])
        self._scale(key, time.monotonic(), answer.asked)

    async def _scale_in(
        self, key: Key, deployment: DeploymentState, target: Target, decision: Decision
    ) -> None:
        """The emptiest replicas are to go."""
        ready = deployment.ready
        counts = await asyncio.gather(*(replica.ongoing() for replica in ready))
        for replica, count in zip(ready, counts, strict=True):
            replica.seen = replace(replica.seen, ongoing=count)
        if deployment.target == target and (decision.target or not any(counts)):
            self._set_number(key, deployment, target, decision)

    def _set_number(
        self, key: Key, deployment: DeploymentState, target: Target, decision: Decision
    ) -> None:
        before, after = target.num_replicas, decision.target
        log.info("%s#%s: from %d to %d replicas: %s", *key, before, after, decision.reason)
        assert deployment.scaled is not None
        now_s = time.time()
        text = f"scale from {before} to {after}: {decision.reason}"
        deployment.journal = deployment.journal.decided(text, now_s)
        if after > before:
            deployment.scaled.scaled_up_at = now_s
        else:
            deployment.scaled.scaled_down_at = now_s
        deployment.target = plan.with_number(target, after)
        self._registry.note_deployment(*key)
        self._queue.add(key[0])
