"""The stores of broadcasts keep the same promises, each on the real thing."""

import itertools
import sqlite3

import pytest

from bot.core._shared.errors import BackendError
from bot.core.outbound.broadcast.errors import BroadcastLostError, BroadcastStoreError
from bot.core.outbound.broadcast.outcomes import Outcome
from bot.core.outbound.broadcast.redis_store import RedisStore
from bot.core.outbound.broadcast.sqlite_store import Opened, SqliteStore, connect
from bot.core.outbound.broadcast.store import Ended
from tests.support.servers import RedisCluster

pytestmark = pytest.mark.server

names = (f"новости {n}" for n in itertools.count())


@pytest.fixture(scope="module")
def cluster():
    cluster = RedisCluster()
    cluster.start()
    yield cluster
    cluster.close()


STARTED = [pytest.param(kind, marks=pytest.mark.server) for kind in ("redis", "cluster")]


@pytest.fixture(params=["sqlite", "memory", *STARTED])
async def open_store(request, tmp_path):
    """Open one more store of the same broadcast."""
    name, stores, opened = next(names), [], None
    if request.param in ("redis", "cluster"):
        url = request.getfixturevalue("redis_url") if request.param == "redis" else None
        url = url or request.getfixturevalue("cluster").url
    elif request.param == "memory":
        opened = Opened(connect(":memory:"))

    def open_store():
        if request.param in ("redis", "cluster"):
            store = RedisStore(url, name)
        else:
            store = SqliteStore(str(tmp_path / "b.sqlite3"), name, opened)
        stores.append(store)
        return store

    yield open_store
    await stores[0].forget()
    for store in stores:
        await store.close()
    if opened is not None:
        opened.connection.close()


async def owned(store, *, restart=False):
    counts = await store.take("owner", 5.0, await store.read(), 1_000.5, restart=restart)
    assert counts is not None
    return counts


async def pages(store, outcome):
    found, after = [], ""
    while True:
        rows, after = await store.page(outcome, after)
        found += rows
        if not after:
            return sorted(found, key=str)


CHATS = [1, -1, 2**63 - 1, -(2**63), "@ann", "@имя", "+5", "'; drop table x --"]


async def test_claimed_then_recorded(open_store):
    store = open_store()
    assert await store.read() is None
    assert sum((await owned(store)).values()) == 0
    assert (await store.read()).started_at == 1_000.5
    assert await store.claim(CHATS) == CHATS
    assert await store.claim(CHATS) == CHATS, "claimed is not done"
    ended = [
        Ended(1, Outcome.SENT),
        Ended("@имя", Outcome.FAILED, "ошибка" * 100),
        Ended("+5", Outcome.BLOCKED),
    ]
    await store.record(ended)
    await store.record(ended)
    await store.record([Ended(1, Outcome.FAILED, "late")])
    assert {outcome: n for outcome, n in (await store.counts()).items() if n} == {
        Outcome.SENT: 1, Outcome.FAILED: 1, Outcome.BLOCKED: 1,
    }  # fmt: skip
    left = [chat for chat in CHATS if chat not in (1, "@имя", "+5")]
    assert sorted(await store.unfinished(), key=str) == sorted(left, key=str)
    assert await store.claim([*CHATS, 7]) == [*left, 7]
    await store.release([7, 1])
    assert 7 not in await store.unfinished()
    assert await pages(store, Outcome.SENT) == [(1, "")]
    [(chat, reason)] = await pages(store, Outcome.FAILED)
    assert chat == "@имя"
    assert ("ошибка" * 100).startswith(reason)
    assert len(reason) == 160


async def test_one_owner_at_a_time(open_store):
    first, second = open_store(), open_store()
    seen = await second.read()
    await owned(first)
    assert await second.take("second", 5.0, seen, 0.0, restart=False) is None, "it has changed"
    seen = await second.read()
    assert seen.owner == "owner"
    assert seen.lease == 5.0
    await first.beat()
    assert (await second.read()).beat == seen.beat + 1
    assert await second.take("second", 5.0, await second.read(), 0.0, restart=False) is not None
    for write in (
        first.beat(), first.claim([1]), first.record([Ended(1, Outcome.SENT)]), first.release([1]),
        first.let_go(None),
    ):  # fmt: skip
        with pytest.raises(BroadcastLostError):
            await write
    await second.let_go(2_000.25)
    kept = await first.read()
    assert (kept.owner, kept.finished_at) == ("", 2_000.25)


async def test_a_restart_forgets_who_is_done(open_store):
    store = open_store()
    await owned(store)
    await store.claim([1, 2])
    await store.record([Ended(1, Outcome.SENT)])
    await store.let_go(5.0)
    assert sum((await owned(store, restart=True)).values()) == 0
    assert await store.unfinished() == []
    assert await pages(store, Outcome.SENT) == []
    assert await store.claim([1]) == [1]


async def test_thousands_are_read_in_pages(open_store):
    store = open_store()
    await owned(store)
    chats = [*range(-2_500, 2_500), *(f"@name{n}" for n in range(1_000))]
    assert await store.claim(chats) == chats
    await store.record([Ended(chat, Outcome.SENT if chat != 7 else Outcome.BLOCKED) for chat in chats])
    assert await pages(store, Outcome.SENT) == sorted(((c, "") for c in chats if c != 7), key=str)
    assert await pages(store, Outcome.BLOCKED) == [(7, "")]
    assert await store.unfinished() == []


async def test_redis_with_something_else_under_the_key_is_told(redis_url):
    import redis.asyncio as redis

    store = RedisStore(redis_url, next(names))
    async with redis.Redis.from_url(redis_url) as client:
        for fields in ({"owner": "x", "beat": "many"}, {"owner": b"\xff", "beat": 1, "generation": 1}):
            await client.hset(store._keys[0], mapping=fields)
            with pytest.raises(BroadcastStoreError, match="data that is not a broadcast"):
                await store.read()
        await client.delete(store._keys[0])
        await client.set(store._keys[0], "a text")
        with pytest.raises(BackendError, match="WRONGTYPE"):
            await store.read()
        await client.delete(store._keys[0])
    await store.close()


async def test_redis_that_lost_everything_goes_on_with_the_owner_it_is_told(redis_server):
    store = RedisStore(redis_server.url, "news")
    await owned(store)
    await store.claim([1])
    redis_server.execute("FLUSHALL")
    await store.record([Ended(1, Outcome.SENT)])
    assert store.data_was_lost
    kept = await store.read()
    assert (kept.owner, kept.lease, kept.started_at) == ("owner", 5.0, 1_000.5)
    await store.close()


async def test_a_repeated_end_is_the_same_end(redis_url):
    store = RedisStore(redis_url, next(names))
    await owned(store)
    await store.let_go(5.0)
    await store.let_go(5.0)  # as when the answer to the first was lost
    assert (await store.read()).finished_at == 5.0
    await store.forget()
    await store.close()


async def test_a_file_that_is_broken_is_told(tmp_path):
    path = tmp_path / "b.sqlite3"
    sqlite3.connect(path).execute("CREATE TABLE phase4_broadcasts (x)").connection.close()
    store = SqliteStore(str(path), "news")
    with pytest.raises(BroadcastStoreError, match="no such column"):
        await store.read()
    await store.close()
