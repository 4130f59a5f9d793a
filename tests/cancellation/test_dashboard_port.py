"""A cancellation while the dashboard's own port is opened or closed: the port is free afterwards."""

import asyncio
import socket

import pytest

from bot.core.enhanced_startup_phase4 import mount_phase4
from tests.support.servers import free_port


def is_free(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize("closing", [False, True])
async def test_after_each_number_of_turns(closing):
    before = asyncio.all_tasks()
    for turns in range(1, 12):
        port = free_port()
        mounted = await mount_phase4(port) if closing else None
        task = asyncio.ensure_future(mount_phase4(port) if mounted is None else mounted.close())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        if mounted is None and not task.cancelled():
            await task.result().close()
        assert is_free(port), f"cancelled after {turns} turns"
        for _ in range(3):
            await asyncio.sleep(0)
        assert asyncio.all_tasks() == before, f"cancelled after {turns} turns"
