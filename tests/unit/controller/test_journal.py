from __future__ import annotations

from serving.controller.journal import KEPT_DECISIONS, KEPT_FAILURES, MAX_ERROR_LENGTH, Journal
from serving.controller.model import Plan, Start, Stop


def test_steps_of_one_kind_and_reason_are_one_decision() -> None:
    journal = Journal().planned(
        Plan(
            start=(Start("v2", "0 of 2 replicas"), Start("v2", "0 of 2 replicas")),
            stop=(Stop("app#D#1", "deleted"), Stop("app#D#2", "sick"), Stop("app#D#3", "deleted")),
        ),
        at_s=5.0,
    )

    assert [(each.at_s, each.text) for each in journal.decisions] == [
        (5.0, "start 2 replicas of version v2: 0 of 2 replicas"),
        (5.0, "stop 2 replicas (1, 3): deleted"),
        (5.0, "stop 1 replica (2): sick"),
    ]


def test_plan_without_steps_is_no_decision() -> None:
    assert Journal().planned(Plan(wake_at=3.0), at_s=5.0) == Journal()


def test_journal_is_bounded() -> None:
    journal = Journal()
    for number in range(100):
        journal = journal.decided(str(number), at_s=number)
        journal = journal.failed("app#D#1", "x" * 10 * MAX_ERROR_LENGTH, at_s=number)

    assert [each.text for each in journal.decisions] == [
        str(number) for number in range(100 - KEPT_DECISIONS, 100)
    ]
    assert len(journal.failures) == KEPT_FAILURES
    assert all(len(each.error) == MAX_ERROR_LENGTH for each in journal.failures)
