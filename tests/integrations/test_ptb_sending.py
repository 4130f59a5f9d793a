"""What a bot of python-telegram-bot sends, over HTTP to a server with Telegram's limits.

Named after what its AIORateLimiter and other limiters get wrong. Minutes pass on a fast event loop.
"""

import asyncio
import datetime
import io
import logging
import random
import subprocess
import sys
from collections import Counter
from contextlib import asynccontextmanager

import pytest
import telegram
from telegram.error import BadRequest, ChatMigrated, RetryAfter
from telegram.ext import ExtBot
from telegram.request import HTTPXRequest

from bot.core._shared.errors import InvalidArgumentError
from bot.core.outbound import Limits, MessageDeletedError, Outbound, OutboundDeadlineError, Priority, sending
from bot.integrations import ptb
from bot.testing import fast_loop
from bot.testing.telegram import ServerLimits, TelegramServer

GROUP, OTHER_GROUP, USER = -100, -200, 42


def make_bot(server, limiter, token=None):
    return ExtBot(
        token or server.token,
        base_url=server.base_url,
        base_file_url=server.base_file_url,
        request=HTTPXRequest(connection_pool_size=256),
        rate_limiter=limiter,
    )


@asynccontextmanager
async def running(limits=None, server_limits=None, **settings):
    """(server, bot, outbound), with the services' time that of the loop."""
    loop = asyncio.get_running_loop()
    clock = getattr(loop, "clock", None) or fast_loop.LoopClock(loop)
    outbound = Outbound(clock=clock)
    await outbound.enable(limits, **settings)
    async with TelegramServer(limits=server_limits) as server:
        async with make_bot(server, ptb.Phase4RateLimiter(outbound)) as bot:
            yield server, bot, outbound
        outbound.check_invariants()
        await outbound.disable()


def on_fast_loop(story):
    """A test of minutes, run within seconds."""

    def test():
        fast_loop.run(story())

    test.__name__ = story.__name__
    return test


def now():
    return asyncio.get_running_loop().time()


# Limits that hold.


@on_fast_loop
async def test_a_group_never_gets_more_than_20_messages_in_any_minute():
    async with running() as (server, bot, _):
        began = now()

        async def write():
            while now() - began < 600:
                await bot.send_message(GROUP, "Привет")
                await asyncio.sleep(random.uniform(0, 3))

        await asyncio.gather(*(write() for _ in range(8)))
        assert server.log.most_in_window(GROUP, 60.0) == 20
        assert server.log.refused() == []
        assert len(server.log.of("sendMessage", chat=GROUP)) >= 200


@on_fast_loop
async def test_a_private_chat_gets_one_message_a_second_after_a_short_burst():
    async with running() as (server, bot, outbound):
        await asyncio.gather(*(bot.send_message(USER, str(index)) for index in range(30)))
        assert server.texts(USER) == [str(index) for index in range(30)]
        assert server.log.refused() == []
        burst = outbound._limits.chat_burst
        sent = [call.time for call in server.log.of("sendMessage")]
        assert all(
            later - earlier >= 1.0 for earlier, later in zip(sent[burst:], sent[burst + 1 :], strict=False)
        )


@on_fast_loop
async def test_answers_do_not_wait_for_a_broadcast():
    async with running() as (server, bot, _):
        async with asyncio.TaskGroup() as group:
            for chat in range(1_000, 1_400):
                group.create_task(
                    bot.send_message(chat, "news", rate_limit_args=ptb.RateLimitArgs(Priority.BROADCAST))
                )
            await server.until(lambda: len(server.log) > 100)
            answered = []
            for chat in range(1, 4):
                before = len(server.log)
                await bot.send_message(chat, "yes", rate_limit_args=ptb.RateLimitArgs(Priority.ANSWER))
                answered.append(len(server.log) - before)
        # None of the hundreds that wait went before it, but what had left already.
        assert max(answered) <= 35
        assert server.log.refused() == []
        assert server.log.most_in_window(None, 1.0) <= 30


@on_fast_loop
async def test_albums_and_forwards_cost_their_messages():
    async with running() as (server, bot, _):
        photo = telegram.InputMediaPhoto(b"bytes", filename="p.png")
        for _ in range(12):
            await bot.send_media_group(GROUP, [photo] * 5)
        ids = [message["message_id"] for message in server.messages(GROUP)][:10]
        for _ in range(4):
            await bot.forward_messages(GROUP, GROUP, ids)
        assert server.log.most_in_window(GROUP, 60.0) == 20
        assert server.log.refused() == []


