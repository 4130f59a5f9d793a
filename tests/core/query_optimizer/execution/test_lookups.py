"""The guide's steps (look up, read, keep) with writes between: what is kept was read after the look-up."""

import asyncio
import contextvars
import gc
import os
import random
import threading

import pytest

from bot.core.query_optimizer import QueryOptimizer
from bot.core.query_optimizer.execution.lookups import MAX_QUERIES, Lookups
from tests.support.clock import until_idle

READ = "SELECT v FROM t"
WRITE = "UPDATE t SET v = v + 1"

STRESS = int(os.environ.get("PHASE4_STRESS_LOOKUPS", "2000"))
"""Reads of the stress. The long run: ``PHASE4_STRESS_LOOKUPS=30000 python -m pytest -k stress`` here."""


@pytest.fixture
async def optimizer(clock):
    optimizer = QueryOptimizer(clock=clock)
    await optimizer.enable(detect_n_plus_one=False)
    yield optimizer
    optimizer._invalidation.cache.check_invariants()
    await optimizer.disable()


async def write(optimizer, query=WRITE, scope=None):
    async def run(query, params):
        return None

    await optimizer.execute(query, None, run, scope=scope)


async def guide(optimizer, read, query=READ):
    """The guide's Step 4; whether the result came from the cache, or was kept."""
    if await optimizer.get_cached_result(query) is not None:
        return "cached"
    result = await read()
    return "kept" if await optimizer.cache_query_result(query, result, ttl=300) else "refused"


async def rows():
    return ["row"]


# What counts as a write since the look-up.


async def by_execute(optimizer):
    await write(optimizer)


async def by_execute_that_fails(optimizer):
    async def fails(query, params):
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await optimizer.execute(WRITE, None, fails)


async def by_an_unknown_text(optimizer):
    await write(optimizer, "CALL refresh_everything()")


async def by_another_table_that_cascades(optimizer):
    await optimizer.declare_cascade("parents", "t")
    await write(optimizer, "DELETE FROM parents")


async def through_a_view(optimizer):
    await optimizer.declare_view("seen", "t")
    await write(optimizer, "UPDATE seen SET v = 2")


async def by_hand(optimizer):
    await optimizer.invalidate_tables("t")


async def elsewhere(optimizer):
    optimizer.written_elsewhere(["t"])


async def elsewhere_and_missed(optimizer):
    optimizer.written_elsewhere(None)


async def in_a_transaction(optimizer):
    async def work():
        async with optimizer.transaction():
            await write(optimizer)

    await asyncio.create_task(work())


async def clearing(optimizer):
    await optimizer.clear_cache()


async def switching_off_and_on(optimizer):
    await optimizer.disable()
    await optimizer.enable()


@pytest.mark.parametrize(
    "happens",
    [
        by_execute, by_execute_that_fails, by_an_unknown_text, by_another_table_that_cascades, through_a_view,
        by_hand, elsewhere, elsewhere_and_missed, in_a_transaction, clearing, switching_off_and_on,
    ],
)  # fmt: skip
async def test_a_result_from_before_a_write_is_not_kept(optimizer, happens):
    async def reader(go_on):
        async def read():
            await go_on.wait()
            return ["old"]

        return await guide(optimizer, read)

    go_on = asyncio.Event()
    readers = [asyncio.create_task(reader(go_on)) for _ in range(3)]
    await until_idle()
    await happens(optimizer)
    go_on.set()
    assert await asyncio.gather(*readers) == ["refused"] * 3
    assert await optimizer.get_cached_result(READ) is None
    assert await asyncio.create_task(guide(optimizer, rows)) == "kept"


async def test_a_write_to_another_table_refuses_nothing(optimizer):
    async def read():
        await write(optimizer, "UPDATE other SET v = 2")
        return ["row"]

    assert await guide(optimizer, read) == "kept"


