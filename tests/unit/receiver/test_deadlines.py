import asyncio

import pytest

from receiver.deadlines import Deadlines

SHORT = 0.01
LONG = 60.0


async def forever() -> None:
    await asyncio.Event().wait()


async def test_a_wait_that_takes_too_long_ends_with_a_timeout() -> None:
    with pytest.raises(TimeoutError), Deadlines(SHORT).limit():
        await forever()
    current = asyncio.current_task()
    assert current is not None
    assert current.cancelling() == 0  # the task can be cancelled as before


async def test_what_ends_in_time_is_left_alone_and_forgotten() -> None:
    deadlines = Deadlines(LONG)
    with deadlines.limit():
        await asyncio.sleep(0)
    assert not deadlines._begun


async def test_those_that_end_out_of_order_are_forgotten_when_the_first_ends() -> None:
    deadlines = Deadlines(LONG)
    ends = [asyncio.Event() for _ in range(3)]

    async def wait(end: asyncio.Event) -> None:
        with deadlines.limit():
            await end.wait()

    tasks = [asyncio.create_task(wait(end)) for end in ends]
    await asyncio.sleep(0)
    for number in (1, 2, 0):
        ends[number].set()
        await tasks[number]
    assert not deadlines._begun


async def test_each_has_its_own_time() -> None:
    deadlines = Deadlines(SHORT)

    async def wait() -> bool:
        try:
            with deadlines.limit():
                await forever()
        except TimeoutError:
            return True
        return False

    early = asyncio.create_task(wait())
    await asyncio.sleep(0)
    assert await early
    late = [asyncio.create_task(wait()) for _ in range(5)]
    assert all(await asyncio.gather(*late))
    assert deadlines._timer is None


async def test_cancelling_from_outside_stays_a_cancelling() -> None:
    deadlines = Deadlines(LONG)

    async def wait() -> None:
        with deadlines.limit():
            await forever()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not deadlines._begun


async def test_another_error_passes_through() -> None:
    with pytest.raises(ValueError, match="this"), Deadlines(LONG).limit():
        raise ValueError("this")