@on_fast_loop
async def test_two_bots_of_one_process_have_two_budgets():
    loop = asyncio.get_running_loop()
    Outbound._instances[Outbound] = main = Outbound(clock=loop.clock)
    await main.enable(Limits(group=(5, 60.0)))
    async with TelegramServer() as server:
        second = server.add_bot()
        limiters = [ptb.Phase4RateLimiter(), ptb.Phase4RateLimiter()]
        async with (
            make_bot(server, limiters[0]) as one,
            make_bot(server, limiters[1], second.token) as other,
        ):
            began = now()
            await asyncio.gather(*(bot.send_message(GROUP, "x") for bot in (one, other) for _ in range(5)))
            assert now() - began < 60
            await asyncio.gather(*(bot.send_message(GROUP, "x") for bot in (one, other)))
            assert now() - began >= 60
            for account in (server.bot(), second):
                assert server.log.most_in_window(GROUP, 60.0, bot=account.id) == 5
            assert (await main.get_statistics())["sent"] == 6
    assert main.enabled
    await main.disable()


# Refusals.


@on_fast_loop
async def test_a_refusal_with_many_in_flight_holds_that_chat_and_nobody_else():
    """AIORateLimiter lifts its halt as soon as a request that was in flight ends, and halts every chat."""
    # Private chats under one bulk limit that the library is not told of; so 50 are in flight at once.
    limits = Limits(chat_burst=1_000, chat=(1_000, 1.0), bulk=(1_000, 1.0))
    async with running(limits, ServerLimits(chat_burst=1_000, bulk=(1_000, 1.0))) as (server, bot, outbound):
        server.delay = 0.2
        server.penalize(USER, 30)
        others = range(1_000, 1_050)
        await asyncio.gather(
            *(bot.send_message(USER, str(index)) for index in range(50)),
            *(bot.send_message(chat, "hello") for chat in others),
        )
        assert [call.done for call in server.log.of(chat=USER)].count(0) == 1  # one chat: one at a time
        assert server.log.in_penalties(USER)[1:] == []
        assert server.texts(USER) == [str(index) for index in range(50)]
        refused_at = server.log.refused(USER)[0].time
        assert all(call.time - refused_at < 1 for chat in others for call in server.log.of(chat=chat))
        assert (await outbound.get_statistics())["refusals_global"] == 0


@on_fast_loop
async def test_with_many_chats_in_flight_at_a_global_penalty_no_more_than_those_are_refused():
    """python-telegram-bot #5338: 20 refused instead of 2."""
    wide = ServerLimits(bulk=(1_000, 1.0))
    async with running(Limits(bulk=(1_000, 1.0)), wide) as (server, bot, _outbound):
        server.delay = 0.2
        server.penalize(None, 30)
        sends = [asyncio.ensure_future(bot.send_message(chat, "hello")) for chat in range(1, 201)]
        await asyncio.gather(*sends)
        refused = server.log.refused()
        # 90 are in flight when the first answer comes; the third one shows that all chats are meant.
        assert 90 <= len(refused) <= 92
        assert refused[-1].time < refused[0].time + 0.25
        assert [call for call in server.log if 0.25 < call.time - refused[0].time < 30] == []
        assert sum(call.done for call in server.log.of("sendMessage")) == 200


@pytest.mark.parametrize("kind", ["int", "timedelta"])
def test_retry_after_may_be_a_timedelta(kind, monkeypatch):
    monkeypatch.setenv("PTB_TIMEDELTA", "1" if kind == "timedelta" else "0")

    async def story():
        async with running() as (server, bot, _):
            server.fail("sendMessage", code=429, retry_after=17)
            began = now()
            await bot.send_message(USER, "hello")
            assert 17 <= now() - began < 20
            assert server.texts(USER) == ["hello"]
            server.fail("sendMessage", code=429, retry_after=100_000)
            with pytest.raises(RetryAfter) as raised:
                await bot.send_message(USER, "hello")
            assert isinstance(raised.value.retry_after, datetime.timedelta if kind == "timedelta" else int)

    fast_loop.run(story())


