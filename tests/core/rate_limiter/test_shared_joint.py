"""Windows, checks of several limits, refunds and charges that instances share through a real Redis."""

import asyncio
import math
import struct

import pytest

from bot.core.rate_limiter import Backoff, RateLimitConfig, RateLimiter, RateLimitExceeded, WindowLimit
from bot.core.rate_limiter.mirror import client_key
from bot.core.redis_link import RedisLink
from tests.support.servers import RedisServer, running

SLOW = RateLimitConfig(0.0001, 5)
HOURLY = WindowLimit(5, 3600.0)
TICK = WindowLimit(3, 0.25)


async def until(condition, timeout=8.0):
    """Wait for what another process or a reconnection brings about."""
    async with asyncio.timeout(timeout):
        while not await condition():
            await asyncio.sleep(0.01)


@pytest.fixture
async def raw(redis_server):
    link = RedisLink(redis_server.url)
    yield link
    await link.close()


@pytest.fixture
async def pair(redis_server):
    limiters = [RateLimiter(), RateLimiter()]
    for limiter in limiters:
        await limiter.enable(redis_url=redis_server.url)
        await limiter.is_allowed("ready", SLOW)
    yield limiters
    for limiter in limiters:
        for mirror in limiter._table.mirrors():
            mirror.check_invariants(limiter._now())
        limiter._shared.joint.turns.check_invariants()
        await limiter.disable()
    assert not RedisLink._links


async def left(limiter, client, limit):
    status = await limiter.get_client_status(client, limit)
    assert not status.degraded
    return status.remaining


# Windows.


async def test_instances_share_a_window(pair):
    a, b = pair
    outcomes = [(await limiter.is_allowed("u", HOURLY))[0] for _ in range(4) for limiter in pair]
    assert outcomes == [True] * 5 + [False] * 3
    allowed, status = await a.is_allowed("v", HOURLY, 3)
    assert allowed
    assert not status.degraded
    assert (status.remaining, status.limit, status.retry_after) == (2, 5, 0.0)
    allowed, status = await b.is_allowed("v", HOURLY, 3)
    assert not allowed
    assert (status.remaining, status.limited_by) == (2, HOURLY)
    assert status.retry_after == pytest.approx(3600.0, abs=5.0)
    assert (await b.is_allowed("v", HOURLY, 2))[0], "a refusal of three says nothing of two"
    assert await left(a, "v", HOURLY) == 0


async def test_never_more_in_any_window_by_the_clock_of_redis(pair, raw):
    """Four tasks in two instances, as fast as they can: what passed stands in Redis, in order."""
    stamps = []

    async def work(limiter):
        for _ in range(60):
            allowed, status = await limiter.is_allowed("u", TICK)
            if not allowed:
                await asyncio.sleep(status.retry_after * 0.9)

    async def look():
        while True:
            for key in await raw.execute("KEYS", "p4r:w:*"):
                value = await raw.execute("GET", key)
                stamps.extend(struct.unpack(f"<{len(value) // 8 - 1}d", value[8:]) if value else ())
            await asyncio.sleep(0.02)

    for limiter in pair:
        await limiter.enable(backoff=False)
    looking = asyncio.ensure_future(look())
    await asyncio.gather(*[work(limiter) for limiter in pair for _ in range(2)])
    looking.cancel()
    times = sorted(set(stamps))
    assert len(times) >= 6
    assert not [at for at, later in zip(times, times[3:], strict=False) if later - at < 0.25 - 1e-6]


async def test_waiting_what_is_told_is_enough_in_every_instance(pair):
    for turn in range(9):
        limiter = pair[turn % 2]
        allowed, status = await limiter.is_allowed("u", TICK)
        if not allowed:
            await asyncio.sleep(status.retry_after)
            assert (await limiter.is_allowed("u", TICK))[0]


async def test_early_retries_of_a_window_are_punished_in_every_instance(pair):
    a, b = pair
    limit = WindowLimit(1, 5.0, backoff=Backoff(60.0, 60.0, 0.0))
    await a.is_allowed("u", limit)

    async def punished():
        return (await a.is_allowed("u", limit))[1].retry_after > 55.0

    await until(punished)

    async def heard():
        return (await b.get_client_status("u", limit)).retry_after > 50.0

    await until(heard)


async def test_a_window_in_redis_expires_with_what_counts(pair, raw):
    a, _ = pair
    limit = WindowLimit(100, 0.2)
    for _ in range(30):
        await a.is_allowed("u", limit)
    (key,) = await raw.execute("KEYS", "p4r:w:*")
    assert 0 < await raw.execute("PTTL", key) <= 202

    async def gone():
        return not [key for key in await raw.execute("KEYS", "p4r:*") if b"ready" not in key]

    await until(gone)


async def test_old_times_leave_a_busy_window(pair, raw):
    a, _ = pair
    limit = WindowLimit(1_000, 0.05)
    for _ in range(300):
        await a.is_allowed("u", limit)
        await asyncio.sleep(0.0005)
    (key,) = await raw.execute("KEYS", "p4r:w:*")
    value = await raw.execute("GET", key)
    times = struct.unpack(f"<{len(value) // 8 - 1}d", value[8:])
    counting = sum(at > times[-1] - 0.05 for at in times)
    assert len(times) <= 2 * counting + 16