async def test_a_transaction_that_ends_after_the_result_was_kept_drops_it(optimizer):
    written, commit = asyncio.Event(), asyncio.Event()

    async def work():
        async with optimizer.transaction():
            await write(optimizer)
            written.set()
            await commit.wait()

    working = asyncio.create_task(work())
    await written.wait()
    assert await asyncio.create_task(guide(optimizer, rows)) == "kept"
    commit.set()
    await working
    assert await optimizer.get_cached_result(READ) is None


async def test_a_look_up_inside_a_transaction_is_good_for_nothing(optimizer):
    # Its snapshot may be older than the look-up.
    async with optimizer.transaction():
        assert await optimizer.get_cached_result(READ) is None
    assert await optimizer.cache_query_result(READ, ["of an old snapshot"]) is False


# Whose look-up it is.


async def test_one_callers_refusal_leaves_anothers_look_up_alone(optimizer):
    steps = {name: asyncio.Event() for name in ("a", "b")}

    async def reader(name):
        async def read():
            await steps[name].wait()
            return [name]

        return await guide(optimizer, read)

    a = asyncio.create_task(reader("a"))
    await until_idle()
    await write(optimizer)
    b = asyncio.create_task(reader("b"))
    await until_idle()
    steps["a"].set()
    assert await a == "refused"
    steps["b"].set()
    assert await b == "kept"
    assert await optimizer.get_cached_result(READ) == ["b"]


async def test_two_readers_in_one_task_are_never_taken_for_one_another(optimizer):
    assert await optimizer.get_cached_result(READ) is None  # the first reads "old" now
    await write(optimizer)
    assert await optimizer.get_cached_result(READ) is None  # the second reads "new" now
    assert await optimizer.cache_query_result(READ, ["new"]) is False, "it may be the first one's"
    assert await optimizer.cache_query_result(READ, ["old"]) is False
    assert await optimizer.get_cached_result(READ) is None
    assert await optimizer.cache_query_result(READ, ["new"]) is True


async def test_a_read_that_failed_costs_one_result_at_most(optimizer):
    async def fails():
        raise ConnectionError

    for _ in range(3):
        with pytest.raises(ConnectionError):
            await guide(optimizer, fails)
        await write(optimizer)
    assert [await guide(optimizer, rows) for _ in range(3)] == ["refused", "kept", "cached"]


async def test_a_store_in_a_task_started_after_the_look_up(optimizer):
    assert await optimizer.get_cached_result(READ) is None
    assert await asyncio.create_task(optimizer.cache_query_result(READ, ["row"])) is True
    await write(optimizer)

    async def deeper():
        return await asyncio.create_task(optimizer.cache_query_result(READ, ["row"]))

    assert await optimizer.get_cached_result(READ) is None
    assert await asyncio.create_task(deeper()) is True


async def test_a_task_inherits_only_the_look_ups_from_before_it_started(optimizer):
    go_on = asyncio.Event()

    async def refresher(stale):
        await go_on.wait()
        return await optimizer.cache_query_result(READ, stale)

    assert await optimizer.get_cached_result("SELECT v FROM another") is None
    refreshing = asyncio.create_task(refresher(["from before the write"]))
    await write(optimizer)
    assert await optimizer.get_cached_result(READ) is None
    go_on.set()
    assert await refreshing is False
    assert await optimizer.cache_query_result(READ, ["row"]) is True


async def look_up(optimizer):
    return await optimizer.get_cached_result(READ)


@pytest.mark.parametrize(
    "wait",
    [
        lambda lookup: asyncio.wait_for(lookup, 10),
        lambda lookup: asyncio.gather(lookup, asyncio.sleep(0)),
        lambda lookup: asyncio.shield(lookup),
        lambda lookup: asyncio.create_task(lookup),
        lambda lookup: asyncio.wait_for(asyncio.shield(lookup), 10),
        lambda lookup: asyncio.wait([asyncio.create_task(lookup)]),
    ],
)
async def test_a_look_up_in_a_task_that_the_reader_waits_for(optimizer, wait):
    await wait(look_up(optimizer))
    assert await optimizer.cache_query_result(READ, ["row"]) is True
    await write(optimizer)
    await wait(optimizer.get_cached_result(READ))
    await write(optimizer)
    assert await optimizer.cache_query_result(READ, ["old"]) is False


