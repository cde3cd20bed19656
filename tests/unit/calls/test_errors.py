"""Exceptions on a stream."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from serving.calls.errors import MAX_TEXT, decode_error, encode_error, is_remote
from serving.exceptions import RemoteError


class TwoArguments(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class OwnConstructor(Exception):
    def __init__(self, code: int, detail: str = "none") -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code


class OwnNew(Exception):
    def __new__(cls, *, code: int) -> OwnNew:
        return super().__new__(cls, code)

    def __init__(self, *, code: int) -> None:
        super().__init__(code)


class HoldsGenerator(Exception):
    def __init__(self) -> None:
        super().__init__("held", (x for x in ""))


class NoText(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


class Odd(Exception):
    def __reduce__(self) -> Any:
        return str, ("not an exception",)


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return decode_error(encode_error(caught))


def test_an_exception_keeps_its_type_and_shows_where_it_was_raised() -> None:
    error = raised(KeyError("missing"))
    assert type(error) is KeyError
    assert error.args == ("missing",)
    assert isinstance(error.__cause__, RemoteError)
    assert "raise error" in str(error.__cause__)
    assert is_remote(error)
    assert not is_remote(KeyError())


@pytest.mark.parametrize("error", [TwoArguments(1, 2), OwnConstructor(3, "too long")], ids=repr)
def test_exception_whose_constructor_takes_other_arguments_keeps_its_type(error: Any) -> None:
    received = raised(error)
    assert type(received) is type(error)
    assert received.args == error.args
    assert str(received) == str(error)
    assert vars(received) == vars(error)


def test_exception_within_another_is_rebuilt_too() -> None:
    group = raised(ExceptionGroup("two", [TwoArguments(1, 2), ValueError("x")]))
    assert isinstance(group, ExceptionGroup)
    assert [str(each) for each in group.exceptions] == ["1 and 2", "x"]


def test_exception_that_cannot_be_rebuilt_says_so_and_how_to_mend_it() -> None:
    with pytest.raises(RemoteError, match=r"OwnNew: 1 \(.*its args.*__reduce__.*super"):
        raise raised(OwnNew(code=1))
    with pytest.raises(RemoteError, match=r"HoldsGenerator: .*cannot be sent: .*generator"):
        raise raised(HoldsGenerator())


def test_a_remote_cause_is_told_further_on() -> None:
    further = raised(raised(ValueError("deep")))
    assert str(further.__cause__).count("Traceback") >= 2


@pytest.mark.parametrize(
    "error",
    [
        OwnNew(code=1),
        HoldsGenerator(),
        Odd("odd"),
        KeyboardInterrupt("stop"),
        SystemExit(3),
        asyncio.CancelledError(),
        StopIteration(1),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_cannot_be_sent_is_told_as_text(error: BaseException) -> None:
    remote = raised(error)
    assert isinstance(remote, RemoteError)
    assert remote.type_name.endswith(type(error).__qualname__)
    assert is_remote(remote)


def test_an_exception_without_text() -> None:
    assert isinstance(raised(NoText()), NoText)


def test_texts_are_bounded_and_any_text_can_be_sent() -> None:
    remote = raised(SystemExit("é\udc80" * MAX_TEXT))
    assert len(str(remote)) < 2 * MAX_TEXT
    assert len(str(remote.__cause__)) <= MAX_TEXT


def test_malformed_data_is_a_remote_error() -> None:
    assert isinstance(decode_error(b"\xff\xff"), RemoteError)
