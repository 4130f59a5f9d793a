"""Redis as an enemy: evil answers, evil contents and evil messages, against all that services offer.

``PHASE4_EVIL_ANSWERS`` says how many there are (160), ``PHASE4_EVIL_SEED`` which (1).
"""

import asyncio
import logging
import os
import random
import struct
import uuid

import psutil
import pytest

from bot.core._shared.errors import BackendError, CapacityError
from bot.core.batch_processor import BatchProcessor, UnknownItemError
from bot.core.cache_manager import CacheManager
from bot.core.rate_limiter import RateLimitConfig, RateLimiter
from bot.core.redis_link import RedisLink
from tests.support.evil_redis import ANSWERS, BODIES, NUMBERS, EvilRedis, messages, payloads

HOW_MANY = int(os.environ.get("PHASE4_EVIL_ANSWERS", "160"))
SEED = int(os.environ.get("PHASE4_EVIL_SEED", "1"))

PATIENCE = 20.0
"""Seconds in which any call has long ended, on a loaded machine too."""

GROWTH = 250 * 2**20
"""Bytes: less than any answer that is believed would take, and more than all that is bounded."""

LIMIT = RateLimitConfig(50.0, 20)


async def until(condition, seconds=60.0):
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.02)


class Services:
    """Two caches, two limiters and a durable batch processor over one Redis, and every call they offer."""

    def __init__(self, chance):
        self.chance = chance
        self.caches = [CacheManager(), CacheManager()]
        self.limiters = [RateLimiter(), RateLimiter()]
        self.batches = BatchProcessor()
        self.items = ["unknown"]

    async def enable(self, url):
        for cache in self.caches:
            await cache.enable(redis_url=url, l1_max_size_mb=5, l1_max_entries=500)
        for limiter in self.limiters:
            await limiter.enable(redis_url=url)

        async def echo(items):
            return {item.item_id: item.data for item in items}

        await self.batches.enable(
            echo, redis_url=url, queue_name=f"evil-{uuid.uuid4().hex[:6]}", max_batch_size=5,
            batch_timeout=0.02, lease=0.5, retry_base=0.01,
        )  # fmt: skip

    async def disable(self):
        for service in (*self.caches, *self.limiters, self.batches):
            assert await service.disable()
        for cache in self.caches:
            cache._tiers.local.l1.check_invariants()
        assert not RedisLink._links

    def of_caches(self):
        """Calls that never raise."""
        cache, chance = self.chance.choice(self.caches), self.chance
        key, tag = f"k{chance.randrange(12)}", f"t{chance.randrange(4)}"
        value = chance.choice([1, "text", None, {"a": [1, 2]}, b"x" * 3000, ("t", 2**70)])

        async def load():
            return value

        yield cache.get(key)
        yield cache.get_many([f"k{n}" for n in range(12)])
        yield cache.get_many([f"k{n}" for n in range(100)])  # in a command of its own
        yield cache.set(key, value, ttl=chance.choice([1, 300]), tags=chance.choice([(), (tag,), (tag, "u")]))
        yield cache.set_many({key: value, "other": 1}, tags=chance.choice([(), (tag,)]))
        yield cache.get_or_load(key, load, tags=(tag,))
        yield cache.get_or_load(f"{key}:by its value", load, tags=lambda value: [tag])
        rare = chance.randrange(10)
        if rare < 3:
            yield cache.delete(key)
        elif rare < 5:
            yield cache.invalidate_tag(tag)
        elif rare < 7:
            yield cache.invalidate_pattern("k1*")
        elif rare == 7:
            yield cache.clear()
        elif rare == 8:
            yield cache.clear("default")
        yield cache.get_statistics()

    def of_limiters(self):
        """Calls that answer with a decision."""
        limiter, client = self.chance.choice(self.limiters), f"c{self.chance.randrange(6)}"
        yield limiter.is_allowed(client, LIMIT)
        yield limiter.is_allowed(client, RateLimitConfig(0.01, 2))
        yield limiter.allow_batch(client, 3, LIMIT)

    def of_limiters_besides(self):
        limiter, client = self.chance.choice(self.limiters), f"c{self.chance.randrange(6)}"
        yield limiter.get_client_status(client)
        yield limiter.reset_client(client)
        yield limiter.get_statistics()

    def of_batches(self):
        """Calls that raise what the backend, or a bound, did to them, and nothing else."""
        batches, item = self.batches, self.chance.choice(self.items)
        yield batches.submit_item({"n": 1})
        yield batches.submit_item("by key", key=f"key{self.chance.randrange(5)}")
        yield batches.submit_many([1, 2, 3])
        yield batches.submit_and_wait("now", timeout=0.2)
        yield batches.get_result(item, timeout=0.05)
        rare = self.chance.randrange(6)
        if rare == 0:
            yield batches.dead_letters(5)
        elif rare == 1:
            yield batches.replay([item])
        elif rare == 2:
            yield batches.discard_dead_letters([item])
        yield batches.get_statistics()
        yield batches.get_item_status(item)

    async def call_all(self):
        """One round: each call at once with all others, none of them longer than it may take."""

        async def in_time(call):
            async with asyncio.timeout(PATIENCE):
                return await call

        kinds = {
            "cache": list(self.of_caches()),
            "decision": list(self.of_limiters()),
            "limiter": list(self.of_limiters_besides()),
            "batch": list(self.of_batches()),
        }
        calls = [(kind, call.__qualname__, in_time(call)) for kind in kinds for call in kinds[kind]]
        found = await asyncio.gather(*[call for _, _, call in calls], return_exceptions=True)
        for (kind, name, _), answer in zip(calls, found, strict=True):
            if kind == "batch":
                allowed = (BackendError, CapacityError, UnknownItemError)
                if isinstance(answer, BaseException):
                    assert isinstance(answer, allowed), f"{name} raised {answer!r}"
                elif name.endswith("submit_item") and answer.success:
                    self.items = [*self.items[-50:], answer.item_id]
            else:
                assert not isinstance(answer, BaseException), f"{name} raised {answer!r}"
            if kind == "decision":
                allowed_, status = answer
                assert type(allowed_) is bool
                assert 0.0 <= status.retry_after < 1e9, status.retry_after
                assert 0 <= status.remaining <= 20
                assert status.reset_at >= 0.0

    def meet_it_again(self):
        """What was found away is asked again at once, so that more of its answers are met."""
        for links in RedisLink._links.values():
            for link in links:
                link.breaker.succeeded()

    async def healthy(self):
        """Whether everything works, and one instance hears of the other."""
        token = uuid.uuid4().hex
        (a, b), one = self.caches, self.limiters[0]
        await a.set(f"heal:{token}", token, tags=["heal"])
        try:
            async with asyncio.timeout(5):
                # The message that it was set may come after the first read, which is then not kept.
                while b.get_local(f"heal:{token}") != token:
                    if await b.get(f"heal:{token}") != token:
                        return False
                await a.invalidate_tag("heal")
                while await b.get(f"heal:{token}") is not None:
                    await asyncio.sleep(0.01)
        except TimeoutError:
            return False
        _, status = await one.is_allowed(f"heal:{token}", LIMIT)
        if status.degraded or status.remaining != 19:
            return False
        try:
            return await self.batches.submit_and_wait(token, timeout=3.0) == token
        except (BackendError, CapacityError):
            return False


