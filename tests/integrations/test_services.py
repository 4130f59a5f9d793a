"""Start, stop and budgets as adapters share them."""

import asyncio

import pytest

from bot.core.enhanced_startup_phase4 import (
    initialize_phase4_services,
    phase4_loop,
    shutdown_phase4_services,
)
from bot.core.outbound import Limits, Outbound
from bot.core.rate_limiter import RateLimiter
from bot.integrations.services import Budgets, ServiceUser, running_limiter, running_outbound

ON = {"ENABLE_RATE_LIMITER": True}


@pytest.fixture(autouse=True)
async def stopped():
    yield
    await shutdown_phase4_services()


async def test_the_first_user_starts_the_services_and_the_last_one_stops_them():
    one, two = ServiceUser(ON), ServiceUser()
    report = await one.start()
    assert "RateLimiter" in report["services_initialized"]
    assert await two.start() is None
    assert not one.is_last
    await one.stop()
    assert running_limiter() is not None
    assert two.is_last
    await two.stop()
    await two.stop()
    assert running_limiter() is None
    assert phase4_loop() is None


async def test_services_that_ran_before_are_left_running():
    await initialize_phase4_services(ON)
    user = ServiceUser()
    assert await user.start() is None
    await user.drain()
    await user.stop()
    assert RateLimiter.get_instance().enabled


async def test_a_config_of_its_own_changes_what_runs():
    await initialize_phase4_services(ON)
    user = ServiceUser({**ON, "RATE_LIMIT_DEFAULT_RPS": 3.0})
    report = await user.start()
    assert report["success"]
    await user.stop()
    assert RateLimiter.get_instance().enabled


async def test_a_user_that_vanishes_without_a_stop_keeps_nothing_running():
    lost = ServiceUser(ON)
    await lost.start()
    del lost
    user = ServiceUser()
    await user.start()
    await user.stop()
    assert running_limiter() is None


async def test_a_stop_that_is_cancelled_is_finished_by_the_next(monkeypatch):
    user = ServiceUser({"ENABLE_OUTBOUND": True, "OUTBOUND_DRAIN_TIMEOUT": 30.0})
    await user.start()
    outbound = Outbound.get_instance()
    outbound.hold(None, 60.0)
    from bot.core.outbound import Request

    waiting = asyncio.create_task(outbound.call(lambda: asyncio.sleep(0), Request("sendMessage", 1)))
    await asyncio.sleep(0)
    stopping = asyncio.create_task(user.stop())
    await asyncio.sleep(0.05)
    stopping.cancel()
    await asyncio.gather(stopping, return_exceptions=True)
    await user.stop()
    assert running_outbound() is None
    with pytest.raises(Exception, match="switched off"):
        await waiting


async def test_each_bot_has_a_budget_of_its_own_with_the_same_settings():
    assert await Budgets.of(1) is None
    main = Outbound.get_instance()
    await main.enable(Limits(chat_burst=7), max_wait=5.0)
    assert await Budgets.of(1) is main
    other = await Budgets.of(2)
    assert other is not main
    assert other.enabled
    assert await Budgets.of(2) is other
    assert await Budgets.of(1) is main
    await Budgets.disable(Outbound())
    assert other.enabled
    await Budgets.disable()
    assert not other.enabled
    assert (await Budgets.of(2)) is other
    assert other.enabled
    await Budgets.disable()
    assert main.enabled
    given = Outbound()
    assert await Budgets.of(1, given) is None
    await given.enable()
    assert await Budgets.of(1, given) is given
    await given.disable()
    await main.disable()
    assert await Budgets.of(2) is None


async def test_the_budgets_of_further_bots_follow_a_change_of_settings():
    user = ServiceUser({"ENABLE_OUTBOUND": True, "OUTBOUND_MAX_PENDING": 5})
    await user.start()
    await Budgets.of(1)
    other = await Budgets.of(2)
    assert other._dispatcher.scheduler.backlog.most == 5
    again = ServiceUser({"ENABLE_OUTBOUND": True, "OUTBOUND_MAX_PENDING": 7})
    await again.start()
    assert other._dispatcher.scheduler.backlog.most == 7
    await again.stop()
    await user.stop()
    assert not other.enabled


async def test_the_bot_that_the_settings_name_has_the_process_s_budget():
    main = Outbound.get_instance()
    await main.enable(bot_id=7)
    other = await Budgets.of(8)
    assert other is not main
    assert await Budgets.of(7) is main
    assert other._settings["bot_id"] == 8
    await Budgets.disable()
    await main.disable()


async def test_a_bot_is_known_by_its_id_again_after_a_change_of_settings():
    main = Outbound.get_instance()
    for _ in range(2):
        await main.enable()
        assert await Budgets.of(7) is main
        assert main._settings["bot_id"] == 7
    await main.enable(bot_id="a name")
    assert await Budgets.of(7) is main
    assert main._settings["bot_id"] == "a name"
    await main.disable()
