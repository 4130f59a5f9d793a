"""``/api/batch``: downloads recorded many at once, or one by one where the processor is off."""

import asyncio
import json
import shutil
import time

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from bot.core.batch_processor import BatchProcessor
from bot.core.cache_manager import CacheManager
from bot.core.query_optimizer import QueryOptimizer
from bot.service.batch_api import MAX_ITEMS, BatchApi
from bot.service.data_api import COUNTS_TTL, DataApi
from bot.service.database import DatabaseUnavailableError
from bot.service.middleware import around_request
from bot.service.postgresql_database import PostgresqlDatabase
from bot.service.sqlite_database import SqliteDatabase
from tests.service.conftest import Service

API = web.AppKey("api", BatchApi)
NOBODY = 9_000_000_000


@pytest.fixture(scope="module")
def own_postgresql_url(empty_postgresql):
    """Written to, so not the one that other tests count in."""
    return empty_postgresql()


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(request, data_dir, tmp_path):
    if request.param == "sqlite":
        shutil.copy(data_dir / "phase4.db", tmp_path / "phase4.db")
        return SqliteDatabase(tmp_path / "phase4.db")
    made = PostgresqlDatabase(request.getfixturevalue("own_postgresql_url"))
    await made.prepare(lambda line: None)
    return made


class Counted:
    """The database, counting transactions; ``broken`` is raised by the writes to come, one each."""

    def __init__(self, database):
        self.database = database
        self.transactions = []
        self.queries = 0
        self.broken = []

    def one_connection(self):
        return self.database.one_connection()

    async def fetch(self, query, params=()):
        self.queries += 1
        return await self.database.fetch(query, params)

    async def write(self, query, params=()):
        raise AssertionError("written in a batch, or as one of its own")

    async def write_many(self, query, rows):
        if self.broken and (error := self.broken.pop(0)):
            raise error
        self.transactions.append(len(rows))
        return await self.database.write_many(query, rows)


@pytest.fixture
async def counted(database):
    return Counted(database)


@pytest.fixture
async def client(counted):
    api, data = BatchApi(counted), DataApi(counted)
    app = web.Application(middlewares=[around_request])
    app.router.add_post("/api/batch", api.post)
    app.router.add_get("/api/batch/{batch_id}", api.get)
    app.router.add_get("/api/data", data.get)
    app[API] = api
    async with TestClient(TestServer(app)) as made:
        yield made
        await BatchProcessor.get_instance().disable()


async def enable(client, **settings):
    await BatchProcessor.get_instance().enable(**{"batch_timeout": 0.01, "retry_base": 0.001, **settings})
    client.app[API].start()


async def post(client, items, query=""):
    async with client.post(f"/api/batch{query}", json={"items": items}) as answer:
        return answer, await answer.json()


async def get(client, path):
    async with client.get(path) as answer:
        return answer, await answer.json()


async def downloads_of(counted, user_id):
    query = "SELECT file_id, status, bytes_done, started_at FROM downloads WHERE user_id = ? ORDER BY id"
    return await counted.database.fetch(query, (user_id,))


async def test_a_batch_is_taken_at_once_and_asked_for_later(client, counted):
    await enable(client)
    before = await downloads_of(counted, 1900)
    answer, taken = await post(client, [{"user_id": 1900, "file_id": n} for n in range(1, 11)])
    assert answer.status == 202
    assert answer.headers["Location"] == f"/api/batch/{taken['batch_id']}"
    assert taken["counts"] == {"pending": 10}
    assert len({item["item_id"] for item in taken["items"]}) == 10
    await BatchProcessor.get_instance().flush()
    answer, told = await get(client, answer.headers["Location"])
    assert answer.status == 200
    assert (told["state"], told["counts"], told["batched"]) == ("ended", {"done": 10}, True)
    assert [item["item_id"] for item in told["items"]] == [item["item_id"] for item in taken["items"]]
    assert counted.transactions == [10]
    assert len(await downloads_of(counted, 1900)) == len(before) + 10


