"""Limits that instances share through a real Redis, and what happens when it fails."""

import asyncio
import contextlib
import math
import os
import struct
import subprocess
import sys
import textwrap

import pytest

from bot.core.enhanced_startup_phase4 import initialize_phase4_services, shutdown_phase4_services
from bot.core.rate_limiter import RateLimitConfig, RateLimiter, RateLimitExceeded, rate_limited
from bot.core.rate_limiter.mirror import RESERVE, client_key
from bot.core.redis_link import RedisLink
from tests.support.servers import RedisServer, running

# So slow that no token comes back while a test runs.
SLOW = RateLimitConfig(0.0001, 5)
QUICK = RateLimitConfig(20.0, 2)


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
    for limiter in limiters:
        await listening(limiter, redis_server)
    yield limiters
    for limiter in limiters:
        for mirror in limiter._table.mirrors():
            mirror.check_invariants(limiter._now())
        await limiter.disable()
    assert not RedisLink._links


async def listening(limiter, server):
    """Wait until it hears of resets: it then knows a client that was forgiven by a stranger."""
    link = RedisLink(server.url)
    before = limiter._shared.resets

    async def heard():
        await link.execute("PUBLISH", "p4r:reset", client_key("nobody"))
        return limiter._shared.resets > before + 1

    await until(heard)
    await link.close()


async def healthy(limiter):
    await limiter.is_allowed("probe")
    return not (await limiter.get_statistics())["degraded"]


# What is shared.


async def test_instances_take_from_one_bucket(pair):
    outcomes = [(await limiter.is_allowed("u", SLOW))[0] for _ in range(4) for limiter in pair]
    assert outcomes == [True] * 5 + [False] * 3
    allowed, status = await pair[0].is_allowed("other", SLOW)
    assert allowed
    assert not status.degraded
    assert (status.remaining, status.limit, status.retry_after) == (4, 5, 0.0)


async def test_limits_and_tiers_of_a_client_are_apart(pair):
    a, b = pair
    for limiter in pair:
        limiter.set_tier_limit("free", RateLimitConfig(0.0001, 1))
        limiter.set_tier_limit("trial", RateLimitConfig(0.0001, 1))
    assert (await a.is_allowed("u", tier="free"))[0]
    assert not (await b.is_allowed("u", tier="free"))[0]
    assert (await b.is_allowed("u", tier="trial"))[0]
    assert (await b.is_allowed("u", SLOW))[0]
    assert (await b.is_allowed("u"))[0]


async def test_a_batch_passes_whole_or_not_at_all(pair):
    a, b = pair
    assert (await a.allow_batch("u", 4, SLOW))[0]
    allowed, status = await b.allow_batch("u", 2, SLOW)
    assert not allowed
    assert status.remaining == 1
    assert (await b.is_allowed("u", SLOW))[0]


async def test_waiting_retry_after_succeeds_and_never_meets_a_backoff(pair):
    for turn in range(6):
        limiter = pair[turn % 2]
        while True:
            allowed, status = await limiter.is_allowed("u", QUICK)
            if allowed:
                break
            assert status.retry_after <= 0.05
            await asyncio.sleep(status.retry_after)


async def test_who_does_not_wait_is_punished_in_every_instance(pair):
    a, b = pair
    for limiter in pair:
        await limiter.enable(backoff_base=60.0, backoff_grace=0.0)
    limit = RateLimitConfig(0.1, 1)
    await a.is_allowed("u", limit)

    async def punished():
        return (await a.is_allowed("u", limit))[1].retry_after > 55.0

    await until(punished)

    async def heard():
        return (await b.get_client_status("u", limit)).retry_after > 50.0

    await until(heard)
    # Let it ask the other instance, which knows of no refusal: still one step in a wait.
    assert 50.0 < (await b.is_allowed("u", limit))[1].retry_after <= 60.0


async def test_a_burst_costs_the_refill_time_in_every_instance(pair):
    limit = RateLimitConfig(0.5, 5)
    for _ in range(3):
        outcomes = await asyncio.gather(
            *[limiter.is_allowed("u", limit) for _ in range(50) for limiter in pair]
        )
        assert max(status.retry_after for _, status in outcomes) <= 2.001
    assert (await pair[0].get_client_status("u", limit)).retry_after <= 2.001


