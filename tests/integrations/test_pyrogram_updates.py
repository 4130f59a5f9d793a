"""What a kurigram client gets: throttled, one request each for the optimizer, answered first."""

import asyncio

import pyrogram
import pytest
from pyrogram.handlers import CallbackQueryHandler, MessageHandler

from bot.core.enhanced_startup_phase4 import (
    get_phase4_status,
    initialize_phase4_services,
    shutdown_phase4_services,
)
from bot.core.outbound import Outbound, Priority
from bot.core.phase4_service import Phase4Service
from bot.core.query_optimizer import QueryOptimizer
from bot.core.rate_limiter import RateLimitConfig, RateLimiter, UnknownTierError
from bot.integrations.pyrogram import install, uninstall
from bot.testing.mtproto import MTProtoServer
from tests.integrations.pyrogram_bots import GROUP, USER, in_fast_time, process_outbound, running

ONE = RateLimitConfig(requests_per_second=0.01, burst_size=1)


class Seen:
    """Handlers that note what reached them."""

    def __init__(self, app):
        self.texts = []
        self.callbacks = []
        app.add_handler(MessageHandler(self._message))
        app.add_handler(CallbackQueryHandler(self._callback))

    async def _message(self, client, message):
        self.texts.append(message.text)

    async def _callback(self, client, query):
        self.callbacks.append(query.data)


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


async def settled(app):
    """Every update that came has been handled."""
    await until(lambda: app.dispatcher.updates_queue.empty())
    for lock in app.dispatcher.locks_list:
        async with lock:
            pass
    await asyncio.sleep(0.02)


async def services():
    return (await get_phase4_status())["services"]


@pytest.fixture
async def limiter():
    limiter = RateLimiter.get_instance()
    await limiter.enable()
    yield limiter
    await limiter.disable()


async def test_what_is_too_much_is_dropped_and_told_once(limiter):
    server = MTProtoServer(limits=None)
    async with running(server, limit=ONE) as app:
        seen = Seen(app)
        await asyncio.sleep(0.01)
        for number in range(5):
            await server.message(app, f"message {number}", user=USER)
        await server.message(app, "of somebody else", user=USER + 1)
        await settled(app)
        await until(lambda: server.requests("SendMessage"))
        assert sorted(seen.texts) == ["message 0", "of somebody else"]
        [told] = server.requests("SendMessage")
        assert told.text == "Too many requests. Please try again in 100 s."
        assert told.chat == USER


async def test_in_a_group_each_user_has_a_limit_or_the_chat_has_one(limiter):
    server = MTProtoServer(limits=None)
    async with running(server, limit=ONE, answer=None) as app:
        seen = Seen(app)
        await asyncio.sleep(0.01)
        await server.message(app, "one", user=USER, chat=GROUP)
        await server.message(app, "two", user=USER + 1, chat=GROUP)
        await settled(app)
        assert sorted(seen.texts) == ["one", "two"]
        install(app, services=False, limit=ONE, per="chat", answer=None)
        await server.message(app, "three", user=USER + 2, chat=GROUP)
        await server.message(app, "four", user=USER + 3, chat=GROUP)
        await settled(app)
        assert len(seen.texts) == 3


async def test_a_button_is_answered_by_the_query(limiter):
    server = MTProtoServer(limits=None)
    async with running(server, limit=ONE, answer="Slower, please: {seconds} s") as app:
        seen = Seen(app)
        message = await app.send_message(USER, "menu")
        await asyncio.sleep(0.01)
        for data in (b"one", b"two", b"three"):
            await server.callback(app, data, user=USER, message_id=message.id)
        await settled(app)
        await until(lambda: server.requests("SetBotCallbackAnswer"))
        assert seen.callbacks == ["one"]
        [answer] = server.requests("SetBotCallbackAnswer")
        assert answer.query.message == "Slower, please: 100 s"


async def test_administrators_and_exempt_updates_are_never_limited(limiter):
    server = MTProtoServer(limits=None)

    def exempt(update):
        return getattr(update.message, "message", "") == "/stop"

    async with running(server, limit=ONE, admins=[USER], exempt=exempt) as app:
        seen = Seen(app)
        await asyncio.sleep(0.01)
        for text in ("a", "b", "c"):
            await server.message(app, text, user=USER)
        for text in ("first", "/stop", "/stop"):
            await server.message(app, text, user=USER + 1)
        await settled(app)
        assert sorted(seen.texts) == ["/stop", "/stop", "a", "b", "c", "first"]


