"""The same few things on every backend, over a real server each."""

import asyncio

import pytest

from bot.core.connection_pool_manager import ConnectionPoolManager


async def redis(conn):
    await conn.set("pool-test", "1")
    return await conn.get("pool-test") == b"1"


async def mongodb(conn):
    await conn.delete_many({})
    await conn.insert_one({"_id": 1})
    return await conn.find_one({"_id": 1}) == {"_id": 1}


async def sqlite(conn):
    return await (await conn.execute("SELECT 1")).fetchall() == [(1,)]


async def mysql(conn):
    async with conn.cursor() as cursor:
        await cursor.execute("SELECT 1")
        return await cursor.fetchall() == ((1,),)


async def postgresql(conn):
    return await conn.fetchval("SELECT 1") == 1


BACKENDS = {
    "redis": (redis, {}), "mongodb": (mongodb, {}), "mongodb-pymongo": (mongodb, {"driver": "pymongo"}),
    "sqlite": (sqlite, {}), "mysql": (mysql, {}), "postgresql": (postgresql, {}),
}  # fmt: skip


@pytest.fixture(params=BACKENDS)
def backend(request, tmp_path):
    name = request.param.partition("-")[0]
    url = f"sqlite:///{tmp_path}/pool.db" if name == "sqlite" else request.getfixturevalue(f"{name}_url")
    return name, url, *BACKENDS[request.param]


@pytest.fixture
async def pools():
    manager = ConnectionPoolManager()
    yield manager
    await manager.disable()


@pytest.mark.server
async def test_leases_work_are_returned_and_bounded(pools, backend):
    name, url, works, options = backend
    assert await pools.create_pool("p", name, min_size=1, max_size=3, url=url, **options)
    busy = peak = 0

    async def task():
        nonlocal busy, peak
        async with pools.connection("p") as conn:
            busy += 1
            peak = max(peak, busy)
            assert await works(conn)
            busy -= 1

    for _ in range(20):
        await task()
    if name != "mongodb":  # there the tasks would delete one another's document
        await asyncio.gather(*[task() for _ in range(20)])
        assert 1 <= peak <= 3
    figures = (await pools.get_all_statistics())["p"]
    assert figures["total_acquired"] == figures["total_released"] >= 20
    assert figures["active_connections"] == 0
    assert figures["total_connections"] <= 3


@pytest.mark.server
async def test_a_lease_is_of_use_until_it_is_returned_and_no_longer(pools, backend):
    name, url, works, options = backend
    await pools.create_pool("p", name, min_size=1, max_size=1, url=url, **options)
    conn = await pools.acquire_connection("p")
    with pytest.raises(TimeoutError, match=r"active 1, idle 0, max 1"):
        await pools.acquire_connection("p", timeout=0.02)
    await pools.release_connection("p", conn)
    with pytest.raises(Exception, match="release"):
        await works(conn)
    with pytest.raises(Exception, match="release"):
        await pools.release_connection("p", conn)
    async with pools.connection("p") as again:
        assert await works(again)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"backend": "oracle"}, "oracle"),
        ({"backend": "redis", "min_size": 5, "max_size": 2}, "min_size"),
        ({"backend": "redis", "max_size": 0}, "max_size"),
        ({"backend": "redis", "url": "postgresql://h/db"}, "postgresql"),
    ],
)
async def test_misuse_is_named(pools, arguments, word):
    with pytest.raises(ValueError, match=word):
        await pools.create_pool("p", **arguments)


@pytest.mark.parametrize("scheme", ["redis", "postgresql", "mysql", "mongodb"])
async def test_a_server_that_is_not_there_is_an_error_without_the_password(pools, scheme):
    with pytest.raises(Exception) as caught:
        await pools.create_pool("p", scheme, url=f"{scheme}://user:hunter2@127.0.0.1:1/db", min_size=1)
    assert "127.0.0.1:1" in str(caught.value)
    assert "hunter2" not in str(caught.value)
