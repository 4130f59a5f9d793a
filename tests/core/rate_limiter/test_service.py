"""The rate limiter as handlers use it."""

import asyncio
import random

import pytest
import uvloop

from bot.core.rate_limiter import Backoff, RateLimitConfig, RateLimiter, RateLimitExceeded, UnknownTierError
from bot.core.rate_limiter.table import MANY_LIMITS

UPLOAD = RateLimitConfig(2.0, 5)
SEARCH = RateLimitConfig(5.0, 25)


@pytest.fixture
async def limiter(clock):
    limiter = RateLimiter(clock=clock)
    await limiter.enable()
    yield limiter
    await limiter.disable()


async def test_a_status_tells_all_a_client_needs(limiter, clock):
    allowed, status = await limiter.is_allowed(1, UPLOAD)
    assert allowed is status.allowed is True
    assert (status.limit, status.remaining, status.retry_after) == (5, 4, 0.0)
    assert status.remaining_tokens == pytest.approx(4.0)
    assert status.reset_at == pytest.approx(clock.time() + 0.5)
    for _ in range(4):
        await limiter.is_allowed(1, UPLOAD)
    allowed, status = await limiter.is_allowed(1, UPLOAD)
    assert allowed is status.allowed is False
    assert (status.remaining, status.retry_after) == (0, 0.5)
    assert status.reset_at == pytest.approx(clock.time() + 2.5)
    clock.jump(status.retry_after)
    assert (await limiter.is_allowed(1, UPLOAD))[0]


async def test_two_limits_of_a_client_share_no_tokens(limiter):
    for _ in range(5):
        assert (await limiter.is_allowed("u", UPLOAD))[0]
    assert not (await limiter.is_allowed("u", UPLOAD))[0]
    assert (await limiter.is_allowed("u", SEARCH))[0]
    assert (await limiter.is_allowed("u"))[0]


async def test_a_config_made_anew_on_each_call_is_no_way_around_the_limit(limiter):
    outcomes = [(await limiter.is_allowed("u", RateLimitConfig(2.0, 5)))[0] for _ in range(7)]
    assert outcomes == [True] * 5 + [False] * 2


async def test_check_and_is_allowed_take_from_the_same_bucket(limiter):
    for turn in range(5):
        if turn % 2:
            assert (await limiter.is_allowed("u", UPLOAD))[0]
        else:
            assert limiter.check("u", UPLOAD) == 0.0
    assert limiter.check("u", UPLOAD) == 0.5
    allowed, status = await limiter.is_allowed("u", UPLOAD)
    assert not allowed
    assert status.retry_after == 0.5


async def hammer(limiter, clock, seconds, ask):
    longest = 0.0
    for _ in range(int(seconds * 100)):
        longest = max(longest, await ask())
        clock.jump(0.01)
    return longest


async def test_every_way_to_ask_counts_against_who_hammers(limiter, clock):
    limiter.set_tier_limit("free", UPLOAD)

    async def alone(client):
        return (await limiter.is_allowed(client, UPLOAD))[1].retry_after

    async def several(client):
        return (await limiter.allow_batch(client, 2, UPLOAD))[1].retry_after

    async def checked(client):
        return limiter.check(client, UPLOAD)

    async def of_a_tier(client):
        return limiter.check_tier(client, "free")

    for ask in (alone, several, checked, of_a_tier):
        longest = await hammer(limiter, clock, 30, lambda ask=ask: ask(ask.__name__))
        assert longest >= 8.0, ask.__name__


async def test_a_hundred_forwarded_messages_cost_the_refill_time(limiter):
    for limit in (None, UPLOAD, SEARCH):
        outcomes = await asyncio.gather(*[limiter.is_allowed(7, limit) for _ in range(100)])
        refused = [status.retry_after for allowed, status in outcomes if not allowed]
        rate = 10.0 if limit is None else limit.requests_per_second
        assert max(refused) == pytest.approx(1 / rate)


