"""The guide's Step 6, connection pooling, as written, on a MongoDB-protocol server and Redis."""

from bot.core.connection_pool_manager import ConnectionPoolManager
from tests.docs.guide import blocks, run


async def test_pools_are_made_and_used(monkeypatch, mongodb_url, redis_url):
    monkeypatch.setenv("MONGODB_URL", mongodb_url)
    monkeypatch.setenv("REDIS_URL", redis_url)
    [block] = blocks("Step 6")
    guide = await run(block, {"query": {"_id": "guide"}})
    manager = ConnectionPoolManager.get_instance()
    assert guide["pool_mgr"] is manager
    await guide["setup_connection_pools"]()
    async with manager.connection("mongodb") as conn:
        await conn.delete_many({})
        await conn.insert_one({"_id": "guide", "found": True})
    assert await guide["query_with_pooling"]() == {"_id": "guide", "found": True}
    figures = await manager.get_all_statistics()
    assert figures["mongodb"]["max_size"] == 20
    assert (figures["redis"]["min_size"], figures["redis"]["max_size"]) == (3, 10)
    assert figures["mongodb"]["active_connections"] == 0
    await manager.disable()
