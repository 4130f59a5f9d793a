from collections.abc import AsyncIterator

import pytest

from bot.core.query_optimizer import QueryOptimizer


@pytest.fixture
async def seen() -> AsyncIterator[QueryOptimizer]:
    """The process's optimizer, which reads PostgreSQL."""
    optimizer = QueryOptimizer.get_instance()
    await optimizer.enable(dialect="postgres", slow_query_threshold=0.1)
    yield optimizer
    optimizer._invalidation.cache.check_invariants()
    await optimizer.disable()
