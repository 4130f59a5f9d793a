"""The calls of the query optimizer, and queries of drivers that it watches."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pymongo

from bot.core.phase4_service import Phase4Service
from bot.core.query_optimizer import QueryOptimizer, optimize_query
from bot.core.query_optimizer.instruments import instrument, uninstrument
from tests.cancellation.sweep.worlds import World, scenario
from tests.support.scripted_mongodb import ScriptedMongoDB
from tests.support.waiting import until

READ, WRITE = "SELECT v FROM swept WHERE id = 1", "UPDATE swept SET v = v + 1 WHERE id = 1"


async def emptied(world: Any) -> None:
    await world.optimizer.clear_cache()


async def switched_on(world: Any) -> None:
    assert await world.optimizer.enable(dialect="postgres")


class OptimizerWorld(World):
    name = "optimizer"

    async def start(self) -> None:
        self.optimizer = Phase4Service._instances[QueryOptimizer] = QueryOptimizer()
        await switched_on(self)

        @optimize_query
        async def read(query: str) -> Any:
            return await self.run(query, None)

        self.read = read

    async def stop(self) -> None:
        await self.optimizer.disable()

    async def held(self) -> list[str]:
        self.optimizer._invalidation.cache.check_invariants()
        found = []
        if len(self.optimizer._execution._flights):
            found.append(f"{len(self.optimizer._execution._flights)} executions in progress")
        if self.optimizer._in_transaction[0]:
            found.append("a transaction is open")
        return found

    async def run(self, query: str, params: Any) -> list[dict[str, int]]:
        await asyncio.sleep(0)
        await asyncio.sleep(0.0005)
        return [{"v": 1}]

    async def explain(self, statements: Any) -> list[Any]:
        await asyncio.sleep(0)
        raise LookupError("nothing is known")

    @scenario("QueryOptimizer.execute", before=emptied)
    async def execute_a_read(self) -> None:
        assert await self.optimizer.execute(READ, None, self.run) == [{"v": 1}]

    @scenario("QueryOptimizer.execute", before=emptied)
    async def execute_a_read_that_others_wait_for(self) -> None:
        others = []

        async def run(query: str, params: Any) -> Any:
            others.append(asyncio.ensure_future(self.optimizer.execute(READ, None, self.run)))
            return await self.run(query, params)

        try:
            assert await self.optimizer.execute(READ, None, run) == [{"v": 1}]
        finally:
            assert await asyncio.shield(asyncio.gather(*others)) == [[{"v": 1}]] * len(others)

    @scenario("QueryOptimizer.execute", before=emptied)
    async def execute_a_read_that_another_runs(self) -> None:
        first = asyncio.ensure_future(self.optimizer.execute(READ, None, self.run))
        try:
            await asyncio.sleep(0)
            assert await self.optimizer.execute(READ, None, self.run) == [{"v": 1}]
        finally:
            assert await asyncio.shield(first) == [{"v": 1}]

    @scenario("QueryOptimizer.execute", "QueryOptimizer.clear_cache")
    async def execute_a_write(self) -> None:
        await self.optimizer.execute(WRITE, None, self.run)

    @scenario(
        "QueryOptimizer.transaction",
        "TransactionScope.__aenter__",
        "TransactionScope.__aexit__",
        before=emptied,
    )
    async def execute_in_a_transaction(self) -> None:
        async with self.optimizer.transaction():
            await self.optimizer.execute(WRITE, None, self.run)
            await self.optimizer.execute(READ, None, self.run)

    @scenario("QueryOptimizer.execute", before=emptied)
    async def execute_begin_and_commit(self) -> None:
        try:
            await self.optimizer.execute("BEGIN", None, self.run)
            await self.optimizer.execute(WRITE, None, self.run)
        finally:
            await asyncio.shield(self._rolled_back())

    async def _rolled_back(self) -> None:
        await self.optimizer.execute("ROLLBACK", None, self.run)

    @scenario(
        "QueryOptimizer.get_cached_result",
        "QueryOptimizer.cache_query_result",
        "QueryOptimizer.learn_catalog",
        before=lambda world: world.with_an_explainer(),
        after=lambda world: world.without_an_explainer(),
    )
    async def cache_by_oneself(self) -> None:
        await self.optimizer.get_cached_result(READ)
        await self.optimizer.cache_query_result(READ, [1])
        await self.optimizer.learn_catalog()

    async def with_an_explainer(self) -> None:
        self.optimizer.explain_with(self.explain, "postgres")

    async def without_an_explainer(self) -> None:
        self.optimizer.explain_with(None)

    @scenario(
        "QueryOptimizer.analyze_query",
        before=lambda world: world.with_an_explainer(),
        after=lambda world: world.without_an_explainer(),
    )
    async def analyze_query(self) -> None:
        assert (await self.optimizer.analyze_query(READ)).query_type

    @scenario("optimize_query", before=emptied)
    async def call_decorated(self) -> None:
        assert await self.read(READ) == [{"v": 1}]

    @scenario("QueryOptimizer.disable", before=switched_on, after=switched_on)
    async def disable(self) -> None:
        assert await self.optimizer.disable()

    @scenario("QueryOptimizer.enable", before=lambda world: world.optimizer.disable(), after=switched_on)
    async def enable(self) -> None:
        assert await self.optimizer.enable(dialect="postgres")

    @scenario(
        "QueryOptimizer.clear_statistics",
        "QueryOptimizer.declare_cascade",
        "QueryOptimizer.declare_view",
        "QueryOptimizer.describe_query",
        "QueryOptimizer.find_warnings",
        "QueryOptimizer.get_n_plus_one_patterns",
        "QueryOptimizer.get_slow_queries",
        "QueryOptimizer.invalidate_collections",
        "QueryOptimizer.invalidate_tables",
        "QueryOptimizer.record_execution",
        "QueryOptimizer.reset",
        "QueryOptimizer.reset_statistics",
    )
    async def what_needs_no_wait(self) -> None:
        optimizer = self.optimizer
        await optimizer.declare_view("swept_view", "swept")
        await optimizer.declare_cascade("swept", "other")
        await optimizer.record_execution(READ, execution_time=0.1)
        await optimizer.get_slow_queries()
        await optimizer.get_n_plus_one_patterns()
        await optimizer.describe_query("0")
        await optimizer.find_warnings()
        await optimizer.invalidate_tables("swept")
        await optimizer.clear_statistics()
        await optimizer.reset()


class WatchedWorld(OptimizerWorld):
    """Pools of asyncpg's own, watched and answered from the cache."""

    name = "optimizer and asyncpg"
    # asyncpg's word for a rollback that was cancelled: its pool rolls back then.
    expected = ("Resetting connection with an active transaction",)

    async def start(self) -> None:
        await super().start()
        self.pool = await asyncpg.create_pool(self.servers.postgresql, min_size=1, max_size=2)
        await self.pool.execute("DROP TABLE IF EXISTS watched")
        await self.pool.execute("CREATE TABLE watched (id int PRIMARY KEY, v int)")
        await self.pool.execute("INSERT INTO watched VALUES (1, 1)")
        instrument(self.pool, cache=True, optimizer=self.optimizer)

    async def stop(self) -> None:
        uninstrument(self.pool)
        await self.pool.close()
        await super().stop()

    async def held(self) -> list[str]:
        found = await super().held()
        busy = self.pool.get_size() - self.pool.get_idle_size()
        return [*found, f"{busy} connections of the pool are taken"] if busy else found

    @classmethod
    def scenarios(cls) -> list[Any]:
        own = {name for name in vars(cls) if not name.startswith("_")}
        return [each for each in super().scenarios() if each.name in own]

    @scenario(before=emptied)
    async def watched_fetch(self) -> None:
        assert await self.pool.fetchval("SELECT v FROM watched WHERE id = $1", 1) >= 1

    @scenario(before=emptied)
    async def watched_transaction(self) -> None:
        async with self.pool.acquire() as conn, conn.transaction():
            await conn.execute("UPDATE watched SET v = v + 1 WHERE id = 1")
            await conn.fetchval("SELECT v FROM watched WHERE id = 1")


