"""Pools for tests of single decisions."""

from __future__ import annotations

import random
from types import SimpleNamespace

from bot.core.connection_pool_manager.models import PoolOptions
from bot.core.connection_pool_manager.pool import Pool, Slot, Waiter

START = 1000.0
LIVES = 600.0
"""The time at which the tests begin, and the seconds that a connection lives."""


class Longest(random.Random):
    """Draws the upper bound each time, or the lower one."""

    def __init__(self, at: float = 1.0) -> None:
        super().__init__(0)
        self.at = at

    def uniform(self, a: float, b: float) -> float:
        return a + (b - a) * self.at


def options(**changed) -> PoolOptions:
    standard = {
        "min_size": 0, "max_size": 4, "max_lifetime": LIVES, "idle_timeout": 120.0,
        "keepalive_interval": 60.0, "leak_threshold": 30.0, "validate_after": 0.5,
    }  # fmt: skip
    return PoolOptions(**{**standard, **changed}).validate()


def pool_of(connections: int, *, rng: random.Random | None = None, **changed) -> Pool:
    """A pool with so many idle connections, opened at START for exactly LIVES seconds."""
    pool = Pool(options(**changed), is_open=lambda raw: raw.is_open, rng=rng or Longest(0.0))
    waiters = [Waiter(START) for _ in range(connections)]
    for waiter in waiters:
        pool.request(waiter, START)
    for number in range(connections):
        pool.opened(connection(number), START)
    for waiter in waiters:
        assert waiter.slot is not None
        pool.put(waiter.slot, START)
        waiter.slot = None
    pool.counters.__init__()
    return pool


def connection(number: int = 0) -> Slot:
    return Slot(SimpleNamespace(is_open=True), number)