async def test_a_hundred_waits_that_time_out_in_two_instances_leave_no_debt(pair):
    a, b = pair
    limit = RateLimitConfig(1.0, 1)
    await a.acquire("u", limit)

    async def wait(limiter):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.3):
                await limiter.acquire("u", limit)

    await asyncio.gather(*[wait(limiter) for _ in range(50) for limiter in pair])

    async def no_debt():
        return (await b.get_client_status("u", limit)).retry_after <= 1.0

    await until(no_debt)


async def test_who_waits_behind_one_that_gives_up_in_another_instance_moves_up(pair):
    a, b = pair
    limit = RateLimitConfig(0.1, 5)
    await a.allow_batch("u", 5, limit)
    first = asyncio.ensure_future(a.acquire("u", limit, 5))

    async def reserved(seconds):
        return (await b.get_client_status("u", limit)).retry_after > seconds

    await until(lambda: reserved(50))
    second = asyncio.ensure_future(b.acquire("u", limit))
    await until(lambda: reserved(65))
    line = next(iter(b._shared._lines._lines.values()))
    before = line.first_ready
    first.cancel()

    async def moved_up():
        return line.first_ready < before

    await until(moved_up)
    assert line.first_ready == pytest.approx(before - 50.0)
    second.cancel()
    await asyncio.wait([first, second])


async def test_what_was_taken_before_a_reset_is_not_given_back_after_it(pair):
    a, _ = pair
    await a.acquire("u", SLOW)
    mirror, key = a._table.by_config[SLOW], client_key("u")
    _, number, epoch, _ = await a._shared.script.call(key, mirror.argument(RESERVE, 1, math.inf))
    await a.reset_client("u")
    assert (await a.allow_batch("u", 5, SLOW))[0]
    a._shared._send_back(mirror, key, 1, number, epoch)
    await a._shared.script.drain()
    assert (await a.get_client_status("u", SLOW)).remaining == 0
    _, number, epoch, _ = await a._shared.script.call(key, mirror.argument(RESERVE, 1, math.inf))
    a._shared._send_back(mirror, key, 1, number, epoch)
    a._shared._send_back(mirror, key, 1, number, epoch)
    await a._shared.script.drain()
    assert (await a.get_client_status("u", SLOW)).remaining == 1, "what is given back since, is"


async def test_a_client_in_backoff_gets_nothing_back(pair):
    a, b = pair
    limit = RateLimitConfig(0.1, 1)
    for limiter in pair:
        await limiter.enable(backoff_base=60.0, backoff_grace=0.0)
    await a.is_allowed("u", limit)
    mirror, key = a._table.by_config[limit], client_key("u")
    _, number, epoch, _ = await a._shared.script.call(key, mirror.argument(RESERVE, 1, math.inf))

    async def punished():
        await a.is_allowed("u", limit)
        return (await b.get_client_status("u", limit)).retry_after > 55.0

    await until(punished)
    a._shared._send_back(mirror, key, 1, number, epoch)
    await a._shared.script.drain()
    assert (await b.get_client_status("u", limit)).retry_after > 55.0
    # Nor does a wait that it gave up let it in.
    waiting = asyncio.ensure_future(b.acquire("u", limit))
    await asyncio.sleep(0.05)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert (await b.get_client_status("u", limit)).retry_after > 55.0


async def test_who_hammers_two_instances_by_turns_is_put_off_for_longer_and_longer(pair):
    limit = RateLimitConfig(10.0, 1)
    for limiter in pair:
        await limiter.enable(backoff_base=0.4, backoff_grace=0.2)

    async def put_off():
        return max([(await limiter.is_allowed("u", limit))[1].retry_after for limiter in pair]) > 1.4

    await until(put_off, 20.0)


async def test_messages_about_places_that_make_no_sense_harm_nobody(pair, raw):
    a, _ = pair
    place = struct.Struct("<8sdddd")
    key = client_key("u")
    for body in (
        b"", b"x", place.pack(b"limit id", 1.0, 2.0, 3.0, 4.0),
        place.pack(b"limit id", *[math.nan] * 4) + key,
        place.pack(a._table.by_config[None].limit_id, 1.0, 0.0, 0.0, math.inf) + key,
    ):  # fmt: skip
        await raw.execute("PUBLISH", "p4r:reset", b"p4r:m:" + body)
    await listening(a, raw)
    assert (await a.is_allowed("u", SLOW))[0]