async def test_waiting_answers_with_the_results(client, counted):
    await enable(client)
    items = [
        {"user_id": 1901, "file_id": 2},
        {"user_id": 1901, "file_id": 2, "status": "failed"},
        {"user_id": 1901, "file_id": 3, "status": "cancelled", "bytes_done": 77},
    ]
    answer, told = await post(client, items, "?wait=1")
    assert answer.status == 200
    [file] = await counted.database.fetch("SELECT size_bytes FROM files WHERE id = ?", (2,))
    written = (await downloads_of(counted, 1901))[-3:]
    assert [(row["file_id"], row["status"], row["bytes_done"]) for row in written] == [
        (2, "done", file["size_bytes"]), (2, "failed", 0), (3, "cancelled", 77)
    ]  # fmt: skip
    assert abs(written[0]["started_at"] - time.time()) < 60
    assert [item["result"] for item in told["items"]] == [{"user_id": 1901, **row} for row in written]


async def test_requests_at_once_share_transactions(client, counted):
    await enable(client, batch_timeout=0.2, max_batch_size=1000)
    answers = await asyncio.gather(
        *[post(client, [{"user_id": 1902 + n, "file_id": 1}] * 10, "?wait=1") for n in range(10)]
    )
    assert [answer.status for answer, _ in answers] == [200] * 10
    assert sum(counted.transactions) == 100
    assert len(counted.transactions) < 10
    assert counted.queries == len(counted.transactions), "one query checks a batch"


@pytest.mark.parametrize("processor", ["on", "off"])
async def test_an_unknown_user_or_file_fails_that_item_alone(client, counted, processor):
    if processor == "on":
        await enable(client)
    items = [
        {"user_id": 1920, "file_id": 1},
        {"user_id": NOBODY, "file_id": 1},
        {"user_id": 1920, "file_id": NOBODY},
        {"user_id": 1920, "file_id": 2},
    ]
    before = len(await downloads_of(counted, 1920))
    answer, told = await post(client, items, "?wait=1")
    assert answer.status == 200
    assert [item["state"] for item in told["items"]] == ["done", "failed", "failed", "done"]
    assert f"user_id = {NOBODY}: there is no such user" in told["items"][1]["error"]
    assert f"file_id = {NOBODY}: there is no such file" in told["items"][2]["error"]
    assert counted.transactions == ([2] if processor == "on" else [1, 1])
    assert len(await downloads_of(counted, 1920)) == before + 2


async def test_without_the_processor_each_is_written_by_itself_before_the_answer(client, counted):
    answer, told = await post(client, [{"user_id": 1921, "file_id": 1}] * 5)
    assert (answer.status, told["batched"], told["counts"]) == (200, False, {"done": 5})
    assert counted.transactions == [1] * 5
    again, later = await get(client, f"/api/batch/{told['batch_id']}")
    assert (again.status, later) == (200, told)


async def test_a_batch_drops_the_pages_of_its_users_and_counts_of_all_follow_in_time(client, monkeypatch):
    await enable(client)
    await QueryOptimizer.get_instance().enable()
    cache = CacheManager.get_instance()
    await cache.enable()
    try:
        paths = ["/api/data?user_id=1922", "/api/data?user_id=7", "/api/data?search=debian", "/api/data"]
        before = [await get(client, path) for path in paths]
        file = before[2][1]["files"][0]
        again = [await get(client, path) for path in paths]
        assert [answer.headers["X-Cache"] for answer, _ in again] == ["hit"] * 4
        await post(client, [{"user_id": 1922, "file_id": file["id"]}], "?wait=1")
        after = [await get(client, path) for path in paths]
        assert [answer.headers["X-Cache"] for answer, _ in after] == ["miss", "hit", "hit", "hit"]
        assert after[0][1]["recent"][0]["name"] == file["name"], "who downloaded sees it at once"

        monkeypatch.setattr(cache, "_now", lambda: time.monotonic() + COUNTS_TTL)
        later = [await get(client, path) for path in paths]
        assert [answer.headers["X-Cache"] for answer, _ in later[2:]] == ["miss", "miss"]
        assert later[2][1]["files"][0]["downloads"] == file["downloads"] + 1
        totals = [sum(kind["downloads"] for kind in body["by_kind"]) for _, body in (before[3], later[3])]
        assert totals[1] == totals[0] + 1
    finally:
        await cache.disable()
        await QueryOptimizer.get_instance().disable()


