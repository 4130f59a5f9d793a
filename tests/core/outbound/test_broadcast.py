"""Broadcasts in one process: who is written to, what ends them, and where they go on."""

import asyncio
import contextlib
import logging
from collections import Counter

import pytest

from bot.core._shared.errors import InvalidArgumentError
from bot.core.outbound import (
    BroadcastLostError,
    BroadcastRunningError,
    BroadcastStoppedError,
    BroadcastStoreError,
    Limits,
    Outbound,
    OutboundClosedError,
    Priority,
    Request,
    sending,
)
from bot.core.outbound.broadcast import runner
from bot.core.outbound.broadcast.sqlite_store import SqliteStore
from tests.core.outbound.conftest import RetryAfter

FAST = Limits(chat=(1_000, 1.0), chat_burst=100, bulk=(10_000, 1.0), paid=(10_000, 1.0))


class Forbidden(Exception):
    """As python-telegram-bot raises it."""


class BadRequest(Exception):
    """As python-telegram-bot raises it."""


class Unauthorized(Exception):
    """A token that was revoked."""

    error_code = 401


class Telegram:
    """Takes messages. ``errors``: what a chat is answered with in turn; ``gate``: shut, no send ends."""

    def __init__(self):
        self.got = []
        self.tried = []
        self.errors = {}
        self.always = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def send(self, chat):
        self.tried.append(chat)
        await self.gate.wait()
        if self.always is not None:
            raise self.always
        if self.errors.get(chat):
            raise self.errors[chat].pop(0)
        self.got.append(chat)


@pytest.fixture
async def telegram():
    return Telegram()


@pytest.fixture
async def outbound(tmp_path):
    service = Outbound()
    await service.enable(FAST, drain_timeout=5.0, broadcast_store=str(tmp_path / "b.sqlite3"))
    yield service
    await service.disable()
    service.check_invariants()


@pytest.fixture
def soon(monkeypatch):
    """What is tried again later is tried again soon."""
    monkeypatch.setattr(runner, "RETRY_FIRST", 0.01)
    monkeypatch.setattr(runner, "RETRY_LONGEST", 0.05)


async def until(condition):
    while not condition():
        await asyncio.sleep(0.005)


async def listed(chats):
    return sorted([chat async for chat in chats], key=str)


# Recipients.


async def test_each_recipient_gets_it_once_however_it_is_spelled(outbound, telegram):
    report = await outbound.broadcast("news", [1, "1", 2, -5, "-5", "@Ann", "@ann", 2], telegram.send)
    assert sorted(telegram.got, key=str) == [-5, 1, 2, "@ann"]
    assert (report.done, report.sent) == (4, 4)
    assert await listed(report.chats("sent")) == [-5, 1, 2, "@ann"]


async def ids():
    for chat in (1, 2, 3):
        yield chat


async def rows():
    return [1, 2, 3]


@pytest.mark.parametrize(
    "recipients",
    [
        [1, 2, 3],
        (1, 2, 3),
        {1, 2, 3},
        {1: "a", 2: "b", 3: "c"},
        range(1, 4),
        lambda: iter([1, 2, 3]),
        ids,
        rows,
    ],
    ids=[
        "list",
        "tuple",
        "set",
        "dict",
        "range",
        "function",
        "async generator function",
        "coroutine function",
    ],
)
async def test_recipients_are_any_iterable_or_a_function_that_gives_one(outbound, telegram, recipients):
    await outbound.broadcast("news", recipients, telegram.send)
    assert sorted(telegram.got) == [1, 2, 3]


async def test_an_async_generator_is_read_as_it_comes_and_closed(outbound, telegram):
    closed = []
    release = asyncio.Event()

    async def slowly():
        try:
            yield 1
            await release.wait()
            yield 2
        finally:
            closed.append(True)

    task = asyncio.ensure_future(outbound.broadcast("news", slowly(), telegram.send))
    await until(lambda: telegram.got == [1])  # it did not wait for a second
    release.set()
    await task
    assert telegram.got == [1, 2]
    assert closed == [True]


async def test_a_million_recipients_are_read_no_faster_than_they_are_sent(outbound, telegram):
    read = []

    def million():
        for chat in range(1, 1_000_001):
            read.append(chat)
            yield chat

    telegram.gate.clear()
    task = asyncio.ensure_future(outbound.broadcast("news", million(), telegram.send, concurrency=10))
    await until(lambda: len(telegram.tried) == 10)
    await asyncio.sleep(0.1)
    assert len(read) <= 1_000
    task.cancel()
    telegram.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("kind", [list, set, dict.fromkeys])
