"""Calls that wait for each other, in turns of the event loop."""

from __future__ import annotations

import asyncio

from serving.proxy.gathering import TURNS, Gathering


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_who_joins_within_the_turns_leaves_in_the_same_turn() -> None:
    gathering, turn, left = Gathering(), 0, []

    async def join(after: int) -> None:
        await _turns(after)
        await gathering.join()
        left.append(turn)

    async with asyncio.TaskGroup() as group:
        joining = [group.create_task(join(after)) for after in (0, 1, TURNS // 2, TURNS - 2)]
        while not all(task.done() for task in joining):
            turn += 1
            await asyncio.sleep(0)
    assert len(left) == 4
    assert len(set(left)) == 1


async def test_who_joins_later_leaves_later_and_within_as_many_turns() -> None:
    gathering = Gathering()
    await gathering.join()
    later = asyncio.ensure_future(gathering.join())
    await _turns(TURNS // 2)
    assert not later.done()
    await _turns(TURNS)
    assert later.done()


async def test_first_to_join_is_cancelled_and_the_others_leave() -> None:
    gathering = Gathering()
    first, second = (asyncio.ensure_future(gathering.join()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait_for(second, 5)
    assert first.cancelled()
