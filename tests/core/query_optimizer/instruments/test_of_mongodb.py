"""Clients of PyMongo and motor, watched by their command listeners."""

import asyncio
import contextlib
import inspect
import logging

import motor.motor_asyncio
import pymongo
import pytest
from pymongo.errors import DuplicateKeyError
from pymongo.monitoring import CommandListener

from bot.core._shared.errors import InvalidArgumentError, MisuseError
from bot.core.connection_pool_manager import ConnectionPoolManager
from bot.core.enhanced_startup_phase4 import initialize_phase4_services, shutdown_phase4_services
from bot.core.query_optimizer import QueryOptimizer
from bot.core.query_optimizer.instruments import instrument, of_mongodb, uninstrument
from bot.core.query_optimizer.models import QueryType
from bot.core.query_optimizer.mongodb.collection import CachedCollection

DATABASE = "instrumented"


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


@contextlib.asynccontextmanager
async def client_of(kind, url, *listeners):
    make = pymongo.AsyncMongoClient if kind == "pymongo" else motor.motor_asyncio.AsyncIOMotorClient
    client = make(url, event_listeners=listeners, serverSelectionTimeoutMS=10_000)
    try:
        yield client
    finally:
        closing = client.close()
        if closing is not None:
            await closing


@pytest.fixture(params=["pymongo", "motor"])
def kind(request):
    return request.param


@pytest.fixture
async def optimizer():
    optimizer = QueryOptimizer()
    await optimizer.enable(slow_query_threshold=30)
    yield optimizer
    optimizer._invalidation.cache.check_invariants()
    if optimizer._mongodb is not None:
        assert not optimizer._mongodb._being_written
    await optimizer.disable()


@pytest.fixture
async def commands():
    return Commands()


@pytest.fixture
async def client(kind, mongodb_url, commands, optimizer):
    """Instrumented; ``users`` has four documents."""
    async with client_of(kind, mongodb_url, commands) as client:
        users = client[DATABASE]["users"]
        await users.delete_many({})
        await users.insert_many([{"_id": n, "group": n % 2} for n in range(4)])
        commands.since()
        yield instrument(client, optimizer=optimizer)


async def other_read(optimizer, client):
    """A read by ``optimizer.collection`` of a collection taken before; returns whether it was answered."""
    plain = optimizer.collection(client[DATABASE]["users"])
    before = optimizer.snapshot().cache_hits
    await plain.find_one({"_id": 1})
    return optimizer.snapshot().cache_hits > before


def shapes(optimizer):
    shapes = optimizer._recorder.statistics._shapes.values()
    return {shape.query: (shape.count, shape.rows) for shape in shapes}


async def test_what_a_client_runs_is_counted_under_its_shape(client, optimizer):
    users = client[DATABASE]["users"]
    await users.find_one({"_id": 1})
    await users.find_one({"_id": 2})
    await users.find({"group": {"$in": [0, 1]}}).sort("_id", -1).limit(3).to_list(None)
    await users.count_documents({"group": 1})
    await users.distinct("group")
    await users.insert_one({"_id": 9})
    await users.update_one({"_id": 9}, {"$set": {"group": 7}})
    await users.replace_one({"_id": 9}, {"group": 7})
    await users.delete_many({"group": 7})
    await users.find_one_and_update({"_id": 1}, {"$set": {"group": 7}})
    await users.bulk_write([pymongo.InsertOne({"_id": 11}), pymongo.InsertOne({"_id": 12})])
    assert shapes(optimizer) == {
        "instrumented.users.find_one({_id: ?})": (2, 2),
        "instrumented.users.find({group: {$in: ?}}, sort={_id}, limit=?)": (1, 3),
        "instrumented.users.count_documents({group: ?})": (1, 1),
        "instrumented.users.distinct(key=group)": (1, 2),
        "instrumented.users.insert_one()": (1, 1),
        "instrumented.users.update_one({_id: ?})": (1, 1),
        "instrumented.users.replace_one({_id: ?})": (1, 1),
        "instrumented.users.delete_many({group: ?})": (1, 1),
        "instrumented.users.find_one_and_update({_id: ?})": (1, 1),
        "instrumented.users.insert_many()": (1, 2),
    }