@pytest.mark.parametrize("client", ["u", "a}b", "{", "имя", 7, -(2**70), None])
async def test_removing_the_key_of_a_client_forgives_everything(pair, raw, client):
    a, b = pair
    await a.is_allowed(client, HOURLY, 5)
    await a.is_allowed(client, SLOW, 5)
    await raw.execute("DEL", client_key(client))
    assert await left(b, client, HOURLY) == 5
    assert (await b.is_allowed(client, HOURLY, 5))[0]
    assert not (await a.is_allowed(client, HOURLY))[0]


async def test_a_reset_forgives_windows_too_and_serves_who_waits(pair, raw):
    a, b = pair
    for limit, given in ((HOURLY, None), (HOURLY, HOURLY)):
        await a.is_allowed("u", limit, 5)
        waiting = asyncio.ensure_future(b.acquire("u", limit))

        async def in_line():
            return bool(b._shared.joint.turns)

        await until(in_line)
        assert await a.reset_client("u", given)
        assert (await asyncio.wait_for(waiting, 5.0)).allowed
        assert await left(a, "u", limit) == 4
        await a.reset_client("u")
    assert not await raw.execute("KEYS", "p4r:w:*")


async def test_instances_wait_for_a_window(pair):
    a, b = pair
    done = []

    async def work(limiter):
        await limiter.acquire("u", TICK)
        done.append(asyncio.get_running_loop().time())

    await asyncio.gather(*[work(limiter) for limiter in pair for _ in range(4)])
    assert len(done) == 8
    await a.is_allowed("w", HOURLY, 5)
    with pytest.raises(RateLimitExceeded) as refused:
        await b.acquire("w", HOURLY, timeout=5.0)
    assert refused.value.retry_after > 3000


async def test_a_synchronous_check_decides_by_what_is_known_and_redis_hears_of_it(pair):
    a, b = pair
    assert [a.check("u", HOURLY) == 0.0 for _ in range(6)] == [True] * 5 + [False]

    async def heard():
        return await left(b, "u", HOURLY) == 0

    await until(heard)
    assert not (await b.is_allowed("u", HOURLY))[0]


# Several limits.


async def test_several_limits_are_one_round_trip(pair):
    a, b = pair
    checks = [("u", SLOW), ("u", HOURLY), ("chat", SLOW), ("all", RateLimitConfig(0.0001, 50))]
    await a.is_allowed_all(checks)
    batches = (await a.get_statistics())["shared_batches"]
    outcomes = [(await a.is_allowed_all(checks))[0] for _ in range(10)]
    assert outcomes == [True] * 4 + [False] * 6
    # One for each that passed and for the first refusal; the others were remembered.
    assert (await a.get_statistics())["shared_batches"] == batches + 5
    _, status = await b.is_allowed_all(checks)
    assert status.limited_by is SLOW
    assert status.retry_after > 9_000
    assert await left(b, "all", RateLimitConfig(0.0001, 50)) == 45
    assert await left(b, "chat", SLOW) == 0


async def test_a_refusal_costs_nothing_anywhere(pair):
    a, b = pair
    await a.is_allowed("u", WindowLimit(1, 3600.0))
    for limiter in pair:
        for _ in range(3):
            _, status = await limiter.is_allowed_all(
                [("u", SLOW, 2), ("u", WindowLimit(1, 3600.0)), ("v", HOURLY)]
            )
            assert status.limited_by == WindowLimit(1, 3600.0)
    assert await left(b, "u", SLOW) == 5
    assert await left(b, "v", HOURLY) == 5
    assert (await b.get_statistics())["limits"]["0.0001/s burst 5"]["blocked"] == 0


async def test_checks_of_one_tick_are_each_decided_whole(pair):
    a, b = pair
    both = [("u", SLOW), ("u", HOURLY)]
    outcomes = await asyncio.gather(
        *[limiter.is_allowed_all(both) for _ in range(10) for limiter in pair],
        *[limiter.is_allowed(n, SLOW) for n in range(100) for limiter in pair],
    )
    assert sum(allowed for allowed, _ in outcomes[:20]) == 5
    assert all(allowed for allowed, _ in outcomes[20:])
    assert (await left(a, "u", SLOW), await left(b, "u", HOURLY)) == (0, 0)


async def test_a_check_that_is_cancelled_gives_all_of_it_back(pair):
    a, _ = pair
    for turns in range(12):
        task = asyncio.ensure_future(a.is_allowed_all([("u", SLOW), ("u", HOURLY), ("v", HOURLY, 2)]))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            await a.refund("u", SLOW)
            await a.refund("u", HOURLY)
            await a.refund("v", HOURLY, 2)
        await a._shared.script.drain()
    assert (await left(a, "u", SLOW), await left(a, "u", HOURLY), await left(a, "v", HOURLY)) == (5, 5, 5)


async def test_too_many_limits_in_one_check_are_refused(pair):
    a, _ = pair
    with pytest.raises(ValueError, match="checks = 65: expected at most 64"):
        await a.is_allowed_all([(n, SLOW) for n in range(65)])


