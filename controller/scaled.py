"""One deployment of which the number of replicas follows the load."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

from serving.config import AutoscalingConfig, AutoscalingContext
from serving.controller.autoscale import Autoscaler, first_target
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


def what_is_followed(spec: pb.DeploymentSpec) -> tuple[str, str]:
    """The configuration as JSON, and the version of the policy's code."""
    return spec.options.autoscaling_config_json, spec.options.autoscaling_policy_version


@dataclass
class Scaled:
    """One deployment whose number follows the load."""

    # What it was asked to do.
    follows: tuple[str, str]
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