class CollectionWorld(OptimizerWorld):
    name = "optimizer and MongoDB"

    async def start(self) -> None:
        await super().start()
        self.client: Any = pymongo.AsyncMongoClient(self.servers.mongodb, serverSelectionTimeoutMS=10_000)
        driver = self.client.get_default_database()["swept"]
        await driver.delete_many({})
        await driver.insert_many([{"_id": n, "group": n % 2} for n in range(4)])
        self.collection = self.optimizer.collection(driver)

    async def stop(self) -> None:
        await self.client.close()
        await super().stop()

    @classmethod
    def scenarios(cls) -> list[Any]:
        own = {name for name in vars(cls) if not name.startswith("_")}
        return [each for each in super().scenarios() if each.name in own]

    @scenario("QueryOptimizer.collection", "CachedCollection.find_one", before=emptied)
    async def find_one(self) -> None:
        assert (await self.collection.find_one({"_id": 1}))["group"] == 1

    @scenario("CachedCollection.count_documents", "CachedCollection.distinct", before=emptied)
    async def count_and_distinct(self) -> None:
        assert await self.collection.count_documents({"group": 1}) == 2
        assert await self.collection.distinct("group") == [0, 1]

    @scenario(
        "CachedCollection.find",
        "CachedCursor.to_list",
        "CachedCursor.__aenter__",
        "CachedCursor.__aexit__",
        "CachedCursor.__anext__",
        before=emptied,
    )
    async def find(self) -> None:
        assert len(await self.collection.find({"group": 1}).to_list()) == 2
        async with self.collection.find({"group": 0}) as cursor:
            assert len([each async for each in cursor]) == 2

    @scenario(
        "CachedCollection.aggregate",
        "CachedAggregation.next",
        "CachedAggregation.to_list",
        "CachedAggregation.__aenter__",
        "CachedAggregation.__aexit__",
        "CachedAggregation.__await__",
        "CachedAggregation.__anext__",
        "CachedAggregation.try_next",
        "CachedAggregation.close",
        before=emptied,
    )
    async def aggregate(self) -> None:
        pipeline = [{"$match": {"group": 1}}]
        assert len(await self.collection.aggregate(pipeline).to_list(None)) == 2
        async with await self.collection.aggregate(pipeline) as cursor:
            await cursor.try_next()
            assert [each async for each in cursor]
            await cursor.close()

    @scenario(before=emptied)
    async def write(self) -> None:
        await self.collection.update_one({"_id": 1}, {"$set": {"seen": True}})