async def test_an_outage_of_the_database_is_retried_and_then_told(client, counted):
    await enable(client, max_retries=1)
    counted.broken = [DatabaseUnavailableError("away")]
    _, told = await post(client, [{"user_id": 1923, "file_id": 1}] * 3, "?wait=1")
    assert told["counts"] == {"done": 3}
    counted.broken = [DatabaseUnavailableError("away"), DatabaseUnavailableError("away")]
    answer, told = await post(client, [{"user_id": 1923, "file_id": 1}] * 3, "?wait=1")
    assert (answer.status, told["counts"]) == (200, {"dead_lettered": 3})
    assert "away" in told["items"][0]["error"]
    assert await BatchProcessor.get_instance().replay() == 3
    await BatchProcessor.get_instance().flush()
    _, told = await get(client, f"/api/batch/{told['batch_id']}")
    assert told["counts"] == {"done": 3}


async def test_an_outage_without_the_processor(client, counted):
    counted.broken = [DatabaseUnavailableError("away")]
    answer, told = await post(client, [{"user_id": 1924, "file_id": 1}] * 3)
    assert (answer.status, told["error"]["code"]) == (503, "database_unavailable")
    counted.broken = [None, DatabaseUnavailableError("away")]
    answer, told = await post(client, [{"user_id": 1924, "file_id": 1}] * 3)
    assert [item["state"] for item in told["items"]] == ["done", "failed", "failed"]
    assert counted.transactions == [1]


async def test_when_it_is_full_none_is_taken(client, counted):
    # Without a handler yet: what is taken stays pending.
    processor = BatchProcessor.get_instance()
    await processor.enable(max_pending=15, batch_timeout=0.01)
    one = {"user_id": 1925, "file_id": 1}
    answer, first = await post(client, [one] * 10)
    assert answer.status == 202
    answer, told = await post(client, [one] * 10)
    assert (answer.status, told["error"]["code"]) == (503, "batch_full")
    assert int(answer.headers["Retry-After"]) >= 1
    answer, told = await post(client, [one] * 16)
    assert answer.status == 413
    assert "BATCH_MAX_PENDING" in told["error"]["message"]
    assert (await processor.get_statistics())["pending_items"] == 10
    client.app[API].start()
    await processor.flush()
    _, told = await get(client, f"/api/batch/{first['batch_id']}")
    assert told["counts"] == {"done": 10}


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_a_redis_that_is_away_has_its_own_code_and_no_address(client, counted, redis_server):
    client.app[API].start()
    processor = BatchProcessor.get_instance()
    await processor.enable(redis_url=redis_server.url, batch_timeout=0.01)
    _, first = await post(client, [GOOD], "?wait=1")
    redis_server.kill()
    for _ in range(3):  # the first finds out, the others are told
        answer, told = await post(client, [GOOD] * 3)
        text = json.dumps(told)
        assert answer.status == 503
        assert told["error"]["code"] in ("batch_unavailable", "batch_unknown")
        assert int(answer.headers["Retry-After"]) >= 1
        assert "full" not in text
        assert "redis://" not in text
        assert str(redis_server.port) not in text
    assert told["error"]["code"] == "batch_unavailable"
    assert "Redis does not answer" in told["error"]["message"]
    answer, told = await get(client, f"/api/batch/{first['batch_id']}")
    assert answer.status in (200, 503), "what ended is known here"
    assert "redis://" not in json.dumps(told)
    redis_server.start()