async def test_an_own_answer_takes_the_place_of_the_text(limiter):
    server = MTProtoServer(limits=None)
    told = []

    async def answer(update, seconds):
        told.append((update.message.message, round(seconds)))

    async with running(server, limit=ONE, answer=answer) as app:
        for text in ("a", "b", "c"):
            await server.message(app, text)
        await settled(app)
        assert told == [("b", 100)]
        assert not server.requests("SendMessage")


async def test_a_tier_that_does_not_exist_stops_the_start(limiter):
    client = MTProtoServer().client()
    install(client, services=False, tier="gold")
    with pytest.raises(UnknownTierError, match="gold"):
        await client.start()
    assert not client.is_initialized
    await uninstall(client)
    await client.disconnect()


async def test_a_tier_that_is_gone_stops_no_update(limiter, caplog):
    server = MTProtoServer(limits=None)
    async with running(server) as app:
        seen = Seen(app)
        install(app, services=False, tier="gold")
        await asyncio.sleep(0.01)
        await server.message(app, "hello")
        await settled(app)
        assert seen.texts == ["hello"]
        assert "gold" in caplog.text


async def test_a_limiter_of_its_own():
    server = MTProtoServer(limits=None)
    own = RateLimiter()
    await own.enable()
    async with running(server, limiter=own, limit=ONE, answer=None) as app:
        seen = Seen(app)
        await asyncio.sleep(0.01)
        await server.message(app, "one")
        await server.message(app, "two")
        await settled(app)
        assert len(seen.texts) == 1
    await own.disable()


async def test_each_update_is_one_request_of_the_optimizer():
    """A worker is one task for all its updates, which N+1 detection must not take for one request."""
    optimizer = QueryOptimizer.get_instance()
    await optimizer.enable(n_plus_one_threshold=5)
    server = MTProtoServer(limits=None)
    client = server.client(workers=1)
    install(client, services=False)

    async def handle(app, message):
        many = 5 if message.text == "many" else 1
        for number in range(many):
            await optimizer.record_execution(f"SELECT * FROM users WHERE id = {number}", 1.0)

    async with client:
        client.add_handler(MessageHandler(handle))
        await asyncio.sleep(0.01)
        for _ in range(8):
            await server.message(client, "one")
        await settled(client)
        assert optimizer.statistics()["n_plus_one_patterns"] == 0
        await server.message(client, "many")
        await settled(client)
        assert optimizer.statistics()["n_plus_one_patterns"] == 1
    await uninstall(client)
    await optimizer.disable()


def test_a_reply_to_the_chat_whose_update_is_handled_is_an_answer():
    async def main():
        server = MTProtoServer()
        outbound = await process_outbound()
        priorities = {}
        call = outbound.call

        async def noted(send, request):
            if request.chat is not None:  # not what the client asks of its own account
                priorities[request.chat] = request.priority
            return await call(send, request)

        outbound.call = noted

        async with running(server) as app:

            async def handle(client, message):
                await message.reply("an answer")
                await client.send_message(GROUP, "a notice")
                await asyncio.sleep(120)
                await client.send_message(message.chat.id, "much later")

            app.add_handler(MessageHandler(handle))
            await asyncio.sleep(0.01)
            await server.message(app, "hello", user=USER)
            await until(lambda: GROUP in priorities)
            assert priorities == {USER: Priority.ANSWER, GROUP: None}
            await asyncio.sleep(130)
            assert priorities[USER] is None

    in_fast_time(main)


async def test_services_start_and_stop_with_the_client():
    server = MTProtoServer()
    client = server.client()
    installed = install(client, config={"ENABLE_OUTBOUND": True, "ENABLE_RATE_LIMITER": True})
    assert not Phase4Service._instances
    async with client:
        assert {"outbound", "rate_limiter"} <= set(await services())
        assert await installed.outbound() is Outbound.get_instance()
        await client.send_message(USER, "hello")  # after the client has looked the user up
        assert (await get_phase4_status())["outbound"]["sent"] == 2
    assert not await services()
    async with client:
        assert "outbound" in await services()
    await uninstall(client)


async def test_services_stop_with_the_last_client():
    server = MTProtoServer()
    config = {"ENABLE_OUTBOUND": True}
    one, two = server.client("one"), server.client("two")
    first, second = install(one, config=config), install(two, config=config)
    await one.start()
    await two.start()
    await two.send_message(USER, "hello")
    assert await first.outbound() is not await second.outbound()
    await one.stop()
    await two.send_message(USER, "still there")
    assert await second.outbound() is not None
    await two.stop()
    assert not await services()
    assert await second.outbound() is None
    await uninstall(one)
    await uninstall(two)