async def test_backoff_is_off_or_other_per_limit_and_tier(limiter, clock):
    off, long = RateLimitConfig(2, 5, backoff=None), RateLimitConfig(2, 5, backoff=Backoff(30, 60, 0.2))
    limiter.set_tier_limit("lenient", off)

    def ask(config=None, tier=None):
        async def asked():
            return (await limiter.is_allowed("u", config, tier=tier))[1].retry_after

        return asked

    assert await hammer(limiter, clock, 10, ask(off)) <= 0.5
    assert await hammer(limiter, clock, 10, ask(tier="lenient")) <= 0.5
    assert await hammer(limiter, clock, 5, ask(long)) == pytest.approx(30.0)
    await limiter.enable(backoff=False)
    assert await hammer(limiter, clock, 10, ask(UPLOAD)) <= 0.5
    await limiter.enable(backoff=True, backoff_base=1.0, backoff_max=1.5, backoff_grace=0.5)
    assert await hammer(limiter, clock, 20, ask(SEARCH)) == pytest.approx(1.5)
    with pytest.raises(ValueError, match="backoff = 0: expected True or False"):
        await limiter.enable(backoff=0)


async def test_ids_that_are_equal_in_python_alone_share_nothing(limiter):
    one = RateLimitConfig(0.001, 1)
    assert (await limiter.is_allowed(1, one))[0]
    for client in (True, 1.0, b"1", 1 + 0j):
        for call in (limiter.is_allowed, limiter.acquire, limiter.get_client_status):
            with pytest.raises(TypeError, match=r"client_id = .*: expected an int, a str, or None"):
                await call(client, one)
        with pytest.raises(TypeError, match="client_id = "):
            limiter.check(client, one)
        with pytest.raises(TypeError, match="client_id = "):
            await limiter.reset_client(client)
    assert (await limiter.is_allowed("1", one))[0]
    assert (await limiter.is_allowed(10**5000, one))[0]
    assert not (await limiter.is_allowed(10**5000, one))[0]
    assert (await limiter.is_allowed("\ud800", one))[0]
    assert not (await limiter.is_allowed(1, one))[0]


async def test_nobody_in_particular_has_a_bucket_without_backoff(limiter, clock):
    one = RateLimitConfig(1, 1)

    async def ask():
        return (await limiter.is_allowed(None, one))[1].retry_after

    assert await hammer(limiter, clock, 20, ask) <= 1.0
    assert (await limiter.is_allowed("*", one))[0], "no name is nobody's"
    assert await limiter.reset_client(None)
    assert limiter.check(None, one) == 0.0


async def test_a_hundred_waits_that_time_out_leave_no_debt(limiter, clock):
    one_by_one = RateLimitConfig(1.0, 1)
    await limiter.acquire("c", one_by_one)
    waits = [asyncio.ensure_future(limiter.acquire("c", one_by_one)) for _ in range(100)]
    await clock.advance(0.5)
    for wait in waits:
        wait.cancel()
    await asyncio.wait(waits)
    assert (await limiter.get_client_status("c", one_by_one)).retry_after == pytest.approx(0.5)


async def test_who_waits_behind_one_that_gives_up_moves_up(limiter, clock):
    one_by_one = RateLimitConfig(1.0, 3)
    start = clock.monotonic()
    await limiter.allow_batch("u", 3, one_by_one)
    served = {}

    async def wait(name, tokens):
        await limiter.acquire("u", one_by_one, tokens)
        served[name] = clock.monotonic() - start

    tasks = {n: asyncio.ensure_future(wait(n, tokens)) for n, tokens in enumerate((1, 3, 1, 2, 1))}
    await clock.advance(0.5)
    tasks[1].cancel()
    tasks[4].cancel()
    await clock.advance(0.1)
    late = asyncio.ensure_future(wait("late", 1))
    await clock.advance(20)
    await asyncio.wait([*tasks.values(), late])
    assert served == pytest.approx({0: 1.0, 2: 2.0, 3: 4.0, "late": 5.0})
    limiter._alone.lines.check_invariants()
    assert not limiter._alone.lines._lines


async def test_the_first_in_the_line_that_gives_up_wakes_the_next_in_time(limiter, clock):
    limit = RateLimitConfig(1.0, 5)
    await limiter.allow_batch("u", 5, limit)
    first = asyncio.ensure_future(limiter.acquire("u", limit, 5))
    second = asyncio.ensure_future(limiter.acquire("u", limit, 1))
    await clock.advance(1.5)
    first.cancel()
    await clock.advance(0)
    assert second.done(), "its token came half a second ago"


async def test_a_wait_that_is_cancelled_as_it_is_served_gives_its_token_to_the_next(limiter, clock):
    one_by_one = RateLimitConfig(1.0, 1)
    await limiter.acquire("u", one_by_one)
    first, second = (asyncio.ensure_future(limiter.acquire("u", one_by_one)) for _ in range(2))
    await clock.advance(0.5)
    key = next(iter(limiter._alone.lines._lines))
    clock.jump(0.5)
    limiter._alone.lines._serve(key, limiter._alone.lines._lines[key])
    first.cancel()
    await asyncio.wait([first])
    await clock.advance(0)
    assert first.cancelled()
    assert second.done()