async def test_a_look_up_in_a_task_group(optimizer):
    async with asyncio.TaskGroup() as group:
        group.create_task(look_up(optimizer))
    assert await optimizer.cache_query_result(READ, ["row"]) is True


async def test_a_task_that_nobody_waits_for_looks_up_for_itself(optimizer):
    looked_up = asyncio.Event()

    async def reader():
        await look_up(optimizer)
        looked_up.set()
        await asyncio.Event().wait()

    reading = asyncio.create_task(reader())
    await looked_up.wait()
    assert await optimizer.cache_query_result(READ, ["of nobody who looked up"]) is False
    reading.cancel()


async def test_many_queries_in_one_task(optimizer):
    queries = [f"SELECT v FROM t WHERE id = {n}" for n in range(200)]
    missing = [query for query in queries if await optimizer.get_cached_result(query) is None]
    assert all([await optimizer.cache_query_result(query, [query]) for query in missing])
    assert [await guide(optimizer, rows, query) for query in queries] == ["cached"] * 200


async def test_two_readers_side_by_side_in_one_task(optimizer):
    outcomes = await asyncio.gather(*[guide(optimizer, rows) for _ in range(5)])
    assert outcomes[0] == "kept"
    assert set(outcomes) <= {"kept", "cached"}


async def test_rows_that_come_by_a_generator_or_a_thread(optimizer):
    async def batches():
        for number in range(3):
            query = f"{READ} WHERE id = {number}"
            yield await guide(optimizer, rows, query)

    assert [outcome async for outcome in batches()] == ["kept"] * 3
    assert await guide(optimizer, lambda: asyncio.to_thread(lambda: ["row"])) == "kept"

    loop = asyncio.get_running_loop()
    await write(optimizer)
    assert await optimizer.get_cached_result(READ) is None

    def in_a_thread():
        return asyncio.run_coroutine_threadsafe(optimizer.cache_query_result(READ, ["row"]), loop).result(10)

    assert await asyncio.to_thread(in_a_thread) is True


async def test_a_context_without_any_look_up_knows_none(optimizer):
    assert await optimizer.get_cached_result(READ) is None
    nobody = contextvars.Context()
    stranger = asyncio.create_task(optimizer.cache_query_result(READ, ["row"]), context=nobody)
    assert await stranger is False


# Memory.


async def test_look_ups_never_answered_are_bounded_and_go_with_their_task(optimizer):
    lookups = optimizer._offered.lookups

    async def worker():
        for n in range(3 * MAX_QUERIES):
            await optimizer.get_cached_result("SELECT v FROM t WHERE id = ?", (n,))
            await optimizer.get_cached_result(READ)
        caller = lookups._of_task[asyncio.current_task()]
        return len(caller.open), sum(map(len, caller.open.values()))

    queries, in_all = await asyncio.create_task(worker())
    assert queries <= MAX_QUERIES
    assert in_all < 2 * MAX_QUERIES
    await asyncio.gather(*[asyncio.create_task(look_up(optimizer)) for _ in range(100)])
    await until_idle()
    gc.collect()
    assert set(lookups._of_task) <= {asyncio.current_task()}


async def test_tasks_that_start_one_another_for_ever_hold_no_chain(optimizer):
    depths = []

    async def link(left):
        await optimizer.get_cached_result(f"SELECT {left}")
        caller, depth = optimizer._offered.lookups._of_task[asyncio.current_task()], 0
        while caller.parent is not None:
            caller, depth = caller.parent.caller, depth + 1
        depths.append(depth)
        if left:
            following.append(asyncio.create_task(link(left - 1)))

    following = [asyncio.create_task(link(50))]
    for task in following:  # grows
        await task
    assert len(depths) == 51
    assert max(depths) <= 10


