"""What comes in to a bot of python-telegram-bot: order, concurrency, throttling, answers; over HTTP."""

import asyncio
import itertools
from collections import Counter
from contextlib import asynccontextmanager

import pytest
from telegram import Update
from telegram.ext import (
    Application,
    CallbackQueryHandler,
    ChatMemberHandler,
    MessageHandler,
    PreCheckoutQueryHandler,
    TypeHandler,
    filters,
)

from bot.core._shared.errors import InvalidArgumentError
from bot.core.outbound import Limits, Outbound, Priority, sending
from bot.core.phase4_service import Phase4Service
from bot.core.query_optimizer import QueryOptimizer
from bot.core.rate_limiter import RateLimitConfig, RateLimiter, UnknownTierError
from bot.integrations import ptb
from bot.integrations.inbound import ANSWERS_FOR
from bot.testing import fast_loop
from bot.testing.telegram import ServerLimits, TelegramServer

GROUP, USER, OTHER = -100, 42, 43
SLOW_DOWN = RateLimitConfig(1.0, 3, backoff=None)


def on_fast_loop(story):
    def test():
        fast_loop.run(story())

    test.__name__ = story.__name__
    return test


def now():
    return asyncio.get_running_loop().time()


async def until(condition):
    """Let time pass until it is true."""
    async with asyncio.timeout(300):
        while not condition():
            await asyncio.sleep(0.1)


async def service(kind, *arguments, **settings):
    """The process's instance of a service, on the loop's time."""
    instance = Phase4Service._instances[kind] = kind(clock=asyncio.get_running_loop().clock)
    await instance.enable(*arguments, **settings)
    return instance


@asynccontextmanager
async def polling(*handlers, server_limits=None, **options):
    """(server, application) of a bot that polls the server, stopped the framework's way."""
    limits = server_limits or ServerLimits(chat_burst=10_000, bulk=(10_000, 1.0), group=(10_000, 60.0))
    async with TelegramServer(limits=limits) as server:
        builder = Application.builder().token(server.token).base_url(server.base_url).job_queue(None)
        application = ptb.setup(builder, services=False, **options).build()
        for handler in handlers:
            application.add_handler(handler)
        async with application:
            await application.start()
            await application.updater.start_polling()
            try:
                yield server, application
            finally:
                await application.updater.stop()
                await application.stop()


class Work:
    """A handler that takes a second, and tells what it did when."""

    def __init__(self, seconds=1.0):
        self.seconds = seconds
        self.began = []
        self.ended = []
        self.at_once = Counter()
        self.most_in_a_chat = self.most = 0

    async def __call__(self, update, context):
        chat, text = update.effective_chat.id, update.message.text
        self.began.append((chat, text))
        self.at_once[chat] += 1
        self.most_in_a_chat = max(self.most_in_a_chat, self.at_once[chat])
        self.most = max(self.most, self.at_once.total())
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.at_once[chat] -= 1
        self.ended.append((chat, text))

    def of(self, chat):
        return [text for known, text in self.ended if known == chat]


# Order and concurrency.


@on_fast_loop
async def test_updates_of_one_chat_are_handled_in_order_and_chats_side_by_side():
    work = Work()
    async with polling(MessageHandler(filters.ALL, work)) as (server, _):
        began = now()
        for index in range(5):
            for user in range(1, 21):
                server.send_message(user, text=str(index))
        await until(lambda: len(work.began) == 100)
        await asyncio.sleep(2)
        assert all(work.of(user) == list("01234") for user in range(1, 21))
        assert (work.most_in_a_chat, work.most) == (1, 20)
        assert now() - began < 20


@on_fast_loop
async def test_updates_that_wait_for_their_chat_keep_no_other_chat_out():
    """With SimpleUpdateProcessor 300 updates of one chat take all 256 places."""
    work = Work(seconds=10.0)
    async with polling(MessageHandler(filters.ALL, work), concurrent_updates=2) as (server, application):
        for index in range(5):
            server.send_message(USER, text=str(index))
        await until(lambda: work.began)
        server.send_message(OTHER, text="quick")
        await until(lambda: (OTHER, "quick") in work.began)
        assert work.of(USER) == []  # while the first one of the other chat was handled
        assert application.concurrent_updates == 2
        assert application.update_processor.current_concurrent_updates == 2
        await asyncio.sleep(60)
        assert work.of(USER) == list("01234")
        assert application.update_processor.current_concurrent_updates == 0
        assert application.update_processor._chats == {}


@on_fast_loop
async def test_no_more_are_handled_at_once_than_concurrent_updates_says():
    for given, most in ((1, 1), (False, 1), (7, 7), (True, 30), (None, 30)):
        work = Work()
        options = {"concurrent_updates": given}
        async with polling(MessageHandler(filters.ALL, work), **options) as (server, application):
            for user in range(1, 31):
                server.send_message(user, text="x")
            await asyncio.sleep(40)
            assert len(work.ended) == 30
            assert work.most == most
            assert application.concurrent_updates == (256 if most == 30 else most)


