"""The calls of the load balancer."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from bot.core.load_balancer import LoadBalancer
from tests.cancellation.sweep.worlds import World, scenario


async def switched_on(world: Any) -> None:
    await world.balancer.enable(**world.settings)


async def both_there(world: Any) -> None:
    for name in "ab":
        await world.balancer.add_instance(name, "127.0.0.1", world.port)
        await world.balancer.return_instance(name)


class BalancerWorld(World):
    name = "balancer"

    async def start(self) -> None:
        application = web.Application()
        application.router.add_post("/api/execute", self.answer)
        self.runner = web.AppRunner(application)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        self.port = self.runner.addresses[0][1]
        self.balancer = LoadBalancer()
        # Nothing is ejected: one scenario fails at every call.
        self.settings: dict[str, Any] = {
            "check_interval": 3600, "outlier_failures": 100_000, "outlier_min_requests": 1_000_000,
        }  # fmt: skip
        await self.balancer.enable(**self.settings, health_check=self.healthy, request_handler=self.handle)
        await both_there(self)

    async def healthy(self, instance: Any) -> bool:
        return True

    async def answer(self, request: web.Request) -> web.Response:
        return web.json_response({"success": True, "result": await request.json()})

    async def handle(self, instance: Any, data: Any) -> Any:
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        return data

    async def stop(self) -> None:
        await self.balancer.disable()
        await self.runner.cleanup()

    async def held(self) -> list[str]:
        self.balancer.check_invariants()
        found = [f"{one.in_flight} requests at {one.id}" for one in self.balancer.instances if one.in_flight]
        if not self.balancer._router.idle:
            found.append("requests are in progress")
        if self.balancer._waiting:
            found.append(f"{len(self.balancer._waiting)} wait")
        return found

    @scenario("LoadBalancer.route_request")
    async def route_request(self) -> None:
        assert (await self.balancer.route_request("a")).success

    @scenario("LoadBalancer.route_request")
    async def route_request_of_a_session(self) -> None:
        assert (await self.balancer.route_request("a", session_id=7, timeout=10)).success

    @scenario("LoadBalancer.route_request", before=lambda world: world.failing_first())
    async def route_request_to_the_second(self) -> None:
        assert (await self.balancer.route_request("a")).success

    async def failing_first(self) -> None:
        failed = []

        async def handle(instance: Any, data: Any) -> Any:
            await asyncio.sleep(0)
            if not failed:
                failed.append(instance.id)
                raise ConnectionRefusedError("not this one")
            return data

        self.balancer.request_handler = handle

    @scenario("LoadBalancer.route_request", before=lambda world: world.over_http())
    async def route_request_over_http(self) -> None:
        await self.balancer.route_request({"query": "a"})

    async def over_http(self) -> None:
        self.balancer.request_handler = None

    @scenario("LoadBalancer.route_request", before=lambda world: world.hedging())
    async def route_request_twice_at_once(self) -> None:
        assert (await self.balancer.route_request("a", idempotent=True)).success

    async def hedging(self) -> None:
        self.balancer.request_handler = self.handle
        await self.balancer.enable(hedging=True)

    @scenario("LoadBalancer.select_instance", before=switched_on)
    async def select_instance(self) -> None:
        assert await self.balancer.select_instance() is not None

    @scenario("LoadBalancer.add_instance", before=both_there)
    async def add_instance(self) -> None:
        assert await self.balancer.add_instance("a", "127.0.0.1", self.port, 2.0)

    async def _busy(self) -> asyncio.Future[Any]:
        self.balancer.request_handler = self.handle
        request = asyncio.ensure_future(self.balancer.route_request("a"))
        await asyncio.sleep(0)
        return request

    @scenario("LoadBalancer.remove_instance", before=both_there, after=both_there)
    async def remove_instance(self) -> None:
        requests = [await asyncio.shield(self._busy()) for _ in range(2)]
        try:
            assert await self.balancer.remove_instance("a", timeout=10)
        finally:
            await asyncio.shield(asyncio.gather(*requests))

    @scenario(
        "LoadBalancer.drain_instance", "LoadBalancer.return_instance", before=both_there, after=both_there
    )
    async def drain_instance(self) -> None:
        requests = [await asyncio.shield(self._busy()) for _ in range(2)]
        try:
            assert await self.balancer.drain_instance("a", timeout=10)
            assert await self.balancer.return_instance("a")
        finally:
            await asyncio.shield(asyncio.gather(*requests))

    @scenario("LoadBalancer.find_warnings", "LoadBalancer.reset", "LoadBalancer.reset_statistics")
    async def reset(self) -> None:
        await self.balancer.find_warnings()
        await self.balancer.reset()

    @scenario("LoadBalancer.disable", before=switched_on, after=switched_on)
    async def disable_while_requests_are_in_progress(self) -> None:
        request = await asyncio.shield(self._busy())
        try:
            assert await self.balancer.disable()
        finally:
            await asyncio.shield(request)

    @scenario("LoadBalancer.enable", before=lambda world: world.balancer.disable(), after=switched_on)
    async def enable(self) -> None:
        assert await self.balancer.enable(**self.settings)

    @scenario("LoadBalancer.enable", before=switched_on)
    async def enable_again(self) -> None:
        assert await self.balancer.enable("least_connections", check_interval=1800)
