import asyncio

import pytest

from bot.core.query_optimizer import QueryOptimizer


class FakeRows:
    """Rows that come when the test lets them, so that races can be staged."""

    def __init__(self):
        self.executed = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.rows = [{"id": 1, "name": "ann"}]
        self.error = None

    async def __call__(self, query, params):
        self.executed.append((query, params))
        answer = [dict(row) for row in self.rows]  # what the database held when it was asked
        await self.gate.wait()
        if self.error:
            raise self.error
        return answer


@pytest.fixture
def db():
    return FakeRows()


@pytest.fixture
async def optimizer(clock):
    optimizer = QueryOptimizer(clock=clock)
    await optimizer.enable()
    yield optimizer
    optimizer._invalidation.cache.check_invariants()
    await optimizer.disable()
