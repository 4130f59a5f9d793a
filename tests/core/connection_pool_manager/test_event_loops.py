"""Pools and event loops: made under one, used or closed under another."""

import asyncio
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bot.core._shared.errors import MisuseError
from bot.core.connection_pool_manager import ConnectionPoolManager, PoolTimeoutError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/pool.db"


async def one(manager):
    async with manager.connection("p") as conn:
        return await (await conn.execute("SELECT 1")).fetchone()


def test_a_pool_whose_loop_ended_is_made_anew_and_keeps_counting(url):
    manager = ConnectionPoolManager()

    async def first():
        await manager.create_pool("p", "sqlite", min_size=1, max_size=2, url=url)
        assert await one(manager) == (1,)

    async def second():
        assert await one(manager) == (1,)
        return (await manager.get_statistics())["p"]["total_acquired"]

    asyncio.run(first())
    assert asyncio.run(second()) == 2
    assert asyncio.run(manager.disable())
    assert asyncio.run(manager.get_statistics()) == {}


def test_a_pool_of_another_running_loop_is_refused_and_closed_from_here(url):
    manager = ConnectionPoolManager()
    ready, end = threading.Event(), threading.Event()

    async def other():
        await manager.create_pool("p", "sqlite", min_size=1, max_size=2, url=url)
        ready.set()
        while not end.is_set():
            await asyncio.sleep(0.01)

    thread = threading.Thread(target=lambda: asyncio.run(other()))
    thread.start()
    assert ready.wait(10)

    async def here():
        with pytest.raises(MisuseError, match="another running event loop"):
            await manager.acquire_connection("p")
        assert await manager.disable()

    try:
        asyncio.run(here())
    finally:
        end.set()
        thread.join()


def test_a_lease_outlives_its_loop_and_is_given_back_under_the_next(url):
    manager = ConnectionPoolManager()

    async def acquire():
        await manager.create_pool("p", "sqlite", min_size=1, max_size=1, url=url)
        return await manager.acquire_connection("p")

    lease = asyncio.run(acquire())
    asyncio.run(manager.release_connection("p", lease))
    assert asyncio.run(one(manager)) == (1,)
    assert asyncio.run(manager.disable())


@pytest.mark.server
@pytest.mark.parametrize("backend", ["sqlite", "redis", "postgresql", "mysql", "mongodb"])
@pytest.mark.parametrize("loops", ["asyncio", "uvloop"])
@pytest.mark.parametrize("ended", ["closed", "stopped"])
def test_disabled_under_another_loop_nothing_stays_open(request, tmp_path, backend, loops, ended):
    """Also for a loop that was not closed and will not run again."""
    import psutil
    import uvloop

    url = f"sqlite:///{tmp_path}/p.db" if backend == "sqlite" else request.getfixturevalue(f"{backend}_url")
    make = uvloop.new_event_loop if loops == "uvloop" else asyncio.new_event_loop
    process = psutil.Process()

    def established():
        # The loops' own pairs aside; unix sockets have no state that tells.
        return {(c.fd, c.laddr) for c in process.net_connections("tcp") if c.status == "ESTABLISHED"}

    pools = ConnectionPoolManager()
    before = established()
    loop = make()
    loop.run_until_complete(pools.create_pool("p", backend, 2, 2, url=url))
    lease = loop.run_until_complete(pools.acquire_connection("p"))
    if ended == "closed":
        loop.close()
    asyncio.run(pools.disable(drain_timeout=0.1))
    assert not pools.enabled
    deadline = time.monotonic() + 10
    while established() - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert established() <= before
    del lease
    if ended == "stopped":
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


def test_a_child_process_has_connections_of_its_own(redis_url):
    """And leaves the parent's alone."""
    program = f"""
import asyncio, os, sys
from bot.core.connection_pool_manager import ConnectionPoolManager
pools = ConnectionPoolManager()
async def number():
    async with pools.connection("p") as conn:
        return await conn.client_id()
async def parent():
    await pools.create_pool("p", "redis", 1, 2, url={redis_url!r})
    lease = await pools.acquire_connection("p")
    mine = await lease.client_id()
    child = os.fork()
    if child == 0:
        try:
            assert asyncio.run(number()) != mine
            assert asyncio.run(pools.create_pool("p", "redis", 1, 2, url={redis_url!r}))
            assert asyncio.run(number()) != mine
            assert asyncio.run(pools.disable())
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    code = await asyncio.to_thread(os.waitpid, child, 0)
    assert code[1] == 0, code
    assert await lease.client_id() == mine
    await pools.release_connection("p", lease)
    assert await number()
    assert await pools.disable()
asyncio.run(parent())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_the_code_that_runs_the_loop_is_no_caller(url, kind):
    manager = ConnectionPoolManager()
    make = asyncio.new_event_loop if kind == "asyncio" else pytest.importorskip("uvloop").new_event_loop

    async def holds_it():
        return await manager.acquire_connection("p")

    async def work():
        await manager.create_pool("p", "sqlite", min_size=1, max_size=1, url=url)
        lease = await asyncio.create_task(holds_it())
        with pytest.raises(PoolTimeoutError, match=r"acquired at .*test_event_loops\.py:\d+ in holds_it\)"):
            await manager.acquire_connection("p", timeout=0.01)
        await manager.release_connection("p", lease)
        await manager.disable()

    loop = make()
    loop.run_until_complete(work())  # as an application does that has a loop of its own
    loop.close()