async def test_services_that_run_already_are_left_alone():
    await initialize_phase4_services({"ENABLE_OUTBOUND": True})
    server = MTProtoServer()
    client = server.client()
    install(client)
    async with client:
        assert "outbound" in await services()
    assert "outbound" in await services()
    await uninstall(client)
    assert await shutdown_phase4_services()


async def test_a_bad_setting_stops_no_bot(caplog):
    server = MTProtoServer()
    client = server.client()
    install(client, config={"ENABLE_OUTBOUND": True, "OUTBOUND_GROUP_LIMIT": -1})
    async with client:
        await client.send_message(USER, "hello")
    assert "OUTBOUND_GROUP_LIMIT" in caplog.text
    await uninstall(client)


async def test_the_throttle_is_there_again_after_a_restart(limiter):
    """Client.stop drops all handlers."""
    server = MTProtoServer(limits=None)
    client = server.client()
    install(client, services=False, limit=ONE, answer=None)
    for start in range(2):
        async with client:
            seen = Seen(client)
            await asyncio.sleep(0.01)
            for number in range(3):
                await server.message(client, f"{number}", user=USER + start)
            await settled(client)
            assert len(seen.texts) == 1
    await uninstall(client)


async def test_it_can_be_installed_on_a_client_that_runs(limiter):
    server = MTProtoServer(limits=None)
    async with server.client() as app:
        seen = Seen(app)
        install(app, services=False, limit=ONE, answer=None)
        await asyncio.sleep(0.01)
        for number in range(3):
            await server.message(app, f"{number}")
        await settled(app)
        assert len(seen.texts) == 1
        await uninstall(app)
        await server.message(app, "free")
        await settled(app)
        assert "free" in seen.texts


async def test_payments_and_members_are_never_dropped(limiter):
    server = MTProtoServer(limits=None)
    raw = pyrogram.raw.types
    seen = []

    async def handle(client, update, users, chats):
        seen.append(type(update).__name__)

    async with running(server, limit=ONE, answer=None) as app:
        app.add_handler(pyrogram.handlers.RawUpdateHandler(handle))
        await asyncio.sleep(0.01)
        await server.message(app, "the one that is allowed")
        await server.message(app, "too much")
        service = raw.MessageService(
            id=500,
            peer_id=raw.PeerUser(user_id=USER),
            date=1,
            action=raw.MessageActionPinMessage(),
        )
        await server.update(app, raw.UpdateNewMessage(message=service, pts=1, pts_count=1), user=USER)
        await server.update(
            app,
            raw.UpdateBotPrecheckoutQuery(
                query_id=1, user_id=USER, payload=b"p", currency="XTR", total_amount=1
            ),
            user=USER,
        )
        await settled(app)
    assert seen == ["UpdateNewMessage", "UpdateNewMessage", "UpdateBotPrecheckoutQuery"]


def test_handlers_that_wait_for_a_held_group_do_not_stop_the_others():
    async def main():
        server = MTProtoServer()
        await process_outbound()
        async with running(server) as app:

            async def handle(client, message):
                await message.reply(f"seen: {message.text}")

            app.add_handler(MessageHandler(handle))
            await asyncio.sleep(0.01)
            server.refuse("SendMessage", 41, chat=GROUP)
            for number in range(40):
                await server.message(app, f"{number}", user=USER, chat=GROUP)
            await asyncio.sleep(0.5)
            began = asyncio.get_running_loop().time()
            await server.message(app, "hello", user=USER + 1)
            await server.until(lambda: server.requests("SendMessage", chat=USER + 1))
            assert asyncio.get_running_loop().time() - began < 1.0  # virtual; the group is held for 41 s
            sent = server.requests("SendMessage", chat=GROUP)
            assert [one.outcome for one in sent] == ["FLOOD_WAIT_41"]
            for _ in range(100):
                if len(server.requests("SendMessage", chat=GROUP)) == 41:
                    break
                await asyncio.sleep(10)
            await settled(app)
            assert len(server.requests("SendMessage", chat=GROUP)) == 41

    in_fast_time(main)


async def test_a_number_of_workers_of_its_own_stays():
    server = MTProtoServer()
    client = server.client(workers=1)
    install(client, services=False)
    async with client:
        assert len(client.dispatcher.handler_worker_tasks) == 1
    await uninstall(client)
