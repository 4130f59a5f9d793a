"""What the tests of durable mode share."""

import asyncio

SAFE = ("--appendonly", "yes", "--appendfsync", "always")
"""Options of a Redis that writes each change to disk before it answers."""


async def echo(items):
    return {item.item_id: item.data for item in items}


async def until(condition, seconds=20.0):
    """Wait for something that other processes bring about; fails rather than waiting for ever."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


async def length(processor):
    return await processor._store.streams.link.execute("XLEN", processor._store.streams.items)
