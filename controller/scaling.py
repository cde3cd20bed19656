"""The autoscalers of all deployments: who is to be asked when, and what callers tell them."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass

from serving.config import AutoscalingConfig, AutoscalingContext
from serving.controller.autoscale import Autoscaler, Decision, Load, first_target
from serving.controller.policy import PolicyProcess
from serving.v1 import controller_pb2 as pb

Key = tuple[str, str]


def config_of(options: pb.DeploymentOptions) -> AutoscalingConfig | None:
    """How the number of replicas follows the load; None where it is fixed."""
    text = options.autoscaling_config_json
    return AutoscalingConfig.model_validate(json.loads(text)) if text else None


def target_of(options: pb.DeploymentOptions, before: int | None) -> int:
    """How many replicas there are to be of a deployment that is wanted anew; there were to be
    `before`, if it was there."""
    config = config_of(options)
    return options.num_replicas if config is None else first_target(config, before)


@dataclass
class Scaled:
    """One deployment whose number follows the load."""

    # What it was asked to do: a policy's code has its hash there.
    json: str
    autoscaler: Autoscaler
    # None: the load decides.
    policy: PolicyProcess | None
    # When it is to be asked; None: when something is heard.
    wake_at: float | None
    # A policy is being asked, or the emptiest replicas are being found.
    is_busy: bool = False
    # Why the policy did not say how many.
    policy_error: str = ""
    # Seconds since the epoch; None: not yet.
    scaled_up_at: float | None = None
    scaled_down_at: float | None = None

    def context(self, key: Key, running: int, target: int, now: float) -> AutoscalingContext:
        """What a policy is told."""
        autoscaler = self.autoscaler
        return AutoscalingContext(
            app_name=key[0],
            deployment_name=key[1],
            current_num_replicas=running,
            target_num_replicas=target,
            total_num_requests=autoscaler.total_over_look_back(now),
            total_queued_requests=autoscaler.queued,
            total_running_requests=autoscaler.ongoing,
            capacity_adjusted_min_replicas=autoscaler.config.min_replicas,
            capacity_adjusted_max_replicas=autoscaler.config.max_replicas,
            policy_state={},
            last_scale_up_time=self.scaled_up_at,
            last_scale_down_time=self.scaled_down_at,
            current_time=time.time(),
            config=autoscaler.config,
        )


class Scaling:
    """Lives on the controller's loop; what it decides, the reconciler carries out."""

    def __init__(self) -> None:
        self.scaled: dict[Key, Scaled] = {}

    @property
    def wake_at(self) -> float | None:
        """When somebody is to be asked."""
        moments = (each.wake_at for each in self.scaled.values() if not each.is_busy)
        return min((moment for moment in moments if moment is not None), default=None)

    def follow(self, application: str, specs: Mapping[str, pb.DeploymentSpec], now: float) -> None:
        """The deployments of an application as they are wanted now."""
        wanted = {
            (application, name): spec
            for name, spec in specs.items()
            if spec.options.autoscaling_config_json
        }
        for key in [key for key in self.scaled if key[0] == application and key not in wanted]:
            self._drop(key)
        for key, spec in wanted.items():
            known = self.scaled.get(key)
            if known is None or known.json != spec.options.autoscaling_config_json:
                self._begin(key, spec, now)

    def _begin(self, key: Key, spec: pb.DeploymentSpec, now: float) -> None:
        config = config_of(spec.options)
        assert config is not None
        known = self.scaled.get(key)
        if known is None:
            known = Scaled("", Autoscaler(config, now), None, now)
            self.scaled[key] = known
        known.json = spec.options.autoscaling_config_json
        known.autoscaler.config, known.wake_at = config, now
        if known.policy is not None:
            known.policy.close()
        has_policy = spec.HasField("autoscaling_policy")
        known.policy = PolicyProcess(spec.autoscaling_policy) if has_policy else None
        known.policy_error = ""

    def _drop(self, key: Key) -> None:
        policy = self.scaled.pop(key).policy
        if policy is not None:
            policy.close()

    def hear(self, caller: Hashable, loads: Iterable[pb.Load], now: float) -> bool:
        """A caller tells what it has; returns whether somebody is to be asked at once."""
        is_urgent = False
        for load in loads:
            scaled = self.scaled.get((load.application, load.deployment))
            if scaled is None:
                continue
            begins = load.queued > 0 and not scaled.autoscaler.queued
            heard = Load(load.queued, load.ongoing, load.is_active)
            scaled.autoscaler.hear(caller, heard, now)
            if begins or scaled.wake_at is None:
                scaled.wake_at = now
                is_urgent = True
        return is_urgent

    def forget(self, caller: Hashable, now: float) -> None:
        """A caller is gone."""
        for scaled in self.scaled.values():
            scaled.autoscaler.forget(caller, now)

    def due(self, now: float) -> list[Key]:
        """Those that are to be asked now."""
        return [
            key
            for key, scaled in self.scaled.items()
            if not scaled.is_busy and scaled.wake_at is not None and scaled.wake_at <= now
        ]

    def decide(
        self, key: Key, target: int, running: int, now: float, asked: float | None = None
    ) -> Decision:
        """What becomes of the number of replicas."""
        scaled = self.scaled[key]
        if scaled.policy is not None and asked is None:
            asked = math.nan
        decision = scaled.autoscaler.decide(target, now, asked, running=running)
        scaled.wake_at = decision.wake_at
        return decision

    def close(self) -> None:
        """Ends the policies' processes."""
        for key in list(self.scaled):
            self._drop(key)