class StreamsWorld(CollectionWorld):
    """A collection whose results are kept while a change stream is open."""

    name = "optimizer and change streams"

    async def start(self) -> None:
        self.server = await ScriptedMongoDB().__aenter__()
        self.server.write("bot.swept", {"_id": 1, "group": 1})
        await OptimizerWorld.start(self)
        await self.with_streams()
        self.client = pymongo.AsyncMongoClient(self.server.url, serverSelectionTimeoutMS=10_000)
        self.collection = self.optimizer.collection(self.client["bot"]["swept"])
        await self.opened()

    async def stop(self) -> None:
        await super().stop()
        await self.server.__aexit__()

    async def held(self) -> list[str]:
        found = await super().held()
        streams = len(self.optimizer._mongodb_results().streams._tasks)
        return [*found, f"{streams} change streams"] if streams > 1 else found

    async def with_streams(self) -> None:
        assert await self.optimizer.enable(dialect="postgres", mongodb_change_streams=True)

    async def opened(self) -> None:
        """The stream is open, and nothing is kept."""
        await self.collection.find_one({"_id": 1})
        await until(self.is_open)
        await emptied(self)

    async def is_open(self) -> bool:
        return self.optimizer.snapshot().change_streams_open == 1

    @scenario(before=opened)
    async def read_with_a_stream(self) -> None:
        assert (await self.collection.find_one({"_id": 1}))["group"] == 1

    @scenario(before=opened, after=with_streams)
    async def disable_with_a_stream(self) -> None:
        assert await self.optimizer.disable()