async def test_recipients_that_change_meanwhile_are_those_of_the_start(outbound, telegram, kind):
    users = kind(range(1, 501))

    async def send(chat):
        await telegram.send(chat)
        (users.pop if isinstance(users, dict) else users.remove)(chat)  # as a bot does with who is gone

    report = await outbound.broadcast("news", users, send)
    assert report.sent == 500
    assert not users


async def test_recipients_that_raise_end_it_and_what_was_sent_is_kept(outbound, telegram):
    def broken():
        yield from range(1, 501)
        raise OSError("the database is gone")

    with pytest.raises(OSError, match="the database is gone"):
        await outbound.broadcast("news", broken(), telegram.send)
    report = await outbound.broadcast("news", range(1, 601), telegram.send)
    assert Counter(telegram.got) == Counter(range(1, 601))
    assert report.sent == 600


async def test_what_is_no_chat_is_left_out_and_counted(outbound, telegram, caplog):
    report = await outbound.broadcast(
        "news", [1, None, 2.5, True, 2**70, "@\ud800", b"3", "", 4], telegram.send
    )
    assert sorted(telegram.got) == [1, 4]
    assert (report.done, report.invalid) == (2, 7)
    assert "left out, such as None" in caplog.text


async def test_a_list_of_something_else_is_told(outbound, telegram):
    with pytest.raises(InvalidArgumentError, match="chats: ids"):
        await outbound.broadcast("news", [(1, "ann"), (2, "bob")], telegram.send)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"name": ""}, "name"),
        ({"name": 7}, "name"),
        ({"name": "\ud800"}, "name"),
        ({"recipients": "@ann"}, "recipients"),
        ({"recipients": 7}, "recipients"),
        ({"recipients": lambda: 7}, "recipients"),
        ({"send": None}, "send"),
        ({"on_progress": 1}, "on_progress"),
        ({"store": "postgresql://x:secret@y"}, "store"),
        ({"store": 1}, "store"),
        ({"cost": 0}, "cost"),
        ({"concurrency": True}, "concurrency"),
        ({"total": -1}, "total"),
        ({"stop_after_failures": 0}, "stop_after_failures"),
        ({"lease": 0}, "lease"),
    ],
)
async def test_bad_arguments_are_named(outbound, telegram, arguments, named):
    given = {"name": "news", "recipients": [1], "send": telegram.send} | arguments
    with pytest.raises(InvalidArgumentError, match=f"^{named} = ") as caught:
        await outbound.broadcast(given.pop("name"), given.pop("recipients"), given.pop("send"), **given)
    assert "secret" not in str(caught.value)
    assert not telegram.tried


# Where it goes on.


async def test_after_a_cancellation_it_goes_on_and_nobody_gets_it_twice(outbound, telegram):
    telegram.gate.clear()
    task = asyncio.ensure_future(outbound.broadcast("news", range(1, 301), telegram.send, concurrency=20))
    await until(lambda: len(telegram.tried) == 20)
    task.cancel()
    await asyncio.sleep(0)
    telegram.gate.set()  # what was being sent ends, and is recorded
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(telegram.got) == 20
    report = await outbound.broadcast("news", range(1, 301), telegram.send)
    assert Counter(telegram.got) == Counter(range(1, 301))
    assert report.sent == 300


async def test_cancelled_at_any_moment_nobody_is_missed(outbound, telegram):
    for turns in [*range(24), *range(24, 200, 25)]:
        name, before = f"news {turns}", len(telegram.got)
        task = asyncio.ensure_future(outbound.broadcast(name, range(1, 31), telegram.send, concurrency=7))
        for _ in range(turns):
            await asyncio.sleep(0.0005)
            if task.done():
                break
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            report = await outbound.broadcast(name, range(1, 31), telegram.send)
            assert report.sent == 30
        assert sorted(telegram.got[before:]) == list(range(1, 31)), turns


