"""The guide's Step 5, caching, as written: without Redis and with it, over a MongoDB-protocol server."""

import pytest
from motor.motor_asyncio import AsyncIOMotorClient

from bot.core.cache_manager import CacheManager
from tests.docs.guide import blocks, run


@pytest.fixture(params=["memory", "redis"])
async def cache(request, redis_url):
    cache = CacheManager.get_instance()
    await cache.enable(redis_url=redis_url if request.param == "redis" else "")
    await cache.clear("users")
    await cache.clear("cache_warming")
    yield cache
    await cache.disable()


class Counted:
    """A collection whose calls are counted."""

    def __init__(self, collection):
        self._collection = collection
        self.calls = 0

    def __getattr__(self, name):
        self.calls += 1
        return getattr(self._collection, name)


@pytest.fixture
async def db(mongodb_url):
    client = AsyncIOMotorClient(mongodb_url)
    database = client.get_default_database()
    await database.users.delete_many({})
    await database.users.insert_many(
        [{"_id": n, "name": f"user {n}", "status": "active"} for n in range(1, 6)]
    )

    class Database:
        users = Counted(database.users)

    yield Database
    client.close()


async def test_manual_caching_and_the_decorator(cache, db):
    guide = await run(blocks("Cache User Data")[0], {"db": db})
    assert guide["cache"] is cache
    user = {"_id": 3, "name": "user 3", "status": "active"}
    assert [await guide["get_user"](3) for _ in range(3)] == [user] * 3
    assert db.users.calls == 1, "a get without a namespace finds what was set in users"
    assert [await guide["get_user_decorated"](4) for _ in range(3)] == [
        {**user, "_id": 4, "name": "user 4"}
    ] * 3
    assert await guide["get_user_decorated"](user_id=4)
    assert db.users.calls == 2
    assert [await guide["get_user_decorated"](99) for _ in range(3)] == [None] * 3
    assert db.users.calls == 3, "that there is no such user is cached too"


async def test_warming(cache, db):
    guide = await run(blocks("Cache Warming")[0], {"cache": cache, "db": db})
    await guide["warm_popular_data"]()
    found = await cache.get("popular:users", namespace="cache_warming")
    assert len(found) == 5
    assert (await cache.get_statistics())["warming_tasks"] == 1
    assert db.users.calls == 1