async def test_the_batches_of_a_cursor_belong_to_its_query(client, optimizer):
    users = client[DATABASE]["users"]
    await users.insert_many([{"_id": n, "many": True} for n in range(100, 150)])
    found = await users.find({"many": True}).batch_size(7).to_list(None)
    assert len(found) == 50
    shape = "instrumented.users.find({many: ?})"
    assert shapes(optimizer)[shape] == (1, 50)
    assert not client.__dict__["phase4_watched"]["listener"]._cursors


async def test_a_repetition_has_the_line_of_code(client, optimizer):
    users = client[DATABASE]["users"]
    for number in range(12):
        await users.find_one({"_id": number})
    [pattern] = await optimizer.get_n_plus_one_patterns()
    assert (pattern.query, pattern.count) == ("instrumented.users.find_one({_id: ?})", 12)
    assert pattern.suggestion == "instrumented.users.find({_id: {$in: [...]}})"
    line = inspect.currentframe().f_lineno - 4
    assert pattern.call_sites == [f"{__file__}:{line} in test_a_repetition_has_the_line_of_code"]


async def test_the_children_of_a_handler_count_together(client, optimizer):
    users = client[DATABASE]["users"]
    await users.find_one({"group": 1})

    async def read(number):
        return await users.find({"_id": number}).to_list(None)

    await asyncio.gather(*map(read, range(12)))
    [pattern] = await optimizer.get_n_plus_one_patterns()
    assert pattern.count == 12
    assert [site.rpartition(":")[0] for site in pattern.call_sites] == [__file__]


async def test_repeated_writes_name_the_write_of_many(client, optimizer):
    users = client[DATABASE]["users"]
    for number in range(12):
        await users.insert_one({"_id": 100 + number})
    for number in range(12):
        await users.update_one({"_id": number}, {"$set": {"a": 1}})
    for number in range(12):
        await users.update_one({"_id": 1}, {"$set": {"a": number}})  # one document, changed often
    found = {each.query: each.suggestion for each in await optimizer.get_n_plus_one_patterns()}
    assert found == {
        "instrumented.users.insert_one()": "instrumented.users.insert_many([...])",
        "instrumented.users.update_one({_id: ?})": "instrumented.users.bulk_write([UpdateOne(...), ...])",
    }


async def test_reads_by_pages_are_no_pattern(client, optimizer):
    users = client[DATABASE]["users"]
    for page in range(12):
        await users.find({}).skip(10 * page).limit(10).to_list(None)
    assert await optimizer.get_n_plus_one_patterns() == []


async def test_slow_queries_are_logged_without_values(client, optimizer, caplog):
    await optimizer.enable(slow_query_threshold=1e-6)
    with caplog.at_level(logging.WARNING):
        await client[DATABASE]["users"].find_one({"name": "s3cret"})
    [slow] = await optimizer.get_slow_queries()
    assert slow.query == "instrumented.users.find_one({name: ?})"
    details = await optimizer.describe_query(slow.fingerprint)
    assert details.call_sites[0].startswith(__file__)
    assert "Slow query" in caplog.text
    assert "s3cret" not in caplog.text + repr(details) + repr(slow)


WRITES = {
    "insert_one": lambda c: c["users"].insert_one({"_id": 9}),
    "insert_many": lambda c: c["users"].insert_many([{"_id": 9}, {"_id": 10}]),
    "update_many": lambda c: c["users"].update_many({}, {"$set": {"group": 5}}),
    "delete_one": lambda c: c["users"].delete_one({"_id": 1}),
    "find_one_and_delete": lambda c: c["users"].find_one_and_delete({"_id": 1}),
    "bulk_write": lambda c: c["users"].bulk_write([pymongo.DeleteOne({"_id": 1})]),
    "client bulk_write": lambda c: c.client.bulk_write(
        [pymongo.DeleteOne({"_id": 1}, namespace=f"{DATABASE}.users")]
    ),
    "drop": lambda c: c["users"].drop(),
    "drop_collection": lambda c: c.drop_collection("users"),
    "drop_database": lambda c: c.client.drop_database(DATABASE),
    "rename": lambda c: c["users"].rename("renamed", dropTarget=True),
    "create_index": lambda c: c["users"].create_index("group"),
    "command": lambda c: c.command("delete", "users", deletes=[{"q": {}, "limit": 0}]),
    "unknown command": lambda c: c.command("cloneCollectionAsCapped", "users", toCollection="b", size=1),
    "out": lambda c: aggregated(c["other"], [{"$match": {}}, {"$out": "users"}]),
    "merge": lambda c: aggregated(c["other"], [{"$merge": {"into": "users"}}]),
}


