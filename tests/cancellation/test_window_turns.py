"""A caller that waits for a window is cancelled at any point: others are served as if it had never come."""

import asyncio
import itertools

import pytest

from bot.core.rate_limiter import RateLimiter, WindowLimit
from tests.support.clock import VirtualClock, until_idle


@pytest.mark.parametrize("turns", range(12))
@pytest.mark.parametrize("which", range(3))
async def test_the_others_are_served_in_their_order(turns, which):
    clock = VirtualClock()
    limiter = RateLimiter(clock=clock)
    await limiter.enable()
    limit = WindowLimit(1, 10.0)
    await limiter.acquire("u", limit)
    served = []

    async def wait(number):
        await limiter.acquire("u", limit)
        served.append((number, clock.monotonic()))

    start = clock.monotonic()
    tasks = [asyncio.ensure_future(wait(number)) for number in range(3)]
    await until_idle()
    clock.jump(10.01)
    # The first one's time comes, and one is cancelled somewhere on the way.
    advancing = asyncio.ensure_future(clock.advance(0.0))
    for _ in range(turns):
        await asyncio.sleep(0)
    tasks[which].cancel()
    await advancing
    await clock.advance(60.0)
    await asyncio.wait(tasks)
    numbers = [number for number, _ in served]
    assert numbers == sorted(numbers)
    assert set(numbers) >= {0, 1, 2} - {which}
    for (_, before), (_, after) in itertools.pairwise(served):
        assert after - before >= 10.0
    assert served[-1][1] <= start + 10.02 + 10.01 * (len(served) - 1) + 10.01
    limiter._joint_alone.turns.check_invariants()
    assert not limiter._joint_alone.turns
    await limiter.disable()