@on_fast_loop
async def test_a_429_that_tells_no_wait_is_one():
    async with running() as (server, bot, _):
        server.fail("sendMessage", code=429, description="Too Many Requests")
        await bot.send_message(USER, "hello")
        assert [call.code for call in server.log.of("sendMessage")] == [429, 200]


@on_fast_loop
async def test_an_album_is_repeated_after_it_was_refused_whole_but_never_after_a_part_was_sent():
    photo = telegram.InputMediaPhoto(b"bytes", filename="p.png")
    for partial in (False, True):
        limits = ServerLimits(group=(5, 60.0), partial_albums=partial)
        async with running(server_limits=limits) as (server, bot, _outbound):
            await asyncio.gather(*(bot.send_message(GROUP, "x") for _ in range(3)))
            album = bot.send_media_group(GROUP, [photo] * 4)
            if partial:
                with pytest.raises(BadRequest, match="retry after"):
                    await album
            else:
                assert len(await album) == 4
            codes = [call.code for call in server.log.of("sendMediaGroup")]
            assert codes == ([400] if partial else [429, 200])
            began = now()
            await bot.send_message(GROUP, "later")
            assert not partial or now() - began > 50  # its refusal holds the chat all the same
            assert server.log.in_penalties() == []


@on_fast_loop
async def test_files_are_sent_anew_from_their_beginning():
    class Pipe(io.RawIOBase):
        """What cannot be read twice."""

        def __init__(self):
            self._left = [b"stream"]

        def readable(self):
            return True

        def read(self, size=-1):
            return self._left.pop() if self._left else b""

    def sizes():
        return [call.parameters["document"]["bytes"] for call in server.log.of("sendDocument")]

    async with running() as (server, bot, _outbound):
        server.fail("sendDocument", code=429, retry_after=5)
        handle = telegram.InputFile(io.BytesIO(b"x" * 100_000), filename="a", read_file_handle=False)
        await bot.send_document(USER, handle)
        assert sizes() == [100_000, 100_000]
        server.log.clear()
        server.fail("sendDocument", code=429, retry_after=5)
        stream = telegram.InputFile(Pipe(), filename="b", read_file_handle=False)
        with pytest.raises(RetryAfter):
            await bot.send_document(USER, stream)
        assert sizes() == [6]
        # And the chat is held.
        began = now()
        await bot.send_message(USER, "later")
        assert now() - began >= 5


@on_fast_loop
async def test_a_wait_for_a_method_that_concerns_no_chat_holds_that_method_alone():
    """setMyName is refused for a day at a time; no message may wait for that."""
    async with running() as (server, bot, _outbound):
        for method in ("setMyName", "setMyDescription", "setMyShortDescription", "setMyCommands"):
            server.fail(method, code=429, retry_after=86_400)
        for change in (bot.set_my_name, bot.set_my_description, bot.set_my_short_description):
            with pytest.raises(RetryAfter):
                await change("x")
        began = now()
        await bot.send_message(USER, "hello")
        assert now() - began < 1
        server.fail("setMyCommands", code=429, retry_after=3, times=2)
        with pytest.raises(RetryAfter):
            await bot.set_my_commands([("a", "b")])
        server.fail("getMyCommands", code=429, retry_after=3, times=2)
        assert await bot.get_my_commands() == ()
        assert now() - began >= 6


@on_fast_loop
async def test_a_group_that_became_a_supergroup_is_told_as_the_framework_does():
    async with running() as (server, bot, _outbound):
        await bot.send_message(GROUP, "before")
        server.migrate(GROUP, -1001)
        with pytest.raises(ChatMigrated) as raised:
            await bot.send_message(GROUP, "after")
        await bot.send_message(raised.value.new_chat_id, "after")
        assert len(server.log.of("sendMessage")) == 3


@on_fast_loop
async def test_answers_to_queries_are_never_queued():
    async with running() as (server, bot, _outbound):
        server.results["answerCallbackQuery"] = True
        server.penalize(None, 60)
        sends = asyncio.ensure_future(bot.send_message(USER, "x"))
        await server.until(server.log.refused)
        began = now()
        await bot.answer_callback_query("query")
        server.fail("answerCallbackQuery", code=429, retry_after=7)
        with pytest.raises(RetryAfter):
            await bot.answer_callback_query("query")
        await bot.answer_callback_query("query")
        await bot.get_me()
        assert now() - began < 1
        await sends


