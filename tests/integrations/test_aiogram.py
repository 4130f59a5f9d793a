"""aiogram bots over real HTTP against the test server; minutes pass in virtual time."""

import asyncio
import contextlib
import math
import os
import random

import pytest
import uvloop
from aiogram import Bot, Dispatcher, F
from aiogram.client.default import DefaultBotProperties
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.exceptions import TelegramRetryAfter
from aiogram.methods import SendMessage
from aiogram.types import BufferedInputFile, FSInputFile, InputFile, InputMediaPhoto
from aiogram.webhook.aiohttp_server import SimpleRequestHandler, setup_application
from aiohttp import web

from bot.core._shared.errors import InvalidArgumentError, MisuseError
from bot.core.enhanced_startup_phase4 import phase4_loop, shutdown_phase4_services
from bot.core.outbound import Limits, Outbound, Priority, sending
from bot.core.query_optimizer import QueryOptimizer
from bot.core.rate_limiter import RateLimitConfig, RateLimiter, UnknownTierError
from bot.integrations import aiogram as phase4
from bot.integrations.services import running_limiter, running_outbound
from bot.testing import fast_loop
from bot.testing.telegram import ServerLimits, TelegramServer

GROUP, USER = -100, 42
QUEUED = int(os.environ.get("PHASE4_TEST_QUEUED") or 1_000)
"""Broadcasts that wait while answers come."""
ON = {"ENABLE_OUTBOUND": True, "ENABLE_RATE_LIMITER": True, "ENABLE_QUERY_OPTIMIZER": False}


def bot_of(server, token=None, **options):
    session = AiohttpSession(api=TelegramAPIServer.from_base(server.url))
    return Bot(token or server.token, session=session, **options)


@contextlib.asynccontextmanager
async def sending_bot(server, limits=None, token=None, **options):
    """A bot that sends through an Outbound on the running loop's clock."""
    outbound = Outbound(clock=asyncio.get_running_loop().clock)
    await outbound.enable(limits, drain_timeout=0.0, **options)
    async with bot_of(server, token).context() as bot:
        phase4.setup(None, bot, outbound=outbound)
        yield bot, outbound
    await outbound.disable()
    outbound.check_invariants()


@contextlib.asynccontextmanager
async def polling(dispatcher, *bots):
    task = asyncio.create_task(dispatcher.start_polling(*bots, handle_signals=False, polling_timeout=1))
    try:
        yield
    finally:
        with contextlib.suppress(RuntimeError):
            await dispatcher.stop_polling()
        await task


@pytest.fixture(autouse=True)
async def stopped():
    yield
    await shutdown_phase4_services()


# Sending.


def test_a_group_gets_never_more_than_20_in_a_minute_and_nothing_is_refused():
    """150 messages at once, 8 minutes; every window of 60 s of the server's clock is looked at."""

    async def main():
        async with TelegramServer() as server, sending_bot(server) as (bot, _):
            await asyncio.gather(*(bot.send_message(GROUP, str(number)) for number in range(150)))
            assert server.log.refused() == []
            assert server.log.most_in_window(GROUP, 60) == 20
            assert server.texts(GROUP) == [str(number) for number in range(150)]

    fast_loop.run(main())


def test_many_chats_stay_within_all_limits_together():
    async def main():
        async with TelegramServer() as server, sending_bot(server) as (bot, _):
            server.delay = 0.05
            chats = [*range(1, 101), *range(-20, 0)]
            await asyncio.gather(*(bot.send_message(chat, str(n)) for n in range(5) for chat in chats))
            assert server.log.refused() == []
            assert server.log.most_in_window(None, 1) <= 30
            assert all(server.texts(chat) == list("01234") for chat in chats)

    fast_loop.run(main())