async def test_a_storm_of_waits_and_cancellations_keeps_to_the_rate(limiter, clock):
    limit = RateLimitConfig(10.0, 2)
    rng = random.Random(7)
    served = []

    async def wait():
        await limiter.acquire("u", limit)
        served.append(clock.monotonic())

    tasks = []
    for _ in range(300):
        tasks += [asyncio.ensure_future(wait()) for _ in range(rng.randrange(4))]
        await clock.advance(rng.random() * 0.2)
        for task in rng.sample(tasks, min(len(tasks), rng.randrange(3))):
            task.cancel()
    limiter._alone.lines.check_invariants()
    await clock.advance(60)
    await asyncio.wait(tasks)
    served.sort()
    for index, begin in enumerate(served):
        for end_index in range(index, min(len(served), index + 60)):
            assert end_index - index + 1 <= 2 + 10.0 * (served[end_index] - begin + 0.0015) + 1e-6
    assert limiter.check("u", limit) == 0.0, "and no debt is left"


async def test_ten_thousand_waits_that_are_cancelled_take_no_long_time(limiter):
    one_by_one = RateLimitConfig(1.0, 1)
    await limiter.acquire("u", one_by_one)
    waits = [asyncio.ensure_future(limiter.acquire("u", one_by_one)) for _ in range(10_000)]
    await asyncio.sleep(0)
    for wait in waits:
        wait.cancel()
    await asyncio.wait(waits)
    assert (await limiter.get_client_status("u", one_by_one)).retry_after == pytest.approx(1.0)


@pytest.mark.parametrize("runner", [asyncio.run, uvloop.run])
def test_who_waits_as_told_passes_on_every_event_loop(runner):
    async def refused_again():
        limiter = RateLimiter()
        await limiter.enable()
        rng = random.Random(3)

        async def client(number):
            limit = RateLimitConfig(rng.uniform(9, 12), 1)
            await limiter.is_allowed(number, limit)
            _, status = await limiter.is_allowed(number, limit)
            await asyncio.sleep(status.retry_after)
            return not (await limiter.is_allowed(number, limit))[0]

        return sum(await asyncio.gather(*[client(number) for number in range(200)]))

    assert runner(refused_again()) == 0


async def test_a_batch_passes_whole_or_not_at_all(limiter):
    assert (await limiter.allow_batch("u", 4, UPLOAD))[0]
    allowed, status = await limiter.allow_batch("u", 2, UPLOAD)
    assert not allowed
    assert (status.remaining, status.retry_after) == (1, 0.5)
    assert (await limiter.is_allowed("u", UPLOAD))[0]


@pytest.mark.parametrize("tokens", [0, -1, 6, 1.0, "1", True, None])
async def test_tokens_that_can_never_be_had_are_refused_with_the_bounds(limiter, tokens):
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"tokens_required = .*: expected a whole number from 1 to .* 5$"
        ):
            await limiter.is_allowed("u", UPLOAD, tokens_required=tokens)
        assert (await limiter.is_allowed("u", UPLOAD))[0]


async def test_tiers(limiter):
    limiter.set_tier_limit("free", RateLimitConfig(1.0, 1))
    limiter.set_tier_limit("trial", RateLimitConfig(1.0, 1))
    assert (await limiter.is_allowed("u", tier="free"))[0]
    assert not (await limiter.is_allowed("u", tier="free"))[0]
    assert (await limiter.is_allowed("u", tier="trial"))[0], "tiers of equal values are still two"
    assert (await limiter.get_statistics())["tiers_configured"] == 2
    with pytest.raises(UnknownTierError, match=r"tier = 'gold': expected one of \['free', 'trial'\]"):
        await limiter.is_allowed("u", tier="gold")
    with pytest.raises(ValueError, match="tier = 'free': expected no tier when a config is given"):
        await limiter.is_allowed("u", UPLOAD, tier="free")


async def test_what_is_no_limit_is_refused(limiter):
    for bad in (5, {"burst_size": 5}, "free"):
        for call in (limiter.is_allowed, limiter.acquire, limiter.get_client_status):
            with pytest.raises(TypeError, match=r"config = .*: expected a RateLimitConfig"):
                await call("u", bad)
        with pytest.raises(TypeError, match=r"config = .*: expected a RateLimitConfig"):
            limiter.check("u", bad)
    with pytest.raises(TypeError, match="limit of tier 'x' = 5"):
        limiter.set_tier_limit("x", 5)
    with pytest.raises(ValueError, match="tier = ''"):
        limiter.set_tier_limit("", UPLOAD)


