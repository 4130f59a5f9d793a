"""The manager of the pools, over SQLite: what is asked of it in the wrong order or with the wrong values."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bot.core._shared.errors import InvalidArgumentError
from bot.core.connection_pool_manager import ConnectionPoolManager
from bot.core.connection_pool_manager.errors import LeaseError


@pytest.fixture
async def pools(tmp_path: Path) -> AsyncIterator[ConnectionPoolManager]:
    manager = ConnectionPoolManager()
    await manager.create_pool("lite", "sqlite", 1, 1, url=f"sqlite:///{tmp_path}/lite.db")
    yield manager
    await manager.disable()


async def test_a_pool_made_while_the_manager_is_switched_off_does_not_switch_it_on(tmp_path: Path) -> None:
    pools = ConnectionPoolManager()
    making = asyncio.ensure_future(pools.create_pool("lite", "sqlite", url=f"sqlite:///{tmp_path}/lite.db"))
    await asyncio.sleep(0)
    assert await pools.disable()
    await making
    assert not pools.enabled
    assert not pools._pools


async def test_a_pool_that_cannot_be_made_leaves_the_manager_off() -> None:
    pools = ConnectionPoolManager()
    with pytest.raises(InvalidArgumentError):
        await pools.create_pool(
            "lite", "sqlite", url="sqlite:///nowhere/at/all/lite.db", reset="never at all"
        )
    assert not pools.enabled


@pytest.mark.parametrize(
    "timeout", [-1, True, float("nan"), float("inf"), pytest.param(10**5000, id="huge"), "1"]
)
async def test_a_timeout_that_is_none_is_refused_whether_or_not_a_connection_is_free(pools, timeout) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^timeout = .{1,210}: expected a finite number"):
        await pools.acquire_connection("lite", timeout=timeout)
    async with pools.connection("lite"):
        with pytest.raises(InvalidArgumentError):
            await pools.acquire_connection("lite", timeout=timeout)


async def test_one_context_serves_one_block_at_a_time_also_while_it_waits(pools) -> None:
    held = await pools.acquire_connection("lite")
    context = pools.connection("lite")
    first = asyncio.ensure_future(context.__aenter__())
    await asyncio.sleep(0)
    with pytest.raises(LeaseError, match="in use already"):
        await context.__aenter__()
    await pools.release_connection("lite", held)
    await first
    await context.__aexit__(None, None, None)
    async with context as again, again.execute("SELECT 7") as cursor:
        assert await cursor.fetchone() == (7,)