def test_a_group_that_is_written_to_for_ten_minutes_gets_never_more_than_20_in_a_minute():
    """Eight tasks, with pauses now and then: bursts meet windows at any point."""
    chance = random.Random(1)

    async def main():
        loop = asyncio.get_running_loop()
        async with TelegramServer() as server, sending_bot(server) as (bot, _):
            server.delay = 0.05
            end = loop.time() + 600

            async def write():
                while loop.time() < end:
                    await bot.send_message(GROUP, "text")
                    await asyncio.sleep(chance.choice((0.0, 0.0, 1.0, 45.0)))

            await asyncio.gather(*(write() for _ in range(8)))
            assert server.log.refused() == []
            assert server.log.most_in_window(GROUP, 60) == 20
            assert len(server.texts(GROUP)) >= 200

    fast_loop.run(main())


def p99(waits):
    return sorted(waits)[math.ceil(0.99 * len(waits)) - 1]


def test_one_group_held_for_41_s_makes_the_others_p99_rise_by_less_than_50_ms():
    async def main():
        loop = asyncio.get_running_loop()
        async with TelegramServer() as server, sending_bot(server) as (bot, _):
            server.delay = 0.05

            async def timed(chat):
                began = loop.time()
                await bot.send_message(chat, "x")
                return loop.time() - began

            async def minute():
                tasks = []
                for number in range(120):
                    tasks.append(asyncio.create_task(timed(-200 if number % 10 == 0 else 1 + number % 40)))
                    await asyncio.sleep(0.5)
                return p99(await asyncio.gather(*tasks))

            before = await minute()
            server.penalize(GROUP, 41)
            held = [asyncio.create_task(bot.send_message(GROUP, str(number))) for number in range(22)]
            during = await minute()
            assert during - before < 0.05
            await asyncio.gather(*held)
            assert len(server.log.in_penalties()) == 1, "the one that learnt of it"
            assert len(server.log.refused()) == 1
            assert server.texts(GROUP) == [str(number) for number in range(22)]

    fast_loop.run(main())


def test_a_refusal_is_waited_for_and_nothing_is_sent_into_the_penalty():
    async def main():
        loop = asyncio.get_running_loop()
        async with TelegramServer() as server, sending_bot(server) as (bot, _):
            server.penalize(GROUP, 41)
            began = loop.time()
            sends = [asyncio.create_task(bot.send_message(GROUP, str(number))) for number in range(5)]
            await server.until(lambda: server.log.refused())
            await bot.send_message(-200, "others are not held")
            assert loop.time() - began < 1.0
            await asyncio.gather(*sends)
            assert 41 <= loop.time() - began < 50
            # The server held the chat before the bot knew: the one request that learnt of it.
            assert len(server.log.in_penalties()) == 1
            assert server.texts(GROUP) == list("01234")

    fast_loop.run(main())


def test_with_fifty_in_flight_when_the_refusal_lands_nothing_is_sent_into_the_penalty():
    """Fifty questions about one group are under way at once; the first is refused for 30 s."""

    async def main():
        loop = asyncio.get_running_loop()
        async with TelegramServer() as server, sending_bot(server) as (bot, outbound):
            server.delay = 0.5
            server.fail("getChat", code=429, retry_after=30)
            began = loop.time()
            asked = [asyncio.create_task(bot.get_chat(GROUP)) for _ in range(50)]
            await asyncio.sleep(0.3)
            assert (await outbound.get_statistics())["in_flight"] == 50
            assert len(server.log.of("getChat")) == 50
            queued = [asyncio.create_task(bot.send_message(GROUP, "queued"))]
            await server.until(lambda: server.log.refused() and asked[-1].done())
            told = loop.time()
            assert told - began < 2.0
            queued += [asyncio.create_task(bot.send_message(GROUP, "new")) for _ in range(10)]
            queued.append(asyncio.create_task(bot.send_chat_action(GROUP, "typing")))
            await bot.send_message(USER, "another chat is not held")
            assert loop.time() - told < 1.0
            await asyncio.gather(*asked, *queued)
            late = [call for call in server.log if call.chat == GROUP and told < call.time < told + 29.0]
            assert late == []
            assert len(server.log.of("getChat")) == 51
            assert server.log.refused(USER) == []

    fast_loop.run(main())


