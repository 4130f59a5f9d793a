"""All services that use Redis, enabled as the start-up does it, and one use of everything they do there."""

import asyncio
import contextlib
import re

from redis.exceptions import ResponseError

from bot.core.batch_processor import BatchProcessor
from bot.core.cache_manager import CacheManager
from bot.core.outbound import Outbound, Request
from bot.core.phase4_config import Phase4Config
from bot.core.phase4_wiring import SERVICES
from bot.core.rate_limiter import ConcurrencyLimit, RateLimitConfig, RateLimiter, WindowLimit
from bot.core.redis_link import RedisLink
from tests.support.waiting import until

HOURLY = RateLimitConfig(3 / 3600, 3)
"""Three requests, and then none for as long as a test takes."""
ONE = ConcurrencyLimit(1, "downloads")


DAILY = WindowLimit(5, 86_400)


async def made_of(keys, word):
    return dict.fromkeys(keys, word)


class WholeBot:
    """The services of one bot, each with its own object, at one Redis."""

    def __init__(self, url, **settings):
        self.config = Phase4Config.from_mapping(
            {
                "CACHE_L2_REDIS_URL": url, "RATE_LIMIT_REDIS_URL": url, "BATCH_REDIS_URL": url,
                "OUTBOUND_REDIS_URL": url, "OUTBOUND_BROADCAST_STORE": url, "OUTBOUND_BOT_ID": "7",
                "OUTBOUND_CHAT_BURST": 5, "CACHE_LOAD_LOCK": True, "BATCH_MAX_SIZE": 1, "BATCH_TIMEOUT": 0.05,
                "BATCH_MAX_RETRIES": 0,
                **settings,
            }
        )  # fmt: skip
        self.url = url
        self.cache, self.limiter = CacheManager(), RateLimiter()
        self.batches, self.outbound = BatchProcessor(), Outbound()
        self.services = (self.cache, self.limiter, self.batches, self.outbound)
        self.handled = []

    async def start(self):
        async def handle(items):
            found = [item.data for item in items]
            self.handled += found
            if "bad" in found:
                raise ValueError("no good")
            return found

        self.batches.process_handler = handle
        for service in self.services:
            wiring = next(one for one in SERVICES if one.class_name == type(service).__name__)
            await wiring.enable(service, self.config)
        await until(self._listens)

    async def _listens(self):
        """Whether messages of other instances arrive, on all three channels."""
        return all(
            subscription.standing
            for url, links in RedisLink._links.items()
            for link in links
            if url.startswith(self.url)
            for subscription in link._subscriptions
        )

    async def stop(self):
        for service in reversed(self.services):
            await service.disable()

    def request(self, number):
        """A message to some group."""
        return Request("sendMessage", chat=-1000 - number)

    async def use_again(self, word):
        """What can be done twice with one Redis."""
        await self.outbound.call(self._nothing, self.request(1))
        assert await self.cache.set("again", word, tags=["t"])
        assert await self.cache.get("again") == word
        await self.cache.invalidate_tag("t")
        assert await self.limiter.reset_client(42)
        assert (await self.limiter.is_allowed(42, HOURLY))[0]
        await self.outbound.release(5)
        report = await self.outbound.broadcast(f"again-{word}", [1, 2], lambda chat: self._nothing())
        assert report.sent == 2

    async def _nothing(self):
        return None

    async def use(self, word):
        """Whatever leaves a key or a message in Redis; values are made of ``word``."""
        cache, limiter, batches, outbound = self.services

        async def made():
            return word

        assert await cache.set("plain", word)
        assert await cache.set("tagged", word, tags=["t"], namespace="n")
        await cache.set_many({f"m{n}": word for n in range(3)})
        assert await cache.get_or_load("loaded", made) == word
        await cache.set("gone", word)
        await cache.delete("gone")
        await cache.invalidate_pattern("m*")
        await cache.set("dropped", word, tags=["u"])
        await cache.invalidate_tag("u")
        assert await cache.get("dropped") is None

        assert await cache.incr("count") == 1
        assert await cache.add("added", word)
        assert await cache.touch("added", 60)
        assert await cache.exists("added")
        many = await cache.get_or_load_many(["plain", "x", "y"], lambda missing: made_of(missing, word))
        assert many == dict.fromkeys(("plain", "x", "y"), word)

        for client in (42, "üser", "{x}", 10**30):
            assert (await limiter.is_allowed(client, HOURLY))[0]
        await limiter.acquire("waits", config=RateLimitConfig(1000, 1))
        assert await limiter.reset_client("üser")
        await limiter.acquire("lines", tokens_required=3, config=HOURLY)
        queued = [asyncio.create_task(limiter.acquire("lines", config=HOURLY)) for _ in range(2)]
        await asyncio.sleep(0.05)
        for task in queued:  # the place of the first is given back, which others are told
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

        slot = await limiter.acquire_slot("{x}", ONE)
        next_one = asyncio.create_task(limiter.acquire_slot("{x}", ONE, timeout=10))
        await asyncio.sleep(0.05)
        slot.release()
        (await next_one).release()

        assert (await limiter.is_allowed_all([("windowed", HOURLY), ("windowed", DAILY)]))[0]
        await limiter.charge("windowed", DAILY)
        assert await limiter.refund("windowed", DAILY)
        await limiter.charge("windowed", HOURLY)

        assert await batches.submit_and_wait(word, timeout=10) == word
        await batches.submit_item("bad", key=f"bad-{word}")

        async def dead():
            return await batches.count_dead_letters() == 1

        await until(dead)
        assert await batches.replay() == 1

        async def twice():
            return self.handled.count("bad") == 2 and await dead()

        await until(twice)

        for chat in (5, -100, None):
            assert await outbound.call(made, Request("sendMessage", chat=chat)) == word
        await outbound.release(5)
        for store in (None, self.url):
            report = await outbound.broadcast(
                f"b{store is None}", [1, 2, 3], lambda chat: made(), store=store
            )
            assert report.sent == 3


def words_of(line):
    """The command of a line of MONITOR."""
    return [
        re.sub(rb"\\x(..)", lambda found: bytes.fromhex(found[1].decode()), word).replace(b'\\"', b'"')
        for word in re.findall(rb'"((?:[^"\\]|\\.)*)"', line)
    ]


def places_of(words, raw):
    """The keys, channels and patterns that a command names; ``raw`` asks the server."""
    name = words[0].upper()
    if name in (b"PUBLISH", b"SUBSCRIBE", b"UNSUBSCRIBE"):
        return words[1:2]
    if name == b"SCAN":
        return [words[words.index(b"MATCH") + 1]]
    if name in (b"EVAL", b"EVALSHA"):
        return words[3 : 3 + int(words[2])]
    if len(words) == 1:
        return []  # PING, TIME
    try:
        found = raw.execute_command("COMMAND GETKEYS", *words)
    except ResponseError as error:
        if "has no key arguments" not in str(error):
            raise
        return []
    return [key if isinstance(key, bytes) else key.encode() for key in found]