async def test_a_wait_has_an_end(client, counted, monkeypatch):
    monkeypatch.setattr("bot.service.batch_api.WAIT_SECONDS", 0.01)
    await enable(client, batch_timeout=60.0)
    answer, told = await post(client, [{"user_id": 1926, "file_id": 1}], "?wait=1")
    assert (answer.status, told["counts"]) == (202, {"pending": 1})


GOOD = {"user_id": 1, "file_id": 1}


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        (
            {"items": [GOOD, {"user_id": "1", "file_id": 1}]},
            400,
            "items[1].user_id: Expected `int`, got `str`",
        ),
        ({"items": [GOOD, GOOD, {"user_id": 1, "file_id": 0}]}, 400, "items[2].file_id: Expected `int` >= 1"),
        ({"items": [{"user_id": 2**63, "file_id": 1}]}, 400, "items[0].user_id: "),
        ({"items": [{"user_id": 1}]}, 400, "items[0]: Object missing required field `file_id`"),
        ({"items": [{**GOOD, "state": 1}]}, 400, "items[0]: Object contains unknown field `state`"),
        ({"items": [{**GOOD, "status": "lost"}]}, 400, "items[0].status: Invalid enum value 'lost'"),
        ({"items": [{**GOOD, "bytes_done": -1}]}, 400, "items[0].bytes_done: "),
        ({"items": [{**GOOD, "bytes_done": 2**62}]}, 400, "items[0].bytes_done: "),
        ({"items": {}}, 400, "items: Expected `array`"),
        ({"items": []}, 400, "items: expected 1 or more"),
        ([], 400, "body: Expected `object`"),
        ("x" * 10, 400, "body: "),
        ({"items": [GOOD] * (MAX_ITEMS + 1)}, 413, "items: at most 1,000 in a request, not 1,001"),
    ],
)
async def test_bad_input_names_the_item_and_its_field_and_nothing_is_taken(
    client, counted, body, status, word
):
    async with client.post("/api/batch", json=body) as answer:
        told = await answer.json()
    assert answer.status == status
    assert word in told["error"]["message"]
    assert counted.transactions == []


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_bad_requests(client):
    async with client.post("/api/batch", data=b"{") as answer:
        assert answer.status == 400
        assert 'body: expected JSON such as {"items"' in (await answer.json())["error"]["message"]
    assert (await post(client, [GOOD], "?wait=yes"))[0].status == 400
    assert (await post(client, [GOOD], "?now=1"))[0].status == 400
    answer, told = await get(client, "/api/batch/nothing")
    assert (answer.status, told["error"]["code"]) == (404, "no_such_batch")


def test_what_the_service_has_taken_is_written_before_it_stops(data_dir, tmp_path):
    shutil.copy(data_dir / "phase4.db", tmp_path / "phase4.db")
    service = Service(tmp_path, ENABLE_BATCH_PROCESSOR="1", BATCH_TIMEOUT="60")
    path = "/api/data?user_id=1927"
    body = b'{"items": [%s]}' % b", ".join([b'{"user_id": 1927, "file_id": 1}'] * 10)
    try:
        service.start()
        before = sum(row["downloads"] for row in service.call(path).body["totals"])
        answer = service.call("/api/batch", method="POST", body=body)
        assert (answer.status, answer.body["counts"]) == (202, {"pending": 10})
        figures = service.call("/health").body["phase4"]["batch_processor"]
        assert (figures["pending_items"], figures["handler"]) == (10, True)
        assert service.stop() == 0
        service.environ["ENABLE_BATCH_PROCESSOR"] = "0"
        service.start()
        assert sum(row["downloads"] for row in service.call(path).body["totals"]) == before + 10
        answer = service.call("/api/batch", method="POST", body=body)
        assert (answer.status, answer.body["batched"]) == (200, False)
        assert sum(row["downloads"] for row in service.call(path).body["totals"]) == before + 20
    finally:
        service.close()