def test_requests_that_wait_behind_a_refused_one_are_not_sent_into_the_penalty():
    async def main():
        loop = asyncio.get_running_loop()
        limits = Limits(chat_burst=100)
        async with TelegramServer() as server, sending_bot(server, limits) as (bot, _):
            server.delay = 0.5
            told_at = []

            async def send(chat, number):
                await bot.send_message(chat, str(number))

            server.penalize(USER, 30)
            tasks = [asyncio.create_task(send(USER, number)) for number in range(50)]
            await server.until(lambda: server.log.refused(USER))
            told_at.append(loop.time() + 0.5)
            await asyncio.gather(*tasks)
            late = [call for call in server.log.in_penalties(USER) if call.time > told_at[0]]
            assert late == []
            assert server.texts(USER) == [str(number) for number in range(50)]

    fast_loop.run(main())


async def _edit(message, text):
    return await message.edit_text(text)


def test_edits_that_wait_are_superseded_and_the_last_text_is_shown():
    """Ten status messages in one group, each edited every second for two minutes."""

    async def main():
        async with TelegramServer() as server, sending_bot(server) as (bot, outbound):
            with sending(Priority.STATUS):
                messages = [await bot.send_message(GROUP, "0") for _ in range(10)]
                edits = []
                for second in range(1, 121):
                    edits += [asyncio.ensure_future(_edit(m, f"{second}")) for m in messages]
                    await asyncio.sleep(1)
                results = await asyncio.gather(*edits)
            assert server.texts(GROUP) == ["120"] * 10
            assert server.log.refused() == []
            assert server.log.most_in_window(GROUP, 60) <= 20
            assert all(message.text for message in results)
            assert (await outbound.get_statistics())["superseded"] > 1_000

    fast_loop.run(main())


def test_200_chats_with_an_edit_a_second_each_show_their_last_text():
    seconds = 30

    async def main():
        async with TelegramServer() as server, sending_bot(server) as (bot, outbound):
            chats = [*range(1, 101), *range(-100, 0)]
            with sending(Priority.STATUS):
                messages = await asyncio.gather(*(bot.send_message(chat, "0") for chat in chats))
                edits = []
                for second in range(1, seconds + 1):
                    edits += [asyncio.ensure_future(_edit(message, str(second))) for message in messages]
                    await asyncio.sleep(1)
                results = await asyncio.gather(*edits)
            assert len(results) == seconds * 200
            assert all(server.texts(chat) == [str(seconds)] for chat in chats)
            assert server.log.refused() == []
            assert server.log.most_in_window(None, 1) <= 30
            assert all(server.log.most_in_window(chat, 60) <= 20 for chat in chats[100:])
            figures = await outbound.get_statistics()
            sent = len(server.log.of("editMessageText"))
            assert sent + figures["superseded"] == seconds * 200
            print(f"{figures['superseded'] / len(results):.1%} of {len(results):,} edits were superseded")

    fast_loop.run(main())


def test_order_per_chat_holds_through_retries_and_1000_random_cancellations():
    chance = random.Random(5)

    async def main():
        wide = Limits(group=(1_000, 1.0), bulk=(10_000, 1.0), chat_burst=1_000, chat=(1_000, 1.0))
        limits = ServerLimits(group=(1_000, 1.0), bulk=(10_000, 1.0), chat_burst=1_000, chat=(1_000, 1.0))
        async with TelegramServer(limits=limits) as server:  # noqa: SIM117
            async with sending_bot(server, wide, max_in_flight=20) as (bot, outbound):
                server.delay = 0.01
                chats = [-1, -2, -3, 1, 2, 3]
                tasks = {}
                for number in range(2_000):
                    chat = chance.choice(chats)
                    tasks[number] = asyncio.create_task(bot.send_message(chat, str(number)))
                doomed = chance.sample(sorted(tasks), 1_000)
                for index, number in enumerate(doomed):
                    if index % 100 == 0:
                        server.penalize(chance.choice(chats), 2)
                    if index % 5 == 0:
                        await asyncio.sleep(0.01)
                    tasks[number].cancel()
                results = await asyncio.gather(*tasks.values(), return_exceptions=True)
                failures = [each for each in results if isinstance(each, Exception)]
                assert failures == []
                figures = await outbound.get_statistics()
                assert (figures["in_flight"], figures["queued"]) == (0, 0), "no slot is lost"
                assert figures["refusals"] > 0
                assert figures["cancelled"] > 500
                for chat in chats:
                    numbers = [int(text) for text in server.texts(chat)]
                    assert numbers == sorted(numbers), "in order"
                got = {int(text) for chat in chats for text in server.texts(chat)}
                assert set(tasks) - set(doomed) <= got, "none of the others is missed"

    fast_loop.run(main())


