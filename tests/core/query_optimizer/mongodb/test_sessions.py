"""What is written in a transaction is dropped again when it ends."""

import contextlib
import inspect

import pytest


@contextlib.asynccontextmanager
async def transaction(collection):
    """Of the driver; the stand-in for MongoDB accepts transactions, and isolates nothing."""
    started = collection.database.client.start_session()
    async with await started if inspect.isawaitable(started) else started as session:
        begun = session.start_transaction()
        async with await begun if inspect.isawaitable(begun) else begun:
            yield session


async def test_a_result_read_before_the_commit_is_dropped_by_it(optimizer, users, cached, commands):
    told = []
    optimizer.after_write(told.append)
    async with transaction(users) as session:
        await cached.insert_one({"_id": 20}, session=session)
        await cached.find_one({"_id": 1})  # another client's, which does not see the document yet
        commands.since()
        await cached.find_one({"_id": 1})
        assert commands.since() == [], "kept until the commit"
    commands.since()
    await cached.find_one({"_id": 1})
    assert commands.since() == ["find"]
    assert told == [[cached._results.filed]] * 2


async def test_an_abort_drops_too_and_a_second_transaction_begins_anew(optimizer, users, cached):
    told = []
    optimizer.after_write(told.append)
    files = optimizer.collection(users.database["optimizer_files"])
    with contextlib.suppress(ZeroDivisionError):
        async with transaction(users) as session:
            await cached.delete_one({"_id": 1}, session=session)
            raise ZeroDivisionError
    assert len(told) == 2
    started = users.database.client.start_session()
    async with await started if inspect.isawaitable(started) else started as session:
        for collection in (cached, files):
            told.clear()
            begun = session.start_transaction()
            async with await begun if inspect.isawaitable(begun) else begun:
                await collection.insert_one({"n": 1}, session=session)
                await collection.insert_one({"n": 2}, session=session)
            assert told == [[collection._results.filed]] * 3
        told.clear()
        await cached.insert_one({"n": 3}, session=session)
        assert len(told) == 1, "no transaction is open"


async def test_a_commit_that_fails_drops_and_so_does_its_repetition(optimizer, users, cached):
    told = []
    optimizer.after_write(told.append)
    started = users.database.client.start_session()
    async with await started if inspect.isawaitable(started) else started as session:
        commit, failures = session.commit_transaction, [ConnectionError()]

        async def failing():
            if failures:
                raise failures.pop()
            await commit()

        session.commit_transaction = failing
        begun = session.start_transaction()
        begun = await begun if inspect.isawaitable(begun) else begun
        await cached.insert_one({"n": 1}, session=session)
        with pytest.raises(ConnectionError):
            await session.commit_transaction()
        assert len(told) == 2
        await session.commit_transaction()
        assert len(told) == 3


async def test_with_transaction(optimizer, users, cached):
    told = []
    optimizer.after_write(told.append)
    started = users.database.client.start_session()
    async with await started if inspect.isawaitable(started) else started as session:
        await session.with_transaction(lambda session: cached.insert_one({"n": 1}, session=session))
    assert told == [[cached._results.filed]] * 2
