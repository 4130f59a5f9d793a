import contextlib

import pymongo
import pytest
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo.monitoring import CommandListener

from bot.core.query_optimizer import QueryOptimizer


class Commands(CommandListener):
    """The names of the commands that reached the server."""

    def __init__(self):
        self.names = []

    def started(self, event):
        self.names.append(event.command_name)

    def succeeded(self, event):
        pass

    def failed(self, event):
        pass

    def since(self):
        names, self.names = self.names, []
        return [name for name in names if name not in ("hello", "ismaster", "endSessions")]


@pytest.fixture
def commands():
    return Commands()


@contextlib.asynccontextmanager
async def client_of(kind, url, commands):
    make = pymongo.AsyncMongoClient if kind == "pymongo" else AsyncIOMotorClient
    client = make(url, event_listeners=[commands], serverSelectionTimeoutMS=10_000)
    try:
        yield client
    finally:
        closing = client.close()
        if closing is not None:
            await closing


@pytest.fixture(params=["pymongo", "motor"])
async def users(request, mongodb_url, commands):
    """The driver's collection, with four documents."""
    async with client_of(request.param, mongodb_url, commands) as client:
        collection = client.get_default_database()["optimizer_users"]
        await collection.delete_many({})
        await collection.insert_many([{"_id": n, "group": n % 2, "tags": ["a", n]} for n in range(4)])
        commands.since()
        yield collection


@pytest.fixture
async def cached(optimizer, users):
    return optimizer.collection(users)


@pytest.fixture
async def other():
    """The optimizer of another instance."""
    optimizer = QueryOptimizer()
    await optimizer.enable()
    yield optimizer
    optimizer._invalidation.cache.check_invariants()
    await optimizer.disable()
