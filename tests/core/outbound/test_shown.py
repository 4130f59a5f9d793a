"""Edits to what a message shows already are not sent, and only those."""

import asyncio

import pytest

from bot.core._shared.errors import InvalidArgumentError
from bot.core.outbound import MessageDeletedError, Outbound, Request
from bot.core.outbound.shown import MAX_MESSAGES, Shown, digest_of
from tests.core.outbound.conftest import RetryAfter
from tests.core.outbound.test_service import GROUP, Sends, ended, start
from tests.support.clock import until_idle


@pytest.fixture
def sends(clock):
    return Sends(clock)


def edit(outbound, sends, name, content, message_id=1, method="editMessageText", chat=GROUP, **fields):
    return start(outbound, sends(name), method, chat, message_id=message_id, content=content, **fields)


async def test_an_equal_edit_is_not_sent_and_gets_the_result_of_the_one_that_was(outbound, clock, sends):
    assert await edit(outbound, sends, "first", "50 %") == "first"
    outbound.hold(GROUP, 100)
    assert await edit(outbound, sends, "second", "50 %") == "first", "even while the chat is held"
    assert await edit(outbound, sends, "third", "50 %", message_id="1") == "first"
    other = edit(outbound, sends, "other", "51 %")
    await clock.advance(150)
    assert await other == "other"
    assert sends.names == ["first", "other"]
    assert (await outbound.get_statistics())["unchanged"] == 2


@pytest.mark.parametrize(
    "change",
    [
        {"content": "60 %"}, {"content": b"50 %"}, {"content": None}, {"message_id": 2}, {"chat": -7},
        {"method": "editMessageCaption"},
    ],
)  # fmt: skip
async def test_what_is_not_equal_is_sent(outbound, sends, change):
    await edit(outbound, sends, "first", "50 %")
    assert await edit(outbound, sends, "second", **{"content": "50 %", **change}) == "second"


async def test_an_edit_back_and_forth_is_sent_each_time(outbound, clock, sends):
    for number in range(6):
        await edit(outbound, sends, number, "ab"[number % 2])
    assert sends.names == list(range(6))


@pytest.mark.parametrize("error", [ValueError("message is not modified"), TimeoutError()])
async def test_after_a_failure_it_is_unknown_what_is_shown_for_a_minute(outbound, clock, sends, error):
    await edit(outbound, sends, 0, "a")
    sends.refuse[1] = [error]
    with pytest.raises(type(error)):
        await edit(outbound, sends, 1, "b")
    for number in (2, 3):
        assert await edit(outbound, sends, number, "a") == number, "b may still take effect"
    await clock.advance(61)
    assert await edit(outbound, sends, 4, "a") == 4
    assert await edit(outbound, sends, 5, "a") == 4, "certain again"


async def test_after_a_cancelled_edit_it_is_unknown_what_is_shown(outbound, clock):
    sends = Sends(clock, latency=1.0)
    first = edit(outbound, sends, 0, "a")
    await clock.advance(1)
    assert await first == 0
    cancelled = edit(outbound, sends, 1, "b")
    await until_idle()
    cancelled.cancel()
    second = edit(outbound, sends, 2, "a")
    await clock.advance(5)
    assert await second == 2
    await ended([cancelled])


async def test_a_refused_edit_changes_nothing(outbound, clock, sends):
    await edit(outbound, sends, 0, "a")
    sends.refuse[1] = [RetryAfter(5)]
    refused = edit(outbound, sends, 1, "b", replaceable=True)
    await until_idle()
    assert await edit(outbound, sends, 2, "a", replaceable=True) == 0
    assert await refused == 0, "superseded by what is shown already"
    assert sends.names == [0]


async def test_an_edit_behind_another_is_sent_unless_it_supersedes_that(outbound, clock, sends):
    await edit(outbound, sends, 0, "a")
    outbound.hold(GROUP, 5)
    between = edit(outbound, sends, 1, "b")
    back = edit(outbound, sends, 2, "a")
    await clock.advance(6)
    assert await ended([between, back]) == [1, 2], "the last text is shown"
    outbound.hold(GROUP, 5)
    between = edit(outbound, sends, 3, "b", replaceable=True)
    await until_idle()
    assert await edit(outbound, sends, 4, "a", replaceable=True) == 2
    assert await between == 2
    assert sends.names == [0, 1, 2]
    assert (await outbound.get_statistics())["queued"] == 0


async def test_a_newer_edit_never_takes_a_place_before_an_older_one(outbound, clock, sends):
    outbound.hold(GROUP, 5)
    tasks = [
        edit(outbound, sends, 0, "a", replaceable=True),
        edit(outbound, sends, 1, "b"),
        edit(outbound, sends, 2, "c", replaceable=True),
    ]
    await clock.advance(10)
    assert sends.names == [0, 1, 2]
    sends.refuse[3] = [RetryAfter(5)]
    tasks += [
        edit(outbound, sends, 3, "d", replaceable=True),
        edit(outbound, sends, 4, "e"),
        edit(outbound, sends, 5, "f", replaceable=True),
    ]
    await clock.advance(30)
    assert sends.names[3:] == [3, 4, 5]
    assert await ended(tasks) == list(range(6))