async def aggregated(collection, pipeline):
    cursor = collection.aggregate(pipeline)
    return await (await cursor if inspect.isawaitable(cursor) else cursor).to_list(None)


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
async def test_a_write_drops_what_read_the_collection(client, optimizer, write, commands):
    database = client[DATABASE]
    await other_read(optimizer, client)
    assert await other_read(optimizer, client)
    with contextlib.suppress(pymongo.errors.PyMongoError):  # what the stand-in does not know has been sent
        await write(database)
    assert not await other_read(optimizer, client)


async def test_what_does_not_write_leaves_results_alone(client, optimizer):
    database = client[DATABASE]
    await other_read(optimizer, client)
    await database["others"].insert_one({"a": 1})
    await database["others"].drop()
    await client["elsewhere"]["users"].insert_one({})
    await client.drop_database("elsewhere")
    await database.command("ping")
    await database.list_collection_names()
    await client.server_info()
    assert await other_read(optimizer, client)


async def test_a_write_that_failed_drops_too(client, optimizer):
    await other_read(optimizer, client)
    with pytest.raises(DuplicateKeyError):
        await client[DATABASE]["users"].insert_one({"_id": 1})
    assert not await other_read(optimizer, client)


async def started_session(client):
    session = client.start_session()
    return await session if inspect.isawaitable(session) else session


async def begun(session):
    beginning = session.start_transaction()
    if inspect.isawaitable(beginning):
        await beginning


async def test_what_a_transaction_wrote_is_dropped_again_at_its_commit(client, optimizer, mongodb_url):
    users = client[DATABASE]["users"]
    async with await started_session(client) as session:
        await begun(session)
        await users.update_one({"_id": 1}, {"$set": {"group": 5}}, session=session)
        await other_read(optimizer, client)
        assert await other_read(optimizer, client)
        await session.commit_transaction()
        assert not await other_read(optimizer, client)
        listener = client.__dict__["phase4_watched"]["listener"]
        assert not listener._transactions._open


async def test_a_transaction_whose_beginning_was_not_seen_drops_everything(client, optimizer):
    users = client[DATABASE]["users"]
    async with await started_session(client) as session:
        uninstrument(client)
        await begun(session)
        await users.update_one({"_id": 1}, {"$set": {"group": 5}}, session=session)
        instrument(client, optimizer=optimizer)
        await other_read(optimizer, client)
        await session.commit_transaction()
        assert not await other_read(optimizer, client)


async def test_a_transaction_that_only_reads_drops_nothing(client, optimizer):
    users = client[DATABASE]["users"]
    await other_read(optimizer, client)
    async with await started_session(client) as session:
        await begun(session)
        await users.find_one({"_id": 1}, session=session)
        await session.commit_transaction()
    assert await other_read(optimizer, client)


async def test_other_instances_hear_of_writes(client, optimizer):
    told = []

    async def tell(tables):
        told.extend(tables)

    optimizer.after_write(tell)
    await client[DATABASE]["users"].insert_one({"_id": 9})
    while not told:
        await asyncio.sleep(0)
    assert set(told) == {"(mongodb) instrumented/users"}


