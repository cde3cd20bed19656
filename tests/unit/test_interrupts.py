"""Signals that come at a bad moment are neither lost nor raised where they do harm."""

from __future__ import annotations

import signal
import threading

import pytest

from serving.interrupts import interruptible, raise_if_interrupted, uninterrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_ends_what_is_interruptible(number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():
        signal.raise_signal(number)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupt_that_a_destructor_swallowed_is_raised_by_the_next_wait() -> None:
    class Swallows:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    with interruptible():
        Swallows()
        with pytest.raises(KeyboardInterrupt):
            raise_if_interrupted()

    with interruptible():
        raise_if_interrupted()


def test_interrupt_is_held_back_until_the_context_ends() -> None:
    done = []

    def work() -> None:
        with interruptible(), uninterrupted():
            signal.raise_signal(signal.SIGINT)
            done.append(True)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done


def test_handlers_are_as_before_in_the_end() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with interruptible(), uninterrupted():
        pass

    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_other_threads_leave_the_handlers_alone() -> None:
    failures = []

    def work() -> None:
        try:
            with interruptible(), uninterrupted():
                pass
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert not failures
