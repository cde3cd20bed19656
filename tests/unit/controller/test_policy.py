"""What an autoscaling policy is told and what is made of its answer."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from serving.config import AutoscalingConfig, AutoscalingContext
from serving.controller.policy import answer_of, as_context, as_json


def context(**state: Any) -> AutoscalingContext:
    return AutoscalingContext(
        app_name="app",
        deployment_name="D",
        current_num_replicas=1,
        target_num_replicas=2,
        total_num_requests=3.5,
        total_queued_requests=1,
        total_running_requests=2,
        capacity_adjusted_min_replicas=1,
        capacity_adjusted_max_replicas=9,
        policy_state=state,
        last_scale_up_time=None,
        last_scale_down_time=5.0,
        current_time=7.0,
        config=AutoscalingConfig(max_replicas=9),
    )


def test_context_arrives_as_it_was() -> None:
    assert as_context(json.loads(json.dumps(as_json(context(calls=1))))) == context(calls=1)


@pytest.mark.parametrize("returned", [3, 3.0, (3, {})], ids=str)
def test_number_is_an_answer_alone_and_with_a_state(returned: object) -> None:
    assert answer_of(lambda _: returned, context()) == {"asked": 3.0}


def test_state_is_what_the_policy_returned_last() -> None:
    one = context(calls=1)

    answer_of(lambda given: (1, {"calls": given.policy_state["calls"] + 1}), one)
    assert one.policy_state == {"calls": 2}

    answer_of(lambda given: 1, one)
    assert one.policy_state == {}


@pytest.mark.parametrize(
    "returned",
    ["3", None, True, -1, float("nan"), float("inf"), (1, 2), (1, {}, 3)],
    ids=str,
)
def test_what_is_no_number_of_replicas_is_an_error(returned: object) -> None:
    answer = answer_of(lambda _: returned, context())

    assert answer["error"].strip().splitlines()[-1].startswith("ValueError: ")


def test_policy_that_ends_its_process_is_an_error() -> None:
    assert "SystemExit" in answer_of(lambda _: sys.exit(1), context())["error"]