async def test_unacknowledged_writes_end_the_caching_of_their_collection(
    client, kind, mongodb_url, optimizer, caplog
):
    # A client of their own: the stand-in answers such writes, which confuses the driver.
    async with client_of(kind, mongodb_url) as loose:
        instrument(loose, optimizer=optimizer)
        users = loose[DATABASE].get_collection("users", write_concern=pymongo.WriteConcern(w=0))
        with caplog.at_level(logging.WARNING):
            await users.insert_one({"_id": 77})
            await users.insert_one({"_id": 78})
    await other_read(optimizer, client)
    assert not await other_read(optimizer, client)
    assert caplog.text.count("without acknowledgement") == 1


async def test_collections_whose_documents_expire_are_not_cached(client, optimizer):
    await client[DATABASE]["users"].create_index("at", expireAfterSeconds=60)
    await other_read(optimizer, client)
    assert not await other_read(optimizer, client)


# Answering.


async def test_collections_of_the_client_answer_reads(client, optimizer, commands):
    instrument(client, cache=True, optimizer=optimizer)
    takings = [
        lambda: client[DATABASE]["users"],
        lambda: getattr(client, DATABASE).users,
        lambda: client.get_database(DATABASE).get_collection("users"),
        lambda: client[DATABASE].with_options(write_concern=pymongo.WriteConcern(1))["users"],
    ]
    expected = {"_id": 1, "group": 1}
    for take in takings:
        assert await take().find_one({"_id": 1}) == expected
    assert commands.since() == ["find"]
    await takings[0]().update_one({"_id": 1}, {"$set": {"group": 5}})
    assert await takings[1]().find_one({"_id": 1}) == {"_id": 1, "group": 5}
    assert shapes(optimizer)["instrumented.users.find_one({_id: ?})"][0] == 2


async def test_cached_collections_pass_for_the_drivers(client, optimizer):
    plain = client[DATABASE]["users"]
    instrument(client, cache=True, optimizer=optimizer)
    users = client[DATABASE]["users"]
    assert type(users) is CachedCollection
    assert isinstance(users, type(plain))
    assert users == plain
    await client[DATABASE].drop_collection(users)
    assert await users.find_one({}) is None
    made = await client[DATABASE].create_collection("made_here")
    assert type(made) is CachedCollection
    await made.drop()


async def test_gridfs_works_on_an_instrumented_client(optimizer, mongodb_url):
    import gridfs

    async with client_of("pymongo", mongodb_url) as client:
        instrument(client, cache=True, optimizer=optimizer)
        bucket = gridfs.AsyncGridFSBucket(client[DATABASE])
        number = await bucket.upload_from_stream("a", b"content")
        stream = await bucket.open_download_stream(number)
        assert await stream.read() == b"content"


async def test_tenants_have_results_of_their_own(client, optimizer, commands, caplog):
    tenant = ["a"]
    instrument(client, cache=True, tenant=lambda: tenant[0], optimizer=optimizer)
    users = client[DATABASE]["users"]
    for tenant[0] in ("a", "b", "a", "b"):
        await users.find_one({"_id": 1})
    assert commands.since() == ["find", "find"]
    tenant.clear()
    with caplog.at_level(logging.INFO):
        await users.find_one({"_id": 1})
        await users.find_one({"_id": 1})
    assert commands.since() == ["find", "find"]
    assert caplog.text.count("tenant() failed") == 1


async def test_reads_in_sessions_are_not_answered(client, optimizer, commands):
    instrument(client, cache=True, optimizer=optimizer)
    users = client[DATABASE]["users"]
    await users.find_one({"_id": 1})
    async with await started_session(client) as session:
        await users.find_one({"_id": 1}, session=session)
    assert commands.since() == ["find", "find"]


async def test_uninstrument_undoes_it(client, optimizer, commands):
    kept = type(client).__mro__[1]
    users = instrument(client, cache=True, optimizer=optimizer)[DATABASE]["users"]
    await users.find_one({"_id": 1})
    assert uninstrument(client)
    assert not uninstrument(client)
    assert type(client) is kept
    counted = optimizer.snapshot().total_executions
    for _ in range(2):
        await users.find_one({"_id": 1})
        await client[DATABASE]["users"].find_one({"_id": 1})
    assert commands.since() == ["find"] * 5
    assert optimizer.snapshot().total_executions == counted
    assert type(client[DATABASE]["users"]) is not CachedCollection