async def test_nobody_in_particular_is_shared_and_forgiven(pair):
    a, b = pair
    assert (await a.allow_batch(None, 5, SLOW))[0]
    assert not (await b.is_allowed(None, SLOW))[0]
    assert await a.reset_client(None)

    async def passes():
        return (await b.is_allowed(None, SLOW))[0]

    await until(passes)


async def test_a_refusal_is_remembered_so_that_an_abuser_costs_no_round_trip(pair, raw):
    a, _ = pair
    for _ in range(6):
        await a.is_allowed("u", SLOW)
    script_calls = a._shared.script.calls
    for _ in range(500):
        assert not (await a.is_allowed("u", SLOW))[0]
    assert a._shared.script.calls == script_calls
    figures = await a.get_statistics()
    assert figures["remembered_denials"] == 500
    assert figures["shared_checks"] == 6
    # Fewer tokens than were refused may be there.
    assert (await a.allow_batch("v", 4, SLOW))[0]
    assert not (await a.allow_batch("v", 3, SLOW))[0]
    assert (await a.is_allowed("v", SLOW))[0]


async def test_a_client_forgiven_in_one_instance_is_forgiven_in_all(pair):
    a, b = pair
    for _ in range(9):
        await a.is_allowed("u", SLOW)
    assert await b.reset_client("u") is True

    async def passes():
        return (await a.is_allowed("u", SLOW))[0]

    await until(passes)
    assert await b.reset_client("nobody") is False


async def test_one_limit_is_forgiven_in_every_instance_and_the_others_stay(pair):
    a, b = pair
    for _ in range(9):
        await a.is_allowed("u", SLOW)
    await a.is_allowed("u", RateLimitConfig(0.01, 3))
    assert await b.reset_client("u", SLOW), "b has never used it"

    async def passes():
        return (await a.is_allowed("u", SLOW))[0]

    await until(passes)
    for limiter in pair:
        assert (await limiter.get_client_status("u", RateLimitConfig(0.01, 3))).remaining == 2
    assert await b.reset_client("u", SLOW)
    assert not await b.reset_client("u", SLOW)
    assert await b.reset_client("u", RateLimitConfig(0.01, 3))
    assert not await b.reset_client("u")


async def test_a_penalty_on_its_way_does_not_undo_the_reset_of_one_limit(pair):
    a, b = pair
    for limiter in pair:
        await limiter.enable(backoff_grace=0.0)
    for _ in range(10):
        await a.is_allowed("u", SLOW)
    mirror, client = next(iter(a._shared._unreported))
    tat, record = mirror.fresh[client], mirror.records[client]
    assert await b.reset_client("u", SLOW)
    mirror.fresh[client], mirror.records[client] = tat, record
    a._shared._unreported[mirror, client] = None
    a._shared.reports.send_all()
    await a._shared.script.drain()
    assert (await b.is_allowed("u", SLOW))[0]


async def test_a_limit_forgiven_while_redis_is_away_is_forgiven_there_later(pair, redis_server):
    a, b = pair
    for _ in range(9):
        await b.is_allowed("u", SLOW)
    redis_server.freeze()
    await a.reset_client("u", SLOW)
    redis_server.thaw()

    async def passes():
        await a.is_allowed("probe")
        return (await b.is_allowed("u", SLOW))[0]

    await until(passes)
    assert not a._shared._owed


async def test_a_penalty_on_its_way_does_not_undo_a_reset(pair):
    a, b = pair
    for limiter in pair:
        await limiter.enable(backoff_grace=0.0)
    for _ in range(10):
        await a.is_allowed("u", SLOW)  # refused, and asks on: that is told to Redis a little later
    mirror, client = next(iter(a._shared._unreported))
    tat, record = mirror.fresh[client], mirror.records[client]
    assert await b.reset_client("u") is True
    # As if it had left a moment before the reset was heard of here.
    mirror.fresh[client], mirror.records[client] = tat, record
    a._shared._unreported[mirror, client] = None
    a._shared.reports.send_all()
    await a._shared.script.drain()
    assert (await b.is_allowed("u", SLOW))[0]
    assert await b.reset_client("u") is True
    assert await b.reset_client("u") is False, "nothing is known of it any more"


