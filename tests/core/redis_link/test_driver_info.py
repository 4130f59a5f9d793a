"""What redis-py tells a server of itself is looked up once, and not for each connection."""

import importlib.metadata

import pytest
import redis.asyncio

from bot.core._shared.redis_driver_info import redis_driver_info
from bot.core.connection_pool_manager import ConnectionPoolManager
from bot.core.redis_link import RedisLink


@pytest.fixture
def looked_up(monkeypatch):
    """The packages whose metadata are read."""
    redis_driver_info()
    found = []
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: found.append(name) or version(name))
    return found


async def test_connections_of_a_link_read_no_metadata(redis_server, looked_up):
    link = RedisLink(redis_server.url, timeout=5.0)
    try:
        assert await link.execute("PING")
        assert looked_up == []
        clients = await link.execute("CLIENT", "LIST")
        assert b"lib-name=redis-py" in clients, "it is still told"
    finally:
        await link.close()


@pytest.fixture
async def manager():
    manager = ConnectionPoolManager()
    await manager.enable()
    yield manager
    await manager.disable()


async def test_connections_of_a_pool_read_none_either(manager, redis_server, looked_up):
    await manager.create_pool("r", "redis", url=redis_server.url, min_size=0, max_size=2)
    async with manager.connection("r") as first, manager.connection("r") as second:
        assert await first.ping()
        assert await second.ping()
    assert looked_up == []


@pytest.mark.filterwarnings("ignore:Call to '__init__'")
async def test_a_name_of_the_bots_own_is_told_instead(manager, redis_server):
    await manager.create_pool("r", "redis", url=f"{redis_server.url}?lib_name=my-bot", min_size=0, max_size=1)
    async with manager.connection("r") as connection:
        assert (await connection.client_info())["lib-name"] == "my-bot"


def test_redis_py_itself_would_have_read_them(looked_up):
    """If not, none of the above is needed any more."""
    redis.asyncio.Connection()
    assert looked_up or not redis_driver_info()