# Edits and chat actions.


@on_fast_loop
async def test_edits_that_are_superseded_while_they_wait_are_never_sent():
    async with running() as (server, bot, _outbound):
        message = await bot.send_message(GROUP, "0 %")
        await asyncio.gather(
            *(bot.edit_message_text(f"{percent} %", GROUP, message.message_id) for percent in range(1, 101))
        )
        assert server.texts(GROUP) == ["100 %"]
        assert len(server.log.of("editMessageText")) <= 20
        assert server.log.refused() == []
        # Nor is one to what it shows already; and what the caller gets is the message.
        edited = await bot.edit_message_text("100 %", GROUP, message.message_id)
        assert edited.text == "100 %"
        # Each frame, for those who want them all.
        before = len(server.log.of("editMessageText"))
        every = ptb.RateLimitArgs(replaceable=False)
        await asyncio.gather(
            *(
                bot.edit_message_text(f"frame {index}", GROUP, message.message_id, rate_limit_args=every)
                for index in range(30)
            )
        )
        assert len(server.log.of("editMessageText")) - before == 30


@on_fast_loop
async def test_a_deleted_message_is_not_edited_any_more():
    async with running() as (server, bot, outbound):
        message = await bot.send_message(USER, "x")
        outbound.hold(USER, 30)
        edit = asyncio.ensure_future(bot.edit_message_text("y", USER, message.message_id))
        await asyncio.sleep(1)
        delete = asyncio.ensure_future(bot.delete_message(USER, message.message_id))
        with pytest.raises(MessageDeletedError):
            await edit
        assert await delete
        assert server.log.of("editMessageText") == []


@on_fast_loop
async def test_chat_actions_have_limits_of_their_own_and_topics_show_each_their_own():
    async with running() as (server, bot, outbound):
        began = now()
        while now() - began < 60:
            await bot.send_chat_action(GROUP, "typing")
        assert server.log.refused() == []
        server.log.clear()
        outbound.hold(GROUP, 10)
        await asyncio.gather(
            *(
                bot.send_chat_action(GROUP, "typing", message_thread_id=topic)
                for topic in (1, 2)
                for _ in range(5)
            )
        )
        topics = Counter(call.parameters["message_thread_id"] for call in server.log.of("sendChatAction"))
        assert sorted(topics.values()) == [1, 1]


# What callers say.


@on_fast_loop
async def test_priority_and_deadline_of_a_call():
    async with running() as (server, bot, outbound):
        outbound.hold(USER, 10)
        with pytest.raises(OutboundDeadlineError):
            await bot.send_message(USER, "late", rate_limit_args=ptb.RateLimitArgs(deadline=5))
        outbound.hold(None, 30)
        sent = []
        for name, priority in (("broadcast", Priority.BROADCAST), ("answer", Priority.ANSWER)):
            args = ptb.RateLimitArgs(priority)
            task = asyncio.ensure_future(bot.send_message(len(name), name, rate_limit_args=args))
            task.add_done_callback(lambda _, name=name: sent.append(name))
        with sending(Priority.STATUS):
            await bot.send_message(9_000, "status")
        await server.until(lambda: len(server.log.of("sendMessage")) == 3)
        order = [call.parameters["text"] for call in server.log.of("sendMessage")]
        assert order == ["answer", "status", "broadcast"]


@on_fast_loop
async def test_paid_broadcasts_have_a_limit_of_their_own():
    async with running() as (server, bot, _outbound):
        began = now()
        await asyncio.gather(
            *(bot.send_message(chat, "x", allow_paid_broadcast=True) for chat in range(1_000, 1_500))
        )
        assert now() - began < 5
        assert server.log.refused() == []


