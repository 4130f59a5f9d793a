"""What frameworks call: middlewares, limiters, update processors."""

from __future__ import annotations

import asyncio
import datetime
import sys
from typing import Any

import telegram
from aiogram import Bot, Dispatcher
from aiogram.client.session.base import BaseSession
from aiogram.types import Chat, Message, Update, User

from bot.core.outbound import Limits, Outbound
from bot.core.phase4_service import Phase4Service
from bot.core.rate_limiter import RateLimitConfig, RateLimiter
from bot.integrations import aiogram as on_aiogram
from bot.integrations import ptb
from bot.integrations.inbound import Throttle
from bot.integrations.pyrogram import install, uninstall
from bot.testing.mtproto import MTProtoServer
from tests.cancellation.sweep.worlds import World, scenario

USER = 42
LIMITS = Limits(group=(2, 0.02), chat=(2, 0.02), chat_burst=1)
USERS = RateLimitConfig(1000.0, 10_000)
"""Of the limiter: a sweep asks more than a user does, and who is refused is not handled."""
ON = {"ENABLE_OUTBOUND": True, "ENABLE_RATE_LIMITER": True, "ENABLE_QUERY_OPTIMIZER": True}


class IntegrationWorld(World):
    """The limiter and outbound of the process, switched on."""

    async def start(self) -> None:
        self.outbound, self.limiter = Outbound(), RateLimiter()
        Phase4Service._instances.update({Outbound: self.outbound, RateLimiter: self.limiter})
        await self.outbound.enable(LIMITS, bot_id=USER)
        await self.limiter.enable(USERS)

    async def stop(self) -> None:
        await self.outbound.disable()
        await self.limiter.disable()

    async def held(self) -> list[str]:
        self.outbound.check_invariants()
        shown = self.outbound.statistics()
        return [f"{shown[name]} {name}" for name in ("queued", "in_flight") if shown.get(name)]


class _Session(BaseSession):
    async def make_request(self, bot: Any, method: Any, timeout: Any = None) -> Any:
        await asyncio.sleep(0)
        return True

    async def stream_content(self, *args: Any, **options: Any) -> Any:
        yield b""

    async def close(self) -> None:
        await asyncio.sleep(0)


class AiogramWorld(IntegrationWorld):
    name = "aiogram"

    async def start(self) -> None:
        await super().start()
        self.dispatcher = Dispatcher()
        self.bot = Bot(f"{USER}:{'A' * 35}", session=_Session())
        on_aiogram.setup(self.dispatcher, self.bot, services=False)
        self.handled = 0

        @self.dispatcher.message()
        async def answer(message: Message) -> None:
            await message.answer("a")
            self.handled += 1

        self.update = Update(
            update_id=1,
            message=Message(
                message_id=1,
                date=datetime.datetime.now(datetime.UTC),
                chat=Chat(id=USER, type="private"),
                from_user=User(id=USER, is_bot=False, first_name="a"),
                text="hello",
            ),
        )

    @scenario("Gate.refuses")
    async def handle_an_update(self) -> None:
        await self.dispatcher.feed_update(self.bot, self.update)

    @scenario(before=lambda world: world.without(), after=lambda world: world.ended())
    async def start_and_stop(self) -> None:
        await self.started.emit_startup(bot=self.bot)
        await self.started.emit_shutdown(bot=self.bot)

    async def without(self) -> None:
        await self.stop()
        self.started = Dispatcher()
        on_aiogram.setup(self.started, self.bot, config=ON)

    async def ended(self) -> None:
        """The framework's next stop finishes it, and the services are off."""
        await self.started.emit_shutdown(bot=self.bot)
        assert [self.outbound.enabled, self.limiter.enabled] == [False, False], "nobody stops these services"
        await self.outbound.enable(LIMITS, bot_id=USER)
        await self.limiter.enable(USERS)
        on_aiogram.setup(self.dispatcher, self.bot, services=False)


class _Ptb:
    """What python-telegram-bot's limiter is called with: a method of a bot."""

    id = USER
    token = f"{USER}:{'A' * 35}"

    async def post(self) -> bool:
        await asyncio.sleep(0)
        return True


class PtbWorld(IntegrationWorld):
    name = "python-telegram-bot"

    async def start(self) -> None:
        await super().start()
        self.sending, self.bot = ptb.Phase4RateLimiter(), _Ptb()
        self.updates = ptb.ThrottledUpdates()
        await self.updates.initialize()
        self.update = telegram.Update(
            1,
            message=telegram.Message(
                1,
                datetime.datetime.now(datetime.UTC),
                telegram.Chat(USER, "private"),
                from_user=telegram.User(USER, "a", False),
                text="hello",
            ),
        )

    async def held(self) -> list[str]:
        found = await super().held()
        if self.updates._chats or self.updates.current_concurrent_updates:
            found.append(f"updates wait or are handled: {self.updates._chats}")
        return found

    @scenario("Phase4RateLimiter.process_request")
    async def process_request(self) -> None:
        for _ in range(2):
            sent = self.sending.process_request(
                self.bot.post, (), {}, "sendMessage", {"chat_id": USER, "text": "a"}, None
            )
            assert await sent is True

    @scenario("Phase4RateLimiter.initialize", "Phase4RateLimiter.shutdown")
    async def shutdown_of_the_limiter(self) -> None:
        await self.sending.initialize()
        await self.sending.shutdown()

    @scenario("ThrottledUpdates.do_process_update")
    async def process_update(self) -> None:
        await self.updates.process_update(self.update, self.bot.post())

    @scenario("ThrottledUpdates.do_process_update")
    async def process_updates_of_one_chat(self) -> None:
        others = [
            asyncio.ensure_future(self.updates.process_update(self.update, self.bot.post())) for _ in range(3)
        ]
        try:
            await self.updates.process_update(self.update, self.bot.post())
        finally:
            await asyncio.shield(asyncio.gather(*others))

    @scenario(
        "ThrottledUpdates.initialize",
        "ThrottledUpdates.shutdown",
        "Throttle.client_of",
    )
    async def enter_the_processor(self) -> None:
        async with ptb.ThrottledUpdates():
            await Throttle().client_of(self.update, USER, USER)


class PyrogramWorld(IntegrationWorld):
    name = "pyrogram"

    async def start(self) -> None:
        await super().start()
        self.server = MTProtoServer(limits=None)
        self.client = self.server.client("swept")
        install(self.client, services=False)
        await self.client.start()

    async def stop(self) -> None:
        await self.client.stop()
        await uninstall(self.client)
        await super().stop()

    # Its session waits within asyncio.wait_for, which before 3.12 lost a cancellation beside a result.
    @scenario(swallowed=sys.version_info < (3, 12))
    async def send_message(self) -> None:
        for _ in range(2):
            await self.client.send_message(USER, "a")

    @scenario("Installed.outbound")
    async def outbound_of_it(self) -> None:
        await install(self.client, services=False).outbound()

    @scenario("uninstall", before=lambda world: world.with_services(), after=lambda world: world.without())
    async def uninstall_with_services(self) -> None:
        await uninstall(self.other)

    async def with_services(self) -> None:
        await super().stop()
        self.other = self.server.client("other")
        await install(self.other, config=ON)._services.start()
        assert self.outbound.enabled

    async def without(self) -> None:
        await uninstall(self.other)
        assert [self.outbound.enabled, self.limiter.enabled] == [False, False], "nobody stops these services"
        await self.outbound.enable(LIMITS, bot_id=USER)
        await self.limiter.enable(USERS)