def test_an_edit_to_what_is_shown_is_not_sent():
    async def main():
        async with TelegramServer() as server, sending_bot(server) as (bot, _):
            message = await bot.send_message(USER, "x")
            for _ in range(3):
                await message.edit_text("<b>y</b>", parse_mode="HTML")
            assert len(server.log.of("editMessageText")) == 1

    fast_loop.run(main())


def test_behind_thousands_of_broadcasts_an_answers_p99_is_under_100_ms():
    """The server refuses the 31st message of any second."""

    async def main():
        loop = asyncio.get_running_loop()
        server, sends = TelegramServer(), []
        async with server, sending_bot(server, max_pending=2 * QUEUED) as (bot, outbound):
            dispatcher, took = Dispatcher(), []

            @dispatcher.message()
            async def on_message(message):
                began = loop.time()
                await message.answer("pong")
                took.append(loop.time() - began)

            phase4.setup(dispatcher, bot, outbound=outbound, services=False)
            with sending(Priority.BROADCAST):
                sends += [
                    asyncio.create_task(bot.send_message(user, "news")) for user in range(1, QUEUED + 1)
                ]
            await asyncio.sleep(2)
            number = 50 if QUEUED < 5_000 else 100
            for user in range(50_000, 50_000 + number):
                update = server.send_message(user, text="ping")
                await dispatcher.feed_raw_update(bot, {"update_id": user, "message": update})
                await asyncio.sleep(0.4)
            assert len(took) == number
            assert p99(took) < 0.1
            assert (await outbound.get_statistics())["queued"] > 0, "they were queued all the time"
            await asyncio.gather(*sends)
            assert server.log.refused() == []
            assert len(server.log.of("sendMessage")) == QUEUED + number

    fast_loop.run(main())


def test_a_broadcast_sent_by_a_handler_is_no_answer():
    async def main():
        limits = ServerLimits(chat_burst=100)
        async with TelegramServer(limits=limits) as server, sending_bot(server) as (bot, outbound):
            dispatcher = Dispatcher()

            @dispatcher.message()
            async def on_message(message):
                await asyncio.gather(*(bot.send_message(user, "news") for user in range(1_000, 1_200)))
                await message.answer("done")

            phase4.setup(dispatcher, bot, outbound=outbound, services=False)
            update = server.send_message(USER, text="/broadcast")
            await dispatcher.feed_raw_update(bot, {"update_id": 1, "message": update})
            assert server.log.refused() == []
            assert server.log.most_in_window(None, 1) <= 30

    fast_loop.run(main())


def test_two_bots_have_two_budgets():
    async def main():
        loop = asyncio.get_running_loop()
        async with TelegramServer() as server, sending_bot(server) as (one, outbound):  # noqa: SIM117
            async with bot_of(server, server.add_bot().token).context() as two:
                connected = phase4.setup(None, one, two, outbound=outbound)
                began = loop.time()
                await asyncio.gather(*(bot.send_message(GROUP, "x") for bot in (one, two) for _ in range(20)))
                assert loop.time() - began < 3.0
                assert server.log.refused() == []
                await one.send_message(USER, "x")
                assert len({call.bot for call in server.log}) == 2
                connected.remove()
                await connected._stop()

    fast_loop.run(main())