# Refunds and charges.


@pytest.mark.parametrize("limit", [SLOW, HOURLY])
async def test_refunds_and_charges_hold_in_every_instance(pair, limit):
    a, b = pair
    assert not await a.refund("u", limit)
    await a.is_allowed("u", limit, 4)
    assert await b.refund("u", limit, 2)
    assert await left(a, "u", limit) == 3
    assert await b.refund("u", limit, 5)
    assert not await b.refund("u", limit, 5)
    assert await left(a, "u", limit) == 5
    status = await a.charge("u", limit, 8)
    assert not status.allowed
    assert not (await b.is_allowed("u", limit))[0]
    assert (await a.refund("u", limit, 3)) or limit is SLOW
    await a.charge("x", limit, 20)
    assert await b.refund("x", limit, 20)
    assert await left(a, "x", limit) == 5
    status = await a.charge("w", limit, 1_000_000)
    one = 5 / limit.requests_per_second if limit is SLOW else limit.window
    assert 9 * one < status.retry_after < 12 * one
    assert await a.reset_client("w", limit)
    assert await left(b, "w", limit) == 5


@pytest.mark.parametrize("client", ["u", 7, "a}b", None])
@pytest.mark.parametrize("limit", [SLOW, HOURLY])
async def test_a_refund_ends_the_refusals_that_other_instances_remember(pair, limit, client):
    a, b = pair
    await a.is_allowed(client, limit, 5)
    assert not (await b.is_allowed(client, limit))[0]
    waiting = asyncio.ensure_future(b.acquire(client, limit))
    await asyncio.sleep(0.05)
    assert await a.refund(client, limit, 2)

    async def allowed():
        return (await b.is_allowed(client, limit))[0]

    await until(allowed)
    await asyncio.wait_for(waiting, 5.0)
    assert await left(a, client, limit) == 0


async def test_a_refund_lets_who_waits_in_another_instance_move_up(pair):
    a, b = pair
    limit = RateLimitConfig(0.01, 5)
    await a.allow_batch("u", 5, limit)
    waiting = asyncio.ensure_future(b.acquire("u", limit))

    async def in_line():
        return bool(b._shared._lines._lines)

    await until(in_line)
    assert await a.refund("u", limit, 2)
    assert (await asyncio.wait_for(waiting, 5.0)).allowed


async def test_a_charge_of_a_window_is_paid_window_by_window(pair):
    a, _ = pair
    await a.charge("u", TICK, 7)
    assert (await a.get_client_status("u", TICK)).retry_after == pytest.approx(0.5, abs=0.1)
    async with asyncio.timeout(5):
        await a.acquire("u", TICK)


# What Redis is not trusted with.


@pytest.mark.parametrize("fill", [math.nan, math.inf, -math.inf, 1e300, -5.0, 4e9])
async def test_impossible_times_under_a_key_cost_nobody_in_the_tick(pair, raw, fill):
    a, b = pair
    await a.is_allowed("u", HOURLY, 3)
    (key,) = await raw.execute("KEYS", "p4r:w:*")
    value = await raw.execute("GET", key)
    for junk in (value[:8] + struct.pack("<5d", *[fill] * 5), value + b"x", b"", value[:8], b"junk" * 1000):
        await raw.execute("SET", key, junk)
        outcomes = await asyncio.gather(
            b.is_allowed("u", HOURLY), b.is_allowed("v", SLOW), b.is_allowed_all([("u", HOURLY), ("v", SLOW)])
        )
        assert not any(status.degraded for _, status in outcomes)
        assert outcomes[1][0]
        await b.reset_client("v")
        await b.reset_client("u")
        await a.is_allowed("u", HOURLY, 3)
    await raw.execute("DEL", key)
    await raw.execute("LPUSH", key, "x")
    allowed, status = await b.is_allowed("other", HOURLY)
    assert allowed
    assert not status.degraded


# Redis away.


@pytest.mark.server
async def test_without_redis_each_instance_decides_whole():
    with running(RedisServer()) as server:
        limiter = RateLimiter()
        await limiter.enable(redis_url=server.url)
        both = [("u", SLOW), ("u", HOURLY)]
        assert (await limiter.is_allowed_all(both))[0]
        assert not (await limiter.is_allowed("u", HOURLY))[1].degraded
        server.kill()
        outcomes = [await limiter.is_allowed_all(both) for _ in range(6)]
        assert [allowed for allowed, _ in outcomes] == [True] * 3 + [False] * 3
        assert outcomes[0][1].degraded
        assert outcomes[-1][1].limited_by is HOURLY
        assert (await limiter.get_client_status("u", SLOW)).remaining == 1
        assert await limiter.refund("u", HOURLY, 2)
        assert (await limiter.is_allowed("u", HOURLY))[0]
        assert not (await limiter.charge("u", HOURLY, 5)).allowed
        with pytest.raises(RateLimitExceeded):
            await limiter.acquire("u", HOURLY, timeout=1.0)
        assert (await limiter.get_statistics())["degraded_checks"] > 0
        await limiter.disable()