async def test_an_edit_that_waits_for_an_equal_one_in_flight_ends_with_it(outbound, clock):
    sends = Sends(clock, latency=1.0)
    tasks = [edit(outbound, sends, number, "a") for number in range(3)]
    await clock.advance(1)
    assert await ended(tasks) == [0, 0, 0]
    assert sends.names == [0]


async def test_inline_messages_leave_side_by_side_so_nobody_knows_which_was_last(outbound, clock):
    sends = Sends(clock, latency=1.0)
    tasks = [edit(outbound, sends, n, content, "AAQ", chat=None) for n, content in enumerate("ab")]
    await clock.advance(1)
    assert await ended(tasks) == [0, 1]
    later = [edit(outbound, sends, 2, "b", "AAQ", chat=None)]
    await clock.advance(1)
    later.append(edit(outbound, sends, 3, "b", "AAQ", chat=None))
    await clock.advance(1)
    assert await ended(later) == [2, 2]


async def test_a_deleted_message_shows_nothing(outbound, clock, sends):
    await edit(outbound, sends, 0, "a")
    await outbound.call(sends("delete"), Request("deleteMessages", GROUP, message_id=(1, 2)))
    assert await edit(outbound, sends, 1, "a") == 1
    outbound.hold(GROUP, 5)
    waiting = edit(outbound, sends, 2, "b", message_id="1")
    delete = start(outbound, sends("gone"), "deleteMessage", GROUP, message_id=1)
    await clock.advance(6)
    with pytest.raises(MessageDeletedError):
        await waiting
    await delete


async def test_what_passed_while_off_is_not_known(clock, sends):
    outbound = Outbound(clock=clock)
    await outbound.enable()
    await edit(outbound, sends, 0, "a")
    await outbound.disable()
    await edit(outbound, sends, 1, "b")
    await outbound.enable()
    assert await edit(outbound, sends, 2, "a") == 2
    await outbound.enable(skip_equal_edits=False)
    assert await edit(outbound, sends, 3, "a") == 3
    await outbound.disable()


async def test_bad_content_is_an_error_that_does_not_tell_it(outbound, sends):
    with pytest.raises(InvalidArgumentError, match="content = 'dict'"):
        await outbound.call(sends("no"), Request("editMessageText", GROUP, 1, content={"text": "secret"}))
    with pytest.raises(InvalidArgumentError, match="skip_equal_edits"):
        await outbound.enable(skip_equal_edits=1)


async def test_random_edits_end_with_the_last_text_shown(clock):
    """Whatever is skipped, refused or superseded: in the end each message shows its last text."""
    import random

    chance = random.Random(5)
    outbound = Outbound(clock=clock, random_source=chance)
    await outbound.enable(drain_timeout=0.0)
    shows, wanted, sent = {}, {}, 0

    async def send(message, text):
        nonlocal sent
        sent += 1
        await clock.sleep(chance.uniform(0.0, 0.5))
        if chance.random() < 0.1:
            raise RetryAfter(chance.choice([0, 1, 3]))
        shows[message] = text
        return text

    tasks = []
    for _ in range(400):
        message = chance.choice([(-1, 1), (-1, 2), (-2, 1), (5, 1)])
        wanted[message] = text = chance.choice("abc")
        request = Request("editMessageText", *message, content=text, replaceable=chance.random() < 0.7)
        tasks.append(asyncio.ensure_future(outbound.call(lambda m=message, t=text: send(m, t), request)))
        if chance.random() < 0.5:
            await clock.advance(chance.uniform(0.0, 2.0))
            outbound.check_invariants()
    await clock.advance(4_000)
    assert all(task.done() and task.exception() is None for task in tasks)
    assert shows == wanted
    statistics = await outbound.get_statistics()
    assert statistics["unchanged"] > 10
    assert statistics["sent"] + statistics["unchanged"] + statistics["superseded"] == 400
    await outbound.disable()


def test_memory_is_bounded_and_doubt_survives_it():
    shown = Shown()
    flying = shown.left(("flying", 1))
    doubtful = shown.left(("doubtful", 1))
    shown.failed(doubtful, 100.0)
    for number in range(3 * MAX_MESSAGES):
        shown.succeeded(shown.left((number, 1)), b"x", None, 101.0)
        shown.check_invariants()
    assert len(shown) <= MAX_MESSAGES + 1
    assert ("doubtful", 1) not in shown._messages
    assert shown.equal((3 * MAX_MESSAGES - 1, 1), b"x") is None, "doubt of one that was forgotten"
    shown.succeeded(shown.left(("doubtful", 1)), b"y", None, 150.0)
    assert shown.equal(("doubtful", 1), b"y") is None
    shown.succeeded(shown.left(("doubtful", 1)), b"y", None, 161.0)
    assert shown.equal(("doubtful", 1), b"y") is not None
    shown.succeeded(flying, b"z", "result", 200.0)
    assert shown.equal(("flying", 1), b"z").result == "result"


def test_a_digest_tells_methods_and_kinds_apart():
    assert digest_of("editMessageText", "a") == digest_of("EditMessageText", "a")
    assert digest_of("editMessageText", "a") == digest_of("messages.edit_message_text", "a")
    assert digest_of("editMessageText", "a") != digest_of("editMessageText", b"a")
    assert digest_of("editMessageText", "\ud800") != digest_of("editMessageText", "?")