@pytest.fixture
async def services():
    made = Services(random.Random(SEED))
    yield made
    await made.disable()


@pytest.fixture
def quiet(caplog):
    """Nothing was logged that is an error, a traceback, or more than one line."""
    caplog.set_level(logging.INFO)
    before = psutil.Process().memory_info().rss
    yield
    for record in caplog.records:
        text = record.getMessage()
        assert record.exc_info is None, text
        assert record.name != "asyncio" or record.levelno < logging.ERROR, text
        assert text.isprintable(), repr(text)[:500]
        assert len(text) < 2_000
    assert len(caplog.records) < 200 + HOW_MANY
    assert psutil.Process().memory_info().rss - before < GROWTH


async def test_no_evil_answer_harms_a_caller(redis_server, services, quiet):
    async with EvilRedis(redis_server.port, SEED) as evil:
        await services.enable(evil.url)
        await until(services.healthy)
        evil.evil = True
        while evil.done.total() < HOW_MANY:
            await services.call_all()
            services.meet_it_again()
        evil.evil = False
        await until(services.healthy)
        assert len(asyncio.all_tasks()) < 60
        await services.disable()


class Spoiler:
    """Writes what does harm over what the services keep in a Redis, and speaks on their channels."""

    def __init__(self, link, seed):
        self._link = link
        self._chance = random.Random(seed)
        self._payloads = payloads()
        self._messages = messages()
        self.done = 0

    async def spoil(self):
        chance, run = self._chance, self._link.execute
        keys = [key async for page in self._link.scan(b"p4*") for key in page]
        channels = [name for name in await run("PUBSUB", "CHANNELS") if name.startswith(b"p4")]
        for key in chance.sample(keys, min(len(keys), 6)):
            kind = await run("TYPE", key)
            if kind == b"stream" and chance.random() < 0.8:
                await self._spoil_stream(key)
            else:
                await run("UNLINK", key)
                await self._write(key)
            self.done += 1
        for channel in channels:
            await run("PUBLISH", channel, chance.choice(list(self._messages.values())))
            self.done += 1

    async def _spoil_stream(self, key):
        chance, run = self._chance, self._link.execute
        body = chance.choice(list(BODIES.values()))
        await run(
            "XADD",
            key,
            "*",
            *chance.choice([(b"v", body), (body[:1000], body), (b"v", b""), ("a", 1, "v", 2)]),
        )
        if chance.random() < 0.3:
            await run("XTRIM", key, "MAXLEN", 1)

    async def _write(self, key):
        chance, run = self._chance, self._link.execute
        number = chance.choice(NUMBERS)
        way = chance.randrange(9)
        if way < 3:
            await run("SET", key, chance.choice(list(self._payloads.values())))
        elif way == 3:
            numbers = [float("nan"), float("inf"), -1e308, 1e308, 0.0, 1e15]
            packed = struct.pack("<12d", *chance.choices(numbers, k=12))
            await run("SET", key, packed[: chance.choice([97, 96, 40, 8, 7])])
        elif way == 4:
            await run(
                "SET", key, chance.choice([b"P", b"P0-1", b"P" + b"9" * 100, b"L", b"D" + bytes(50), number])
            )
        elif way == 5:
            await run("HSET", key, "tokens", number, "at", number, number, "x")
        elif way == 6:
            await run("RPUSH", key, number)
        elif way == 7:
            await run("SADD", key, number)
        else:
            await run("XADD", key, "*", "v", number)

    async def undo(self):
        """What another type lies under, nobody else takes away."""
        async for page in self._link.scan(b"p4*"):
            await self._link.unlink(page)


