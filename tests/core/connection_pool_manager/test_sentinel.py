"""A pool of Redis connections whose primary the sentinels name."""

import asyncio
import contextlib

import pytest

from bot.core._shared.errors import InvalidArgumentError
from bot.core.connection_pool_manager import ConnectionPoolManager, PoolConnectError
from tests.support.sentinels import Failover
from tests.support.waiting import until

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def three():
    found = Failover()
    try:
        found.start()
        yield found
    finally:
        found.close()


@pytest.fixture
async def pools():
    manager = ConnectionPoolManager()
    await manager.enable()
    yield manager
    await manager.disable()


async def test_leases_follow_the_primary(pools, three):
    await pools.create_pool("p", "redis", 2, 4, url=three.url())
    before = three.primary()
    async with pools.connection("p") as one, pools.connection("p") as other:
        assert await one.set("k", "v")
        assert await other.get("k") == b"v"
        assert one.connection_pool.phase4_connection.port == before.port
    before.kill()
    await asyncio.to_thread(three.failed_over, before)

    async def works():
        with contextlib.suppress(Exception):  # whatever a dead server makes of a call
            async with pools.connection("p", timeout=2) as conn:
                return await conn.incr("n") >= 1
        return False

    await until(works, 20)
    after = three.primary()
    assert int(after.execute("GET", "n")) >= 1
    async with pools.connection("p") as one, pools.connection("p") as other:
        for conn in (one, other):
            await conn.incr("n")
            assert conn.connection_pool.phase4_connection.port == after.port


async def test_sentinels_that_know_no_such_service_are_told_of(pools, three):
    with pytest.raises(PoolConnectError, match=r"no sentinel knows the primary other"):
        await pools.create_pool("p", "redis", 1, 1, url=three.url(service="other"))


@pytest.mark.parametrize(
    "url", ["redis+sentinel://a", "redis+sentinel://a/main/x", "redis+sentinel://u:hunter2@a:0/main"]
)
async def test_an_address_that_is_none(pools, url):
    with pytest.raises(InvalidArgumentError, match=r"/service/number") as caught:
        await pools.create_pool("p", "redis", 1, 1, url=url)
    assert "hunter" not in str(caught.value)
