"""Bytes per second: streams that are throttled chunk by chunk, and chunks larger than the burst."""

import asyncio
import copy
import pickle
import random
import time

import pytest

from bot.core.rate_limiter import ByteLimit, RateLimitConfig, RateLimiter, RateLimitExceeded
from bot.core.rate_limiter.models import EARLY
from tests.support.clock import until_idle

MB, GB = 10**6, 10**9
SPEED = ByteLimit(10 * MB, 64 * MB, name="download")


@pytest.fixture
async def limiter(clock):
    limiter = RateLimiter(clock=clock)
    await limiter.enable()
    yield limiter
    limiter._alone.lines.check_invariants()
    await limiter.disable()


# The limit as a value.


def test_limits_of_the_same_values_are_one():
    assert ByteLimit("10 MB/s", "64 MB", name="download") is SPEED
    assert ByteLimit(10 * MB, 64 * MB) is not SPEED
    for copied in (copy.deepcopy(SPEED), pickle.loads(pickle.dumps(SPEED))):
        assert copied is SPEED
    assert (SPEED.bytes_per_second, SPEED.burst_bytes, SPEED.backoff) == (10 * MB, 64 * MB, None)
    assert repr(SPEED) == "ByteLimit(bytes_per_second=1e+07, burst_bytes=64000000, name='download')"
    assert ByteLimit(5.0) is not RateLimitConfig(5.0, 5, backoff=None)
    with pytest.raises(AttributeError, match="cannot be changed"):
        SPEED.burst_size = 3


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("10 MB/s", 10 * MB), ("1 B/s", 1), ("512KiB/s", 512 * 1024), (" 1.5 GB per second ", 1.5 * GB),
        ("1 TB/s", 10**12), ("3 MiB/second", 3 * 2**20), ("2 kB/s", 2000),
    ],
)  # fmt: skip
def test_a_rate_as_text(text, rate):
    assert ByteLimit(text).bytes_per_second == rate
    assert ByteLimit(text).burst_bytes == int(rate), "a second's worth"


@pytest.mark.parametrize(
    "rate",
    [
        0, 0.5, -1, 1.1e12, float("nan"), float("inf"), True, None, b"1 MB/s", 10**400, "", "10", "10 MB",
        "10 Mb/s", "10 mb/s", "MB/s", "-1 MB/s", "1e3 MB/s", "10 MB/hour", "10 MB//s", "٣ MB/s",
        "2 TB/s", "0 B/s",
    ],
)  # fmt: skip
def test_what_is_no_rate_is_refused(rate):
    with pytest.raises(ValueError, match=r"bytes_per_second = .*: expected bytes per second from 1 to"):
        ByteLimit(rate)


@pytest.mark.parametrize(
    "burst", [0, -1, 1.5, 10**12 + 1, float("nan"), True, "64", "64 MB/s", "1.5 B", b"1"]
)
def test_what_is_no_burst_is_refused(burst):
    with pytest.raises(ValueError, match=r"burst_bytes = .*: expected a whole number of bytes from 1 to"):
        ByteLimit(MB, burst)


def test_a_name_is_a_string():
    with pytest.raises(ValueError, match="name = 5"):
        ByteLimit(MB, name=5)


# Streams.


@pytest.mark.parametrize("rate", [1.0, 1e6, 1e9, 1e12])
async def test_a_stream_has_exactly_its_rate(limiter, clock, rate):
    rng = random.Random(3)
    limit = ByteLimit(rate, max(1, int(rate / 4)))
    chunk = max(1, int(rate / 50))
    sent = []
    start = clock.monotonic()

    async def stream():
        for _ in range(50):
            size = rng.randrange(chunk) + 1
            await limiter.acquire("u", limit, tokens_required=size)
            sent.append((clock.monotonic() - start, size))

    streams = asyncio.gather(*[stream() for _ in range(3)])
    while not streams.done():
        await clock.advance(1.0)
    total = 0
    for at, size in sent:
        total += size
        assert total <= limit.burst_bytes + rate * (at + EARLY) * (1 + 1e-6)
    least = (total - limit.burst_bytes) / rate
    assert sent[-1][0] == pytest.approx(least, abs=2 * EARLY), "and no slower"


async def test_a_chunk_larger_than_the_burst_waits_its_time(limiter, clock):
    task = asyncio.create_task(limiter.acquire("u", SPEED, tokens_required=2 * GB))
    await clock.advance((2 * GB - 64 * MB) / (10 * MB) - 0.01)
    assert not task.done()
    await clock.advance(0.01)
    assert task.done()
    # Exactly a burst was left of it at that time, so there is nothing more now.
    allowed, status = await limiter.is_allowed("u", SPEED, 10 * MB)
    assert not allowed
    assert status.retry_after == pytest.approx(1.0, abs=2 * EARLY)


