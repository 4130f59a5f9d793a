"""Lines of callers that wait for windows: their order, and what a caller costs when many wait."""

import asyncio
import random
from collections import OrderedDict

import pytest

from bot.core.rate_limiter import RateLimiter, RateLimitExceeded, WindowLimit
from bot.core.rate_limiter.turns import LOOKED_AT, Turns
from tests.support.clock import until_idle
from tests.support.steps import steps_of

FEW, MANY = 50, 800
OTHER = WindowLimit(3, 60.0)


class Meter:
    """A limit under which nothing is free, which notes how many callers ahead it was told of."""

    def __init__(self):
        self.blocked = 0
        self.told = []

    def ready(self, client, now, tokens, ahead=(), more=0):
        self.told.append((len(ahead), sum(ahead) + more))
        return now + sum(ahead) + more + tokens


async def never():
    return 1e6, None


class Waiting:
    """Callers in line, all of which are gone at the end."""

    def __init__(self, clock):
        self.turns = Turns(clock)
        self.tasks = []

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self.cancel(self.tasks)
        self.turns.check_invariants()
        assert not self.turns

    async def join(self, meter, clients, tokens=lambda number: 1):
        tasks = [
            asyncio.ensure_future(self.turns.acquire([(meter, client, tokens(number))], 1e7, "", never))
            for number, client in enumerate(clients)
        ]
        self.tasks += tasks
        await until_idle(3)
        self.turns.check_invariants()
        return tasks

    async def cancel(self, tasks):
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def steps_of_one_more(self, meter, client):
        """Of a caller that gets in line and leaves it again."""
        coroutine = self.turns.acquire([(meter, client, 1)], 1e7, "", never)

        def come_and_go():
            coroutine.send(None)
            coroutine.close()

        return steps_of(come_and_go)


@pytest.mark.parametrize("who", [lambda number: "u", lambda number: number], ids=["one client", "many"])
async def test_what_a_caller_costs_does_not_depend_on_how_many_wait(clock, who):
    async with Waiting(clock) as waiting:
        meter = Meter()
        await waiting.join(meter, [who(number) for number in range(FEW)])
        with_few = waiting.steps_of_one_more(meter, who(0))
        await waiting.join(meter, [who(number) for number in range(FEW, MANY)])
        assert waiting.steps_of_one_more(meter, who(0)) == with_few


async def test_of_a_long_line_only_the_first_are_looked_at_one_by_one(clock):
    async with Waiting(clock) as waiting:
        alike, mixed = Meter(), Meter()
        await waiting.join(alike, ["u"] * MANY)
        await waiting.join(mixed, ["u"] * MANY, lambda number: 1 + number % 2)
        assert waiting.turns.ready(alike, "u", 1, 0.0) == MANY + 1
        assert alike.told[-1] == (0, MANY)
        assert waiting.turns.ready(mixed, "u", 1, 0.0) == MANY * 3 / 2 + 1
        assert mixed.told[-1] == (LOOKED_AT, MANY * 3 / 2)


async def test_to_wake_a_client_does_not_look_at_all_who_wait_for_it(clock):
    async with Waiting(clock) as waiting:
        meter = Meter()
        await waiting.join(meter, ["u"] * FEW)
        with_few = steps_of(lambda: waiting.turns.wake(meter, "u"))
        await waiting.join(meter, ["u"] * MANY)
        await waiting.join(meter, range(MANY))
        assert steps_of(lambda: waiting.turns.wake(meter, "u")) == with_few
        assert steps_of(lambda: waiting.turns.limits_of("u")) < 10


async def test_the_first_of_a_line_is_found_without_walking_over_those_that_left(clock):
    async with Waiting(clock) as waiting:
        meter = Meter()
        tasks = await waiting.join(meter, ["u"] * 3)
        (line,) = waiting.turns._lines[asyncio.get_running_loop()].values()
        (place,) = waiting.turns._places[meter].values()
        assert isinstance(line.turns, OrderedDict)
        assert isinstance(place.turns, OrderedDict)
        await waiting.cancel(tasks[:2])
        assert len(line.turns) == place.tokens == 1


@pytest.mark.parametrize("seed", range(6))
async def test_whoever_gives_up_the_others_are_served_in_the_order_of_their_arrival(clock, seed):
    chance = random.Random(seed)
    limiter = RateLimiter(clock=clock)
    await limiter.enable()
    limit = WindowLimit(3, 10.0)
    served, tasks = [], {}

    async def work(number, client, tokens):
        await limiter.acquire(client, (limit, OTHER) if client == "both" else limit, tokens)
        served.append((client, number))

    for number in range(120):
        client = chance.choice(["u", "v", "both"])
        tasks[number] = asyncio.ensure_future(work(number, client, chance.choice([1, 1, 1, 2, 3])))
        if chance.random() < 0.3:
            tasks[chance.randrange(number + 1)].cancel()
        if chance.random() < 0.2:
            await clock.advance(chance.uniform(0.0, 5.0))
        limiter._joint_alone.turns.check_invariants()
    await clock.advance(6_000.0)
    done = [number for number, task in tasks.items() if not task.cancelled()]
    assert sorted(number for _, number in served) == done
    for client in ("u", "v", "both"):
        numbers = [number for of, number in served if of == client]
        assert numbers == sorted(numbers)
    assert 20 < len(done) < 120
    assert not limiter._joint_alone.turns
    await limiter.disable()


async def test_who_waited_too_long_is_told_when_it_is_served_if_it_comes_again(clock):
    limiter = RateLimiter(clock=clock)
    await limiter.enable()
    limit = WindowLimit(1, 10.0)
    await limiter.acquire("u", limit)
    first = asyncio.ensure_future(limiter.acquire("u", limit))
    await until_idle()
    impatient = asyncio.ensure_future(limiter.acquire("u", limit, timeout=25.0))
    await until_idle()
    others = [asyncio.ensure_future(limiter.acquire("u", limit)) for _ in range(3)]
    await limiter.charge("u", limit, 2)  # those in line move back
    await clock.advance(26.0)
    with pytest.raises(RateLimitExceeded) as refused:
        await impatient
    told = clock.monotonic() - 1.0 + refused.value.retry_after
    again = asyncio.ensure_future(limiter.acquire("u", limit))
    await clock.advance(100.0)
    await asyncio.gather(first, *others, again)
    assert told == pytest.approx(1_000.0 + 70.0, abs=0.1), "1 before, 2 charged, and 4 in line"
    await limiter.disable()


async def test_a_check_does_not_stand_behind_callers_whose_event_loop_has_ended(clock):
    waiting, meter = Waiting(clock), Meter()
    ended = asyncio.new_event_loop()

    async def abandoned():
        coroutine = waiting.turns.acquire([(meter, "u", 1)], 1e7, "", never)
        coroutine.send(None)
        return coroutine

    coroutine = await asyncio.to_thread(ended.run_until_complete, abandoned())
    assert waiting.turns.ready(meter, "u", 1, 0.0) == 2.0
    ended.close()
    assert waiting.turns.ready(meter, "u", 1, 0.0) is None
    assert not waiting.turns
    coroutine.close()
    waiting.turns.check_invariants()
