"""The work queue: one worker a key, the earliest wish, nothing lost."""

import asyncio
import random

import pytest

from finetune_operator.runtime.queue import WorkQueue


async def soon(queue: WorkQueue[str]) -> str | None:
    """The next key; an AssertionError if none comes though one is due."""
    async with asyncio.timeout(10):
        return await queue.get()


async def test_keys_come_in_the_order_in_which_they_are_due() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("late", after=0.05)
    queue.add("now")
    assert [await soon(queue), await soon(queue)] == ["now", "late"]


async def test_of_several_wishes_the_earliest_holds() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("job", after=3600)
    queue.add("job")
    queue.add("job", after=3600)
    assert await soon(queue) == "job"
    queue.done("job")
    assert len(queue) == 0


async def test_a_key_is_worked_on_by_one_worker_and_again_if_it_changed_meanwhile() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("job")
    assert await soon(queue) == "job"
    queue.add("job")
    queue.add("other")
    assert await soon(queue) == "other"
    waiting = asyncio.ensure_future(queue.get())
    await asyncio.sleep(0)
    assert not waiting.done()
    queue.done("job")
    assert await asyncio.wait_for(waiting, 10) == "job"


async def test_what_failed_comes_back_later_each_time_even_if_it_was_announced() -> None:
    queue: WorkQueue[str] = WorkQueue()
    delays = []
    for _ in range(12):
        queue.add("job", after=-3600)
        assert await soon(queue) == "job"
        queue.add("job")
        delays.append(queue.failed("job"))
        assert queue.overdue == 0
        queue._due["job"] = 0  # its time has come
        queue._push("job", 0)
        assert await soon(queue) == "job"
        queue.add("job")
        queue._finish("job")
    assert delays[0] < 1
    assert 45 <= delays[-1] <= 75


async def test_a_key_that_went_well_is_patient_again() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for _ in range(6):
        queue.add("job", after=-3600)
        await soon(queue)
        queue.failed("job")
        queue.add("job", after=-3600)
    await soon(queue)
    queue.done("job")
    queue.add("job")
    await soon(queue)
    assert queue.failed("job") < 1


@pytest.mark.parametrize("seed", range(5))
async def test_many_workers_lose_nothing_and_never_share_a_key(seed: int) -> None:
    dice = random.Random(seed)
    queue: WorkQueue[int] = WorkQueue()
    wanted = dict.fromkeys(range(20), 0)
    served = dict.fromkeys(range(20), 0)
    held: set[int] = set()

    async def work() -> None:
        while (key := await queue.get()) is not None:
            assert key not in held
            held.add(key)
            seen = wanted[key]
            await asyncio.sleep(dice.random() / 1000)
            served[key] = max(served[key], seen)
            held.remove(key)
            if dice.random() < 0.1:
                queue.add(key)
                queue.done(key)
            else:
                queue.done(key, again=0.001 if dice.random() < 0.1 else None)

    workers = [asyncio.ensure_future(work()) for _ in range(4)]
    for _ in range(300):
        key = dice.randrange(20)
        wanted[key] += 1
        queue.add(key, after=dice.choice([0, 0, 0.002]))
        if dice.random() < 0.2:
            await asyncio.sleep(0)
    async with asyncio.timeout(30):
        while len(queue):  # noqa: ASYNC110 (the queue has no need to say when it is empty)
            await asyncio.sleep(0.005)
    queue.close()
    await asyncio.gather(*workers)
    # Each wish was followed by a look that began after it.
    assert served == wanted


@pytest.mark.parametrize("turns", range(6))
async def test_a_worker_that_is_cancelled_as_a_key_comes_ends(turns: int) -> None:
    """Nobody may go on whose Lease is lost, however many turns of the loop the key came before."""
    queue: WorkQueue[str] = WorkQueue()
    queue.add("later", after=3600)

    async def work() -> None:
        while (key := await queue.get()) is not None:
            queue.done(key)

    worker = asyncio.create_task(work())
    for _ in range(5):
        await asyncio.sleep(0)
    queue.add("now")
    for _ in range(turns):
        await asyncio.sleep(0)
    worker.cancel()
    await asyncio.wait([worker], timeout=5)
    assert worker.cancelled()
    queue.close()
