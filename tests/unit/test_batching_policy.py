"""Which items make a batch, and when."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from serving.batching.policy import BatchPolicy, Entry, Settings


def total(items: list[Any]) -> int:
    if any(item < 0 for item in items):
        raise ValueError("negative")
    return sum(items)


def policy(*items: int, **settings: Any) -> BatchPolicy[Entry]:
    made: BatchPolicy[Entry] = BatchPolicy(Settings(**settings))
    for item in items:
        made.add(Entry(item, arrived=0.0))
    return made


def test_a_full_batch_goes_at_once_and_another_when_its_oldest_has_waited() -> None:
    items = policy(1, 2, 3, max_batch_size=2, batch_wait_timeout_s=5)
    assert [entry.item for entry in items.take(0).batch] == [1, 2]
    assert items.take(4.9).batch == []
    assert items.wake_at() == 5
    assert [entry.item for entry in items.take(5).batch] == [3]
    assert items.wake_at() is None


def test_a_batch_is_full_when_the_next_item_does_not_fit() -> None:
    items = policy(4, 5, 3, max_batch_size=10, batch_wait_timeout_s=5, batch_size_fn=total)
    assert [entry.item for entry in items.take(0).batch] == [4, 5]
    assert items.take(0).batch == []


def test_an_item_that_no_batch_can_hold_fails_alone() -> None:
    items = policy(11, -1, 10, max_batch_size=10, batch_size_fn=total)
    taken = items.take(0)
    assert [(entry.item, type(error)) for entry, error in taken.failed] == [
        (11, RuntimeError),
        (-1, ValueError),
    ]
    assert [entry.item for entry in taken.batch] == [10]


def test_lanes_do_not_mix_and_the_one_that_waited_longest_goes_first() -> None:
    items: BatchPolicy[Entry] = BatchPolicy(Settings(batch_wait_timeout_s=1))
    for arrived, lane in enumerate("abab"):
        items.add(Entry(arrived, arrived, lane))
    assert [entry.item for entry in items.take(10).batch] == [0, 2]
    assert [entry.item for entry in items.take(10).batch] == [1, 3]


@given(
    sizes=st.lists(st.integers(-1, 12), max_size=40),
    lanes=st.lists(st.sampled_from("abc"), min_size=40, max_size=40),
    gone=st.sets(st.integers(0, 39)),
    limit=st.integers(1, 10),
    measured=st.booleans(),
)
def test_each_item_leaves_once_and_in_order(
    sizes: list[int], lanes: list[str], gone: set[int], limit: int, measured: bool
) -> None:
    settings = Settings(limit, 1.0, batch_size_fn=total if measured else None)
    items: BatchPolicy[Entry] = BatchPolicy(settings)
    entries = [Entry(size, 0.0, lane) for size, lane in zip(sizes, lanes, strict=False)]
    left: list[Entry] = []
    failed: list[Entry] = []

    def take(now: float) -> bool:
        taken = items.take(now)
        failed.extend(entry for entry, _ in taken.failed)
        left.extend(taken.batch)
        assert len({entry.lane for entry in taken.batch}) <= 1
        assert (total if measured else len)([e.item for e in taken.batch]) <= limit
        return bool(taken.batch)

    for entry in entries:
        items.add(entry)
        take(0.5)
    removed = [entry for at, entry in enumerate(entries) if at in gone and entry not in left]
    removed = [entry for entry in removed if entry not in failed]
    for entry in removed:
        items.discard(entry)
    while take(1.0):
        pass
    assert len(items) == 0
    assert sorted(map(id, left + failed + removed)) == sorted(map(id, entries))
    for lane in "abc":
        order = [entry for entry in left if entry.lane == lane]
        assert order == sorted(order, key=entries.index)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("max_batch_size", 0, ValueError),
        ("max_batch_size", 1.5, TypeError),
        ("max_batch_size", True, TypeError),
        ("batch_wait_timeout_s", -1, ValueError),
        ("batch_wait_timeout_s", float("nan"), ValueError),
        ("batch_wait_timeout_s", "1", TypeError),
        ("max_concurrent_batches", 0, ValueError),
        ("batch_size_fn", 3, TypeError),
    ],
)
def test_a_wrong_parameter_is_named(name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=name):
        Settings(**{name: value})