@on_fast_loop
async def test_a_handler_may_wait_for_another_update_of_its_chat_if_order_is_off():
    arrived = asyncio.Event()

    async def ask(update, context):
        if update.message.text == "question":
            await asyncio.wait_for(arrived.wait(), 30)
        else:
            arrived.set()

    async with polling(MessageHandler(filters.ALL, ask), in_order=False) as (server, _application):
        server.send_message(USER, text="question")
        server.send_message(USER, text="answer")
        await asyncio.wait_for(arrived.wait(), 10)


@on_fast_loop
async def test_stop_waits_for_what_is_being_handled_and_for_what_waits_behind_it():
    work = Work(seconds=5.0)
    async with polling(MessageHandler(filters.ALL, work)) as (server, _application):
        for index in range(3):
            server.send_message(USER, text=str(index))
        await until(lambda: work.began and not server.bot().waiting)
        await asyncio.sleep(1)
    assert work.of(USER) == list("012")


@on_fast_loop
async def test_a_handler_that_fails_or_is_cancelled_holds_nobody():
    handled = []

    async def fail(update, context):
        handled.append(update.message.text)
        if update.message.text == "fail":
            raise ValueError("as ordered")
        if update.message.text == "cancel":
            asyncio.current_task().cancel()
            await asyncio.sleep(0)

    async def tolerate(update, context):
        pass

    async with polling(MessageHandler(filters.ALL, fail)) as (server, application):
        application.add_error_handler(tolerate)
        for text in ("fail", "cancel", "after"):
            server.send_message(USER, text=text)
        await until(lambda: not server.bot().waiting)
        await asyncio.sleep(1)
        assert handled == ["fail", "cancel", "after"]
        assert application.update_processor.current_concurrent_updates == 0
        assert application.update_processor._chats == {}


@on_fast_loop
async def test_what_is_no_update_is_handled_too():
    handled = []

    async def take(update, context):
        handled.append(update)

    async with polling(TypeHandler(dict, take)) as (_server, application):
        await application.update_queue.put({"own": "update"})
        await application.update_queue.join()
        await asyncio.sleep(0)
    assert handled == [{"own": "update"}]


# Throttling.


@on_fast_loop
async def test_what_one_person_sends_too_fast_is_dropped_and_the_person_is_told_once_per_wait():
    await service(RateLimiter)
    work = Work(seconds=0.0)
    throttle = {"limit": SLOW_DOWN, "answer": "Slower, {seconds} s."}
    async with polling(MessageHandler(filters.ALL, work), **throttle) as (server, _):
        for index in range(10):
            server.send_message(USER, text=str(index))
        server.send_message(OTHER, text="not me")
        await until(lambda: work.of(OTHER) and server.texts(USER))
        await asyncio.sleep(5)
        assert work.of(USER) == list("012")
        assert server.texts(USER) == ["Slower, 1 s."]
        for index in range(10):
            server.send_message(USER, text=f"later {index}")
        await asyncio.sleep(15)
        assert len(work.of(USER)) == 6
        assert server.texts(USER) == ["Slower, 1 s."] * 2


@on_fast_loop
async def test_in_a_group_the_person_is_limited_and_told_in_reply():
    await service(RateLimiter)
    work = Work(seconds=0.0)
    async with polling(MessageHandler(filters.ALL, work), limit=SLOW_DOWN) as (
        server,
        _,
    ):
        for index in range(4):
            server.send_message(USER, GROUP, text=str(index))
            server.send_message(OTHER, GROUP, text=f"other {index}")
        await until(lambda: len(server.texts(GROUP)) == 2)
        assert len(work.of(GROUP)) == 6
        told = [call.parameters for call in server.log.of("sendMessage")]
        assert all("reply_parameters" in parameters for parameters in told)
        assert server.texts(GROUP)[0].startswith("Too many requests")


@on_fast_loop
async def test_a_chat_may_be_limited_instead_and_whatever_a_function_says():
    await service(RateLimiter)
    for per, expected in (("chat", 3), (lambda update: update.message.text[0], 6), (lambda update: None, 8)):
        work = Work(seconds=0.0)
        throttle = {"limit": SLOW_DOWN, "per": per, "answer": None}
        async with polling(MessageHandler(filters.ALL, work), **throttle) as (server, _):
            for index in range(4):
                server.send_message(USER, GROUP, text=f"a{index}")
                server.send_message(OTHER, GROUP, text=f"b{index}")
            await until(lambda server=server: not server.bot().waiting)
            await asyncio.sleep(1)
            assert len(work.of(GROUP)) == expected
            assert server.texts(GROUP) == []
        await asyncio.sleep(60)


