"""Pools of the settings: there from the start, whether or not their server is; changed while they serve."""

import asyncio
import collections

import pytest

from bot.core.connection_pool_manager import (
    ConnectionPoolManager,
    PoolSetupError,
    PoolTimeoutError,
)
from bot.core.enhanced_startup_phase4 import initialize_phase4_services, shutdown_phase4_services
from bot.core.phase4_config import Phase4Config
from tests.support.servers import RedisServer, free_port


def settings_of(**pools):
    return Phase4Config.from_mapping({"DATABASE_POOLS": pools}).DATABASE_POOLS


def redis_pool(port, **more):
    return {"backend": "redis", "url": f"redis://:hunter2@127.0.0.1:{port}/0", **more}


@pytest.fixture
async def pools():
    manager = ConnectionPoolManager()
    yield manager
    for runner in manager._pools.values():
        runner.pool.check_invariants()
    await manager.disable()


async def until(holds):
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.01)


@pytest.mark.server
async def test_a_pool_whose_server_starts_after_the_bot_serves_once_it_is_there():
    server = RedisServer()
    config = {
        "ENABLE_CONNECTION_POOLING": True,
        "DATABASE_POOLS": {"late": {"backend": "redis", "url": server.url, "min_size": 1, "max_size": 2}},
    }
    try:
        report = await initialize_phase4_services(config)
        assert report["success"]
        assert report["errors"] == []
        assert "ConnectionPoolManager" in report["services_initialized"]
        [said] = report["warnings"]
        assert said.startswith("ConnectionPoolManager: pool 'late': cannot connect to redis://127.0.0.1")
        assert "1 warning(s)" in report["summary"]
        pools = ConnectionPoolManager.get_instance()
        with pytest.raises(PoolTimeoutError, match="The server cannot be reached: cannot connect"):
            await pools.acquire_connection("late", timeout=0.1)
        assert not (await pools.get_statistics())["late"]["healthy"]
        await asyncio.to_thread(server.start)
        async with pools.connection("late", timeout=10) as conn:
            assert await conn.ping()
        assert (await pools.get_statistics())["late"]["healthy"]
        assert (await initialize_phase4_services(config))["warnings"] == []
    finally:
        await shutdown_phase4_services()
        server.close()


@pytest.mark.server
async def test_a_pool_that_nobody_asks_connects_by_itself(pools):
    server = RedisServer()
    try:
        await pools.enable(pools=settings_of(p=redis_pool(server.port, url=server.url, min_size=2)))
        assert len(pools.warnings()) == 1
        await asyncio.to_thread(server.start)
        await until(lambda: pools._pools["p"].figures().idle_connections == 2)
        assert pools.warnings() == []
        await pools.disable()
    finally:
        server.close()


@pytest.mark.server
async def test_a_wrong_password_is_a_warning_and_tried_rarely(pools):
    server = RedisServer(extra=("--requirepass", "right"))
    server.start()
    try:
        await pools.enable(pools=settings_of(p=redis_pool(server.port)))
        [said] = pools.warnings()
        assert "password" in said
        assert "lock the user out" in said
        assert "hunter2" not in said
        pool = pools._pools["p"].pool
        assert pool.login_refused
        with pytest.raises(PoolTimeoutError, match="password"):
            await pools.acquire_connection("p", timeout=0.1)
        assert all(pool._delay() >= 5 for _ in range(20))
        assert pool.opening == 1
    finally:
        await pools.disable()
        server.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"backend": "sqlite", "url": "sqlite:///no/such/directory/at/all.db"},
        {"backend": "redis", "url": "postgresql://127.0.0.1/app"},
        {"backend": "postgresql", "url": "postgresql://127.0.0.1/app?sslmode=nonsense"},
        {"backend": "redis", "url": "redis://127.0.0.1:1/0", "options": {"nonsense": 3}},
    ],
)
async def test_a_wrong_setting_is_an_error_and_the_others_run(pools, wrong, tmp_path):
    good = {"backend": "sqlite", "url": f"sqlite:///{tmp_path}/good.db"}
    with pytest.raises(PoolSetupError, match="pool 'wrong'"):
        await pools.enable(pools=settings_of(wrong=wrong, good=good))
    assert pools.warnings() == []
    assert list(await pools.get_statistics()) == ["good"]