async def test_acquire_waits_its_turn_across_instances(pair):
    limit = RateLimitConfig(50.0, 1)
    served = []

    async def worker(limiter):
        await limiter.acquire("u", limit)
        served.append(asyncio.get_running_loop().time())

    start = asyncio.get_running_loop().time()
    await asyncio.gather(*[worker(limiter) for _ in range(5) for limiter in pair])
    assert len(served) == 10
    assert max(served) - start >= 9 * 0.02 - 0.005
    for _ in range(5):
        await pair[0].acquire("v", SLOW)
    with pytest.raises(RateLimitExceeded):
        await pair[0].acquire("v", SLOW, timeout=0.5)
    assert (await pair[1].get_client_status("v", SLOW)).remaining == 0


async def test_acquire_after_its_deadline_takes_what_is_there_and_nothing_else(pair):
    a, b = pair
    for limiter in (a, b, a, b, a):
        await limiter.acquire("u", SLOW, timeout=-1)
    with pytest.raises(RateLimitExceeded):
        await b.acquire("u", SLOW, timeout=-1)
    assert (await a.get_client_status("u", SLOW)).retry_after <= 10_000


async def test_checks_of_one_tick_travel_together(pair, raw):
    a, _ = pair
    await a.is_allowed("warm", SLOW)
    before = (await a.get_statistics())["shared_batches"]
    await asyncio.gather(*[a.is_allowed(f"a{n}", SLOW) for n in range(40)])
    assert (await a.get_statistics())["shared_batches"] - before == 1
    results = await asyncio.gather(*[a.is_allowed(n % 50, SLOW) for n in range(200)])
    assert all(allowed for allowed, _ in results)
    assert (await a.get_statistics())["shared_batches"] - before == 1 + 3, "two ahead, and the rest"
    await asyncio.gather(*[a.is_allowed(f"c{n}", SLOW) for n in range(600)])
    assert (await a.get_statistics())["shared_batches"] - before == 1 + 3 + 4, "256 checks in a call at most"


async def test_check_decides_by_what_is_known_and_takes_in_the_background(pair):
    a, b = pair
    assert [a.check("u", SLOW) == 0.0 for _ in range(6)] == [True] * 5 + [False]

    async def taken():
        return (await b.get_client_status("u", SLOW)).remaining == 0

    await until(taken)
    assert not (await b.is_allowed("u", SLOW))[0]
    # What the other instance took first is owed.
    for _ in range(5):
        await b.is_allowed("v", SLOW)
    assert a.check("v", SLOW) == 0.0

    async def refused():
        return a.check("v", SLOW) > 0.0

    await until(refused)


def test_check_without_an_event_loop_is_local(redis_url):
    limiter = RateLimiter()

    async def on():
        await limiter.enable(redis_url=redis_url)

    asyncio.run(on())
    limit = RateLimitConfig(0.001, 1, name="no loop")
    assert limiter.check("no loop", limit) == 0.0
    assert limiter.check("no loop", limit) > 0.0
    assert limiter.check("no loop", limit) > 0.0
    asyncio.run(limiter.disable())
    assert not RedisLink._links


async def test_the_decorator_shares(redis_server, pair):
    limiter = RateLimiter.get_instance()
    await limiter.enable(redis_url=redis_server.url)

    @rate_limited(rps=0.001, burst_size=2)
    async def handler(user_id):
        return user_id

    assert [await handler(1), await handler(1)] == [1, 1]
    with pytest.raises(RateLimitExceeded) as caught:
        await handler(1)
    assert caught.value.retry_after == pytest.approx(1000, rel=0.01)
    other = pair[0]
    key = RateLimitConfig(0.001, 2, f"{__name__}.test_the_decorator_shares.<locals>.handler")
    assert not (await other.is_allowed(1, key))[0]
    await limiter.disable()


# Keys.


async def test_no_name_of_a_client_reaches_another_one(pair, raw):
    names = [1, "1", "i:1", "s:1", "a", "a:b", "{a}", "a{b}", "", " ", "*", "x" * 65, "x" * 66]
    names += [2**63, -(2**63) - 1, 10**6000, "\ud800", "a\x00", "a\r\nDEL p4r:i:1\r\n", True + 1, None]
    assert len({client_key(name) for name in names}) == len(names)
    for name in names:
        assert (await pair[0].allow_batch(name, 5, SLOW))[0], name
        assert not (await pair[1].is_allowed(name, SLOW))[0], name
    for name in names:
        assert await pair[1].reset_client(name)
    for bad in (True, 1.0, 1.5, b"x"):
        with pytest.raises(TypeError, match=r"client_id = .*: expected an int, a str, or None"):
            await pair[0].is_allowed(bad, SLOW)