async def test_a_client_without_listeners_is_as_before(kind, mongodb_url, optimizer):
    async with client_of(kind, mongodb_url) as client:
        heard = client.__dict__.get("delegate", client)._event_listeners
        instrument(client, optimizer=optimizer)
        assert heard.enabled_for_commands
        uninstrument(client)
        assert not heard.enabled_for_commands


async def test_nothing_is_recorded_while_the_optimizer_is_off(client, optimizer):
    await optimizer.disable()
    await client[DATABASE]["users"].find_one({"_id": 1})
    assert optimizer.snapshot().total_executions == 0


async def test_another_optimizer_takes_over(client, optimizer):
    other = QueryOptimizer()
    await other.enable()
    instrument(client, optimizer=other)
    await client[DATABASE]["users"].find_one({"_id": 1})
    assert (optimizer.snapshot().total_executions, other.snapshot().total_executions) == (0, 1)
    await other.disable()


async def test_a_listener_given_to_the_client_watches(kind, mongodb_url, optimizer):
    async with client_of(kind, mongodb_url, optimizer.mongodb_listener()) as client:
        users = client[DATABASE]["users"]
        await users.delete_many({})
        await other_read(optimizer, client)
        assert await other_read(optimizer, client)
        await users.insert_one({"_id": 1})
        assert not await other_read(optimizer, client)
        instrument(client, optimizer=optimizer)
        await optimizer.reset_statistics()
        with optimizer.request():
            for number in range(12):
                await users.find_one({"_id": number})
        assert optimizer.snapshot().total_executions == 12, "heard once"
        [pattern] = await optimizer.get_n_plus_one_patterns()
        assert pattern.count == 12


async def test_a_cancelled_write_is_dropped_and_not_kept(mongodb_url, optimizer, monkeypatch):
    """Also with PyMongo before 4.20, which says nothing of a command that was cancelled."""
    async with client_of("pymongo", mongodb_url) as client:
        instrument(client, optimizer=optimizer)
        listener = client.__dict__["phase4_watched"]["listener"]
        monkeypatch.setattr(listener, "failed", lambda event: None)
        users = client[DATABASE]["users"]
        await other_read(optimizer, client)
        writing = asyncio.create_task(users.update_one({"_id": 1}, {"$set": {"group": 8}}))
        while not listener._pending:
            await asyncio.sleep(0)
        assert optimizer.snapshot().cached_results_count == 0, "dropped when it begins"
        writing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await writing
        assert not await other_read(optimizer, client)
        assert not await other_read(optimizer, client), "not kept: it may still happen"
        listener._swept = 0.0
        monkeypatch.setattr("bot.core.query_optimizer.mongodb.listening.SWEEP", 0)
        await users.find_one({"_id": 1})
        assert not listener._pending
        assert optimizer._mongodb.is_unsure(frozenset(("(mongodb) instrumented/users",)))


async def test_what_cannot_be_instrumented_is_refused(mongodb_url, optimizer, monkeypatch):
    with (
        pymongo.MongoClient(mongodb_url) as client,
        pytest.raises(InvalidArgumentError, match="AsyncMongoClient"),
    ):
        instrument(client, optimizer=optimizer)
    async with client_of("pymongo", mongodb_url) as client:
        with pytest.raises(InvalidArgumentError):
            instrument(client["database"], optimizer=optimizer)
        monkeypatch.setattr(of_mongodb, "_LISTENERS", "no_such_attribute")
        with pytest.raises(MisuseError, match="mongodb_listener"):
            instrument(client, optimizer=optimizer)
        assert type(client) is pymongo.AsyncMongoClient


# Our own pools.