async def test_acquire_waits_its_turn_in_order(limiter, clock):
    one_by_one = RateLimitConfig(1.0, 1)
    served = []

    async def worker(name):
        await limiter.acquire("u", one_by_one)
        served.append((name, clock.monotonic()))

    start = clock.monotonic()
    tasks = [asyncio.ensure_future(worker(n)) for n in range(4)]
    await clock.advance(10)
    await asyncio.gather(*tasks)
    assert served == [(n, start + n) for n in range(4)]


async def test_a_cancelled_wait_gives_its_token_back(limiter, clock):
    one_by_one = RateLimitConfig(1.0, 1)
    await limiter.acquire("u", one_by_one)
    waiting = asyncio.ensure_future(limiter.acquire("u", one_by_one))
    await clock.advance(0.5)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    clock.jump(0.5)
    assert (await limiter.is_allowed("u", one_by_one))[0]


async def test_a_wait_cancelled_after_the_client_was_forgiven_gives_nothing_back(limiter, clock):
    await limiter.allow_batch("u", 5, UPLOAD)
    waiting = asyncio.ensure_future(limiter.acquire("u", UPLOAD, 5))
    await clock.advance(0.1)
    await limiter.reset_client("u")
    assert (await limiter.allow_batch("u", 5, UPLOAD))[0]
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not (await limiter.is_allowed("u", UPLOAD))[0]


async def test_acquire_with_a_timeout_fails_at_once_and_takes_nothing(limiter, clock):
    one_by_one = RateLimitConfig(1.0, 1)
    await limiter.acquire("u", one_by_one)
    with pytest.raises(RateLimitExceeded) as caught:
        await limiter.acquire("u", one_by_one, timeout=0.9)
    assert caught.value.retry_after == pytest.approx(1.0)
    clock.jump(1.0)
    assert (await limiter.is_allowed("u", one_by_one))[0]


@pytest.mark.parametrize("timeout", [0, -0.001, -5, -float("inf")])
async def test_acquire_after_its_deadline_takes_what_is_there_and_nothing_else(limiter, timeout):
    for left in (4, 3, 2, 1, 0):
        assert (await limiter.acquire("u", UPLOAD, timeout=timeout)).remaining == left
    with pytest.raises(RateLimitExceeded) as caught:
        await limiter.acquire("u", UPLOAD, timeout=timeout)
    assert caught.value.retry_after == 0.5
    assert (await limiter.get_client_status("u", UPLOAD)).retry_after == 0.5


@pytest.mark.parametrize("timeout", [float("nan"), "5", True])
async def test_a_timeout_that_is_no_number_is_refused(limiter, timeout):
    with pytest.raises(ValueError, match=r"timeout = .*: expected a number of seconds, or None"):
        await limiter.acquire("u", UPLOAD, timeout=timeout)
    assert (await limiter.get_client_status("u", UPLOAD)).remaining == 5


async def test_a_client_can_be_looked_at_and_forgiven(limiter, clock):
    for _ in range(300):
        await limiter.is_allowed("u", UPLOAD)
        clock.jump(0.01)
    status = await limiter.get_client_status("u", UPLOAD)
    assert not status.allowed
    assert 0.0 < status.retry_after <= 2.0
    again = await limiter.get_client_status("u", UPLOAD)
    assert again.retry_after == status.retry_after, "looking is no request"
    assert await limiter.reset_client("u")
    assert not await limiter.reset_client("u")
    status = await limiter.get_client_status("u", UPLOAD)
    assert (status.allowed, status.remaining) == (True, 5)


async def test_both_spellings_of_an_id_are_two_clients_and_the_answer_tells_which_was_reset(limiter):
    await limiter.is_allowed(5, UPLOAD)
    assert not await limiter.reset_client("5")
    assert (await limiter.get_client_status(5, UPLOAD)).remaining == 4
    assert await limiter.reset_client(5)
    assert (await limiter.get_client_status(5, UPLOAD)).remaining == 5


async def test_nothing_is_reset_of_a_client_whose_bucket_has_refilled(limiter, clock):
    await limiter.is_allowed("u", UPLOAD)
    clock.jump(3600)
    assert not await limiter.reset_client("u")