@pytest.mark.parametrize("args", [3, 1.5, "fast", Priority.BROADCAST, {"priority": Priority.ANSWER}])
async def test_other_arguments_are_refused_where_they_enter(args):
    async with running() as (server, bot, _):
        with pytest.raises(InvalidArgumentError, match=r"rate_limit_args = .*: expected a RateLimitArgs"):
            await bot.send_message(USER, "x", rate_limit_args=args)
        assert server.log.of("sendMessage") == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"priority": 7}, "priority"),
        ({"priority": True}, "priority"),
        ({"deadline": -1}, "deadline"),
        ({"deadline": "soon"}, "deadline"),
        ({"replaceable": None}, "replaceable"),
    ],
)
def test_rate_limit_args_are_checked(arguments, named):
    with pytest.raises(InvalidArgumentError, match=named):
        ptb.RateLimitArgs(**arguments)


def test_a_limiter_takes_an_outbound_and_nothing_else():
    with pytest.raises(InvalidArgumentError, match="outbound"):
        ptb.Phase4RateLimiter(30)


# Switched off, cancelled, on another loop.


async def test_while_outbound_is_off_everything_passes_through():
    async with TelegramServer() as server, make_bot(server, ptb.Phase4RateLimiter()) as bot:
        server.fail("sendMessage", code=429, retry_after=5)
        with pytest.raises(RetryAfter):
            await bot.send_message(USER, "x")
        await bot.send_message(USER, "x", rate_limit_args=ptb.RateLimitArgs())
        assert len(server.log.of("sendMessage")) == 2


@pytest.mark.server
def test_the_adapter_imports_no_service():
    code = (
        "import sys, bot.integrations.ptb as ptb; ptb.Phase4RateLimiter(); ptb.ThrottledUpdates();"
        "print([name for name in sys.modules if name.startswith('bot.core.') and not name.startswith("
        "('bot.core._shared', 'bot.core.phase4_service', 'bot.core.phase4_statistics'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@on_fast_loop
async def test_order_holds_through_refusals_and_random_cancellations():
    chance = random.Random(7)
    async with running(max_in_flight=10) as (server, bot, outbound):
        server.delay = lambda method: chance.uniform(0, 0.5)
        server.fail("sendMessage", code=429, retry_after=3, times=10)
        tasks = []
        for index in range(300):
            chat = 1 + index % 5
            tasks.append(asyncio.ensure_future(bot.send_message(chat, str(index))))
            if chance.random() < 0.3:
                await asyncio.sleep(chance.uniform(0, 0.3))
                chance.choice(tasks).cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        failed = [one for one in outcomes if isinstance(one, Exception)]
        assert failed == []
        for chat in range(1, 6):
            numbers = [int(text) for text in server.texts(chat)]
            assert numbers == sorted(set(numbers))
        statistics = await outbound.get_statistics()
        assert (statistics["in_flight"], statistics["queued"]) == (0, 0)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_on_every_event_loop(loop):
    """Windows of half a second, on the loop's own time."""
    uvloop = pytest.importorskip("uvloop") if loop == "uvloop" else None

    async def story():
        ours = Limits(group=(20, 0.5), chat=(1, 0.02), bulk=(1_000, 1.0))
        telegrams = ServerLimits(group=(20, 0.5), chat=(1, 0.02), bulk=(1_000, 1.0))
        async with running(ours, telegrams) as (server, bot, _):
            await asyncio.gather(
                *(bot.send_message(GROUP, str(index)) for index in range(110)),
                *(bot.send_message(USER, str(index)) for index in range(50)),
                bot.send_message(OTHER_GROUP, "alone"),
            )
            assert server.log.refused() == []
            assert server.log.most_in_window(GROUP, 0.5) <= 20
            for chat, count in ((GROUP, 110), (USER, 50)):
                assert server.texts(chat) == [str(index) for index in range(count)]
            server.fail("sendMessage", chat=GROUP, code=429, retry_after=1)
            await bot.send_message(GROUP, "again")
            assert [call.code for call in server.log.of(chat=GROUP)][-2:] == [429, 200]

    with asyncio.Runner(loop_factory=None if uvloop is None else uvloop.new_event_loop) as runner:
        runner.run(story())


@on_fast_loop
async def test_no_token_is_told():
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logging.getLogger("bot").addHandler(handler)
    try:
        async with running() as (server, bot, outbound):
            server.fail("sendMessage", code=429, retry_after=3)
            await bot.send_message(USER, "x")
            told = " ".join(records) + str(await outbound.get_statistics())
            assert "refused" in told
            assert server.token.partition(":")[2] not in told
    finally:
        logging.getLogger("bot").removeHandler(handler)