def test_bots_that_share_a_session_are_told_apart():
    async def main():
        async with TelegramServer() as server, sending_bot(server) as (one, outbound):
            two = Bot(server.add_bot().token, session=one.session)
            connected = phase4.setup(None, one, two, outbound=outbound)
            await asyncio.gather(*(bot.send_message(GROUP, "x") for bot in (one, two) for _ in range(20)))
            assert server.log.refused() == []
            assert (await outbound.get_statistics())["sent"] == 20
            await connected._stop()

    fast_loop.run(main())


def test_albums_and_copies_cost_their_messages():
    async def main():
        async with TelegramServer() as server, sending_bot(server) as (bot, _):
            media = [InputMediaPhoto(media=BufferedInputFile(b"%d" % n, "x.jpg")) for n in range(7)]
            for _ in range(6):
                await bot.send_media_group(GROUP, media)
            await bot.copy_messages(GROUP, GROUP, list(range(1, 11)))
            assert server.log.refused() == []
            assert server.log.most_in_window(GROUP, 60) <= 20
            assert len(server.messages(GROUP)) == 52

    fast_loop.run(main())


def test_an_album_that_was_sent_in_part_is_not_repeated():
    async def main():
        limits = Limits(group=(100, 60.0))
        async with TelegramServer() as server, sending_bot(server, limits) as (bot, _):
            media = [InputMediaPhoto(media=BufferedInputFile(b"%d" % n, "x.jpg")) for n in range(8)]
            await bot.send_media_group(GROUP, media)
            await bot.send_media_group(GROUP, media)
            with pytest.raises(Exception, match="failed to send message #5"):
                await bot.send_media_group(GROUP, media)
            assert len(server.messages(GROUP)) == 20
            await bot.send_message(GROUP, "after the wait")
            assert len(server.log.refused()) == 1

    fast_loop.run(main())


class Stream(InputFile):
    """What can be read once, such as a download that is under way."""

    def __init__(self, repeatable=None):
        super().__init__("stream.bin")
        self.reads = 0
        if repeatable is not None:
            self.repeatable = repeatable

    async def read(self, bot):
        self.reads += 1
        yield b"content"


def test_uploads_are_repeated_only_if_they_can_be_read_again(tmp_path):
    (tmp_path / "f.bin").write_bytes(b"content")

    async def main():
        loop = asyncio.get_running_loop()
        async with TelegramServer() as server, sending_bot(server) as (bot, outbound):
            uploads = [BufferedInputFile(b"content", "b.bin"), FSInputFile(tmp_path / "f.bin"), Stream(True)]
            for user, upload in enumerate(uploads, 1):
                server.penalize(user, 5)
                message = await bot.send_document(user, upload)
                assert message.document.file_size == 7
            for user, once in enumerate([Stream(), Stream(False)], 11):
                server.penalize(user, 5)
                with pytest.raises(TelegramRetryAfter):
                    await bot.send_document(user, once)
                assert once.reads == 1
                album = [InputMediaPhoto(media=Stream()), InputMediaPhoto(media=Stream())]
                began = loop.time()
                await bot.send_media_group(user, album)  # held until the penalty is over
                assert loop.time() - began >= 4.9
            assert len(server.log.in_penalties()) == 5
            assert (await outbound.get_statistics())["refusals"] == 5

    fast_loop.run(main())


def test_a_wait_of_a_method_without_a_chat_holds_that_method_alone():
    async def main():
        loop = asyncio.get_running_loop()
        async with TelegramServer() as server, sending_bot(server) as (bot, _):
            server.fail("setMyName", code=429, retry_after=120)
            naming = asyncio.create_task(bot.set_my_name("N"))
            await server.until(lambda: server.log.refused())
            began = loop.time()
            await bot.send_message(USER, "x")
            await bot.set_my_commands([])
            assert loop.time() - began < 0.1
            assert await naming
            assert loop.time() - began > 119

    fast_loop.run(main())


