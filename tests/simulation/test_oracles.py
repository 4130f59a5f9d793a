"""Every world notices when the library breaks its promise."""

from __future__ import annotations

import pytest

from bot.core.batch_processor.durable.settling import Settling
from bot.core.cache_manager.local import LocalTier
from bot.core.outbound import Outbound
from bot.core.rate_limiter import RateLimiter
from tests.simulation.pool_world import ModelDriver, Verdict
from tests.simulation.worlds import WORLDS, failure_of

ENOUGH = 60
"""Seeds in which a fault that is always there must show."""


def notices(name, of):
    """Whether some seed fails, and says ``of``."""
    return any(of in (failure_of(WORLDS[name], seed) or "") for seed in range(ENOUGH))


def alone(kind):
    """``enable`` without Redis: each instance by itself."""
    enable = kind.enable

    async def enabled(self, *args, **options):
        return await enable(self, *args, **{**options, "redis_url": ""})

    return enabled


@pytest.mark.parametrize(
    ("world", "kind", "of"),
    [
        ("limiter", RateLimiter, "within 3.0 s"),
        ("slots", RateLimiter, "slots at"),
        ("outbound", Outbound, "within"),
    ],
)
def test_a_limit_that_is_not_shared(monkeypatch, world, kind, of):
    monkeypatch.setattr(kind, "enable", alone(kind))
    assert notices(world, of)


def test_a_cache_that_hears_nothing(monkeypatch):
    monkeypatch.setattr(LocalTier, "apply", lambda self, *heard: None)
    assert notices("cache", "s old")


def test_a_connection_that_is_not_reset(monkeypatch):
    monkeypatch.setattr(ModelDriver, "verdict", lambda self, raw: Verdict.CLEAN)
    assert notices("pool", "what another left")


def test_a_result_that_is_not_that_of_the_others(monkeypatch):
    settlement = Settling.settlement

    def other(self, item, value, *, dead):
        told = value if isinstance(value, BaseException) else f"{value} as others see it"
        return settlement(self, item, told, dead=dead)

    monkeypatch.setattr(Settling, "settlement", other)
    assert notices("batch", "two outcomes")
