"""What is to be looked at, and when."""

from __future__ import annotations

import asyncio
import time

import pytest

from serving.controller.queue import Queue


async def test_name_added_twice_is_taken_once() -> None:
    queue = Queue()
    queue.add("a", "b")
    queue.add("a")
    assert queue.take(0.0) == {"a", "b"}
    assert not queue.take(0.0)


async def test_earlier_of_two_moments_counts() -> None:
    queue = Queue()
    queue.add_at("a", 5.0)
    queue.add_at("a", 3.0)
    queue.add_at("a", 9.0)
    assert not queue.take(2.9)
    assert queue.take(3.0) == {"a"}
    assert not queue.take(10.0)


async def test_name_that_is_taken_before_its_moment_waits_for_none() -> None:
    queue = Queue()
    queue.add_at("a", 3.0)
    queue.add("a")
    assert queue.take(0.0) == {"a"}
    assert not queue.take(3.0)


async def test_wait_ends_by_what_was_added_before_or_meanwhile() -> None:
    queue = Queue()
    queue.add("a")
    async with asyncio.timeout(1):
        await queue.wait(None)
        waiting = asyncio.ensure_future(queue.wait(None))
        await asyncio.sleep(0)
        assert not waiting.done()
        queue.wake()
        await waiting


@pytest.mark.parametrize("whose", ["its own", "another's"])
async def test_wait_ends_when_a_moment_comes(whose: str) -> None:
    queue = Queue()
    soon = time.monotonic() + 0.01
    if whose == "its own":
        queue.add_at("a", soon)
    async with asyncio.timeout(1):
        await queue.wait(None if whose == "its own" else soon)
    assert time.monotonic() >= soon