@contextlib.asynccontextmanager
async def started(url, driver, **settings):
    pool = {
        "backend": "mongodb",
        "url": url,
        "max_size": 3,
        "options": {"driver": driver, "database": DATABASE},
    }
    result = await initialize_phase4_services(
        {
            "ENABLE_CONNECTION_POOLING": True,
            "ENABLE_QUERY_OPTIMIZER": True,
            "QUERY_OPTIMIZER_INSTRUMENT": True,
            "DATABASE_POOLS": {"users": {**pool, **settings.pop("pool", {})}},
            **settings,
        }
    )
    assert result["success"], result["errors"]
    try:
        pools, optimizer = ConnectionPoolManager.get_instance(), QueryOptimizer.get_instance()
        async with pools.connection("users") as connection:
            await connection.delete_many({})
            await connection.insert_many([{"_id": n, "group": n % 2} for n in range(4)])
        await optimizer.reset_statistics()
        yield optimizer, pools
    finally:
        await shutdown_phase4_services()


async def test_commands_of_a_pool_are_counted_with_their_lines(kind, mongodb_url):
    async with started(mongodb_url, kind) as (optimizer, pools):
        with optimizer.request():
            for number in range(12):
                async with pools.connection("users") as connection:
                    await connection.find_one({"_id": number})
        [pattern] = await optimizer.get_n_plus_one_patterns()
        assert (pattern.query, pattern.count) == ("instrumented.users.find_one({_id: ?})", 12)
        assert [site.rpartition(":")[0] for site in pattern.call_sites] == [__file__]
        assert optimizer.snapshot().cache_hits == 0
        pools.observe(None)
        await optimizer.reset_statistics()
        async with pools.connection("users") as connection:
            await connection.find_one({"_id": 1})
        assert optimizer.snapshot().total_executions == 0


async def test_reads_of_a_pool_are_answered_by_tenant(kind, mongodb_url):
    tenant = ["ann"]
    pool = {"tenant": lambda: tenant[0]}
    async with started(mongodb_url, kind, pool=pool, QUERY_OPTIMIZER_INSTRUMENT_CACHE=True) as (
        optimizer,
        pools,
    ):

        async def read():
            async with pools.connection("users") as connection:
                first = await connection.find_one({"_id": 1})
                assert await connection.collection.find_one({"_id": 1}) == first
                assert await connection.database["users"].find_one({"_id": 1}) == first
                return first

        for tenant[0] in ("ann", "bob", "ann"):
            await read()
        assert optimizer.snapshot().total_executions == 2
        async with pools.connection("users") as connection:
            await connection.update_one({"_id": 1}, {"$set": {"group": 9}})
        assert (await read())["group"] == 9


async def test_a_tenant_that_cannot_be_told_is_named_and_not_cached(kind, mongodb_url, caplog):
    def no_tenant():
        return None

    with caplog.at_level(logging.WARNING):
        settings = {"pool": {"tenant": no_tenant}, "QUERY_OPTIMIZER_INSTRUMENT_CACHE": True}
        async with started(mongodb_url, kind, **settings) as (optimizer, pools):
            for _ in range(2):
                async with pools.connection("users") as connection:
                    await connection.find_one({"_id": 1})
            assert optimizer.snapshot().cache_hits == 0
    assert caplog.text.count("no_tenant() = None: expected the tenant of a read") == 1


async def test_details_of_a_shape_have_its_type_and_advice(client, optimizer):
    await optimizer.enable(slow_query_threshold=1e-6)
    users = client[DATABASE]["users"]
    await users.find({"group": "s3cret"}).sort("joined", -1).to_list(None)
    await users.update_one({"group": 4}, {"$set": {"a": 1}})
    await optimizer.collection(users).find_one({"group": "s3cret"})
    found = {}
    for slow in await optimizer.get_slow_queries():
        details = await optimizer.describe_query(slow.fingerprint)
        found[details.query] = (details.query_type, details.tables, list(map(str, details.index_suggestions)))
        assert "s3cret" not in repr(details)
    index = 'db.users.createIndex({ "group": 1 })'
    assert found == {
        "instrumented.users.find({group: ?}, sort={joined})": (
            QueryType.FIND, ["instrumented.users"], ['db.users.createIndex({ "group": 1, "joined": -1 })'],
        ),
        "instrumented.users.update_one({group: ?})": (QueryType.UPDATE, ["instrumented.users"], [index]),
        "instrumented.users.find_one({group: ?})": (QueryType.FIND, ["instrumented.users"], [index]),
    }  # fmt: skip
