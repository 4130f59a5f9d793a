"""Writes that a listener hears of, without a server: nothing that reads them is kept while they run."""

from datetime import timedelta

import pymongo
import pytest
from pymongo.monitoring import CommandStartedEvent, CommandSucceededEvent

from bot.core.query_optimizer import QueryOptimizer
from bot.core.query_optimizer.mongodb import listening
from bot.core.query_optimizer.mongodb.results import CollectionResults
from bot.core.query_optimizer.mongodb.shapes import filed_as

WHERE = (1, ("h", 1), 1)


@pytest.fixture
async def optimizer():
    optimizer = QueryOptimizer()
    await optimizer.enable()
    yield optimizer
    await optimizer.disable()


@pytest.fixture
async def listener(optimizer):
    return optimizer.mongodb_listener()


@pytest.fixture
async def read(optimizer):
    """Reads a document of ``users`` through the cache; returns whether the database was asked."""
    client = pymongo.AsyncMongoClient("mongodb://localhost:1", connect=False)

    async def read():
        asked = []

        async def run():
            asked.append(True)
            return {"_id": 1}

        # A reader of its own each time: the first one of the process may come at any time.
        reader = CollectionResults(optimizer._mongodb_results(), client["db"]["users"], None)
        assert await reader.answer("find_one", {"filter": {"_id": 1}}, run) == {"_id": 1}
        return bool(asked)

    yield read
    await client.close()


def begin(listener):
    command = {"update": "users", "updates": [{"q": {"_id": 1}, "u": {"$set": {"a": 1}}}]}
    listener.started(CommandStartedEvent(command, "db", *WHERE))


def end(listener):
    listener.succeeded(CommandSucceededEvent(timedelta(seconds=1), {"n": 1, "ok": 1.0}, "update", *WHERE))


async def test_a_write_drops_when_it_begins(listener, read):
    assert [await read(), await read()] == [True, False]
    begin(listener)
    assert [await read(), await read()] == [True, True]
    end(listener)
    assert [await read(), await read()] == [True, False]


async def test_the_first_reader_may_come_while_a_write_is_in_progress(listener, read):
    begin(listener)
    assert [await read(), await read()] == [True, True]
    end(listener)
    assert [await read(), await read()] == [True, False]


async def test_a_read_that_a_write_overtook_is_not_kept(optimizer, listener, read):
    await read()
    cache, reads = optimizer._invalidation.cache, frozenset((filed_as("db", "users"),))
    begun = cache.begin()
    begin(listener)
    assert cache.written_since(begun, reads)
    begun = cache.begin()
    end(listener)
    assert cache.written_since(begun, reads)


async def test_the_end_of_a_write_is_a_write_for_repetitions_where_nothing_is_cached(optimizer, listener):
    find = {"find": "users", "filter": {"_id": 1}, "limit": 1, "singleBatch": True}
    reply = {"cursor": {"firstBatch": [{"_id": 1}], "id": 0}, "ok": 1.0}

    def hear():
        listener.started(CommandStartedEvent(find, "db", 2, ("h", 1), 2))
        listener.succeeded(CommandSucceededEvent(timedelta(seconds=1), reply, "find", 2, ("h", 1), 2))

    def repeats():
        return [shape.repeats for shape in optimizer._recorder.statistics.repeated.values()]

    hear()
    begin(listener)
    end(listener)
    hear()
    assert repeats() == []
    hear()
    assert repeats() == [1]


async def test_commands_in_progress_are_bounded_and_the_oldest_count_as_cancelled(
    optimizer, listener, read, monkeypatch
):
    monkeypatch.setattr(listening, "MAX_PENDING", 20)
    begin(listener)
    for number in range(2, 40):
        find = {"find": "others", "filter": {"_id": number}}
        listener.started(CommandStartedEvent(find, "db", number, ("h", 1), number))
    assert len(listener._pending) == 20
    # The write may still be carried out: for a while, nothing that reads what it wrote is kept.
    assert [await read(), await read()] == [True, True]
    end(listener)
    assert len(listener._pending) == 20, "its end is not known any more"
