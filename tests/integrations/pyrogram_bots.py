"""Clients on the test server, each connected with an Outbound that lives in the running loop's time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pyrogram

from bot.core._shared.clock import SYSTEM_CLOCK
from bot.core.outbound import Limits, Outbound
from bot.core.phase4_service import Phase4Service
from bot.integrations.pyrogram import install, uninstall
from bot.testing import fast_loop
from bot.testing.mtproto import MTProtoServer

GROUP = -1_001_000_000_000
USER = 1001


def in_fast_time(main: Callable[[], Awaitable[Any]]) -> Any:
    """Run a test whose minutes pass in moments; it must leave no task behind."""

    async def checked() -> Any:
        result = await main()
        for _ in range(5):
            await asyncio.sleep(0.01)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks left running: {left}"
        return result

    return fast_loop.run(checked())


async def process_outbound(limits: Limits | None = None, **settings: Any) -> Outbound:
    """The process's Outbound, switched on, in the loop's time."""
    clock = getattr(asyncio.get_running_loop(), "clock", SYSTEM_CLOCK)
    outbound = Outbound(clock=clock)
    Phase4Service._instances[Outbound] = outbound
    await outbound.enable(limits, **settings)
    return outbound


@asynccontextmanager
async def running(
    server: MTProtoServer, name: str = "bot", *, is_bot: bool = True, **arguments: Any
) -> AsyncIterator[pyrogram.Client]:
    """A started client with Phase 4 installed, and none of it afterwards."""
    client = server.client(name, is_bot=is_bot)
    install(client, **{"services": False, **arguments})
    async with client:
        yield client
    await uninstall(client)


def most_in_window(times: list[float], seconds: float) -> int:
    """The most of these moments that any window of so many seconds holds."""
    times = sorted(times)
    return max((sum(at <= other < at + seconds for other in times) for at in times), default=0)
