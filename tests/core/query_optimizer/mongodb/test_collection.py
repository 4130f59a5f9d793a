"""Reads of a collection are answered from the cache until something writes it."""

import asyncio
import datetime
import inspect

import pymongo
import pytest
from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.son import SON
from bson.tz_util import FixedOffset
from pymongo import ReadPreference, WriteConcern
from pymongo.errors import AutoReconnect, DuplicateKeyError
from pymongo.read_concern import ReadConcern

from bot.core._shared.isolation import freeze
from bot.core.query_optimizer.mongodb import results


async def aggregated(collection, pipeline):
    cursor = collection.aggregate(pipeline)
    return await (await cursor if inspect.isawaitable(cursor) else cursor).to_list(None)


READS = {
    "find_one": lambda c: c.find_one({"_id": 1}),
    "find_one by id": lambda c: c.find_one(1),
    "nothing found": lambda c: c.find_one({"_id": 77}),
    "find": lambda c: c.find({"group": 1}).to_list(None),
    "sorted": lambda c: c.find({}, {"tags": 0}).sort("_id", -1).skip(1).limit(2).to_list(None),
    "length": lambda c: c.find({"group": 1}).to_list(length=100),
    "limit and length": lambda c: c.find({}).limit(2).to_list(length=2),
    "count": lambda c: c.count_documents({"group": 0}),
    "distinct": lambda c: c.distinct("group"),
    "aggregate": lambda c: aggregated(
        c, [{"$match": {"group": 1}}, {"$group": {"_id": "$group", "n": {"$sum": 1}}}]
    ),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
async def test_a_read_is_answered_once_and_its_answer_is_the_drivers(users, cached, commands, read):
    expected = await read(users)
    commands.since()
    first, second = await read(cached), await read(cached)
    assert first == second == expected
    assert len(commands.since()) == 1
    if isinstance(first, dict | list) and first:
        first.clear()
        assert await read(cached) == expected, "a copy each"


WRITES = {
    "insert_one": lambda c: c.insert_one({"_id": 9, "group": 1}),
    "insert_many": lambda c: c.insert_many([{"_id": 9, "group": 1}]),
    "update_one": lambda c: c.update_one({"_id": 1}, {"$set": {"group": 5}}),
    "update_many": lambda c: c.update_many({}, {"$set": {"group": 1}}),
    "replace_one": lambda c: c.replace_one({"_id": 1}, {"group": 7}),
    "delete_one": lambda c: c.delete_one({"_id": 1}),
    "delete_many": lambda c: c.delete_many({}),
    "find_one_and_update": lambda c: c.find_one_and_update({"_id": 1}, {"$set": {"group": 6}}),
    "find_one_and_delete": lambda c: c.find_one_and_delete({"_id": 1}),
    "bulk_write": lambda c: c.bulk_write([pymongo.DeleteOne({"_id": 1}), pymongo.InsertOne({"_id": 8})]),
    "drop": lambda c: c.drop(),
    "through other options": lambda c: c.with_options(write_concern=WriteConcern(1)).delete_many({}),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
async def test_a_write_drops_what_read_the_collection(users, cached, write):
    everything = [lambda c, read=read: read(c) for read in READS.values()]
    for read in everything:
        await read(cached)
    await write(cached)
    for read in everything:
        assert await read(cached) == await read(users)


async def test_a_write_leaves_other_collections_alone(optimizer, users, cached, commands):
    files = optimizer.collection(users.database["optimizer_files"])
    await cached.find_one({"_id": 1})
    commands.since()
    await files.insert_one({"n": 1})
    await files.drop()
    await cached.find_one({"_id": 1})
    assert commands.since() == ["insert", "drop"]


async def test_a_collection_within_the_name_of_another_is_its_own(cached, users):
    # The stand-in for MongoDB has no such names, so nothing is read.
    for inner in (cached.archive, cached["archive"]):
        assert inner.full_name == f"{users.full_name}.archive"
        assert inner._results.filed != cached._results.filed


async def test_rename_drops_both_names(optimizer, users, cached, commands):
    renamed = optimizer.collection(users.database["optimizer_renamed"])
    await renamed.find_one({})
    await cached.find_one({})
    await cached.rename("optimizer_renamed")  # the stand-in answers, and renames nothing
    commands.since()
    await renamed.find_one({})
    await cached.find_one({})
    assert commands.since() == ["find", "find"]


UNCACHED = {
    "where": {"$where": "true"},
    "now": {"$expr": {"$lt": ["$at", "$$NOW"]}},
    "random": {"$expr": {"$lt": [{"$rand": {}}, 0.5]}},
    "unknown type": {"a": object()},
    "huge": {"a": {"$in": list(range(5_000))}},
    "long": {"a": "x" * 100_000},
}


@pytest.mark.parametrize("condition", UNCACHED.values(), ids=UNCACHED)
async def test_what_may_change_by_itself_or_is_too_large_has_no_key(cached, condition):
    assert not cached._results.may_keep("find", {"filter": condition})


async def test_reads_that_may_lag_behind_are_not_cached(cached):
    for options in ({"read_preference": ReadPreference.SECONDARY_PREFERRED},
                    {"read_concern": ReadConcern("majority")}):  # fmt: skip
        assert not cached.with_options(**options)._results.may_keep("find", {"filter": {}})
    assert cached.with_options(read_preference=ReadPreference.PRIMARY)._results.may_keep("find", {})


async def test_a_read_in_a_session_is_neither_cached_nor_answered(users, cached, commands):
    await cached.find_one({"_id": 1})
    session = users.database.client.start_session()
    async with await session if inspect.isawaitable(session) else session as session:
        commands.since()
        for _ in range(2):
            await cached.find_one({"_id": 1}, session=session)
            await cached.find({"_id": 1}, session=session).to_list(None)
            await cached.count_documents({"_id": 1}, session=session)
    assert len(commands.since()) == 6


async def test_a_cursor_that_is_not_read_to_its_end_goes_on(cached):
    for _ in range(2):
        cursor = cached.find({}).sort("_id")
        pages = [
            await cursor.to_list(length=3),
            await cursor.to_list(length=3),
            await cursor.to_list(length=3),
        ]
        assert [[row["_id"] for row in page] for page in pages] == [[0, 1, 2], [3], []]


async def test_a_cursor_is_at_its_end_after_an_answer_as_the_drivers_is(cached):
    for _ in range(2):
        cursor = cached.find({"group": 1})
        assert len(await cursor.to_list(None)) == 2
        assert await cursor.to_list(None) == []
        assert [row["_id"] async for row in cached.find({"group": 1}).sort("_id")] == [1, 3]


async def test_concurrent_callers_share_one_query(cached, commands):
    commands.since()
    answers = await asyncio.gather(*[cached.find({"group": 1}).to_list(None) for _ in range(10)])
    assert commands.since() == ["find"]
    assert len({id(answer) for answer in answers}) == 10


async def test_a_leader_that_is_cancelled_leaves_the_others_a_whole_answer(cached):
    callers = [asyncio.create_task(cached.find({}).to_list(None)) for _ in range(5)]
    await asyncio.sleep(0)
    callers[0].cancel()
    answers = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert [len(answer) for answer in answers[1:]] == [4] * 4


async def test_while_it_is_off_everything_is_the_drivers(optimizer, users, cached, commands):
    await optimizer.disable()
    commands.since()
    for read in READS.values():
        assert await read(cached) == await read(users)
    assert len(commands.since()) == 2 * len(READS)
    await cached.delete_many({})
    await optimizer.enable()
    assert await cached.count_documents({}) == 0


async def test_a_write_that_began_while_it_was_off_drops_what_was_kept_since(optimizer, users, cached):
    release = asyncio.Event()
    results = cached._results

    async def delete():
        await release.wait()
        return await users.delete_one({"_id": 1})

    await optimizer.disable()
    writing = asyncio.ensure_future(
        results.write("delete_one", delete, frozenset((results.filed,)), None, {"filter": {"_id": 1}})
    )
    await asyncio.sleep(0)
    await optimizer.enable()
    assert (await cached.find_one(1))["_id"] == 1
    release.set()
    await writing
    assert await cached.find_one(1) is None


async def test_an_unacknowledged_write_ends_the_caching_of_its_collection(users, cached, commands, caplog):
    await cached.find_one({"_id": 1})
    unsure = cached.with_options(write_concern=WriteConcern(0))._results
    # By the other collection, since the stand-in answers what wants no answer.
    write = lambda: users.update_one({"_id": 1}, {"$set": {"x": 1}})  # noqa: E731
    await unsure.write("update_one", write, frozenset({unsure.filed}), None, {})
    assert "without acknowledgement" in caplog.text
    commands.since()
    for _ in range(2):
        await cached.find_one({"_id": 1})
    assert commands.since() == ["find", "find"]


async def test_a_view_follows_its_collections(optimizer, users, cached, commands):
    view = optimizer.collection(users.database["optimizer_view"], view_of=[users.name])
    await view.find_one({})
    again = optimizer.collection(users.database["optimizer_view"], view_of=[users.name])
    commands.since()
    await again.find_one({})
    assert commands.since() == [], "declared already"
    await cached.update_one({"_id": 1}, {"$set": {"x": 1}})
    commands.since()
    await view.find_one({})
    assert commands.since() == ["find"]


async def test_a_collection_that_is_wrapped_twice_counts_once(optimizer, cached):
    again = optimizer.collection(cached)
    assert again == cached
    for _ in range(3):
        await again.find({"group": 1}).to_list(None)
    figures = await optimizer.get_statistics()
    assert (figures["cache_hits"], figures["cache_misses"]) == (2, 1)


async def test_bad_arguments(optimizer, users):
    sync = pymongo.MongoClient("mongodb://127.0.0.1:1", connect=False)
    for bad in (None, users.database, sync["a"]["b"]):
        with pytest.raises(ValueError, match="collection = "):
            optimizer.collection(bad)
    sync.close()
    for view_of in ("users", [""], [1]):
        with pytest.raises(ValueError, match="view_of = "):
            optimizer.collection(users, view_of=view_of)
    with pytest.raises(ValueError, match="ttl = "):
        optimizer.collection(users, ttl=-1)


async def test_clients_share_no_results_and_each_drops_those_of_the_other(
    optimizer, users, cached, mongodb_url
):
    async with pymongo.AsyncMongoClient(mongodb_url) as client:
        second = optimizer.collection(client.get_default_database()[users.name])
        assert await cached.count_documents({}) == await second.count_documents({}) == 4
        assert (await optimizer.get_statistics())["cache_hits"] == 0
        await second.delete_one({"_id": 1})
        assert await cached.count_documents({}) == 3


async def test_other_instances_drop_what_one_wrote(optimizer, other, users, cached):
    optimizer.after_write(lambda names: other.written_elsewhere(names))
    there = other.collection(users)
    assert await there.count_documents({}) == 4
    await other.cache_query_result("SELECT * FROM optimizer_users", [1], fresh=True)
    await cached.delete_one({"_id": 1})
    assert await there.count_documents({}) == 3
    assert await other.get_cached_result("SELECT * FROM optimizer_users") == [1], "a table is no collection"


async def test_writes_of_other_programs_can_be_told(optimizer, users, cached):
    await cached.find_one({"_id": 1})
    await users.update_one({"_id": 1}, {"$set": {"group": 9}})
    assert await optimizer.invalidate_collections(users.database["other"]) == 0
    assert await optimizer.invalidate_collections(users, cached) == 1
    assert (await cached.find_one({"_id": 1}))["group"] == 9


async def test_a_read_in_progress_during_a_write_is_not_kept(optimizer, users, cached):
    class Slow:
        """The driver's collection, with answers that come when the test lets them."""

        def __init__(self):
            self.read, self.go_on = asyncio.Event(), asyncio.Event()

        async def find_one(self, *args):
            found = await users.find_one(*args)
            self.read.set()
            await self.go_on.wait()
            return found

    slow = Slow()
    reading = asyncio.create_task(
        cached._results.answer("find_one", {"filter": {"_id": 1}}, lambda: slow.find_one({"_id": 1}))
    )
    await slow.read.wait()
    await cached.update_one({"_id": 1}, {"$set": {"group": 9}})
    slow.go_on.set()
    assert (await reading)["group"] == 1
    assert (await cached.find_one({"_id": 1}))["group"] == 9


async def test_statistics_and_slow_queries_hold_no_values(optimizer, cached):
    await cached.find_one({"name": "secret", "$or": [{"a.7.b": "secret"}, {"c": {"$gt": "secret"}}]})
    await cached.update_one({"name": "secret"}, {"$set": {"x": "secret"}})
    shapes = [query.query for query in await optimizer.get_slow_queries(0)]
    assert len(shapes) == 2
    assert "secret" not in str(shapes)
    assert any("find_one({name: ?, $or: [{a.?.b: ?}, {c: {$gt: ?}}]})" in shape for shape in shapes)


async def test_find_one_in_a_loop_is_an_n_plus_one(optimizer, cached):
    for n in range(12):
        await cached.find_one({"group": n}, {"_id": 1})
    (pattern,) = await optimizer.get_n_plus_one_patterns()
    assert "find({group: {$in: [...]}}, projection={_id})" in pattern.suggestion
    assert any("test_collection.py" in site for site in pattern.call_sites)


@pytest.mark.parametrize(
    "read",
    [lambda c, n: c.find({"_id": {"$gt": n}}).limit(2).to_list(None),
     lambda c, n: c.find({}).skip(n).limit(2).to_list(None),
     lambda c, n: c.find({"_id": {"$in": [n, n + 1]}}).to_list(None),
     lambda c, n: c.update_one({"_id": n}, {"$set": {"x": 1}})],
    ids=["keyset pages", "pages", "lists", "writes"],
)  # fmt: skip
async def test_what_is_no_n_plus_one(optimizer, cached, read):
    for n in range(30):
        await read(cached, n)
    assert await optimizer.get_n_plus_one_patterns() == []


@pytest.mark.parametrize(
    "error", [asyncio.CancelledError(), AutoReconnect("lost")], ids=["cancelled", "lost"]
)
async def test_nothing_is_kept_while_a_write_without_an_answer_may_still_happen(
    optimizer, users, cached, commands, clock, monkeypatch, error
):
    monkeypatch.setattr(results, "UNSURE", 0.05)
    told = []
    optimizer.after_write(told.append)
    await cached.find_one({"_id": 1})

    async def unanswered():
        raise error

    with pytest.raises(type(error)):
        await cached._results.write("update_one", unanswered, frozenset({cached._results.filed}), None, {})
    assert (await cached.find_one({"_id": 1}))["group"] == 1
    await users.update_one({"_id": 1}, {"$set": {"group": 9}})  # the server gets to it
    assert (await cached.find_one({"_id": 1}))["group"] == 9
    async with asyncio.timeout(10):
        while len(told) < 2:
            await asyncio.sleep(0.01)
    clock.jump(0.1)
    commands.since()
    for _ in range(2):
        await cached.find_one({"_id": 1})
    assert commands.since() == ["find"], "cached again"


async def test_a_write_that_the_server_refuses_leaves_no_doubt(cached, commands):
    with pytest.raises(DuplicateKeyError):
        await cached.insert_one({"_id": 1})
    commands.since()
    for _ in range(2):
        await cached.find_one({"_id": 1})
    assert commands.since() == ["find"]


def test_every_type_of_bson_comes_back_as_it_was():
    document = {
        "id": ObjectId(), "long": Int64(1), "decimal": Decimal128("1.0"), "bytes": Binary(b"x", 5),
        "regex": Regex("a", "i"), "time": Timestamp(1, 2), "min": MinKey(), "max": MaxKey(),
        "ref": DBRef("c", ObjectId()), "code": Code("x", {"a": 1}), "son": SON(a=[1, {"b": 2}]),
        "date": datetime.datetime(2024, 1, 1, tzinfo=FixedOffset(60, "one")),
    }  # fmt: skip
    frozen = freeze([document])
    (back,) = frozen.thaw(frozen.value)
    assert back == document
    assert {name: type(value) for name, value in back.items()} == {
        name: type(value) for name, value in document.items()
    }
    back["son"]["a"].clear()
    assert frozen.thaw(frozen.value) == [document]