async def test_keys_expire_by_themselves(pair, raw):
    a, _ = pair
    await a.is_allowed("u", RateLimitConfig(10.0, 5))
    assert 0 < await raw.execute("PTTL", client_key("u")) <= 102
    await a.is_allowed("u", RateLimitConfig(0.1, 5))
    await a.is_allowed("u", RateLimitConfig(10.0, 5))
    assert 9_000 < await raw.execute("PTTL", client_key("u")) <= 10_002, "as long as its slowest limit"
    await a.is_allowed("v", RateLimitConfig(1e-9, 1_000_000_000))
    assert await raw.execute("PTTL", client_key("v")) > 0

    async def gone():
        await asyncio.sleep(0.05)
        return await raw.execute("EXISTS", client_key("w")) == 0

    await a.is_allowed("w", RateLimitConfig(100.0, 5))
    await until(gone)


async def test_a_key_of_another_type_harms_nobody_in_the_same_tick(pair, raw):
    await raw.execute("LPUSH", client_key("u"), "x")
    results = await asyncio.gather(*[pair[0].is_allowed(c, SLOW) for c in ("t", "u", "v")])
    assert [(allowed, status.degraded) for allowed, status in results] == [(True, False)] * 3


@pytest.mark.parametrize("answer", [b"", b"x" * 24, b"\xff" * 24, None, 5, [1], "text", b"\x00" * 25])
async def test_a_nonsensical_answer_is_no_answer(redis_server, monkeypatch, caplog, answer):
    limiter = RateLimiter()
    await limiter.enable(redis_url=redis_server.url)
    script = limiter._shared.script
    decode = script._decode
    if answer in (b"x" * 24, b"\xff" * 24):
        answer = b"\x00" * 16 + b"\x00\x00\x00\x00\x00\x00\xf0\x7f"  # an infinity
    monkeypatch.setattr(script, "_decode", lambda _, calls: decode(answer, calls))
    for _ in range(3):
        allowed, status = await limiter.is_allowed("u", SLOW)
        assert allowed
        assert status.degraded
    assert (await limiter.get_statistics())["degraded"] is True
    assert caplog.text.count("Redis refused a rate limit check") == 1
    monkeypatch.undo()
    assert not (await limiter.is_allowed("u", SLOW))[1].degraded
    await limiter.disable()


# Faults.


async def test_redis_killed_each_instance_limits_alone_and_it_heals(pair, redis_server, caplog):
    a, b = pair
    for _ in range(3):
        await a.is_allowed("u", SLOW)
    redis_server.kill()
    outcomes = [await a.is_allowed("u", SLOW) for _ in range(4)]
    assert [allowed for allowed, _ in outcomes] == [True, True, False, False], "it goes on from what it knew"
    assert all(status.degraded for _, status in outcomes)
    assert [(await b.is_allowed("u", SLOW))[0] for _ in range(6)] == [True] * 5 + [False], "the full limit"
    figures = await a.get_statistics()
    assert (figures["degraded"], figures["degraded_checks"], figures["remembered_denials"]) == (True, 3, 1)
    assert (await a.get_client_status("v", SLOW)).degraded
    assert await a.acquire("v", SLOW)
    assert caplog.text.count("going on without it") == 1
    redis_server.start()
    await until(lambda: healthy(a))
    await until(lambda: healthy(b))
    assert not (await b.is_allowed("new", SLOW))[1].degraded


async def test_redis_frozen_costs_one_timeout_and_no_handler_waits_for_its_return(pair, redis_server):
    a, _ = pair
    loop = asyncio.get_running_loop()
    redis_server.freeze()
    results = await asyncio.gather(*[a.is_allowed(n, SLOW) for n in range(50)])
    assert all(allowed and status.degraded for allowed, status in results)
    waits = []
    for _ in range(100):
        start = loop.time()
        assert (await a.is_allowed("u"))[1].degraded
        waits.append(loop.time() - start)
        await asyncio.sleep(0.005)
    assert max(waits) < a._shared.link.timeout / 2, "while probes are under way too"
    redis_server.thaw()
    await until(lambda: healthy(a))


