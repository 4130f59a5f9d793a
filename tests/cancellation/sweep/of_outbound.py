"""The calls of outbound flood control."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from typing import Any, ClassVar

from bot.core.outbound import Limits, Outbound, OutboundClosedError, Request
from bot.core.outbound.broadcast import redis_store
from bot.core.phase4_service import Phase4Service
from tests.cancellation.sweep.worlds import World, scenario

LIMITS = Limits(group=(2, 0.02), chat=(2, 0.02), chat_burst=1, bulk=(1000, 1.0))
GROUP, USER = -100, 42
FEW = 2 * redis_store.BUCKETS_READ
"""Hashes of a broadcast in Redis, read in two steps: with all 4,096 a report takes hundreds of them."""


async def switched_on(world: Any) -> None:
    assert await world.outbound.enable(LIMITS, redis_url=world.url, bot_id=7, drain_timeout=5.0)


class OutboundWorld(World):
    name = "outbound"
    shared: ClassVar[bool] = False

    async def start(self) -> None:
        self.url = self.servers.redis if self.shared else ""
        self.outbound = Phase4Service._instances[Outbound] = Outbound()
        self.numbers, self.token = itertools.count(), secrets.token_hex(4)
        self.sent: list[Any] = []
        self.buckets, redis_store.BUCKETS = redis_store.BUCKETS, FEW
        await switched_on(self)

    async def stop(self) -> None:
        redis_store.BUCKETS = self.buckets
        await self.outbound.disable()

    async def held(self) -> list[str]:
        self.outbound.check_invariants()
        shown = self.outbound.statistics()
        found = [f"{shown[name]} {name}" for name in ("queued", "in_flight") if shown.get(name)]
        shared = self.outbound._dispatcher.shared
        if shared is not None and (shared._stopped or shared._subscription is None):
            found.append("a shared budget that has ended is asked, or one that hears nothing")
        if self.outbound._broadcasts.figures().get("running"):
            found.append("a broadcast runs")
        return found

    async def send(self) -> str:
        await asyncio.sleep(0)
        return "sent"

    async def send_to(self, chat: Any) -> None:
        await asyncio.sleep(0)

    @scenario("Outbound.call")
    async def call(self) -> None:
        for _ in range(2):
            assert await self.outbound.call(self.send, Request("sendMessage", USER)) == "sent"

    @scenario("Outbound.call")
    async def call_behind_others(self) -> None:
        others = [
            asyncio.ensure_future(self.outbound.call(self.send, Request("sendMessage", GROUP)))
            for _ in range(3)
        ]
        try:
            assert await self.outbound.call(self.send, Request("sendMessage", GROUP)) == "sent"
        finally:
            await asyncio.shield(asyncio.gather(*others))

    @scenario("Outbound.call")
    async def call_to_edit(self) -> None:
        for text in "ab":
            request = Request("editMessageText", GROUP, message_id=5, replaceable=True, content=text)
            await self.outbound.call(self.send, request)

    async def broadcasts(self, store: str) -> None:
        report = await self.outbound.broadcast(
            f"swept {self.token} {next(self.numbers)}", range(1, 4), self.send_to, store=store
        )
        assert report.done == 3
        assert [chat async for chat in report.chats("sent")]
        assert not await report.unreachable()
        assert not [failure async for failure in report.failures()]
        await report.forget()

    @scenario("Outbound.broadcast", "BroadcastReport.chats", "BroadcastReport.forget")
    async def broadcast_in_memory(self) -> None:
        await self.broadcasts("")

    @scenario("Outbound.broadcast", "BroadcastReport.unreachable", "BroadcastReport.failures")
    async def broadcast_in_a_file(self) -> None:
        await self.broadcasts(str(self.servers.folder / "swept.sqlite3"))

    @scenario("Outbound.broadcast", "BroadcastReport.unreachable", "BroadcastReport.failures")
    async def broadcast_in_redis(self) -> None:
        await self.broadcasts(self.servers.redis)

    @scenario("Outbound.release", before=lambda world: world.hold())
    async def release(self) -> None:
        await self.outbound.release(USER)

    async def hold(self) -> None:
        self.outbound.hold(USER, 0.2)

    @scenario("Outbound.identify")
    async def identify(self) -> None:
        await self.outbound.identify(7)

    @scenario("Outbound.enable_as", after=lambda world: world.other.disable())
    async def enable_as(self) -> None:
        self.other = self.outbound.sibling()
        assert await self.other.enable_as(self.outbound, bot_id=8)

    @scenario("Outbound.find_warnings", "Outbound.reset", "Outbound.reset_statistics")
    async def reset(self) -> None:
        assert await self.outbound.find_warnings() == []
        await self.outbound.reset()

    @scenario("Outbound.disable", before=switched_on, after=switched_on)
    async def disable_while_requests_wait(self) -> None:
        others = [
            asyncio.ensure_future(self.outbound.call(self.send, Request("sendMessage", GROUP)))
            for _ in range(3)
        ]
        try:
            await asyncio.sleep(0)
            assert await self.outbound.disable()
        finally:
            for one in await asyncio.shield(asyncio.gather(*others, return_exceptions=True)):
                assert one == "sent" or isinstance(one, OutboundClosedError), one

    @scenario("Outbound.enable", before=lambda world: world.outbound.disable(), after=switched_on)
    async def enable(self) -> None:
        assert await self.outbound.enable(LIMITS, redis_url=self.url, bot_id=7)

    @scenario("Outbound.enable", before=switched_on, after=switched_on)
    async def enable_shared_or_not(self) -> None:
        assert await self.outbound.enable(
            LIMITS, redis_url="" if self.shared else self.servers.redis, bot_id=7
        )

    @scenario("Outbound.enable", before=switched_on, after=switched_on)
    async def enable_for_another_bot(self) -> None:
        assert await self.outbound.enable(LIMITS, redis_url=self.url, bot_id=9)


class SharedOutboundWorld(OutboundWorld):
    name = "outbound with Redis"
    shared = True