async def test_a_pool_is_resized_while_it_serves(tmp_path):
    def config(size):
        pool = {"backend": "sqlite", "url": f"sqlite:///{tmp_path}/p.db", "min_size": 1, "max_size": size}
        return {"ENABLE_CONNECTION_POOLING": True, "DATABASE_POOLS": {"db": pool}}

    await initialize_phase4_services(config(4))
    manager = ConnectionPoolManager.get_instance()
    pool = manager._pools["db"].pool
    outcomes = collections.Counter()
    stop = asyncio.Event()

    async def user():
        while not stop.is_set():
            async with manager.connection("db") as conn:
                await conn.execute("SELECT 1")
            outcomes["served"] += 1
            await asyncio.sleep(0)

    users = [asyncio.create_task(user()) for _ in range(12)]
    async with manager.connection("db") as held:
        for size in (8, 2, 6, 3, 5):
            await initialize_phase4_services(config(size))
            before = outcomes["served"]
            await until(lambda: outcomes["served"] > before + 50 and pool.total <= size)  # noqa: B023
            pool.check_invariants()
        assert await (await held.execute("SELECT 7")).fetchone() == (7,), "leases go on"
    stop.set()
    await asyncio.gather(*users)
    assert manager._pools["db"].pool is pool
    assert await shutdown_phase4_services()


async def test_with_another_url_new_leases_are_the_new_ones_and_old_leases_finish(pools, redis_server):
    other = RedisServer()
    other.start()
    try:
        await pools.enable(pools=settings_of(p={"backend": "redis", "url": redis_server.url, "max_size": 2}))
        held = [await pools.acquire_connection("p") for _ in range(2)]
        waiting = [asyncio.create_task(pools.acquire_connection("p")) for _ in range(2)]
        await asyncio.sleep(0)
        await pools.enable(pools=settings_of(p={"backend": "redis", "url": other.url, "max_size": 2}))
        for lease in await asyncio.gather(*waiting):
            assert (await lease.config_get("port"))["port"] == str(other.port)
            await pools.release_connection("p", lease)
        for lease in held:
            assert (await lease.config_get("port"))["port"] == str(redis_server.port)
            await pools.release_connection("p", lease)
        await until(lambda: not pools._replaced)
        clients = await asyncio.to_thread(redis_server.execute, "CLIENT", "LIST")
        assert len(clients.splitlines()) == 1, "the one who asks"
        assert await pools.disable()
    finally:
        await pools.disable()
        other.close()


async def test_callers_whose_pool_is_replaced_wait_no_longer_in_all_than_they_said(tmp_path, clock):
    def named(name):
        return settings_of(p={"backend": "sqlite", "url": f"sqlite:///{tmp_path}/{name}.db", "max_size": 1})

    pools = ConnectionPoolManager(clock=clock)
    await pools.enable(pools=named("first"))
    leases = [await pools.acquire_connection("p")]
    callers = [asyncio.create_task(pools.acquire_connection("p", timeout=10)) for _ in range(3)]
    await asyncio.sleep(0)
    for name, seconds, left in (("second", 6, 4), ("third", 1, 3)):
        clock.jump(seconds)
        await pools.enable(pools=named(name))
        leases.append(await callers.pop(0))
        runner = pools._pools["p"]
        await until(lambda: len(runner.pool.waiters) == len(callers))  # noqa: B023
        for waiter in runner.pool.waiters:
            assert waiter.deadline - clock.monotonic() == pytest.approx(left)
    for lease in leases:
        await pools.release_connection("p", lease)
    await pools.release_connection("p", await callers.pop())
    assert await pools.disable()


async def test_a_lease_of_a_replaced_pool_that_is_never_given_back_does_not_hold_the_end(pools, tmp_path):
    def one(name):
        return settings_of(p={"backend": "sqlite", "url": f"sqlite:///{tmp_path}/{name}.db"})

    await pools.enable(pools=one("old"))
    lease = await pools.acquire_connection("p")
    await pools.enable(pools=one("new"))
    assert not await pools.disable(drain_timeout=0.05)
    assert not lease.is_healthy


async def test_a_new_url_that_leads_nowhere_yet_is_told_and_heals(pools, redis_server):
    port = free_port()
    await pools.enable(pools=settings_of(p={"backend": "redis", "url": redis_server.url, "min_size": 1}))
    await pools.enable(pools=settings_of(p=redis_pool(port, min_size=1, url=f"redis://127.0.0.1:{port}/0")))
    assert len(pools.warnings()) == 1
    server = RedisServer(port)
    server.start()
    try:
        async with pools.connection("p") as conn:
            assert await conn.ping()
        await pools.disable()
    finally:
        server.close()