def test_without_a_loop_the_context_is_the_caller():
    lookups = Lookups()
    lookups.open("q", 1, 0.0)
    assert lookups.find("q").begun == 1
    assert contextvars.Context().run(lookups.find, "q") is None
    lookups.clear()
    assert lookups.find("q") is None


# All of it at once.


class Database:
    """Versions of tables; ``told`` are those that whoever reads from now on must see."""

    def __init__(self, chance):
        self.chance = chance
        self.lock = threading.Lock()
        self.version = dict.fromkeys("abcd", 0)
        self.told = dict(self.version)

    async def pause(self):
        for _ in range(self.chance.randrange(4)):
            await asyncio.sleep(0)

    def value(self, table):
        with self.lock:
            return self.version[table]

    def change(self, table):
        with self.lock:
            self.version[table] += 1
            return self.version[table]

    async def read(self, table):
        await self.pause()
        value = (
            await asyncio.to_thread(self.value, table) if self.chance.random() < 0.05 else self.value(table)
        )
        await self.pause()
        return value + 1  # never 0, so that the guide's "if cached" finds it


async def stress(reads, seed):
    """(results of the cache, those among them that were stale)"""
    chance = random.Random(seed)
    database = Database(chance)
    optimizer = QueryOptimizer()
    await optimizer.enable(detect_n_plus_one=False)
    hits = stale = left = 0
    left = reads

    async def reader():
        nonlocal hits, stale, left
        while left > 0:
            left -= 1
            table = chance.choice("abcd")
            query = f"SELECT v FROM {table}"
            await database.pause()
            floor = database.told[table] + 1
            lookup = optimizer.get_cached_result(query)
            cached = await (asyncio.wait_for(lookup, 30) if chance.random() < 0.2 else lookup)
            if cached:
                hits += 1
                stale += cached < floor
                continue
            if chance.random() < 0.1:
                continue  # the read failed
            result = await database.read(table)
            await database.pause()
            keep = optimizer.cache_query_result(query, result, ttl=300)
            await (asyncio.create_task(keep) if chance.random() < 0.2 else keep)

    async def writer():
        async def run(query, params):
            await database.pause()
            versions.append(database.change(table))
            await database.pause()

        while left > 0:
            for _ in range(10):
                await database.pause()
            table, versions = chance.choice("abcd"), []
            how = chance.randrange(4)
            if how == 0:
                versions.append(database.change(table))
                await database.pause()
                optimizer.written_elsewhere([table])
            elif how == 1:
                async with optimizer.transaction():
                    await optimizer.execute(
                        f"UPDATE {table} SET v = v + 1", None, lambda *_: asyncio.sleep(0)
                    )
                    await database.pause()
                    versions.append(database.change(table))  # the commit
                    await database.pause()
            elif how == 2:
                versions.append(database.change(table))
                await (
                    optimizer.clear_cache() if chance.random() < 0.1 else optimizer.invalidate_tables(table)
                )
            else:
                await optimizer.execute(f"UPDATE {table} SET v = v + 1", None, run)
            database.told[table] = max(database.told[table], *versions)

    async def refresher():
        while left > 0:
            table = chance.choice("abcd")
            result = await database.read(table)
            await database.pause()
            await optimizer.cache_query_result(f"SELECT v FROM {table}", result)

    await asyncio.gather(*[reader() for _ in range(20)], *[writer() for _ in range(3)], refresher())
    await optimizer.disable()
    return hits, stale


async def test_stress():
    hits, stale = await stress(STRESS, seed=STRESS)
    assert stale == 0
    assert hits > STRESS / 20, "results were kept at all"
