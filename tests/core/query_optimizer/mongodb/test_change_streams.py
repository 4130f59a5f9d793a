"""Writes of other programs, told by change streams: a real driver, and a replica set that is a script."""

import asyncio
import logging
import random

import pymongo
import pytest
from motor.motor_asyncio import AsyncIOMotorClient

from bot.core._shared.errors import InvalidArgumentError
from bot.core.query_optimizer import QueryOptimizer
from bot.core.query_optimizer.instruments import instrument, uninstrument
from bot.core.query_optimizer.mongodb import change_streams
from tests.support.scripted_mongodb import ScriptedMongoDB
from tests.support.waiting import until

RESUMABLE = {"code": 189, "errmsg": "PrimarySteppedDown", "errorLabels": ["ResumableChangeStreamError"]}


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """The same in less time."""
    monkeypatch.setattr(change_streams, "AWAIT", 0.1)
    monkeypatch.setattr(change_streams, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(change_streams, "LONGEST_PAUSE", 0.1)


@pytest.fixture
async def server():
    async with ScriptedMongoDB() as server:
        server.write("bot.users", {"_id": 1, "name": "ann"})
        yield server


def new_client(kind, url, **options):
    make = pymongo.AsyncMongoClient if kind == "pymongo" else AsyncIOMotorClient
    return make(url, serverSelectionTimeoutMS=5_000, **options)


async def close(client):
    closing = client.close()
    if closing is not None:
        await closing


@pytest.fixture(params=["pymongo", "motor"])
def kind(request):
    return request.param


@pytest.fixture
async def client(kind, server):
    client = new_client(kind, server.url)
    yield client
    await close(client)


@pytest.fixture
async def optimizer():
    optimizer = QueryOptimizer()
    await optimizer.enable(mongodb_change_streams=True)
    yield optimizer
    optimizer._invalidation.cache.check_invariants()
    await optimizer.disable()
    assert not optimizer._invalidation._held
    assert not len(optimizer._mongodb.streams._tasks)


@pytest.fixture
async def users(client, optimizer):
    """A collection whose results are kept, since its stream is open."""
    users = optimizer.collection(client["bot"]["users"])
    await is_kept(optimizer, users)
    return users


async def is_open(optimizer):
    await until(lambda: shows(optimizer, change_streams_open=1, change_streams_lost=0))


async def shows(optimizer, **figures):
    snapshot = optimizer.snapshot()
    return {name: getattr(snapshot, name) for name in figures} == figures


async def is_kept(optimizer, users):
    """Wait until what is read is answered from the cache, as it is when the stream is open."""
    await users.find_one({"_id": 1})
    await is_open(optimizer)

    async def is_hit():
        await users.find_one({"_id": 1})
        before = optimizer.snapshot().cache_hits
        await users.find_one({"_id": 1})
        return optimizer.snapshot().cache_hits == before + 1

    await until(is_hit)


async def reads(users, name):
    found = await users.find_one({"_id": 1})
    return found["name"] == name


async def has_kept(optimizer):
    return bool(optimizer.snapshot().cached_results_count)


async def has_dropped(optimizer):
    return not await has_kept(optimizer)


async def test_a_write_of_another_program_drops_what_read_the_collection(server, optimizer, users, client):
    files = optimizer.collection(client["bot"]["files"])
    await files.find_one({"_id": 1})
    server.write("bot.users", {"_id": 1, "name": "bob"})
    await until(lambda: reads(users, "bob"))
    hits = optimizer.snapshot().cache_hits
    await files.find_one({"_id": 1})
    assert optimizer.snapshot().cache_hits == hits + 1, "of another collection"
    assert optimizer.snapshot().change_events == 1


async def test_nothing_is_kept_before_the_stream_is_open(server, client, optimizer):
    server.is_silent = True
    users = optimizer.collection(client["bot"]["users"])
    await users.find_one({"_id": 1})
    assert optimizer.snapshot().cached_results_count == 0
    server.is_silent = False
    await is_kept(optimizer, users)


@pytest.mark.parametrize(
    ("kind_of_event", "namespace", "more"),
    [
        ("update", "bot.users", {}),
        ("delete", "bot.users", {}),
        ("drop", "bot.users", {}),
        ("rename", "bot.users", {"to": {"db": "bot", "coll": "old_users"}}),
        ("rename", "bot.new_users", {"to": {"db": "bot", "coll": "users"}}),
        ("dropDatabase", "bot", {}),
        ("shardCollection", "bot.others", {}),
        ("not known yet", "bot.others", {}),
    ],
)
async def test_events(server, optimizer, users, kind_of_event, namespace, more):
    assert await has_kept(optimizer)
    server.tell(kind_of_event, namespace, **more)
    await until(lambda: has_dropped(optimizer))


async def test_events_of_other_databases_and_collections_drop_nothing(server, optimizer, users):
    server.tell("insert", "other.users")
    server.tell("insert", "bot.files")
    await until(lambda: shows(optimizer, change_events=1))
    await asyncio.sleep(0)
    assert await has_kept(optimizer)


async def test_names_outside_ascii(server, client, optimizer):
    named = optimizer.collection(client["бот"]["люди.архив"])
    server.write("бот.люди.архив", {"_id": 1, "name": "Анна"})
    await is_kept(optimizer, named)
    server.write("бот.люди.архив", {"_id": 1, "name": "Борис"})
    await until(lambda: reads(named, "Борис"))


async def test_a_burst_drops_a_few_times_and_every_event_counts(server, optimizer, users, monkeypatch):
    dropped = []
    written = optimizer._invalidation.written
    monkeypatch.setattr(
        optimizer._invalidation, "written", lambda *args: (dropped.append(args), written(*args))
    )
    for number in range(2_000):
        server.tell("insert", "bot.users" if number % 2 else "bot.files")
    await until(lambda: shows(optimizer, change_events=2_000))
    await until(lambda: has_dropped(optimizer))
    if isinstance(users.database.client, pymongo.AsyncMongoClient):
        assert len(dropped) < 20


async def test_a_network_error_drops_and_the_driver_resumes_with_the_token(server, optimizer, users):
    server.tell("insert", "bot.files")
    await until(lambda: shows(optimizer, change_events=1))
    entries = len(server.oplog)
    await server.disconnect()
    await until(lambda: shows(optimizer, change_stream_resumes=1))
    assert await has_dropped(optimizer)
    assert [options.get("resumeAfter") for options in server.opened()][1:] == [{"entry": entries}]
    await is_kept(optimizer, users)
    server.write("bot.users", {"_id": 1, "name": "bob"})
    await until(lambda: reads(users, "bob"))
    assert optimizer.snapshot().change_stream_gaps == 0


async def test_a_labelled_error_is_resumed(server, optimizer, users):
    server.failures["getMore"].append(RESUMABLE)
    await until(lambda: shows(optimizer, change_stream_resumes=1, change_streams_open=1))
    await is_kept(optimizer, users)


async def test_a_server_that_is_away_is_waited_for_and_the_stream_goes_on(
    server, optimizer, users, client, caplog
):
    token = {"entry": len(server.oplog)}
    with caplog.at_level(logging.WARNING):
        await is_away(server, optimizer)
        assert await has_dropped(optimizer)
        server.write("bot.users", {"_id": 1, "name": "bob"})
        server.failures.clear()
        await is_open(optimizer)
        assert caplog.text.count("is lost: nothing of it is cached until it is back") == 1
    assert server.opened()[-1].get("resumeAfter") == token
    assert await shows(optimizer, change_stream_resumes=1, change_stream_gaps=0)
    await until(lambda: shows(optimizer, change_events=1))
    assert await reads(users, "bob")


async def test_a_restart_of_the_server(server, optimizer, users):
    await server.stop()
    await until(lambda: has_dropped(optimizer), timeout=20)
    await server.start()
    server.documents["bot.users"][1] = {"_id": 1, "name": "bob"}
    await until(lambda: is_answered(users), timeout=20)
    await is_kept(optimizer, users)
    assert await reads(users, "bob")


async def is_away(server, optimizer):
    """The server answers no change stream until its ``failures`` are cleared."""
    server.failures["aggregate"] += [RESUMABLE] * 1_000
    server.failures["getMore"].append(RESUMABLE)
    await until(lambda: shows(optimizer, change_streams_lost=1))


async def is_answered(users):
    try:
        return await users.find_one({"_id": 1}) is not None
    except pymongo.errors.ConnectionFailure:
        return False


@pytest.mark.parametrize(
    "failure", [{"code": 286, "errmsg": "history lost"}, {"code": 280, "errmsg": "fatal"}]
)
async def test_an_error_that_cannot_be_resumed_is_a_gap(server, optimizer, users, failure):
    assert await has_kept(optimizer)
    server.failures["getMore"].append({**failure, "errorLabels": ["NonResumableChangeStreamError"]})
    await until(lambda: shows(optimizer, change_stream_gaps=1, change_streams_open=1))
    assert await has_dropped(optimizer)
    assert "resumeAfter" not in server.opened()[-1]
    await is_kept(optimizer, users)


async def test_a_history_that_is_lost_while_it_was_away_is_a_gap(server, optimizer, users):
    await is_away(server, optimizer)
    server.tell("insert", "bot.users")
    server.lose_history()
    server.failures.clear()
    await until(lambda: shows(optimizer, change_stream_gaps=1, change_streams_open=1))
    assert ["resumeAfter" in options for options in server.opened()][-2:] == [True, False]
    await is_kept(optimizer, users)


async def test_an_invalidated_stream_begins_anew(server, optimizer, users):
    server.tell("dropDatabase", "bot")
    server.tell("invalidate", "bot")
    await until(lambda: shows(optimizer, change_stream_gaps=1, change_streams_open=1))
    assert server.opened()[-1].keys().isdisjoint({"resumeAfter", "startAfter"})
    await is_kept(optimizer, users)


async def test_a_server_that_says_nothing_is_not_trusted(server, optimizer, users, monkeypatch, caplog):
    monkeypatch.setattr(change_streams, "SILENT", 0.3)
    server.is_silent = True
    with caplog.at_level(logging.WARNING):
        await until(lambda: shows(optimizer, change_streams_lost=1))
    assert "no answer for 0.3 s" in caplog.text
    assert await has_dropped(optimizer)
    await users.find_one({"_id": 1})
    assert await has_dropped(optimizer), "nothing is kept until it answers"
    server.write("bot.users", {"_id": 1, "name": "bob"})
    server.is_silent = False
    await is_kept(optimizer, users)
    assert await reads(users, "bob")


async def test_a_server_without_change_streams_is_asked_once(kind, optimizer, caplog):
    with caplog.at_level(logging.WARNING):
        async with ScriptedMongoDB(standalone=True) as server:
            server.write("bot.users", {"_id": 1, "name": "ann"})
            client = new_client(kind, server.url)
            users = optimizer.collection(client["bot"]["users"])
            await users.find_one({"_id": 1})
            await until(lambda: shows(optimizer, change_streams_unavailable=1, change_streams_lost=0))
            for _ in range(3):
                await users.find_one({"_id": 1})
            assert optimizer.snapshot().cache_hits >= 2, "kept as without change streams"
            await optimizer.clear_cache()
            await users.find_one({"_id": 1})
            assert len(server.opened()) == 1
            [said] = optimizer.warnings()
            assert "the server is no replica set" in said
            assert caplog.text.count(said) == 1
            await close(client)


async def test_a_user_who_may_not_is_told_once(server, client, optimizer, caplog):
    server.failures["aggregate"].append({"code": 13, "errmsg": "not authorized on bot"})
    users = optimizer.collection(client["bot"]["users"])
    with caplog.at_level(logging.WARNING):
        await users.find_one({"_id": 1})
        await until(lambda: shows(optimizer, change_streams_unavailable=1))
    assert caplog.text.count("the client's user may not use change streams") == 1


async def test_a_client_with_one_connection_keeps_it_for_its_queries(server, kind, optimizer):
    client = new_client(kind, server.url, maxPoolSize=1)
    users = optimizer.collection(client["bot"]["users"])
    await users.find_one({"_id": 1})
    await until(lambda: shows(optimizer, change_streams_unavailable=1))
    assert "maxPoolSize is 1" in optimizer.warnings()[0]
    assert server.opened() == []
    await close(client)


async def test_a_stream_ends_when_no_result_can_be_left(server, client, optimizer):
    users = optimizer.collection(client["bot"]["users"], ttl=0.3)
    await users.find_one({"_id": 1})
    await until(lambda: equal(len(server.opened()), 1))
    await until(lambda: shows(optimizer, change_streams_open=0, change_streams_lost=0))
    await until(lambda: equal(server.cursors, {}))
    await is_kept(optimizer, optimizer.collection(client["bot"]["users"]))


async def equal(left, right):
    return left == right


async def test_disabling_leaves_no_task_and_no_cursor(server, optimizer, users):
    await optimizer.disable()
    assert server.cursors == {}
    assert not len(optimizer._mongodb.streams._tasks)
    await optimizer.enable()
    await is_kept(optimizer, users)


async def test_switching_the_setting_off_ends_the_streams(server, optimizer, users):
    await optimizer.enable(mongodb_change_streams=False)
    assert server.cursors == {}
    opened = len(server.opened())
    for _ in range(2):
        await users.find_one({"_id": 1})
    assert len(server.opened()) == opened


async def test_a_client_that_is_closed_ends_its_streams(server, kind, optimizer):
    client = new_client(kind, server.url)
    await is_kept(optimizer, optimizer.collection(client["bot"]["users"]))
    await close(client)
    await until(lambda: shows(optimizer, change_streams_open=0, change_streams_lost=0))
    assert await has_dropped(optimizer)
    await until(lambda: equal(len(optimizer._mongodb.streams._tasks), 0))


async def test_an_instrument_has_its_own_word(server, client, kind):
    optimizer = QueryOptimizer()
    await optimizer.enable()
    instrument(client, cache=True, change_streams=True, optimizer=optimizer)
    users = client["bot"]["users"]
    await is_kept(optimizer, users)
    assert uninstrument(client)
    assert await has_dropped(optimizer)
    await until(lambda: equal(server.cursors, {}))
    await until(lambda: equal(len(optimizer._mongodb.streams._tasks), 0))
    instrument(client, cache=True, optimizer=optimizer)
    opened = len(server.opened())
    for _ in range(2):
        await client["bot"]["users"].find_one({"_id": 1})
    assert len(server.opened()) == opened, "off by default"
    await optimizer.disable()


async def test_own_writes_are_told_too_and_counted_once(server, client, optimizer):
    instrument(client, cache=True, optimizer=optimizer)
    users = client["bot"]["users"]
    await users.find_one({"_id": 1})
    await is_open(optimizer)
    executions = optimizer.snapshot().total_executions
    await users.insert_one({"_id": 2, "name": "bob"})
    await until(lambda: shows(optimizer, change_events=1))
    assert optimizer.snapshot().total_executions == executions + 1


async def test_a_loop_that_ended_leaves_the_stream_to_the_next(server):
    """As with a script that calls ``asyncio.run`` twice."""
    optimizer = QueryOptimizer()

    async def once(*, last):
        await optimizer.enable(mongodb_change_streams=True)
        client = new_client("pymongo", server.url)
        users = optimizer.collection(client["bot"]["users"])
        await is_kept(optimizer, users)
        if last:
            await optimizer.disable()
        await client.close()

    for last in (False, True):
        await asyncio.to_thread(asyncio.run, once(last=last))
    assert not optimizer._invalidation._held


async def test_disabling_under_another_loop(server):
    optimizer = QueryOptimizer()
    client = new_client("pymongo", server.url)
    await optimizer.enable(mongodb_change_streams=True)
    users = optimizer.collection(client["bot"]["users"])
    await users.find_one({"_id": 1})
    await is_open(optimizer)
    await asyncio.to_thread(asyncio.run, optimizer.disable())
    assert server.cursors == {}
    assert not optimizer._invalidation._held
    await client.close()


async def test_no_more_streams_than_allowed(server, client, optimizer, monkeypatch, caplog):
    monkeypatch.setattr(change_streams, "MAX_STREAMS", 2)
    for name in ("a", "b", "c"):
        for _ in range(2):
            await optimizer.collection(client[name]["users"]).find_one({"_id": 1})
    await until(lambda: shows(optimizer, change_streams_open=2))
    assert caplog.text.count("results of others are not cached") == 1
    await optimizer.clear_cache()
    await optimizer.collection(client["c"]["users"]).find_one({"_id": 1})
    assert await has_dropped(optimizer)


async def test_wrong_arguments_are_refused(client, optimizer):
    with pytest.raises(InvalidArgumentError, match="change_streams = 1"):
        instrument(client, change_streams=1, optimizer=optimizer)
    with pytest.raises(InvalidArgumentError, match="change_streams = 'on'"):
        optimizer.collection(client["bot"]["users"], change_streams="on")
    optimizer._mongodb_results()


@pytest.mark.parametrize("seed", range(3))
async def test_what_is_read_is_right_soon_after_faults_of_every_kind(server, optimizer, users, seed):
    """An oracle: once the stream is open and every event has come, what is answered is what is stored."""
    chance = random.Random(seed)
    for step in range(40):
        server.write("bot.users", {"_id": 1, "name": f"{seed} {step}"})
        fault = chance.randrange(8)
        if fault == 0:
            await server.disconnect()
        elif fault == 1:
            server.failures["getMore"].append(RESUMABLE)
        elif fault == 2:
            server.failures["getMore"].append({"code": 280, "errmsg": "fatal"})
        elif fault == 3:
            server.failures["aggregate"].append(RESUMABLE)
            server.failures["getMore"].append(None)
        elif fault == 4:
            server.lose_history()
        for _ in range(chance.randrange(4)):
            await is_answered(users)
        if chance.random() < 0.3:
            await until(lambda step=step: reads_through(users, f"{seed} {step}"))
    await is_open(optimizer)
    await is_kept(optimizer, users)


async def reads_through(users, name):
    try:
        return await reads(users, name)
    except pymongo.errors.PyMongoError:
        return False