async def test_a_restart_in_the_middle_of_load_fails_no_check(pair, redis_server, caplog):
    stop = asyncio.Event()
    errors, degraded = [], []

    async def handler(limiter, client):
        while not stop.is_set():
            try:
                _, status = await limiter.is_allowed(client, QUICK)
                degraded.append(status.degraded)
                await asyncio.sleep(min(status.retry_after, 0.01))
            except Exception as error:
                errors.append(error)

    tasks = [asyncio.ensure_future(handler(limiter, n)) for n in range(10) for limiter in pair]
    await asyncio.sleep(0.1)
    redis_server.kill()
    await asyncio.sleep(0.1)
    redis_server.start()
    for limiter in pair:
        await until(lambda limiter=limiter: healthy(limiter))
    stop.set()
    await asyncio.gather(*tasks)
    assert errors == []
    assert True in degraded
    assert False in degraded
    assert caplog.text.count("going on without it") <= 4


async def test_the_script_is_sent_again_when_the_server_has_lost_it(pair, raw):
    a, _ = pair
    await a.is_allowed("u", SLOW)
    await raw.execute("SCRIPT", "FLUSH")
    results = await asyncio.gather(*[a.is_allowed("u", SLOW) for _ in range(5)])
    assert [allowed for allowed, _ in results] == [True] * 4 + [False], "and nothing was taken twice"
    assert not any(status.degraded for _, status in results)


@pytest.mark.server
async def test_a_full_server_refuses_and_the_limiter_goes_on(caplog):
    with running(RedisServer()) as server:
        link = RedisLink(server.url)
        limiter = RateLimiter()
        await limiter.enable(redis_url=server.url)
        try:
            await limiter.is_allowed("u", SLOW)
            await link.execute("CONFIG", "SET", "maxmemory", "1")
            outcomes = [await limiter.is_allowed("u", SLOW) for _ in range(6)]
            assert [allowed for allowed, _ in outcomes] == [True] * 4 + [False] * 2
            assert outcomes[0][1].degraded
            assert caplog.text.count("Redis refused a rate limit check") == 1
            await link.execute("CONFIG", "SET", "maxmemory", "0")
            assert not (await limiter.is_allowed("v", SLOW))[1].degraded
        finally:
            await limiter.disable()
            await link.close()


async def test_a_client_forgiven_while_redis_is_away_is_forgiven_there_later(pair, redis_server):
    a, b = pair
    for _ in range(9):
        await b.is_allowed("u", SLOW)
    redis_server.freeze()
    assert await a.reset_client("u") is False, "it knew nothing of it, and Redis could not say"
    redis_server.thaw()

    async def passes():
        await a.is_allowed("probe")
        return (await b.is_allowed("u", SLOW))[0]

    await until(passes)


@pytest.mark.server
async def test_no_server_at_start_is_no_error():
    server = RedisServer()
    limiter = RateLimiter()
    assert await limiter.enable(redis_url=server.url)
    assert (await limiter.is_allowed("u", SLOW))[1].degraded
    server.start()
    try:
        await until(lambda: healthy(limiter))
        assert not (await limiter.is_allowed("u", SLOW))[1].degraded
    finally:
        await limiter.disable()
        server.close()


# Cancellation.


async def test_a_check_cancelled_before_it_was_sent_takes_nothing(pair):
    a, _ = pair
    await a.is_allowed("warm", SLOW)
    tasks = [asyncio.ensure_future(a.is_allowed("u", SLOW)) for _ in range(5)]
    await asyncio.sleep(0)
    calls = a._shared.script.calls
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await a.is_allowed("warm", SLOW)
    assert a._shared.script.calls == calls + 1
    assert (await a.get_client_status("u", SLOW)).remaining == 5


@pytest.mark.parametrize("call", ["is_allowed", "acquire"])
async def test_a_check_cancelled_under_way_gives_back_what_it_took(pair, redis_server, call):
    a, b = pair
    await a.is_allowed("warm", SLOW)
    redis_server.freeze()
    tasks = [asyncio.ensure_future(getattr(a, call)("u", SLOW)) for _ in range(3)]
    await asyncio.sleep(0.02)
    assert a._shared.script._under_way, "they were sent"
    for task in tasks[:2]:
        task.cancel()
    redis_server.thaw()
    await asyncio.wait(tasks)
    assert [task.cancelled() for task in tasks] == [True, True, False]

    async def given_back():
        return (await b.get_client_status("u", SLOW)).remaining == 4

    await until(given_back)