async def test_one_limit_of_a_client_is_reset_and_the_others_stay(limiter):
    limiter.set_tier_limit("admin", RateLimitConfig(0.1, 3))
    default = RateLimitConfig(0.5, 4)
    await limiter.enable(default)

    async def left():
        statuses = [
            await limiter.get_client_status("u", UPLOAD),
            await limiter.get_client_status("u", tier="admin"),
            await limiter.get_client_status("u"),
            await limiter.get_client_status("other", UPLOAD),
        ]
        return [status.remaining for status in statuses]

    for client in ("u", "other"):
        await limiter.is_allowed(client, UPLOAD)
    await limiter.is_allowed("u", tier="admin")
    await limiter.is_allowed("u")
    assert await left() == [4, 2, 3, 4]
    assert await limiter.reset_client("u", "admin")
    assert not await limiter.reset_client("u", "admin")
    assert await left() == [4, 3, 3, 4]
    assert await limiter.reset_client("u", UPLOAD)
    assert await left() == [5, 3, 3, 4]
    assert await limiter.reset_client("u", default), "the default limit by its config"
    assert await left() == [5, 3, 4, 4]
    assert not await limiter.reset_client("u", RateLimitConfig(7.0, 7)), "one that nobody uses"


async def test_what_is_no_limit_or_no_tier_is_an_error(limiter):
    with pytest.raises(TypeError, match="expected a RateLimitConfig"):
        await limiter.reset_client("u", 5)
    with pytest.raises(UnknownTierError, match="vip"):
        await limiter.reset_client("u", "vip")
    with pytest.raises(TypeError, match="client_id = True"):
        await limiter.reset_client(True)


async def test_statistics_are_counted(limiter):
    for _ in range(8):
        await limiter.is_allowed("u", UPLOAD)
    limiter.check("v")
    figures = await limiter.get_statistics()
    assert figures["enabled"] is True
    assert (figures["total_allowed"], figures["total_blocked"], figures["total_requests"]) == (6, 3, 9)
    assert figures["block_rate"] == figures["block_rate_percent"] == pytest.approx(33.33)
    assert figures["active_clients"] == 2
    assert figures["limits"]["2/s burst 5"]["blocked"] == 3
    await limiter.reset_statistics()
    figures = await limiter.get_statistics()
    assert (figures["total_requests"], figures["block_rate"]) == (0, 0.0)
    assert not (await limiter.is_allowed("u", UPLOAD))[0], "figures were reset, not clients"


async def test_a_wait_is_counted_when_it_is_served(limiter, clock):
    one_by_one = RateLimitConfig(1.0, 1)
    await limiter.acquire("u", one_by_one)
    served, cancelled = (asyncio.ensure_future(limiter.acquire("u", one_by_one)) for _ in range(2))
    await clock.advance(0.5)
    assert (await limiter.get_statistics())["total_allowed"] == 1
    await limiter.reset_statistics()
    cancelled.cancel()
    await clock.advance(1)
    assert served.done()
    figures = await limiter.get_statistics()
    assert (figures["total_allowed"], figures["total_requests"]) == (1, 1)


async def test_off_means_everything_passes(limiter):
    await limiter.disable()
    for _ in range(20):
        allowed, status = await limiter.is_allowed("u", RateLimitConfig(1, 1), tier="never defined")
        assert allowed
        assert (status.allowed, status.retry_after, status.remaining) == (True, 0.0, 1)
        assert limiter.check("u") == 0.0
    assert (await limiter.acquire("u")).allowed
    assert not limiter.enabled


async def test_enabling_again_with_the_same_values_forgives_nobody(limiter):
    for _ in range(50):
        limiter.check("u")
    await limiter.enable(RateLimitConfig(10, 50))
    assert limiter.check("u") > 0
    await limiter.enable(RateLimitConfig(10, 60))
    assert limiter.check("u") == 0.0


async def test_tiers_given_to_enable_replace_the_ones_before(limiter):
    await limiter.enable(tiers={"a": UPLOAD, "b": UPLOAD})
    await limiter.enable(tiers={"b": UPLOAD})
    assert (await limiter.get_statistics())["tiers_configured"] == 1
    with pytest.raises(UnknownTierError):
        limiter.get_tier_limit("a")


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), 10**400, "2", True])
async def test_a_bad_backoff_changes_nothing(clock, value):
    limiter = RateLimiter(clock=clock)
    with pytest.raises(ValueError, match="backoff_base = "):
        await limiter.enable(backoff_base=value)
    assert not limiter.enabled


