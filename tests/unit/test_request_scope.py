"""What waits for the end of a request."""

from __future__ import annotations

from serving.context import RequestScope


def test_end_calls_what_waits_for_it_once() -> None:
    scope, told = RequestScope(), list[str]()
    scope.on_end(lambda: told.append("first"))
    scope.on_end(lambda: told.append("second"))
    assert told == []

    scope.end()
    scope.end()
    assert told == ["first", "second"]


def test_end_that_has_passed_calls_at_once() -> None:
    """For a task that the handler left behind."""
    scope, told = RequestScope(), list[str]()
    scope.end()

    scope.on_end(lambda: told.append("late"))
    assert told == ["late"]