@on_fast_loop
async def test_admins_and_those_that_are_exempt_are_never_limited():
    await service(RateLimiter)
    work = Work(seconds=0.0)

    async def is_friend(update):
        return update.effective_user.id == OTHER

    throttle = {"limit": SLOW_DOWN, "admins": (USER,), "exempt": is_friend, "answer": None}
    async with polling(MessageHandler(filters.ALL, work), **throttle) as (server, _):
        for user in (USER, OTHER, 44):
            for index in range(10):
                server.send_message(user, text=str(index))
        await until(lambda: len(work.ended) == 23)
        assert [len(work.of(user)) for user in (USER, OTHER, 44)] == [10, 10, 3]


@on_fast_loop
async def test_payments_and_memberships_are_never_dropped():
    await service(RateLimiter)
    handled = Counter()

    async def count(update, context):
        handled[
            next(
                name for name in ("message", "pre_checkout_query", "my_chat_member") if getattr(update, name)
            )
        ] += 1

    handlers = (
        MessageHandler(filters.ALL, count),
        PreCheckoutQueryHandler(count),
        ChatMemberHandler(count, ChatMemberHandler.MY_CHAT_MEMBER),
    )
    async with polling(*handlers, limit=RateLimitConfig(0.001, 1)) as (server, _):
        person = server.add_user(USER)
        payment = {
            "currency": "XTR",
            "total_amount": 1,
            "invoice_payload": "x",
            "telegram_payment_charge_id": "a",
            "provider_payment_charge_id": "b",
        }
        server.send_message(USER, text="one")
        for index in range(5):
            server.send_message(USER, text="dropped")
            server.send_message(USER, successful_payment=payment)
            query = {
                "id": str(index),
                "from": person,
                "currency": "XTR",
                "total_amount": 1,
                "invoice_payload": "x",
            }
            server.update("pre_checkout_query", query)
            member = {"status": "member", "user": person}
            change = {
                "chat": server.add_chat(USER),
                "from": person,
                "date": 1,
                "old_chat_member": member,
                "new_chat_member": member,
            }
            server.update("my_chat_member", change)
        await until(lambda: not server.bot().waiting)
        await asyncio.sleep(1)
        assert handled == {"message": 1 + 5, "pre_checkout_query": 5, "my_chat_member": 5}


@on_fast_loop
async def test_a_button_that_is_pressed_too_often_says_so():
    await service(RateLimiter)
    pressed = []

    async def press(update, context):
        pressed.append(update.callback_query.data)
        await update.callback_query.answer()

    throttle = {"limit": SLOW_DOWN}
    async with polling(CallbackQueryHandler(press), **throttle) as (server, application):
        message = await application.bot.send_message(USER, "press")
        shown = server.messages(USER)[-1]
        queries = [server.press(USER, shown, str(index)) for index in range(6)]
        await asyncio.sleep(3)
        assert pressed == list("012")
        assert server.bot().queries[queries[3]]["text"].startswith("Too many requests")
        assert [server.bot().queries[query] for query in queries[4:]] == [None, None]
        assert message.message_id == shown["message_id"]


@on_fast_loop
async def test_a_client_that_cannot_be_told_stops_nothing():
    await service(RateLimiter)
    work = Work(seconds=0.0)
    told = []

    async def tell(update, seconds):
        told.append(seconds)

    for answer in ("{seconds}", tell):
        throttle = {"limit": SLOW_DOWN, "answer": answer}
        async with polling(MessageHandler(filters.ALL, work), **throttle) as (server, _):
            server.block(USER)
            for index in range(6):
                server.send_message(USER, text=str(index))
            server.send_message(OTHER, text="x")
            await until(lambda: work.of(OTHER))
            await asyncio.sleep(1)
        await asyncio.sleep(60)
    assert len(work.of(USER)) == 6
    assert len(told) == 1
    assert 0 < told[0] <= 1


@on_fast_loop
async def test_while_the_limiter_is_off_everything_passes():
    work = Work(seconds=0.0)
    async with polling(MessageHandler(filters.ALL, work), limit=SLOW_DOWN) as (
        server,
        _,
    ):
        for index in range(50):
            server.send_message(USER, text=str(index))
        await until(lambda: len(work.ended) == 50)


@on_fast_loop
async def test_a_tier_that_the_limiter_lacks_is_told_at_the_start():
    await service(RateLimiter)
    with pytest.raises(UnknownTierError, match="gold"):
        async with polling(tier="gold"):
            pass


# Answers.