async def test_nothing_that_lies_in_redis_or_is_told_there_harms_a_caller(redis_server, services, quiet):
    raw = RedisLink(redis_server.url, timeout=10.0)
    spoiler = Spoiler(raw, SEED)
    await services.enable(redis_server.url)
    await until(services.healthy)
    while spoiler.done < HOW_MANY:
        await services.call_all()
        await spoiler.spoil()
    await spoiler.undo()
    await until(services.healthy)
    assert len(asyncio.all_tasks()) < 60
    await services.disable()
    await raw.close()


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
async def test_each_evil_answer_reaches_every_way_of_reading(redis_server, answer):
    """Reads of one tick, scripts, single commands and pipelines, each with its own parser."""
    async with EvilRedis(redis_server.port, SEED, share=0.5) as evil:
        evil.choose = answer
        link = RedisLink(evil.url, timeout=0.3)
        script = link.batched_script("return 1", lambda found, calls: [found[n] + b"" for n in range(calls)])
        await link.probe()
        evil.evil = True
        for _ in range(3):
            calls = [
                asyncio.gather(link.reader.get(b"k"), link.reader.get(b"l")),
                script.call(b"k", b"v"),
                link.execute("GET", "k"),
                link.pipeline([("SET", "k", 1), ("GET", "k")]),
                link.unlink([b"x"]),
            ]
            for call in calls:
                try:
                    async with asyncio.timeout(PATIENCE):
                        await call
                except BackendError:
                    pass
            link.breaker.succeeded()
        evil.evil = False
        await until(link.probe)
        await link.execute("SET", "k", "healed")
        assert await link.reader.get(b"k") == b"healed"
        await script.stop()
        await link.close()