@pytest.mark.parametrize("call", ["is_allowed", "acquire"])
async def test_a_check_cancelled_as_redis_answers_gives_back_what_it_took(pair, monkeypatch, call):
    a, b = pair
    await a.is_allowed("warm", SLOW)
    script = a._shared.script
    ask = script.call

    def ask_and_cancel(*arguments):
        answer = ask(*arguments)
        answer.add_done_callback(lambda _: task.cancel())
        return answer

    with monkeypatch.context() as patched:
        patched.setattr(script, "call", ask_and_cancel)
        task = asyncio.ensure_future(getattr(a, call)("u", SLOW))
        with pytest.raises(asyncio.CancelledError):
            await task

    async def given_back():
        return (await b.get_client_status("u", SLOW)).remaining == 5

    await until(given_back)


async def test_a_cancelled_wait_gives_its_token_back_in_redis(pair):
    a, b = pair
    for _ in range(5):
        await a.acquire("u", SLOW)
    waiting = asyncio.ensure_future(a.acquire("u", SLOW))

    async def reserved():
        return (await b.get_client_status("u", SLOW)).retry_after > 10_001

    await until(reserved)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    async def given_back():
        return (await b.get_client_status("u", SLOW)).retry_after <= 10_000.001

    await until(given_back)


async def test_a_wait_is_counted_when_it_is_served(pair):
    a, _ = pair
    for _ in range(5):
        await a.acquire("u", SLOW)
    waiting = asyncio.ensure_future(a.acquire("u", SLOW))

    async def reserved():
        return (await a.get_client_status("u", SLOW)).retry_after > 10_001

    await until(reserved)
    assert (await a.get_statistics())["total_allowed"] == 5
    await a.reset_statistics()
    waiting.cancel()
    await asyncio.wait([waiting])
    figures = await a.get_statistics()
    assert (figures["total_allowed"], figures["total_requests"]) == (0, 0)


async def test_off_under_load_leaves_no_task_and_no_connection(redis_server, raw):
    limiter = RateLimiter()
    await limiter.enable(redis_url=redis_server.url)
    tasks = [asyncio.ensure_future(limiter.is_allowed(n, SLOW)) for n in range(100)]
    await asyncio.sleep(0)
    assert await limiter.disable()
    assert all(allowed for allowed, _ in await asyncio.gather(*tasks))
    assert asyncio.all_tasks() == {asyncio.current_task()}

    async def alone():
        return len((await raw.execute("CLIENT", "LIST")).strip().splitlines()) == 1

    await until(alone)
    assert not RedisLink._links


async def test_violations_not_yet_told_are_told_when_it_goes_off(pair, redis_server):
    third = RateLimiter()
    await third.enable(redis_url=redis_server.url)
    await third.enable(backoff_base=60.0, backoff_grace=0.0)
    limit = RateLimitConfig(0.1, 1)
    for _ in range(5):
        await third.is_allowed("u", limit)
    await third.disable()
    assert (await pair[0].get_client_status("u", limit)).retry_after > 50.0


# Configuration and event loops.


async def test_switching_between_shared_and_local(redis_server):
    limiter = RateLimiter()
    await limiter.enable()
    assert not limiter.shared
    await limiter.enable(tiers={"free": SLOW}, redis_url=redis_server.url)
    assert limiter.shared
    assert (await limiter.is_allowed("u", tier="free"))[0]
    await limiter.enable(backoff_base=1.0)
    assert limiter.shared, "what is not given stays"
    with pytest.raises(ValueError, match="redis url = 'http://x'"):
        await limiter.enable(redis_url="http://x")
    with pytest.raises(ValueError, match="redis_url = 5"):
        await limiter.enable(redis_url=5)
    assert (await limiter.is_allowed("u", tier="free"))[1].remaining == 3, "a bad address changes nothing"
    await limiter.enable(redis_url="")
    assert (await limiter.get_statistics())["shared"] is False
    assert (await limiter.is_allowed("u", tier="free"))[1].remaining == 4
    assert limiter.histograms() == []
    await limiter.disable()
    assert not RedisLink._links


def test_on_under_one_loop_used_under_a_second_and_off_under_a_third(redis_server):
    limiter = RateLimiter()

    async def on():
        await limiter.enable(redis_url=redis_server.url)
        return (await limiter.is_allowed("u", SLOW))[1]

    async def use():
        return (await limiter.is_allowed("u", SLOW))[1]

    first, second, third = asyncio.run(on()), asyncio.run(use()), asyncio.run(use())
    assert [status.remaining for status in (first, second, third)] == [4, 3, 2]
    assert not any(status.degraded for status in (first, second, third))
    assert asyncio.run(limiter.disable())
    assert not RedisLink._links


