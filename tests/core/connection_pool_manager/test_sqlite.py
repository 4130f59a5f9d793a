"""What only SQLite does."""

from __future__ import annotations

from pathlib import Path

from bot.core.connection_pool_manager import ConnectionPoolManager

COUNTING = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 100000) SELECT i FROM n"


async def test_a_cursor_that_nobody_closed_interrupts_nobody_else(tmp_path: Path) -> None:
    """SQLite interrupts whatever begins while an interrupted statement is still at a row."""
    pools = ConnectionPoolManager()
    await pools.create_pool("lite", "sqlite", 1, 1, url=f"sqlite:///{tmp_path}/lite.db")
    try:
        conn = await pools.acquire_connection("lite")
        left_open = await conn.raw_connection.execute(COUNTING)
        assert await left_open.fetchone() == (1,)
        await pools.release_connection("lite", conn)
        for _ in range(2):
            async with pools.connection("lite") as conn, conn.execute("SELECT 7") as cursor:
                assert await cursor.fetchone() == (7,)
    finally:
        await pools.disable()
