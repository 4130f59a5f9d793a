"""A Telegram that is told what to refuse, and an Outbound on a virtual clock."""

import random

import pytest

from bot.core.outbound import Outbound
from tests.support.clock import VirtualClock


class RetryAfter(Exception):
    """As aiogram and python-telegram-bot raise it."""

    def __init__(self, retry_after):
        super().__init__(f"Too Many Requests: retry after {retry_after}")
        self.retry_after = retry_after


@pytest.fixture
def clock():
    return VirtualClock()


@pytest.fixture
async def outbound(clock):
    service = Outbound(clock=clock, random_source=random.Random(7))
    await service.enable(drain_timeout=0.0)
    yield service
    await service.disable()
    service.check_invariants()
