"""``@limited_slots``: calls of a function in progress."""

import asyncio

import pytest

from bot.core.rate_limiter import ConcurrencyLimit, ConcurrencyLimitExceeded, RateLimiter, limited_slots


@pytest.fixture
async def limiter():
    limiter = RateLimiter.get_instance()
    await limiter.enable()
    yield limiter
    await limiter.disable()


class Bot:
    def __init__(self):
        self.go_on = asyncio.Event()

    @limited_slots(2)
    async def download(self, user_id, name):
        await self.go_on.wait()
        return f"{user_id}:{name}"

    @staticmethod
    @limited_slots(1, key=lambda name: 5)
    async def upload(name):
        return name


async def test_calls_in_progress_are_limited_for_each_client(limiter):
    bot = Bot()
    running = [asyncio.create_task(bot.download(1, name)) for name in "ab"]
    other = asyncio.create_task(bot.download(2, "c"))
    await asyncio.sleep(0)
    with pytest.raises(ConcurrencyLimitExceeded, match=r"Bot\.download reached: 2 of 2 in flight"):
        await bot.download(1, "d")
    bot.go_on.set()
    assert await asyncio.gather(*running, other) == ["1:a", "1:b", "2:c"]
    assert await bot.download(1, "d") == "1:d"
    assert await bot.upload("x") == "x"


async def test_functions_share_a_limit_and_wait_for_each_other(limiter):
    one = ConcurrencyLimit(1, "one")
    order = []

    @limited_slots(one, timeout=None)
    async def first(user_id):
        order.append("first begins")
        await asyncio.sleep(0)
        order.append("first ends")

    @limited_slots(one, timeout=None)
    async def second(user_id):
        order.append("second")

    await asyncio.gather(first(1), second(1))
    assert order == ["first begins", "first ends", "second"]


async def test_an_error_of_the_function_gives_the_slot_back(limiter):
    @limited_slots(1)
    async def fails(user_id):
        raise KeyError(user_id)

    for _ in range(3):
        with pytest.raises(KeyError):
            await fails(1)


async def test_while_off_the_function_is_just_called():
    @limited_slots(1)
    async def both(user_id):
        return await both(2) if user_id == 1 else "called"

    assert await both(1) == "called"


def test_what_cannot_be_limited_is_refused():
    with pytest.raises(TypeError, match="expected an async def function"):

        @limited_slots(1)
        def plain(user_id):
            pass

    with pytest.raises(TypeError, match="expected an async def function"):

        @limited_slots(1)
        async def generator(user_id):
            yield

    for wrong in (0, True, "2", None, 1.5):
        with pytest.raises(ValueError, match="max_in_flight = "):
            limited_slots(wrong)
    with pytest.raises(ValueError, match="timeout = "):
        limited_slots(1, timeout="soon")
    with pytest.raises(ValueError, match="key = 5"):
        limited_slots(1, key=5)
