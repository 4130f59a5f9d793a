"""The journal in MongoDB: written beside the requests, and no request fails with it."""

import time

import pytest

from bot.service import journal as journal_module
from bot.service.journal import Journal, JournalUnavailableError
from bot.service.settings import CannotStartError
from tests.service.conftest import Service
from tests.support.servers import MongoServer, running


@pytest.fixture
def mongodb_server():
    with running(MongoServer()) as server:
        yield server


def activity(service, user_id, count):
    """The user's notes, once there are ``count``: they are written a moment after the answer."""
    deadline = time.monotonic() + 15
    while True:
        answer = service.call(f"/api/activity?user_id={user_id}")
        if answer.status == 200 and len(answer.body["activity"]) >= count:
            return answer.body["activity"]
        assert time.monotonic() < deadline, answer
        time.sleep(0.05)


@pytest.mark.parametrize("pooled", ["0", "1"])
def test_uploads_are_noted_also_while_mongodb_is_away(data_dir, mongodb_server, pooled):
    noting = Service(data_dir, MONGODB_URL=mongodb_server.url, ENABLE_CONNECTION_POOLING=pooled)
    try:
        noting.start()

        def upload(name):
            return noting.call(f"/api/upload?name={name}&user_id=11", method="POST", body=b"x").status

        assert upload("first.pdf") == 201
        [note] = activity(noting, 11, 1)
        assert (note["action"], note["name"], note["size_bytes"]) == ("upload", "first.pdf", 1)
        mongodb_server.kill()
        assert upload("second.pdf") == 201, "the upload does not need the journal"
        assert noting.call("/api/activity?user_id=11").status == 503
        health = noting.call("/health")
        assert health.status == 200
        if pooled == "0":
            assert health.body["status"] == "ok"
        else:  # on a slow machine the pool may have found out by now
            assert {one["reason"] for one in health.body["degraded"]} <= {"cannot connect: journal"}
        mongodb_server.start()  # what it held was in memory
        assert [note["name"] for note in activity(noting, 11, 1)] == ["second.pdf"]
        figures = noting.call("/health").body["journal"]
        assert (figures["written"], figures["waiting"], figures["error"]) == (2, 0, None)
        assert noting.stop() == 0
        assert noting.output.count("MongoDB cannot be reached") <= 1
        assert "Traceback" not in noting.output
    finally:
        noting.close()


def test_without_a_url_there_is_no_journal_and_bad_input_is_told(service):
    answer = service.call("/api/activity")
    assert (answer.status, answer.body["error"]["code"]) == (404, "no_journal")
    assert service.call("/api/activity?user_id=x").status == 400
    assert service.call("/api/activity?limit=1").status == 400


def test_a_url_that_is_not_mongodbs_is_named_without_its_password():
    with pytest.raises(CannotStartError, match="MONGODB_URL") as caught:
        Journal("postgresql://bot:hunter2@h/db")
    assert "hunter2" not in str(caught.value)


async def test_what_waits_is_bounded_and_the_rest_counted(monkeypatch):
    monkeypatch.setattr(journal_module, "MOST_WAITING", 3)
    monkeypatch.setattr(journal_module, "SERVER_TIMEOUT", 0.05)
    journal = Journal("mongodb://127.0.0.1:1/db")
    await journal.start(None)
    for number in range(5):
        journal.note("upload", number)
    with pytest.raises(JournalUnavailableError):
        await journal.latest(None, 5)
    await journal.stop()
    figures = journal.figures()
    assert (figures["waiting"], figures["dropped"]) == (3, 2)
