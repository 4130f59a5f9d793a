"""aiogram bots over real HTTP against the test server; minutes pass in virtual time."""

import asyncio
import contextlib

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


def test_fifty_in_flight_when_the_refusal_lands_send_nothing_into_the_penalty_after_it():
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


def test_an_edit_to_what_is_shown_is_not_sent():
    async def main():
        async with TelegramServer() as server, sending_bot(server) as (bot, _):
            message = await bot.send_message(USER, "x")
            for _ in range(3):
                await message.edit_text("<b>y</b>", parse_mode="HTML")
            assert len(server.log.of("editMessageText")) == 1

    fast_loop.run(main())


def test_an_answer_goes_ahead_of_a_thousand_broadcasts():
    async def main():
        loop = asyncio.get_running_loop()
        limits = Limits(bulk=(20, 1.0))  # the server's 30 have room for answers
        async with TelegramServer() as server, sending_bot(server, limits) as (bot, outbound):
            dispatcher, took = Dispatcher(), []

            @dispatcher.message()
            async def on_message(message):
                began = loop.time()
                await message.answer("pong")
                took.append(loop.time() - began)

            phase4.setup(dispatcher, bot, outbound=outbound, services=False)
            with sending(Priority.BROADCAST):
                sends = [asyncio.create_task(bot.send_message(user, "news")) for user in range(1, 1_001)]
            await asyncio.sleep(2)
            for user in range(5_000, 5_010):
                update = server.send_message(user, text="ping")
                await dispatcher.feed_raw_update(bot, {"update_id": user, "message": update})
            assert len(took) == 10
            assert max(took) < 0.1
            await asyncio.gather(*sends)
            assert server.log.refused() == []

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
