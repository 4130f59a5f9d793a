"""Waiting for a state instead of for a time."""

import asyncio


async def until(condition, timeout=8.0):
    """Wait for what another process or a reconnection brings about."""
    async with asyncio.timeout(timeout):
        while not await condition():
            await asyncio.sleep(0.01)


async def equals(call, value):
    return await call() == value
