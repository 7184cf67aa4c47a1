"""The budget lets in no more than its limit, first come, first served."""

import asyncio

import pytest

from icehouse.client.byte_budget import ByteBudget


async def settled(task: "asyncio.Task[None]") -> bool:
    for _ in range(5):
        await asyncio.sleep(0)
    return task.done()


async def test_tasks_wait_for_room_in_their_order() -> None:
    budget = ByteBudget(10)
    await budget.take(8)
    large, small = asyncio.create_task(budget.take(6)), asyncio.create_task(budget.take(1))
    assert not await settled(large)
    assert not await settled(small)
    budget.give_back(4)
    assert await settled(large)
    assert not await settled(small)
    budget.give_back(4)
    assert await settled(small)
    assert budget.used_bytes == 7


async def test_more_than_the_limit_is_given_when_nothing_is_taken() -> None:
    budget = ByteBudget(10)
    await budget.take(25)
    waiting = asyncio.create_task(budget.take(1))
    assert not await settled(waiting)
    budget.give_back(25)
    await waiting


async def test_a_task_that_gives_up_takes_nothing() -> None:
    budget = ByteBudget(10)
    await budget.take(10)
    first, second = asyncio.create_task(budget.take(10)), asyncio.create_task(budget.take(10))
    await settled(first)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    budget.give_back(10)
    await second
    assert budget.used_bytes == 10
