"""The stop of a framework's adapter, cancelled: the next one stops the services."""

import asyncio

import pytest
from aiogram import Bot, Dispatcher

from bot.core.enhanced_startup_phase4 import phase4_loop, shutdown_phase4_services
from bot.integrations import aiogram as on_aiogram
from bot.integrations.pyrogram import install, uninstall
from bot.testing.mtproto import MTProtoServer

ON = {"ENABLE_OUTBOUND": True, "ENABLE_RATE_LIMITER": True}


@pytest.fixture(autouse=True)
async def stopped():
    yield
    await shutdown_phase4_services()


async def cancelled_at_once(work):
    task = asyncio.ensure_future(work)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def hold_a_stop(monkeypatch):
    """Make the drain of outbound wait, as it does for what is queued."""
    from bot.core.outbound import Outbound

    disable = Outbound.disable

    async def slow(self):
        await asyncio.sleep(0.001)
        return await disable(self)

    monkeypatch.setattr(Outbound, "disable", slow)


async def test_aiogram(monkeypatch):
    await hold_a_stop(monkeypatch)
    dispatcher, bot = Dispatcher(), Bot(f"42:{'A' * 35}")
    on_aiogram.setup(dispatcher, bot, config=ON)
    await dispatcher.emit_startup(bot=bot)
    assert phase4_loop() is not None
    await cancelled_at_once(dispatcher.emit_shutdown(bot=bot))
    assert phase4_loop() is not None
    await dispatcher.emit_shutdown(bot=bot)
    assert phase4_loop() is None, "services ran on that nobody could stop"
    await bot.session.close()


async def test_pyrogram(monkeypatch):
    await hold_a_stop(monkeypatch)
    client = MTProtoServer(limits=None).client("bot")
    installed = install(client, config=ON)
    await installed._services.start()
    await cancelled_at_once(uninstall(client))
    assert phase4_loop() is not None
    assert await uninstall(client) is True
    assert phase4_loop() is None, "services ran on that nobody could stop"
    assert await uninstall(client) is False


async def test_a_pyrogram_client_that_is_installed_again_while_it_is_uninstalled(monkeypatch):
    await hold_a_stop(monkeypatch)
    client = MTProtoServer(limits=None).client("bot")
    await install(client, config=ON)._services.start()
    leaving = asyncio.ensure_future(uninstall(client))
    await asyncio.sleep(0)
    again = install(client, services=False)
    assert await leaving is True
    assert install(client, services=False) is again
    assert again._attached
    assert await uninstall(client) is True
