"""A shutdown that is cancelled at any of its awaits is finished by the next one."""

import asyncio
import itertools
import logging
import os

import pytest

from bot.core.connection_pool_manager import ConnectionPoolManager
from bot.core.enhanced_startup_phase4 import initialize_phase4_services, shutdown_phase4_services
from bot.core.redis_link import RedisLink


def settings(redis_url, folder):
    return {
        "ENABLE_QUERY_OPTIMIZER": True,
        "ENABLE_CACHE_MANAGER": True,
        "ENABLE_CONNECTION_POOLING": True,
        "ENABLE_RATE_LIMITER": True,
        "ENABLE_BATCH_PROCESSOR": True,
        "ENABLE_LOAD_BALANCER": True,
        "CACHE_L2_REDIS_URL": redis_url,
        "RATE_LIMIT_REDIS_URL": redis_url,
        "BATCH_REDIS_URL": redis_url,
        "LOAD_BALANCER_INSTANCES": [{"id": "a", "address": "127.0.0.1", "port": 9}],
        "DATABASE_POOLS": {
            "lite": {
                "backend": "sqlite",
                "url": f"sqlite:///{folder / 'x.db'}",
                "min_size": 2,
                "max_size": 3,
            },
            "redis": {"backend": "redis", "url": redis_url, "min_size": 2, "max_size": 3},
        },
    }


def open_sockets():
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if target.startswith("socket:") or target.endswith("x.db"):
            found.append(target)
    return set(found)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors as Linux shows them")
async def test_at_each_await_of_a_shutdown(redis_url, tmp_path, caplog):
    caplog.set_level(logging.CRITICAL, logger="bot")
    before = open_sockets()
    for turns in itertools.count():
        report = await initialize_phase4_services(settings(redis_url, tmp_path))
        assert report["errors"] == []
        tasks = {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}
        stopping = asyncio.create_task(shutdown_phase4_services())
        for _ in range(turns):
            await asyncio.sleep(0)
        was_done = stopping.done()
        stopping.cancel()
        await asyncio.wait([stopping])
        assert await shutdown_phase4_services() is True
        assert not RedisLink._links, f"cancelled after {turns} turns"
        left = {task for task in tasks if not task.done()}
        assert not left, f"cancelled after {turns} turns: {left}"
        for _ in range(50):
            if open_sockets() <= before:
                break
            await asyncio.sleep(0.01)
        assert open_sockets() <= before, f"cancelled after {turns} turns"
        assert not (await ConnectionPoolManager.get_instance().get_all_statistics())
        if was_done:
            break
    assert turns > 5
