"""Random reads and writes of many tasks: no answer is older than a write that ended before the read began."""

import asyncio
import random
from collections import Counter

import pytest

from bot.core.cache_manager import CacheManager
from bot.core.query_optimizer import QueryOptimizer
from tests.core.query_optimizer.mongodb.conftest import client_of
from tests.core.query_optimizer.mongodb.test_collection import aggregated
from tests.support.searching import cases

DOCUMENTS = 4


class Oracle:
    """Versions only grow. ``done`` holds those whose write has ended."""

    def __init__(self, collection):
        self.collection = collection
        self.done = Counter()
        self.stale = []
        self.reads = 0

    async def start(self):
        await self.collection.delete_many({})
        await self.collection.insert_many([{"_id": n, "version": 0} for n in range(DOCUMENTS)])

    async def write(self, chance, through):
        n = chance.randrange(DOCUMENTS)
        version = self.done[n] + 1
        write = chance.choice(["update_one", "find_one_and_update", "update_many"])
        await getattr(through, write)({"_id": n}, {"$inc": {"version": 1}})
        self.done[n] = max(self.done[n], version)

    async def read(self, chance, through):
        at_least = dict(self.done)
        kind, n = chance.randrange(6), chance.randrange(DOCUMENTS)
        if kind == 0:
            rows = [await through.find_one({"_id": n})]
        elif kind == 1:
            rows = await through.find({"_id": {"$gte": n}}).sort("_id").to_list(None)
        elif kind == 2:
            rows = await through.find({}).to_list(length=100)
        elif kind == 3:
            rows = await aggregated(through, [{"$match": {"_id": n}}])
        elif kind == 4:
            rows = [{"_id": n, "version": max(await through.distinct("version", {"_id": n}))}]
        else:
            least = at_least.get(n, 0)
            found = await through.count_documents({"_id": n, "version": {"$gte": least}})
            rows = [] if found else [{"_id": n, "version": -1}]
        self.reads += 1
        self.stale += [row for row in rows if row["version"] < at_least.get(row["_id"], 0)]


async def busy(oracle, through, seed, steps):
    chance = random.Random(seed)
    for _ in range(steps):
        if chance.random() < 0.15:
            await oracle.write(chance, chance.choice(through))
        else:
            await oracle.read(chance, chance.choice(through))


async def test_no_read_is_stale(optimizer, other, users):
    optimizer.after_write(lambda names: other.written_elsewhere(names))
    other.after_write(lambda names: optimizer.written_elsewhere(names))
    oracle = Oracle(optimizer.collection(users))
    await oracle.start()
    through = [optimizer.collection(users), other.collection(users)]
    await asyncio.gather(*[busy(oracle, through, seed, cases(60)) for seed in range(8)])
    assert oracle.stale == []
    hits = sum([(await each.get_statistics())["cache_hits"] for each in (optimizer, other)])
    assert 0 < hits < oracle.reads


@pytest.fixture
async def instances(redis_url, mongodb_url, commands):
    """Two instances that hear of each other by Redis, as the start-up code connects them."""
    found = []
    async with client_of("pymongo", mongodb_url, commands) as client:
        for _ in range(2):
            cache, optimizer = CacheManager(), QueryOptimizer()
            await cache.enable(redis_url=redis_url)
            await optimizer.enable()
            optimizer.after_write(lambda names, cache=cache: cache.tell("test tables", names))
            cache.listen("test tables", optimizer.written_elsewhere)
            found.append((cache, optimizer))
        yield [each.collection(client.get_default_database()["optimizer_shared"]) for _, each in found]
        for cache, optimizer in found:
            await optimizer.disable()
            await cache.disable()


async def test_instances_hear_of_writes_by_redis(instances):
    one, two = instances
    oracle = Oracle(one)
    await oracle.start()
    for version in range(1, 6):
        await two.find_one({"_id": 1})
        await one.update_one({"_id": 1}, {"$inc": {"version": 1}})
        async with asyncio.timeout(10):
            while (await two.find_one({"_id": 1}))["version"] != version:
                await asyncio.sleep(0)