async def test_a_send_that_hangs_does_not_keep_a_cancelled_broadcast(outbound, telegram, monkeypatch):
    monkeypatch.setattr(runner, "GRACE", 0.05)
    telegram.gate.clear()
    task = asyncio.ensure_future(outbound.broadcast("news", [1, 2, 3], telegram.send, concurrency=2))
    await until(lambda: len(telegram.tried) == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    telegram.gate.set()
    report = await outbound.broadcast("news", [], telegram.send)
    assert sorted(telegram.got) == [1, 2], "nobody knows whether they got it; the third was not begun"
    assert report.sent == 2


async def test_another_order_and_new_recipients_go_on(outbound, telegram):
    telegram.errors[51] = [Unauthorized()]
    with pytest.raises(BroadcastStoppedError):
        await outbound.broadcast("news", range(1, 101), telegram.send, concurrency=1)
    assert telegram.got == list(range(1, 51))
    report = await outbound.broadcast("news", range(120, 0, -1), telegram.send)
    assert Counter(telegram.got) == Counter(range(1, 121))
    assert report.sent == 120


async def test_a_finished_name_answers_with_its_report_and_writes_to_nobody(outbound, telegram):
    telegram.errors[2] = [Forbidden("Forbidden: bot was blocked by the user")]
    first = await outbound.broadcast("news", [1, 2], telegram.send)

    def unread():
        raise AssertionError("read")

    again = await outbound.broadcast("news", unread, telegram.send)
    assert again == first
    assert await again.unreachable() == [2]
    assert telegram.tried == [1, 2]


async def test_restart_begins_anew(outbound, telegram):
    await outbound.broadcast("news", [1, 2], telegram.send)
    report = await outbound.broadcast("news", [2, 3], telegram.send, restart=True)
    assert sorted(telegram.got) == [1, 2, 2, 3]
    assert await listed(report.chats("sent")) == [2, 3]


async def test_what_is_forgotten_is_new(outbound, telegram):
    report = await outbound.broadcast("news", [1], telegram.send)
    await report.forget()
    await outbound.broadcast("news", [1], telegram.send)
    assert telegram.got == [1, 1]


async def test_two_names_run_side_by_side(outbound, telegram):
    reports = await asyncio.gather(
        *(outbound.broadcast(f"news {n}", range(1, 101), telegram.send, store="") for n in range(3))
    )
    assert [report.sent for report in reports] == [100, 100, 100]
    assert set(Counter(telegram.got).values()) == {3}


# Errors.


async def test_blocked_users_are_told_apart(outbound, telegram):
    telegram.errors = {
        1: [Forbidden("Forbidden: bot was blocked by the user")],
        2: [Forbidden("Forbidden: user is deactivated")],
        3: [BadRequest("Chat not found")],
        4: [Forbidden("Forbidden: bot can't initiate conversation with a user")],
        5: [BadRequest("Not enough rights; see https://api.telegram.org/bot123456789:AAabcdefghijk/x")],
    }
    report = await outbound.broadcast("news", range(1, 11), telegram.send)
    assert (report.done, report.sent, report.blocked, report.deactivated) == (10, 5, 1, 1)
    assert (report.not_found, report.failed) == (2, 1)
    assert await listed(report.chats("blocked")) == [1]
    assert await listed(report.chats("deactivated")) == [2]
    assert sorted(await report.unreachable()) == [1, 2, 3, 4]
    [(chat, reason)] = [failure async for failure in report.failures()]
    assert chat == 5
    assert reason.startswith("BadRequest: Not enough rights")
    assert "AAabc" not in reason
    assert len(telegram.tried) == 10, "these answers are final"
    with pytest.raises(InvalidArgumentError, match="outcome = 'gone'"):
        await listed(report.chats("gone"))


async def test_a_revoked_token_stops_it_and_nobody_counts_as_failed(outbound, telegram):
    telegram.always = Unauthorized("Unauthorized: 123456789:AAabcdefghijk")
    with pytest.raises(BroadcastStoppedError, match="nobody can be written to") as caught:
        await outbound.broadcast("news", range(1, 1_001), telegram.send)
    assert isinstance(caught.value.__cause__, Unauthorized)
    assert "AAabc" not in str(caught.value)
    assert len(telegram.tried) <= 50
    telegram.always = None
    report = await outbound.broadcast("news", range(1, 1_001), telegram.send)
    assert (report.sent, report.failed) == (1_000, 0)


async def test_a_message_that_fails_for_everybody_stops_it_early(outbound, telegram):
    telegram.always = BadRequest("Can't parse entities")
    with pytest.raises(
        BroadcastStoppedError, match="50 recipients in a row failed, the last with BadRequest"
    ):
        await outbound.broadcast("news", range(1, 1_001), telegram.send)
    assert len(telegram.tried) < 150
    telegram.always = None
    report = await outbound.broadcast("news", range(1, 1_001), telegram.send)
    assert (report.sent, report.failed) == (1_000, 0)


async def test_failures_among_successes_are_failures(outbound, telegram):
    telegram.errors = {chat: [BadRequest("Have no rights")] for chat in range(3, 2_000, 3)}
    report = await outbound.broadcast("news", range(1, 1_001), telegram.send, concurrency=5)
    assert (report.sent, report.failed) == (667, 333)
    assert len([one async for one in report.failures()]) == 333


async def test_a_few_that_all_fail_are_failures(outbound, telegram):
    telegram.always = BadRequest("Have no rights")
    report = await outbound.broadcast("news", range(1, 50), telegram.send)
    assert report.failed == 49
    everybody = await outbound.broadcast("more", range(1, 201), telegram.send, stop_after_failures=None)
    assert everybody.failed == 200


async def test_what_may_pass_is_tried_again_a_bounded_number_of_times(outbound, telegram, soon):
    telegram.errors = {1: [KeyError("name")] * 2, 2: [KeyError("name")] * 10}
    report = await outbound.broadcast("news", [1, 2, 3], telegram.send)
    assert Counter(telegram.tried) == {1: 3, 2: 3, 3: 1}
    assert (report.sent, report.failed) == (2, 1)


async def test_a_send_that_is_cancelled_from_within_is_tried_again(outbound, telegram, soon):
    telegram.errors = {chat: [asyncio.CancelledError()] for chat in range(1, 101)}
    report = await outbound.broadcast("news", range(1, 101), telegram.send, concurrency=5)
    assert report.sent == 100


async def test_a_send_that_is_no_coroutine_function_is_told(outbound, telegram):
    with pytest.raises(InvalidArgumentError, match=r"^send = .*coroutine function"):
        await outbound.broadcast("news", range(1, 101), telegram.tried.append, concurrency=5)
    assert len(telegram.tried) <= 5


async def test_a_network_that_is_away_for_long_fails_nobody(outbound, telegram, soon, caplog):
    telegram.always = OSError("Network is unreachable")
    task = asyncio.ensure_future(outbound.broadcast("news", range(1, 31), telegram.send))
    await until(lambda: min(Counter(telegram.tried).values(), default=0) > runner.ATTEMPTS + 3)
    assert not task.done()
    telegram.always = None
    assert (await task).sent == 30
    assert caplog.text.count("Telegram cannot be reached") == 1


async def test_one_recipient_whose_send_always_times_out_fails_in_the_end(outbound, telegram, soon):
    telegram.errors[1] = [TimeoutError()] * 100

    async def chats():
        for chat in range(1, 2_001):
            if not chat % 100:
                await asyncio.sleep(0.02)
            yield chat

    report = await outbound.broadcast("news", chats(), telegram.send)
    assert (report.sent, report.failed) == (1_999, 1)


async def test_a_flood_wait_is_waited_for_and_sent_again(outbound, telegram):
    telegram.errors[2] = [RetryAfter(0.05)]
    report = await outbound.broadcast("news", [1, 2, 3], telegram.send)
    assert report.sent == 3
    assert (await outbound.get_statistics())["refusals"] == 1


async def test_an_album_that_was_sent_in_part_is_not_sent_again(outbound, telegram):
    telegram.errors[2] = [BadRequest("Bad Request: retry after 1")]
    report = await outbound.broadcast("news", [1, 2], telegram.send, cost=5)
    assert telegram.tried.count(2) == 1
    assert report.failed == 1


# Limits and the service.


async def test_paid_broadcasts_have_the_paid_limit(telegram, tmp_path):
    outbound = Outbound()
    await outbound.enable(Limits(bulk=(1, 3_600.0), paid=(1_000, 1.0)), broadcast_store="")
    report = await outbound.broadcast("news", range(1, 501), telegram.send, paid=True)
    assert report.sent == 500
    await outbound.disable()


async def test_it_leaves_as_a_broadcast_behind_everything_else(outbound, telegram):
    await outbound.enable(Limits(bulk=(5, 0.2)), drain_timeout=0.0)
    task = asyncio.ensure_future(outbound.broadcast("news", range(1, 101), telegram.send))
    await until(lambda: telegram.got)
    order = []

    async def send():
        order.append(len(telegram.got))

    before = len(telegram.got)
    await outbound.call(send, Request("sendMessage", 5_000, priority=Priority.NOTIFY))
    assert order[0] - before <= 10, "ahead of the 50 that were waiting"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_send_that_passes_through_outbound_itself_does_not_wait_for_itself(outbound, telegram):
    async def send(chat):
        # As a framework's adapter does it for each request.
        await outbound.call(lambda: telegram.send(chat), Request("sendMessage", chat))

    await outbound.enable(FAST, max_in_flight=2)
    telegram.errors[7] = [RetryAfter(0.05)]
    report = await outbound.broadcast("news", range(1, 101), send)
    assert report.sent == 100
    assert (await outbound.get_statistics())["total_requests"] == 100


async def test_the_callers_own_deadline_is_not_that_of_each_recipient(outbound, telegram):
    await outbound.enable(Limits(bulk=(5, 0.1)))
    with sending(Priority.ANSWER, deadline=0.05):
        report = await outbound.broadcast("news", range(1, 31), telegram.send)
    assert report.sent == 30


async def test_a_stop_of_the_service_ends_it_and_it_goes_on_afterwards(outbound, telegram):
    await outbound.enable(Limits(bulk=(20, 0.05)), drain_timeout=5.0)
    task = asyncio.ensure_future(outbound.broadcast("news", range(1, 301), telegram.send))
    await until(lambda: len(telegram.got) > 30)
    await outbound.disable()
    assert task.done(), "the stop waits until the progress is recorded"
    with pytest.raises(OutboundClosedError, match="the progress of the broadcast is kept"):
        await task
    with pytest.raises(OutboundClosedError, match="outbound is off"):
        await outbound.broadcast("news", range(1, 301), telegram.send)
    await outbound.enable(FAST)
    report = await outbound.broadcast("news", range(1, 301), telegram.send)
    assert Counter(telegram.got) == Counter(range(1, 301))
    assert report.sent == 300


async def test_a_second_of_the_same_name_is_refused(outbound, telegram, tmp_path):
    telegram.gate.clear()
    first = asyncio.ensure_future(outbound.broadcast("news", [1, 2], telegram.send, lease=0.5))
    await until(lambda: telegram.tried)
    with pytest.raises(BroadcastRunningError, match="'news' runs already"):
        await outbound.broadcast("news", [1, 2], telegram.send)
    other = Outbound()  # as another process: they share the file alone
    await other.enable(FAST, broadcast_store=str(tmp_path / "b.sqlite3"))
    with pytest.raises(BroadcastRunningError):
        await other.broadcast("news", [1, 2], telegram.send, restart=True)
    telegram.gate.set()
    await first
    await other.disable()
    assert sorted(telegram.got) == [1, 2]


async def test_one_that_was_taken_over_stops(outbound, telegram, tmp_path):
    telegram.gate.clear()
    task = asyncio.ensure_future(outbound.broadcast("news", range(1, 101), telegram.send, lease=0.5))
    await until(lambda: len(telegram.tried) == 50)
    thief = SqliteStore(str(tmp_path / "b.sqlite3"), "news")
    assert await thief.take("thief", 10.0, await thief.read(), 0.0, restart=False) is not None
    telegram.gate.set()
    with pytest.raises(BroadcastLostError, match="taken over"):
        await task
    assert len(telegram.got) == 50
    assert (await thief.read()).owner == "thief"
    await thief.close()


async def test_statistics(outbound, telegram):
    telegram.errors[2] = [Forbidden("Forbidden: bot was blocked by the user")]
    telegram.gate.clear()
    task = asyncio.ensure_future(outbound.broadcast("news", [1, 2, 3], telegram.send))
    await until(lambda: telegram.tried)
    assert (await outbound.get_statistics())["broadcasts_running"] == 1
    telegram.gate.set()
    await task
    figures = await outbound.get_statistics()
    assert figures["broadcasts_running"] == 0
    assert figures["broadcasts_finished"] == 1
    assert (figures["broadcast_sent"], figures["broadcast_blocked"], figures["broadcast_failed"]) == (2, 1, 0)
    await outbound.reset_statistics()
    assert (await outbound.get_statistics())["broadcast_sent"] == 0


# Stores.


async def test_without_a_store_it_is_kept_in_memory_and_says_so(telegram, caplog):
    outbound = Outbound()
    await outbound.enable(FAST, broadcast_store="")
    telegram.errors[2] = [Unauthorized()]
    with pytest.raises(BroadcastStoppedError):
        await outbound.broadcast("news", [1, 2, 3], telegram.send, concurrency=1)
    report = await outbound.broadcast("news", [1, 2, 3], telegram.send)
    assert telegram.got == [1, 2, 3]
    assert await listed(report.chats("sent")) == [1, 2, 3]
    assert caplog.text.count("kept in memory") == 1
    await outbound.disable()
    with pytest.raises(BroadcastStoreError, match="the progress of broadcast 'news' is no longer stored"):
        await listed(report.chats("sent"))


async def test_the_file_stays_where_it_was_when_the_directory_changes(
    outbound, telegram, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    report = await outbound.broadcast("news", [1], telegram.send, store="here.sqlite3")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert await listed(report.chats("sent")) == [1]
    assert not list((tmp_path / "other").iterdir())


async def test_a_store_that_cannot_be_used_is_told_before_anybody_is_written_to(outbound, telegram, tmp_path):
    (tmp_path / "notes.txt").write_text("no database " * 100)
    for path in (tmp_path / "missing" / "b.sqlite3", tmp_path / "notes.txt", tmp_path):
        with pytest.raises(BroadcastStoreError, match=str(path)):
            await outbound.broadcast("news", [1], telegram.send, store=str(path))
    with pytest.raises(BroadcastStoreError, match="Redis"):
        await outbound.broadcast("news", [1], telegram.send, store="redis://:secret@127.0.0.1:1/0")
    assert not telegram.tried
    assert (await outbound.get_statistics())["broadcasts_running"] == 0


async def test_a_store_that_is_locked_for_a_while_holds_it_up(
    outbound, telegram, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr("bot.core.outbound.broadcast.sqlite_store.BUSY_TIMEOUT", 0.01)
    telegram.gate.clear()
    task = asyncio.ensure_future(outbound.broadcast("news", range(1, 101), telegram.send))
    await until(lambda: telegram.tried)
    import sqlite3

    other = sqlite3.connect(tmp_path / "b.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    telegram.gate.set()
    await until(lambda: "waits for its store" in caplog.text)
    assert len(telegram.got) <= 50
    other.execute("ROLLBACK")
    other.close()
    assert (await task).sent == 100


# Event loops.


async def goes_on(outbound, send):
    """The broadcast of an event loop that ended, whose last write may be under way in a thread yet."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(BroadcastRunningError):  # that write was a sign of life
                return await outbound.broadcast("news", range(1, 501), send)


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_it_goes_on_under_another_event_loop(tmp_path, kind):
    new_loop = asyncio.new_event_loop
    if kind == "uvloop":
        new_loop = pytest.importorskip("uvloop").new_event_loop
    outbound = Outbound()
    got = []

    async def send(chat):
        got.append(chat)
        await asyncio.sleep(0.001)

    async def first():
        await outbound.enable(Limits(bulk=(30, 0.05)), broadcast_store=str(tmp_path / "b.sqlite3"))
        task = asyncio.ensure_future(outbound.broadcast("news", range(1, 501), send, lease=0.3))
        await until(lambda: len(got) > 100)
        del task  # it is cancelled, and so is every send by itself

    async def second():
        report = await goes_on(outbound, send)
        await outbound.disable()
        return report

    with asyncio.Runner(loop_factory=new_loop) as loop:
        loop.run(first())
    with asyncio.Runner(loop_factory=new_loop) as loop:
        report = loop.run(second())
    assert report.sent == 500
    assert set(got) == set(range(1, 501))
    assert len(got) <= 550


def test_a_loop_that_died_without_a_word_leaves_nothing_behind(tmp_path, caplog):
    caplog.set_level(logging.CRITICAL, "asyncio")
    outbound = Outbound()
    got = []

    async def send(chat):
        got.append(chat)
        await asyncio.sleep(0.001)

    async def first():
        await outbound.enable(Limits(bulk=(30, 0.05)), broadcast_store=str(tmp_path / "b.sqlite3"))
        task = asyncio.ensure_future(outbound.broadcast("news", range(1, 501), send, lease=0.2))
        await until(lambda: len(got) > 100)
        return task

    loop = asyncio.new_event_loop()
    left = loop.run_until_complete(first())
    loop.close()
    assert not left.done()

    async def second():
        report = await goes_on(outbound, send)
        await outbound.disable()
        return report

    assert asyncio.run(second()).sent == 500
    assert set(got) == set(range(1, 501))
    assert len(got) <= 550