@on_fast_loop
async def test_what_is_sent_to_the_updates_chat_is_an_answer_and_a_broadcast_from_a_handler_is_none():
    await service(Outbound, Limits(chat_burst=100))
    stamps = {}

    async def handle(update, context):
        bot = context.bot
        chat = update.effective_chat.id
        if update.message.text == "broadcast":
            async with asyncio.TaskGroup() as group:
                for user in range(1_000, 1_300):
                    group.create_task(bot.send_message(user, "news"))
        else:
            await bot.send_message(chat, "an answer")
            stamps[chat] = now()

    handler = MessageHandler(filters.ALL, handle)
    async with polling(handler, server_limits=ServerLimits()) as (server, _):
        server.send_message(USER, text="broadcast")
        await until(lambda: len(server.log.of("sendMessage")) > 40)
        before = len(server.log.of("sendMessage"))
        server.send_message(OTHER, text="hello")
        await until(lambda: stamps)
        assert len(server.log.of("sendMessage")) - before <= 35  # not behind the 250 that wait
        await until(lambda: len(server.log.of("sendMessage")) == 301)
        assert server.log.most_in_window(None, 1.0) <= 30
        assert server.log.refused() == []


@pytest.mark.parametrize("case", ["handler", "said otherwise", "task", "old task", "other chat"])
def test_the_priority_of_what_a_handler_sends(case):
    async def story():
        outbound = await service(Outbound)
        seen = []
        submit = outbound._dispatcher.scheduler.submit

        def submitted(entry, *arguments):
            seen.append((entry.chat, entry.priority))
            return submit(entry, *arguments)

        outbound._dispatcher.scheduler.submit = submitted
        later = []

        async def after(bot, chat, seconds):
            await asyncio.sleep(seconds)
            await bot.send_message(chat, "later")

        async def handle(update, context):
            if case == "handler":
                await update.message.reply_text("x")
            elif case == "said otherwise":
                with sending(Priority.STATUS):
                    await update.message.reply_text("x")
            elif case == "other chat":
                await context.bot.send_message(OTHER, "x")
            else:
                seconds = 1.0 if case == "task" else ANSWERS_FOR + 1
                later.append(asyncio.create_task(after(context.bot, USER, seconds)))

        async with polling(MessageHandler(filters.ALL, handle)) as (server, _):
            server.send_message(USER, text="x")
            await until(lambda: server.log.of("sendMessage"))
            await asyncio.gather(*later)
        expected = {"handler": Priority.ANSWER, "task": Priority.ANSWER, "said otherwise": Priority.STATUS}
        assert [priority for chat, priority in seen] == [expected.get(case, Priority.NOTIFY)]

    fast_loop.run(story())


@on_fast_loop
async def test_each_update_is_one_request_for_the_optimizer():
    optimizer = await service(QueryOptimizer, n_plus_one_threshold=5)
    numbers = itertools.count()
    executed = []

    async def executor(query, params):
        executed.append(params)
        return []

    async def query(update, context):
        for _ in range(int(update.message.text)):
            await optimizer.execute("SELECT name FROM users WHERE id = ?", (next(numbers),), executor)

    # One task handles all updates.
    async with polling(MessageHandler(filters.ALL, query), concurrent_updates=1) as (server, _):
        for _ in range(10):
            server.send_message(USER, text="4")
        await until(lambda: len(executed) == 40)
        assert (await optimizer.get_statistics())["n_plus_one_patterns"] == 0
        server.send_message(USER, text="5")
        await until(lambda: optimizer.statistics()["n_plus_one_patterns"])
    await optimizer.disable()


# Arguments.


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"max_concurrent_updates": 0}, "max_concurrent_updates"),
        ({"max_concurrent_updates": True}, "max_concurrent_updates"),
        ({"max_concurrent_updates": 2.5}, "max_concurrent_updates"),
        ({"in_order": "yes"}, "in_order"),
        ({"throttle": SLOW_DOWN}, "throttle"),
        ({"throttle": ptb.Throttle(per="message")}, "per"),
        ({"throttle": ptb.Throttle(answer="{minutes}")}, "answer"),
    ],
)
def test_arguments_are_checked_where_they_enter(arguments, named):
    with pytest.raises(InvalidArgumentError, match=f"{named} = "):
        ptb.ThrottledUpdates(**arguments)


def test_an_update_of_no_chat_waits_for_its_user():
    async def story():
        processor = ptb.ThrottledUpdates()
        order = []

        async def handle(name, seconds):
            await asyncio.sleep(seconds)
            order.append(name)

        def query(number):
            user = {"id": USER, "is_bot": False, "first_name": "Ä"}
            content = {"id": str(number), "from": user, "query": "x", "offset": ""}
            return Update.de_json({"update_id": number, "inline_query": content})

        await asyncio.gather(
            processor.process_update(query(1), handle("slow", 5)),
            processor.process_update(query(2), handle("quick", 0)),
        )
        assert order == ["slow", "quick"]

    fast_loop.run(story())
