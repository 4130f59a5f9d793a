"""Coroutines run to their end from where an event loop may be running already, such as fixtures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import asyncpg


def run_apart(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run ``work()`` to its end on an event loop of its own."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(work())).result()


def execute_on_postgresql(url: str, *statements: str) -> None:
    """Run statements over a connection of their own."""

    async def once() -> None:
        connection = await asyncpg.connect(url)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    run_apart(once)