async def test_callers_behind_a_large_chunk_keep_their_order(limiter, clock):
    order = []

    async def send(name, size):
        await limiter.acquire("u", SPEED, tokens_required=size)
        order.append((name, round(clock.monotonic() - 1000.0, 1)))

    tasks = [asyncio.create_task(send(*each)) for each in (("a", 264 * MB), ("b", 10 * MB), ("c", 100 * MB))]
    other = asyncio.create_task(limiter.acquire("another", SPEED, tokens_required=64 * MB))
    await until_idle()
    assert other.done()
    await clock.advance(40)
    await asyncio.gather(*tasks)
    assert order == [("a", 20.0), ("b", 21.0), ("c", 31.0)]


async def test_what_cannot_be_had_in_time_is_refused_at_once_and_costs_nothing(limiter, clock):
    with pytest.raises(RateLimitExceeded, match="download reached") as refusal:
        await limiter.acquire("u", SPEED, tokens_required=2 * GB, timeout=60)
    assert refusal.value.retry_after == pytest.approx(193.6)
    assert (await limiter.is_allowed("u", SPEED, 64 * MB))[0]


async def test_a_cancelled_chunk_gives_all_back_and_others_move_up(limiter, clock):
    large = asyncio.create_task(limiter.acquire("u", SPEED, tokens_required=2 * GB))
    small = asyncio.create_task(limiter.acquire("u", SPEED, tokens_required=74 * MB))
    await clock.advance(0.5)
    large.cancel()
    await clock.advance(0.49)
    assert not small.done()
    await clock.advance(0.01)
    assert small.done()
    with pytest.raises(asyncio.CancelledError):
        await large


@pytest.mark.parametrize("tokens", [0, -1, 10**15 + 1, True, 1.0, float("nan"), "5", None])
async def test_what_is_no_number_of_bytes_is_refused(limiter, tokens):
    with pytest.raises(ValueError, match=r"tokens_required = .*: expected a whole number from 1 to"):
        await limiter.acquire("u", SPEED, tokens_required=tokens)
    with pytest.raises(ValueError, match="tokens_required = "):
        await limiter.is_allowed("u", SPEED, 64 * MB + 1)


async def test_nobody_waits_for_more_than_a_year(limiter):
    with pytest.raises(RateLimitExceeded) as refusal:
        await limiter.acquire("u", ByteLimit(1), tokens_required=10**12)
    assert refusal.value.retry_after == pytest.approx(10**12, rel=1e-6)
    assert (await limiter.is_allowed("u", ByteLimit(1)))[0]


async def test_a_limit_of_requests_takes_more_than_its_burst_too(limiter, clock):
    task = asyncio.create_task(limiter.acquire("u", RateLimitConfig(2.0, 5), tokens_required=9))
    await clock.advance(1.99)
    assert not task.done()
    await clock.advance(0.01)
    assert task.done()


# Shared.


@pytest.fixture
async def pair(redis_url):
    limiters = [RateLimiter(), RateLimiter()]
    for limiter in limiters:
        await limiter.enable(redis_url=redis_url)
    yield limiters
    for limiter in limiters:
        await limiter.disable()


async def test_instances_share_a_rate_of_bytes(pair):
    limit = ByteLimit(100 * MB, MB, name=f"stream {time.time_ns()}")
    start = time.monotonic()

    async def stream(limiter):
        for _ in range(20):
            await limiter.acquire("u", limit, tokens_required=MB)

    await asyncio.gather(*[stream(limiter) for limiter in pair])
    assert time.monotonic() - start >= 39 * MB / (100 * MB) - 2 * EARLY, "no faster than the rate"


async def test_what_cannot_be_had_in_time_from_redis_is_refused_at_once(pair):
    limit = ByteLimit(GB, MB, name=f"late {time.time_ns()}")
    with pytest.raises(RateLimitExceeded) as refusal:
        await pair[0].acquire("u", limit, tokens_required=500 * MB, timeout=0.1)
    assert refusal.value.retry_after == pytest.approx(0.499, abs=0.001)
    assert (await pair[1].is_allowed("u", limit, MB))[0]


async def test_a_cancelled_chunk_is_given_back_to_all_instances(pair):
    a, b = pair
    limit = ByteLimit(MB, MB, name=f"cancelled {time.time_ns()}")
    large = asyncio.create_task(a.acquire("u", limit, tokens_required=3600 * MB))
    async with asyncio.timeout(8):
        while (await b.get_client_status("u", limit)).allowed:
            await asyncio.sleep(0.001)
        # It is in line before the callers of every instance.
        assert not (await b.is_allowed("u", limit, MB))[0]
        with pytest.raises(RateLimitExceeded) as refusal:
            await b.acquire("u", limit, tokens_required=MB, timeout=60)
        assert 3_500 < refusal.value.retry_after <= 3_600
        large.cancel()
        while not (await b.get_client_status("u", limit)).allowed:
            await asyncio.sleep(0.001)
    with pytest.raises(asyncio.CancelledError):
        await large
    assert (await b.get_client_status("u", limit)).remaining > 0.9 * MB
