"""What is told of failures."""

from __future__ import annotations

import traceback
from collections.abc import Callable

import pytest

from serving.controller.status import headline


def multi_line() -> None:
    raise ValueError("bad weights\nsecond line\n  third, indented")


def chained() -> None:
    try:
        raise KeyError("first")
    except KeyError as error:
        raise RuntimeError("second") from error


def syntax() -> None:
    compile("x = (", "model.py", "exec")


@pytest.mark.parametrize(
    ("fails", "expected"),
    [
        (multi_line, "ValueError: bad weights"),
        (chained, "RuntimeError: second"),
        (syntax, "SyntaxError: '(' was never closed"),
    ],
)
def test_headline_is_the_type_and_the_first_line(fails: Callable[[], None], expected: str) -> None:
    try:
        fails()
    except Exception:
        assert headline(traceback.format_exc()) == expected


def test_headline_without_a_traceback_is_the_last_line() -> None:
    assert headline("the process ended with exit code 1 before it was ready\n") == (
        "the process ended with exit code 1 before it was ready"
    )
    assert headline("") == ""
