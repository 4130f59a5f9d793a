"""A broadcast by aiogram's Bot over real HTTP, to a server that enforces Telegram's limits."""

import asyncio

import pytest

from bot.core.outbound import Outbound
from bot.testing import fast_loop
from bot.testing.telegram import TelegramServer

pytest.importorskip("aiogram")


@pytest.mark.parametrize("connected", [False, True], ids=["plain bot", "bot connected with Phase 4"])
def test_a_thousand_by_aiogram_within_telegrams_limits(tmp_path, connected):
    from aiogram import Bot
    from aiogram.client.session.aiohttp import AiohttpSession
    from aiogram.client.telegram import TelegramAPIServer

    from bot.integrations import aiogram as phase4

    async def main():
        loop = asyncio.get_running_loop()
        outbound = Outbound(clock=loop.clock)
        await outbound.enable()
        async with TelegramServer() as server:
            for user in range(10, 1_001, 10):
                server.block(user)
            for user in range(25, 1_001, 50):
                server.deactivate(user)
            server.fail("sendMessage", code=502)
            async with Bot(
                server.token, session=AiohttpSession(api=TelegramAPIServer.from_base(server.url))
            ).context() as bot:
                if connected:  # each request passes through Outbound by itself, too
                    phase4.setup(None, bot, outbound=outbound)
                began = loop.time()
                report = await outbound.broadcast(
                    "news", range(1, 1_001), lambda chat: bot.send_message(chat, "news"),
                    store=str(tmp_path / "b.sqlite3"),
                )  # fmt: skip
                seconds = loop.time() - began
            refused, shown = server.log.refused(), [len(server.texts(user)) for user in range(1, 1_001)]
            requests = (await outbound.get_statistics())["total_requests"]
        await outbound.disable()
        assert requests <= 1_001  # each once, and once more after the 502
        return report, seconds, refused, shown

    report, seconds, refused, shown = fast_loop.run(main(), grace=0.05)
    assert not refused
    assert (report.done, report.blocked, report.deactivated, report.failed) == (1_000, 100, 20, 0)
    assert shown.count(1) == report.sent == 880
    assert max(shown) == 1
    assert seconds >= 1_000 / 30 - 2
    print(f"1,000 in {seconds:.1f} s of the bot's time")
