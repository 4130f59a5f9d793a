"""What Redis is told of clients that were refused without asking it, and when."""

import asyncio
import contextlib
import math

import pytest

from bot.core.rate_limiter.mirror import Mirror, client_key
from bot.core.rate_limiter.models import RateLimitConfig
from bot.core.rate_limiter.penalty import Penalties
from bot.core.rate_limiter.reports import REPORT_INTERVAL, Reports
from tests.support.clock import VirtualClock


class Link:
    """The event loop that Redis is used from."""

    root_bytes = b""

    def __init__(self) -> None:
        self.owner = self
        self.elsewhere = False

    def here(self) -> None:
        asyncio.get_running_loop()


class Script:
    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, key: bytes, argument: bytes) -> None:
        self.sent.append(key)


class Desk:
    """Reports to a script that only notes them, of clients that were refused just now."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.penalties = Penalties(base=2.0, cap=60.0, grace=0.0)
        self.mirror = Mirror(RateLimitConfig(1.0, 1), self.penalties, self.clock, "limit", "one")
        self.link, self.script = Link(), Script()
        self.open = True
        self.reports = Reports(self.link, self.script.send, self.clock.monotonic, lambda: self.open)
        self.reports.offset = 0.0

    def refuse(self, client: str) -> None:
        """Redis refused it, and it came again too early."""
        now = self.clock.monotonic()
        self.mirror.heard_of_take(client, now, 1, -5.0, 1.0, -math.inf, math.inf)
        self.mirror.refused(client, now, 1)
        self.reports.add(self.mirror, client)


@pytest.fixture
def desk():
    made = Desk()
    yield made
    with contextlib.suppress(RuntimeError):
        made.reports.cancel_timer()


async def test_those_of_a_moment_are_told_together(desk):
    for client in ("a", "b", "a"):
        desk.refuse(client)
    assert desk.script.sent == []
    async with asyncio.timeout(5.0):
        while not desk.script.sent:
            await asyncio.sleep(REPORT_INTERVAL / 4)
    assert desk.script.sent == [client_key("a"), client_key("b")]
    assert not desk.reports.pending
    assert desk.reports.refused == 3


async def test_one_that_is_asked_about_is_told_at_once_and_not_again(desk):
    desk.refuse("a")
    desk.refuse("b")
    desk.reports.send(desk.mirror, "a")
    assert desk.script.sent == [client_key("a")]
    desk.reports.send_all()
    assert desk.script.sent == [client_key("a"), client_key("b")]


async def test_of_one_that_was_forgiven_nothing_is_told(desk):
    desk.refuse("a")
    desk.reports.forget(desk.mirror, "a")
    desk.reports.send_all()
    assert desk.script.sent == []


async def test_while_redis_cannot_be_told_nothing_is_gathered(desk):
    desk.open = False
    desk.refuse("a")
    desk.reports.send_all()
    desk.open = True
    desk.reports.send_all()
    assert desk.script.sent == []


async def test_before_redis_has_told_its_time_it_cannot_be_told_any(desk):
    desk.reports.offset = None
    desk.refuse("a")
    desk.reports.send_all()
    assert desk.script.sent == []


async def test_what_gathers_is_one_object_for_good(desk):
    pending = desk.reports.pending
    desk.refuse("a")
    assert (desk.mirror, "a") in pending
    desk.reports.send_all()
    assert desk.reports.pending is pending
    assert not pending


def test_without_an_event_loop_they_wait_for_the_next_that_has_one(desk):
    desk.refuse("a")

    async def within() -> None:
        desk.refuse("b")
        desk.reports.send_all()

    asyncio.run(within())
    assert desk.script.sent == [client_key("a"), client_key("b")]


async def test_another_event_loop_than_that_of_the_link_sets_no_timer(desk):
    desk.link.elsewhere = True
    desk.refuse("a")
    assert desk.reports._timer is None
    assert (desk.mirror, "a") in desk.reports.pending


def test_a_timer_of_an_event_loop_that_ended_does_not_block_the_next(desk):
    async def refuse(client: str) -> None:
        desk.refuse(client)

    asyncio.run(refuse("a"))
    desk.reports.abandon_timer()

    async def refuse_and_wait() -> None:
        desk.refuse("b")
        async with asyncio.timeout(5.0):
            while not desk.script.sent:
                await asyncio.sleep(REPORT_INTERVAL / 4)

    asyncio.run(refuse_and_wait())
    assert desk.script.sent == [client_key("a"), client_key("b")]
