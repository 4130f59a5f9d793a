"""Outbound on the dashboard and in the terminal's status, from what it says of itself."""

import pytest

from bot.core.outbound import Outbound, Request
from bot.core.phase4_admin import figures, status
from bot.core.phase4_service import Phase4Service
from bot.core.phase4_statistics.rolling_rates import RecentReader
from tests.support.clock import VirtualClock


async def read(outbound):
    return {"outbound": await outbound.get_statistics()}


def card(services):
    return next(card for card in figures.services({"services": services}) if card["key"] == "outbound")


@pytest.fixture
async def outbound():
    service = Outbound(clock=VirtualClock())
    await service.enable(drain_timeout=0.0)
    yield service
    await service.disable()
    Phase4Service.forget_instances()


async def send(outbound, times):
    async def sent():
        return None

    for chat in range(1, times + 1):
        await outbound.call(sent, Request("sendMessage", chat))


def test_while_off_the_card_says_by_which_flag_it_goes_on():
    shown = card({})
    assert (shown["state"], shown["flag"], shown["facts"]) == ("off", "ENABLE_OUTBOUND", [])


async def test_the_card_shows_what_an_operator_asks_first(outbound):
    await send(outbound, 3)
    outbound.hold(-100, 41)
    shown = card(await read(outbound))
    assert shown["state"] == "on"
    facts = {fact["label"]: fact["value"] for fact in shown["facts"]}
    assert facts == {
        "Sent": 3, "Chats waiting": 0, "Chats held": 1, "Queued": 0, "Wait, 99 %": 0.0,
        "Refused by Telegram": 0,
    }  # fmt: skip


async def test_a_wait_of_all_chats_and_a_redis_that_is_away_are_states(outbound):
    outbound.hold(None, 41)
    assert (card(await read(outbound))["state"], card(await read(outbound))["why"]) == (
        "degraded", "Telegram refuses all chats for another 41 s",
    )  # fmt: skip
    away = {"outbound": {"enabled": True, "degraded": True, "held_globally_seconds": 0.0}}
    assert card(away)["why"].startswith("Redis does not answer")


async def test_the_chart_is_of_requests_per_second(outbound):
    reader = RecentReader(0.0)
    reader.read(0.0, await read(outbound))
    await send(outbound, 20)
    recent = reader.read(10.0, await read(outbound))
    assert recent.sent_requests_per_second == pytest.approx(2.0)
    points = figures.points({}, recent, 0.0)
    assert points[card({})["chart"]] == pytest.approx(2.0)


async def test_the_terminal_shows_queue_waits_and_holds(outbound):
    await send(outbound, 2)
    outbound.hold(None, 41)
    rows = {row.name: row for row in status._ROWS["outbound"]((await read(outbound))["outbound"])}
    assert rows["sent, failed"].value == "2, 0"
    assert rows["queued"].value == "0 of 10,000"
    assert (rows["all chats held"].value, rows["all chats held"].met) == ("41 s", False)