def test_a_429_without_a_wait_is_waited_for():
    async def main():
        async with TelegramServer() as server, sending_bot(server) as (bot, _):
            server.fail("sendMessage", code=429)
            await bot.send_message(USER, "x")
            assert [call.code for call in server.log] == [429, 200]

    fast_loop.run(main())


def test_a_caller_that_is_cancelled_gives_its_place_back():
    async def main():
        async with TelegramServer() as server, sending_bot(server) as (bot, outbound):
            sends = [asyncio.create_task(bot.send_message(GROUP, str(number))) for number in range(60)]
            await asyncio.sleep(1)
            for number in range(25, 55):
                sends[number].cancel()
            await asyncio.gather(*sends, return_exceptions=True)
            assert server.texts(GROUP) == [str(n) for n in (*range(25), *range(55, 60))]
            assert server.log.refused() == []
            statistics = await outbound.get_statistics()
            assert (statistics["queued"], statistics["in_flight"]) == (0, 0)

    fast_loop.run(main())


def test_paid_broadcasts_have_their_own_limit():
    async def main():
        loop = asyncio.get_running_loop()
        async with TelegramServer() as server, sending_bot(server) as (bot, _):
            began = loop.time()
            await asyncio.gather(
                *(bot.send_message(user, "x", allow_paid_broadcast=True) for user in range(1, 301))
            )
            assert loop.time() - began < 1.0
            assert server.log.refused() == []

    fast_loop.run(main())


def test_defaults_of_the_bot_and_odd_chats_pass():
    async def main():
        async with TelegramServer() as server, sending_bot(server) as (bot, _):
            server.add_chat({"id": -1005, "username": "Names"})
            bot.default = DefaultBotProperties(parse_mode="HTML")
            assert (await bot.send_message("@names", "<b>x</b>")).text == "x"
            assert (await bot.send_message(str(USER), "x")).chat.id == USER
            with pytest.raises(Exception, match="chat not found"):
                await bot.send_message("ü", "x")
            assert await bot.edit_message_text("x", inline_message_id="a")

    fast_loop.run(main())


def test_the_last_setup_of_a_bot_counts():
    async def main():
        async with TelegramServer() as server, sending_bot(server) as (bot, outbound):
            other = outbound.sibling()
            await other.enable()
            connected = phase4.setup(None, bot, outbound=other)
            await bot.send_message(USER, "x")
            assert (await other.get_statistics())["sent"] == 1
            assert len(bot.session.middleware) == 1
            connected.remove()
            await bot.send_message(USER, "x")
            assert (await other.get_statistics())["sent"] == 1
            await other.disable()

    fast_loop.run(main())


def test_it_works_with_uvloop():
    async def main():
        async with TelegramServer() as server:
            outbound = Outbound()
            await outbound.enable()
            async with bot_of(server).context() as bot:
                phase4.setup(None, bot, outbound=outbound)
                await asyncio.gather(*(bot.send_message(GROUP, str(number)) for number in range(20)))
                await asyncio.gather(*(bot.send_message(USER, str(number)) for number in range(5)))
            assert server.log.refused() == []
            await outbound.disable()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


# Receiving.


def feed(dispatcher, bot, server, user=USER, chat=None, text="x", **fields):
    message = server.send_message(user, chat, text, **fields)
    update_id = message["message_id"] + user * 1_000
    return dispatcher.feed_raw_update(bot, {"update_id": update_id, "message": message})