async def test_limits_that_come_and_go_do_not_pile_up(limiter, clock):
    for burst in range(1, MANY_LIMITS * 4):
        limiter.check("u", RateLimitConfig(1_000, burst))
        clock.jump(2)
    assert len(limiter._table.by_config) <= MANY_LIMITS + 2
    figures = await limiter.get_statistics()
    assert len(figures["limits"]) <= MANY_LIMITS + 1
    assert figures["total_allowed"] == MANY_LIMITS * 4 - 1, "what was dropped stays counted"
    assert sum(limit["allowed"] for limit in figures["limits"].values()) == figures["total_allowed"]
    await limiter.reset_statistics()
    assert (await limiter.get_statistics())["total_requests"] == 0


async def test_thousands_of_limits_in_use_are_kept_and_told_of_together(limiter):
    limits = [RateLimitConfig(0.001, burst) for burst in range(1, 8_001)]
    for limit in limits:
        limiter.check("u", limit)
    assert limiter.check("u", limits[0]) > 0.0, "nobody was forgiven"
    figures = await limiter.get_statistics()
    assert len(figures["limits"]) == MANY_LIMITS + 1
    assert figures["limits"]["other limits"]["active_clients"] == 8_000 - MANY_LIMITS + 1


async def test_limits_of_equal_name_are_told_apart_in_statistics(limiter):
    limits = [
        RateLimitConfig(1, 1, "upload"), RateLimitConfig(2, 1, "upload"), RateLimitConfig(2, 1, "default"),
        RateLimitConfig(2, 1, "upload", backoff=None), RateLimitConfig(1_234_567.25, 1),
        RateLimitConfig(1_234_567.5, 1), RateLimitConfig(2, 1, "\ud800"),
    ]  # fmt: skip
    for limit in limits:
        limiter.check("u", limit)
    figures = (await limiter.get_statistics())["limits"]
    assert sorted(figures) == sorted([
        "default", "upload", "upload (2/s burst 1)", "default (2/s burst 1)", "upload (2/s burst 1) #2",
        "1234567.25/s burst 1", "1234567.5/s burst 1", "\\ud800",
    ])  # fmt: skip
    assert [figure["allowed"] for figure in figures.values()].count(1) == 7


async def test_bytes_per_second(limiter, clock):
    limit = RateLimitConfig(1e12, 1_000_000_000)
    assert (await limiter.is_allowed("u", limit, 1_000_000_000))[0]
    assert limiter.check("u", limit) == 0.0, "a nanosecond is no wait"
    slow = RateLimitConfig(5_000_000.0, 10_000_000)
    assert (await limiter.is_allowed("u", slow, 10_000_000))[0]
    allowed, status = await limiter.is_allowed("u", slow, 5_000_000)
    assert not allowed
    assert status.retry_after == pytest.approx(1.0)
    clock.jump(status.retry_after)
    assert (await limiter.is_allowed("u", slow, 5_000_000))[0]


def test_on_under_one_loop_and_off_under_another():
    limiter = RateLimiter()
    assert asyncio.run(limiter.enable())
    assert limiter.check("u") == 0.0
    assert asyncio.run(limiter.disable())
    assert not limiter.enabled


async def test_a_new_default_limit_takes_effect_at_once(limiter):
    old, new = limiter.default_config, RateLimitConfig(0.001, 2)
    assert (old.requests_per_second, old.burst_size) == (10.0, 50)
    for _ in range(50):
        await limiter.is_allowed(5)
    limiter.default_config = new
    assert limiter.default_config is new
    assert [limiter.check(5) == 0.0 for _ in range(3)] == [True, True, False], "full buckets of the new limit"
    assert (await limiter.is_allowed(6))[1].limit == 2
    figures = await limiter.get_statistics()
    assert (figures["total_allowed"], figures["total_blocked"]) == (53, 1), "no count is lost"
    limiter.default_config = new
    assert limiter.check(5) > 0.0, "the same limit keeps its clients' buckets"
    await limiter.disable()
    assert (await limiter.is_allowed(5))[1].limit == 2
    await limiter.enable()
    assert limiter.default_config is new, "it outlives a disable"
    for bad in (None, (10.0, 50), "10/second"):
        with pytest.raises(TypeError, match=r"default_config = .*: expected a RateLimitConfig"):
            limiter.default_config = bad
    assert limiter.default_config is new
