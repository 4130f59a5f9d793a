"""A primary is demoted under load, and its name moves: calls go where it leads."""

import asyncio
import contextlib

import pytest

from bot.core._shared.errors import BackendError
from bot.core.batch_processor import BatchProcessor
from bot.core.cache_manager import CacheManager
from bot.core.rate_limiter import RateLimitConfig, RateLimiter
from bot.core.redis_link import RedisLink, RedisRefusedError, driver
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer, running

pytestmark = pytest.mark.server

SLOW = RateLimitConfig(0.0001, 1_000_000)


class Pair:
    """Two servers, one the other's replica, behind a name that can move."""

    def __init__(self, primary, replica, proxy):
        self.primary, self.replica, self.proxy = primary, replica, proxy
        self.url = f"redis://127.0.0.1:{proxy.port}/0"

    async def ask(self, server, *command):
        return await asyncio.to_thread(self._ask, server, command)

    def _ask(self, server, command):
        import redis

        with redis.Redis(port=server.port) as client:
            return client.execute_command(*command)

    async def follow(self):
        await self.ask(self.replica, "REPLICAOF", "127.0.0.1", self.primary.port)
        async with asyncio.timeout(20):
            while (await self.ask(self.replica, "INFO", "replication"))["master_link_status"] != "up":
                await asyncio.sleep(0.02)

    async def demote(self):
        """By a failover that loses nothing: writes wait, all are replicated, the other is promoted."""
        await self.ask(self.primary, "FAILOVER", "TO", "127.0.0.1", self.replica.port)
        async with asyncio.timeout(20):
            while (await self.ask(self.replica, "INFO", "replication"))["role"] != "master":
                await asyncio.sleep(0.02)

    def move(self):
        self.proxy.lead_to(port=self.replica.port)


@pytest.fixture
async def pair():
    at_once = ("--repl-diskless-sync-delay", "0")
    with running(RedisServer(extra=at_once)) as primary, running(RedisServer(extra=at_once)) as replica:
        async with Proxy(port=primary.port) as proxy:
            found = Pair(primary, replica, proxy)
            await found.follow()
            yield found


@pytest.fixture
async def link(pair):
    link = RedisLink(pair.url)
    yield link
    await link.close()


async def until(condition, timeout=15.0):
    async with asyncio.timeout(timeout):
        while not await condition():
            await asyncio.sleep(0.01)


async def test_where_the_name_has_moved_already_no_call_fails(pair, link, caplog):
    single = link.script("return redis.call('INCR', KEYS[1])")
    batched = link.batched_script("return {redis.call('INCR', KEYS[1])}", lambda found, calls: found)
    other = link.batched_script("return {redis.call('INCR', KEYS[1])}", lambda found, calls: found)
    await link.execute("SET", "a", 1)
    assert (await single(["n"]), await batched.call(b"n", b""), await other.call(b"n", b"")) == (1, 2, 3)
    assert await link.reader.get(b"a") == b"1"
    pair.move()
    await pair.demote()
    made = [
        link.execute("SET", "a", 2),
        link.pipeline([("SET", "b", 2), ("PUBLISH", "c", "m"), ("UNLINK", "a0")]),
        single(["n"]),
        batched.call(b"n", b""),
        other.call(b"n", b""),
        link.execute("XADD", "s", "*", "v", "1"),
    ]
    assert not [
        found for found in await asyncio.gather(*made, return_exceptions=True) if isinstance(found, Exception)
    ]
    assert await link.reader.get(b"a") == b"2"
    # Each was run once, and on the new primary.
    assert await pair.ask(pair.replica, "GET", "n") == b"6"
    assert await pair.ask(pair.replica, "XLEN", "s") == 1
    assert not link.read_only
    assert caplog.text.count("takes no writes") == 1
    assert caplog.text.count("takes writes again") == 1
    await batched.stop()
    await other.stop()


