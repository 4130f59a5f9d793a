"""ptb.setup: what starts and stops with an application, in the framework's own order."""

import asyncio

import pytest
from telegram import Bot
from telegram.error import InvalidToken
from telegram.ext import Application, BaseRateLimiter, MessageHandler, filters

from bot.core._shared.errors import InvalidArgumentError, MisuseError
from bot.core.enhanced_startup_phase4 import (
    get_phase4_status,
    initialize_phase4_services,
    phase4_loop,
    shutdown_phase4_services,
)
from bot.core.phase4_config import SETTING_NAMES
from bot.core.phase4_service import Phase4Service
from bot.integrations import ptb
from bot.testing import fast_loop
from bot.testing.telegram import ServerLimits, TelegramServer

USER = 42
# This project's own config module switches some services on.
OFF = {name: False for name in SETTING_NAMES if name.startswith("ENABLE_")}
ON = OFF | {"ENABLE_OUTBOUND": True, "ENABLE_RATE_LIMITER": True, "ENABLE_QUERY_OPTIMIZER": True}


def builder_for(server, token=None):
    builder = Application.builder().token(token or server.token).base_url(server.base_url)
    return builder.base_file_url(server.base_file_url).job_queue(None)


def build(kind, server, token=None, **options):
    builder = builder_for(server, token)
    return (
        ptb.setup(builder, **options).build() if kind == "builder" else ptb.setup(builder.build(), **options)
    )


def running():
    return sorted(kind.service_name for kind, one in Phase4Service._instances.items() if one.enabled)


@pytest.fixture
async def server():
    async with TelegramServer() as server:
        yield server


@pytest.fixture(autouse=True)
async def stopped():
    yield
    await shutdown_phase4_services()


@pytest.mark.parametrize("kind", ["builder", "application"])
async def test_the_services_start_and_stop_with_the_application(kind, server):
    application = build(kind, server, config=ON)
    assert running() == []
    async with application:
        assert running() == ["outbound", "query_optimizer", "rate_limiter"]
        await application.bot.send_message(USER, "hello")
        assert (await get_phase4_status())["outbound"]["sent"] == 1
    assert running() == []
    assert phase4_loop() is None
    # And again.
    async with application:
        await application.bot.send_message(USER, "hello")
        assert (await get_phase4_status())["outbound"]["enabled"]
    assert running() == []


@pytest.mark.parametrize("kind", ["builder", "application"])
def test_run_polling_with_hooks_of_the_users_own(kind):
    loop = fast_loop.FastLoop()
    asyncio.set_event_loop(loop)
    seen = []

    async def hook(name):
        seen.append((name, running()))

    server = TelegramServer()
    loop.run_until_complete(server.start())
    try:
        builder = builder_for(server)
        builder.post_init(lambda _: hook("post_init"))
        builder.post_stop(lambda _: hook("post_stop"))
        builder.post_shutdown(lambda _: hook("post_shutdown"))
        if kind == "builder":
            application = ptb.setup(builder, config=ON).build()
        else:
            application = ptb.setup(builder.build(), config=ON)

        async def answer(update, context):
            await update.message.reply_text("hello")
            application.stop_running()

        application.add_handler(MessageHandler(filters.ALL, answer))
        server.send_message(USER, text="hi")
        application.run_polling(stop_signals=None, close_loop=False)
        assert server.texts(USER) == ["hello"]
    finally:
        loop.run_until_complete(server.stop())
        loop.run_until_complete(loop.shutdown_asyncgens())
        asyncio.set_event_loop(None)
        loop.close()
    services = ["outbound", "query_optimizer", "rate_limiter"]
    assert seen == [("post_init", services), ("post_stop", services), ("post_shutdown", [])]


async def test_what_was_started_by_somebody_else_is_left_running(server):
    await initialize_phase4_services(OFF | {"ENABLE_RATE_LIMITER": True})
    async with build("builder", server):
        assert running() == ["rate_limiter"]
    assert running() == ["rate_limiter"]


async def test_of_two_applications_the_last_one_stops_the_services(server):
    first = build("builder", server, config=ON)
    second = build("application", server, server.add_bot().token, config=ON)
    await first.initialize()
    await second.initialize()
    await first.bot.send_message(USER, "one")
    await second.bot.send_message(USER, "two")
    await first.shutdown()
    assert "outbound" in running()
    await second.bot.send_message(USER, "three")
    await second.shutdown()
    assert running() == []


async def test_an_application_that_cannot_start_starts_no_service(server):
    application = build("builder", server, "1:unknown", config=ON)
    with pytest.raises(InvalidToken):
        await application.initialize()
    assert running() == []


async def test_what_waits_is_sent_before_the_bot_is_shut_down(server):
    server.bot().limits.limits = ServerLimits(chat_burst=100)
    application = build("builder", server, config=ON | {"OUTBOUND_CHAT_RATE": 10.0, "OUTBOUND_CHAT_BURST": 1})
    async with application:
        sends = [asyncio.ensure_future(application.bot.send_message(USER, str(index))) for index in range(8)]
        await asyncio.sleep(0)
    await asyncio.gather(*sends)
    assert server.texts(USER) == [str(index) for index in range(8)]


async def test_while_every_service_is_off_it_is_the_framework_alone(server):
    application = build("builder", server, config=OFF)
    async with application:
        assert running() == []
        await application.bot.send_message(USER, "hello")
        await application.process_update(object())
    assert server.texts(USER) == ["hello"]


async def test_services_may_be_left_to_the_bots_author(server):
    async with build("builder", server, services=False):
        assert phase4_loop() is None


async def test_an_application_that_has_parts_of_its_own_keeps_them(server):
    class Own(BaseRateLimiter):
        async def initialize(self):
            pass

        async def shutdown(self):
            pass

        async def process_request(self, callback, args, kwargs, endpoint, data, rate_limit_args):
            return await callback(*args, **kwargs)

    with pytest.raises(MisuseError, match="has a Own already"):
        ptb.setup(builder_for(server).rate_limiter(Own()).build())
    processor = ptb.ThrottledUpdates()
    with pytest.raises(MisuseError, match="has a ThrottledUpdates already"):
        ptb.setup(builder_for(server).concurrent_updates(processor).build())
    with pytest.raises(MisuseError, match="only an ExtBot"):
        ptb.setup(Application.builder().bot(Bot(server.token)).build())
    application = builder_for(server).build()
    async with application:
        await application.start()
        with pytest.raises(MisuseError, match="runs"):
            ptb.setup(application)
        await application.stop()


async def test_an_applications_own_number_of_concurrent_updates_is_kept(server):
    assert ptb.setup(builder_for(server).concurrent_updates(7).build()).concurrent_updates == 7
    assert ptb.setup(builder_for(server).build()).concurrent_updates == 256
    assert ptb.setup(builder_for(server).build(), concurrent_updates=False).concurrent_updates == 1
    assert ptb.setup(builder_for(server), concurrent_updates=3).build().concurrent_updates == 3


@pytest.mark.parametrize("target", [None, "token", ptb.Phase4RateLimiter()])
def test_only_a_builder_or_an_application_is_set_up(target):
    with pytest.raises(InvalidArgumentError, match="target = "):
        ptb.setup(target)


def test_on_one_event_loop_after_another():
    async def story():
        async with TelegramServer() as server, build("builder", server, config=ON) as application:
            await application.bot.send_message(USER, "hello")
            assert server.texts(USER) == ["hello"]
            assert running() == ["outbound", "query_optimizer", "rate_limiter"]

    for _ in range(2):
        asyncio.run(story())
        assert running() == []