def test_who_sends_too_much_is_told_once_per_wait():
    async def main():
        loop = asyncio.get_running_loop()
        limiter = RateLimiter(clock=loop.clock)
        await limiter.enable()
        async with TelegramServer() as server, bot_of(server).context() as bot:
            dispatcher, handled = Dispatcher(), []

            @dispatcher.message()
            async def on_message(message):
                handled.append((message.from_user.id, message.text))

            phase4.setup(
                dispatcher,
                bot,
                services=False,
                limiter=limiter,
                limit=RateLimitConfig(0.1, 3, backoff=None),
                answer="Slow down for {seconds} s",
                admins={7},
                exempt=lambda update: update.message and update.message.text == "/stop",
            )
            for number in range(6):
                await feed(dispatcher, bot, server, text=str(number))
                await feed(dispatcher, bot, server, user=7, text=str(number))
            await feed(dispatcher, bot, server, text="/stop")
            await server.until(lambda: server.texts(USER))
            assert [text for user, text in handled if user == USER] == ["0", "1", "2", "/stop"]
            assert len([text for user, text in handled if user == 7]) == 6
            assert server.texts(USER) == ["Slow down for 10 s"]
            await asyncio.sleep(10)
            await feed(dispatcher, bot, server, text="later")
            assert handled[-1] == (USER, "later")
            for _ in range(3):
                await feed(dispatcher, bot, server, text="again")
            await server.until(lambda: len(server.texts(USER)) == 2)
            await feed(dispatcher, bot, server, user=8, chat=GROUP)
            for _ in range(4):
                await feed(dispatcher, bot, server, user=9, chat=GROUP)
            await server.until(lambda: server.texts(GROUP))
            assert server.messages(GROUP)[-1]["reply_to_message"]["from"]["id"] == 9
        await limiter.disable()

    fast_loop.run(main())


def test_a_button_is_answered_and_payments_are_never_dropped():
    async def main():
        limiter = RateLimiter(clock=asyncio.get_running_loop().clock)
        await limiter.enable()
        async with TelegramServer() as server, bot_of(server).context() as bot:
            dispatcher, handled = Dispatcher(), []

            @dispatcher.callback_query()
            async def on_press(query):
                handled.append("press")

            @dispatcher.message(F.successful_payment)
            async def on_payment(message):
                handled.append("payment")

            phase4.setup(
                dispatcher, bot, services=False, limiter=limiter, limit=RateLimitConfig(0.01, 1, backoff=None)
            )
            message = await bot.send_message(USER, "x")
            queries = [
                server.press(USER, message.model_dump(mode="json", exclude_none=True), "go") for _ in range(3)
            ]
            for update in await bot.get_updates():
                await dispatcher.feed_update(bot, update)
            await server.until(lambda: server.bot().queries[queries[1]])
            assert "try again" in server.bot().queries[queries[1]]["text"]
            assert server.bot().queries[queries[2]] is None
            payment = {
                "currency": "XTR",
                "total_amount": 1,
                "invoice_payload": "p",
                "telegram_payment_charge_id": "t",
                "provider_payment_charge_id": "c",
            }
            for _ in range(3):
                await feed(dispatcher, bot, server, text="", successful_payment=payment)
            assert handled == ["press"] + ["payment"] * 3
        await limiter.disable()

    fast_loop.run(main())


async def test_a_dropped_update_reads_no_state():
    class Storage:
        """Nothing may be asked of it."""

        async def close(self):
            pass

    limiter = RateLimiter()
    await limiter.enable()
    async with TelegramServer() as server, bot_of(server).context() as bot:
        dispatcher = Dispatcher()
        outer = list(dispatcher.update.outer_middleware)
        connected = phase4.setup(
            dispatcher, bot, services=False, limiter=limiter, limit=RateLimitConfig(0.01, 1), answer=None
        )
        await feed(dispatcher, bot, server)
        dispatcher.fsm.storage = Storage()
        await feed(dispatcher, bot, server)
        connected.remove()
        assert list(dispatcher.update.outer_middleware) == outer
        assert len(bot.session.middleware) == 0
        assert dispatcher.startup.handlers == []
    await limiter.disable()


# Start and stop.


async def until_sent(count):
    async with asyncio.timeout(30):
        while (await Outbound.get_instance().get_statistics())["sent"] < count:
            await asyncio.sleep(0.01)