async def test_the_start_up_hands_the_setting_over(redis_server):
    report = await initialize_phase4_services(
        {"ENABLE_RATE_LIMITER": True, "RATE_LIMIT_REDIS_URL": redis_server.url}
    )
    assert report["success"], report["errors"]
    limiter = RateLimiter.get_instance()
    await limiter.is_allowed("u")
    figures = await limiter.get_statistics()
    assert (figures["shared"], figures["shared_checks"], figures["shared_batches"]) == (True, 1, 2), (
        "the script went along"
    )
    assert limiter.histograms()[0].count == 1
    await limiter.reset_statistics()
    figures = await limiter.get_statistics()
    assert (figures["shared_checks"], figures["shared_batches"], figures["total_requests"]) == (0, 0, 0)
    assert await shutdown_phase4_services()


async def test_a_password_is_in_no_log_and_no_status(caplog):
    limiter = RateLimiter()
    await limiter.enable(redis_url="redis://:hunter2@127.0.0.1:1/0")
    await limiter.is_allowed("u")
    assert "hunter2" not in caplog.text + repr(await limiter.get_statistics())
    await limiter.disable()


# Several processes.

_CHILD = """
    import asyncio, sys
    from bot.core.rate_limiter import RateLimitConfig, RateLimiter

    async def main(url):
        limiter = RateLimiter()
        await limiter.enable(redis_url=url)
        limit = RateLimitConfig(0.0001, 400)
        print("ready", flush=True)
        sys.stdin.readline()
        allowed = degraded = 0

        async def worker():
            nonlocal allowed, degraded
            while True:
                passed, status = await limiter.is_allowed("everybody", limit)
                degraded += status.degraded
                if not passed:
                    return
                allowed += 1

        await asyncio.gather(*[worker() for _ in range(5)])
        await limiter.disable()
        print(allowed, degraded)

    asyncio.run(main(sys.argv[1]))
"""


def test_four_processes_let_through_exactly_one_limit(redis_server):
    command = [sys.executable, "-c", textwrap.dedent(_CHILD), redis_server.url]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(4)
    ]
    try:
        for child in children:
            assert child.stdout.readline() == "ready\n"
        for child in children:
            child.stdin.write("go\n")
            child.stdin.flush()
        found = [tuple(map(int, child.communicate(timeout=30)[0].split())) for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait()
    assert sum(allowed for allowed, _ in found) == 400
    assert sum(degraded for _, degraded in found) == 0


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1e300])
@pytest.mark.parametrize("field", range(9))
async def test_an_impossible_number_under_a_key_costs_nobody_in_the_tick_redis(pair, raw, field, number):
    one, _ = pair
    limit = RateLimitConfig(0.01, 2)
    numbers = [0.0, -1e9, 0.0, 0.0, 0.0, 5.0, 0.0, 0.0, 0.0]
    numbers[field] = number
    name = one._meters(limit, None, 1).limit_id
    await raw.execute("SET", client_key("crafted"), b"\x02" + name + struct.pack("<9d", *numbers))
    answers = await asyncio.gather(*(one.is_allowed(client, limit) for client in ("crafted", "other")))
    assert [allowed for allowed, _ in answers] == [True, True]
    assert not any(status.degraded for _, status in answers)


async def test_a_value_of_very_many_limits_holds_nobody_up(pair, raw):
    one, _ = pair
    entry = b"another!" + struct.pack("<9d", 0.0, -1e9, 0.0, 0.0, 0.0, 1e9, 0.0, 0.0, 0.0)
    await raw.execute("SET", client_key("many"), b"\x02" + entry * 20_000)
    allowed, status = await one.is_allowed("many", RateLimitConfig(0.01, 2))
    assert allowed
    assert not status.degraded
    assert int(await raw.execute("STRLEN", client_key("many"))) == 81


async def test_a_new_default_limit_is_shared_as_the_old_one_was(pair):
    for limiter in pair:
        limiter.default_config = SLOW
    answers = [(await limiter.is_allowed("new default"))[0] for _ in range(5) for limiter in pair]
    assert answers.count(True) == SLOW.burst_size