async def test_until_the_name_moves_writes_fail_reads_do_not_and_nothing_reconnects_all_the_time(pair, link):
    await link.execute("SET", "a", 1)
    await pair.demote()
    before = (await pair.ask(pair.primary, "INFO", "stats"))["total_connections_received"]
    refused = 0
    for _ in range(200):
        with contextlib.suppress(RedisRefusedError):
            await link.execute("SET", "a", 2)
            refused -= 1
        refused += 1
        assert await link.reader.get(b"a") == b"1"
        await asyncio.sleep(0.002)
    assert refused == 200
    assert link.read_only
    assert link.impaired
    assert link.available
    after = (await pair.ask(pair.primary, "INFO", "stats"))["total_connections_received"]
    assert after - before < 30
    pair.move()

    async def moved():
        with contextlib.suppress(RedisRefusedError):
            return bool(await link.execute("SET", "a", 3))

    await until(moved)
    assert await link.reader.get(b"a") == b"3"
    assert not link.impaired


async def test_every_service_goes_on_under_load(pair):
    cache, other, limiter, batches = CacheManager(), CacheManager(), RateLimiter(), BatchProcessor()
    for service in (cache, other, limiter, batches):
        await service.enable(redis_url=pair.url)
    on = True
    written = 0
    submitted = []

    async def caching():
        nonlocal written
        while on:
            written += await cache.set(f"k{written % 50}", written, namespace="n")
            await asyncio.sleep(0.002)

    async def limiting():
        while on:
            await limiter.is_allowed("c", SLOW)
            await asyncio.sleep(0.002)

    async def submitting():
        while on:
            success, item, _ = await batches.submit_item({"n": len(submitted)})
            if success:
                submitted.append(item)
            await asyncio.sleep(0.005)

    working = [asyncio.create_task(one()) for one in (caching, limiting, limiting, submitting)]
    await asyncio.sleep(0.2)
    await pair.demote()
    await asyncio.sleep(0.3)
    pair.move()

    async def well():
        status = (await limiter.is_allowed("c", SLOW))[1]
        figures = [await service.get_statistics() for service in (cache, other, limiter, batches)]
        return not status.degraded and not any(one["degraded"] for one in figures) and cache._l2.in_step

    await until(well)
    on = False
    await asyncio.gather(*working)
    # What one writes now another hears, so the subscriptions have moved too.
    await cache.set("seen", 1, namespace="n")
    assert await other.get("seen", "n") == 1
    await cache.set("seen", 2, namespace="n")

    async def heard():
        return await other.get("seen", "n") == 2

    await until(heard)
    assert submitted
    for item in submitted:
        assert (await batches.get_item_status(item)).state == "pending"
    assert not await pair.ask(pair.primary, "CLIENT", "LIST", "TYPE", "pubsub")
    for service in (cache, other, limiter, batches):
        await service.disable()
    assert not RedisLink._links


async def test_a_replica_that_lost_its_primary_and_serves_nobody(pair, link):
    await link.execute("SET", "a", 1)
    assert await link.reader.get(b"a") == b"1"
    await pair.ask(pair.primary, "CONFIG", "SET", "replica-serve-stale-data", "no")
    await pair.ask(pair.primary, "REPLICAOF", "127.0.0.1", 1)  # where no server is
    with pytest.raises(BackendError):
        await link.reader.get(b"a")
    pair.move()
    await pair.ask(pair.replica, "REPLICAOF", "NO", "ONE")

    async def back():
        with contextlib.suppress(BackendError):
            return await link.reader.get(b"a") == b"1"

    await until(back)
    assert await link.execute("SET", "a", 2)


async def test_a_write_that_is_taken_elsewhere_shows_the_others_the_way_at_once(pair, link):
    script = link.batched_script("return {redis.call('INCR', KEYS[1])}", lambda found, calls: found)
    assert await script.call(b"n", b"") == 1
    await pair.demote()
    with pytest.raises(RedisRefusedError):  # it has looked, and found the same server
        await link.execute("SET", "a", 1)
    pair.move()
    await driver.close_idle(link.client())
    assert await link.execute("SET", "a", 2)  # on a new connection, which leads to the new primary
    # The script's own connection still leads to the old one; it does not wait for the next look.
    assert await script.call(b"n", b"") == 2
    assert await pair.ask(pair.replica, "GET", "n") == b"2"
    await script.stop()