async def test_polling_starts_and_stops_the_services(tmp_path):
    async with TelegramServer() as server:
        dispatcher, bot, seen = Dispatcher(), bot_of(server), []

        @dispatcher.startup()
        async def on_startup():
            seen.append(("start", RateLimiter.get_instance().enabled))

        @dispatcher.message()
        async def on_message(message):
            await message.answer("hi")
            return message.reply("returned")

        phase4.setup(dispatcher, bot, config={**ON, "ENABLE_QUERY_OPTIMIZER": True})

        @dispatcher.shutdown()
        async def on_shutdown():
            seen.append(("stop", RateLimiter.get_instance().enabled))

        async with polling(dispatcher, bot):
            server.send_message(USER, text="hello")
            await server.until(lambda: server.texts(USER) == ["hi", "returned"])
            await until_sent(2)
            assert QueryOptimizer.get_instance().enabled
            with pytest.raises(MisuseError, match="before its start"):
                phase4.setup(dispatcher, bot)
        assert seen == [("start", True), ("stop", True)]
        assert running_outbound() is None
        assert running_limiter() is None
        assert phase4_loop() is None
        # And once more, as after a restart of the polling.
        async with polling(dispatcher, bot):
            await server.until(lambda: running_outbound() is not None)
        assert running_outbound() is None


async def test_what_waits_is_sent_before_the_stop():
    async with TelegramServer() as server:
        dispatcher, bot = Dispatcher(), bot_of(server)
        phase4.setup(dispatcher, bot, config=ON)
        async with polling(dispatcher, bot):
            await server.until(lambda: running_outbound() is not None)
            sends = [asyncio.create_task(bot.send_message(USER, str(number))) for number in range(5)]
            await server.until(lambda: server.texts(USER))
        assert server.texts(USER) == list("01234")
        await asyncio.gather(*sends)


async def test_a_webhook_answers_through_outbound():
    async with TelegramServer() as server:
        bot, dispatcher, app = bot_of(server), Dispatcher(), web.Application()

        @dispatcher.message()
        async def on_message(message):
            return SendMessage(chat_id=message.chat.id, text="returned")

        phase4.setup(dispatcher, config=ON)
        SimpleRequestHandler(dispatcher, bot, handle_in_background=False).register(app, path="/hook")
        setup_application(app, dispatcher, bot=bot)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        await bot.set_webhook(f"http://127.0.0.1:{runner.addresses[0][1]}/hook")
        server.send_message(USER, text="hello")
        await server.until(lambda: server.texts(USER) == ["returned"])
        await until_sent(1)
        await runner.cleanup()
        assert bot.session._session.closed
        assert running_outbound() is None


async def test_everything_passes_while_the_services_are_off():
    async with TelegramServer() as server:
        dispatcher, bot = Dispatcher(), bot_of(server)

        @dispatcher.message()
        async def on_message(message):
            await message.answer(message.text)

        phase4.setup(dispatcher, bot, config={"ENABLE_RATE_LIMITER": False, "ENABLE_QUERY_OPTIMIZER": False})
        async with polling(dispatcher, bot):
            for number in range(3):
                server.send_message(USER, text=str(number))
            await server.until(lambda: len(server.texts(USER)) == 3)


async def test_a_tier_that_does_not_exist_stops_the_start():
    async with TelegramServer() as server, bot_of(server).context() as bot:
        dispatcher = Dispatcher()
        phase4.setup(dispatcher, bot, config=ON, tier="none")
        with pytest.raises(UnknownTierError):
            await dispatcher.start_polling(bot, handle_signals=False)
        assert running_limiter() is None


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"per": "group"}, InvalidArgumentError), ({"answer": "{x}"}, InvalidArgumentError),
        ({"admins": ["x"]}, InvalidArgumentError), ({"outbound": 5}, InvalidArgumentError),
        ({"limiter": 5}, InvalidArgumentError), ({"services": 1}, InvalidArgumentError),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(arguments, error):
    with pytest.raises(error, match=next(iter(arguments))):
        phase4.setup(Dispatcher(), **arguments)
    with pytest.raises(TypeError, match="Dispatcher"):
        phase4.setup("dispatcher")
    with pytest.raises(TypeError, match="Bots"):
        phase4.setup(Dispatcher(), "bot")
