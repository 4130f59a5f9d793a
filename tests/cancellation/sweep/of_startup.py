"""Starting and stopping all services, and the operator's pages."""

from __future__ import annotations

from typing import Any

from bot.core.enhanced_startup_phase4 import (
    get_phase4_status,
    initialize_phase4_services,
    mount_phase4,
    reset_phase4_services,
    shutdown_phase4_services,
)
from bot.integrations.services import ServiceUser
from tests.cancellation.sweep.worlds import World, scenario
from tests.support.servers import free_port


async def stopped(world: Any) -> None:
    assert await shutdown_phase4_services()


async def started(world: Any) -> None:
    report = await initialize_phase4_services(world.settings)
    assert report["errors"] == []


class StartupWorld(World):
    name = "start and stop"

    async def start(self) -> None:
        redis = self.servers.redis
        self.port = free_port()
        self.user = ServiceUser()
        self.settings = {
            "ENABLE_QUERY_OPTIMIZER": True,
            "ENABLE_CACHE_MANAGER": True,
            "ENABLE_CONNECTION_POOLING": True,
            "ENABLE_RATE_LIMITER": True,
            "ENABLE_BATCH_PROCESSOR": True,
            "ENABLE_LOAD_BALANCER": True,
            "ENABLE_OUTBOUND": True,
            "CACHE_L2_REDIS_URL": redis,
            "RATE_LIMIT_REDIS_URL": redis,
            "BATCH_REDIS_URL": redis,
            "OUTBOUND_REDIS_URL": redis,
            "LOAD_BALANCER_INSTANCES": [{"id": "a", "address": "127.0.0.1", "port": 9}],
            "DATABASE_POOLS": {
                "lite": {
                    "backend": "sqlite",
                    "url": f"sqlite:///{self.servers.folder / 'started.db'}",
                    "min_size": 1,
                    "max_size": 2,
                },
                "redis": {"backend": "redis", "url": redis, "min_size": 1, "max_size": 2},
            },
        }

    async def stop(self) -> None:
        await stopped(self)

    @scenario("initialize_phase4_services", before=stopped, after=stopped)
    async def initialize(self) -> None:
        assert (await initialize_phase4_services(self.settings))["errors"] == []

    @scenario("initialize_phase4_services", before=started, after=stopped)
    async def initialize_otherwise(self) -> None:
        changed = {**self.settings, "CACHE_L2_REDIS_URL": "", "ENABLE_OUTBOUND": False}
        assert (await initialize_phase4_services(changed))["errors"] == []

    @scenario("shutdown_phase4_services", before=started, after=stopped)
    async def shutdown(self) -> None:
        assert await shutdown_phase4_services()

    @scenario("get_phase4_status", "reset_phase4_services", before=started, after=stopped)
    async def reset(self) -> None:
        await get_phase4_status()
        assert await reset_phase4_services()

    @scenario("mount_phase4", after=stopped)
    async def mount_on_a_port(self) -> None:
        mounted = await mount_phase4(self.port)
        await mounted.close()

    @scenario(before=stopped, after=lambda world: world.used_no_more())
    async def start_by_an_adapter(self) -> None:
        self.user.config = self.settings
        await self.user.start()

    @scenario(before=lambda world: world.used(), after=lambda world: world.used_no_more())
    async def stop_by_an_adapter(self) -> None:
        await self.user.drain()
        await self.user.stop()

    async def used(self) -> None:
        self.user.config = self.settings
        await self.user.start()

    async def used_no_more(self) -> None:
        """As an adapter does at its stop, and then whoever started anything else."""
        await self.user.stop()
        await stopped(self)
