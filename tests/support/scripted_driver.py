"""A driver whose server the test plays."""

from __future__ import annotations

import asyncio

from bot.core.connection_pool_manager.drivers.base import Driver
from bot.core.connection_pool_manager.models import PoolOptions, PoolSpec
from bot.core.connection_pool_manager.pool import Verdict
from bot.core.connection_pool_manager.runner import PoolRunner


class ScriptedConnection:
    def __init__(self, number: int) -> None:
        self.number = number
        self.is_open = True
        self.needs = Verdict.CLEAN


class ScriptedDriver(Driver):
    """Connects at once unless told otherwise; counts everything."""

    backend = "redis"
    schemes = ("redis",)
    package = extra = "none"

    def __init__(self, spec: PoolSpec) -> None:
        super().__init__(spec)
        self.refuses = False
        self.answers = True
        self.gate: asyncio.Event | None = None  # connecting waits for it
        self.connections: list[ScriptedConnection] = []
        self.attempts = self.connecting = self.most_connecting = 0
        self.pinged: list[int] = []
        self.most_open = 0

    @property
    def open_now(self) -> list[ScriptedConnection]:
        return [connection for connection in self.connections if connection.is_open]

    async def connect(self) -> ScriptedConnection:
        self.attempts += 1
        self.connecting += 1
        self.most_connecting = max(self.most_connecting, self.connecting)
        try:
            await asyncio.sleep(0)
            if self.gate is not None:
                await self.gate.wait()
        finally:
            self.connecting -= 1
        if self.refuses:
            raise ConnectionRefusedError("nobody listens")
        made = ScriptedConnection(len(self.connections) + 1)
        self.connections.append(made)
        self.most_open = max(self.most_open, len(self.open_now))
        return made

    def is_open(self, raw: ScriptedConnection) -> bool:
        return raw.is_open

    def verdict(self, raw: ScriptedConnection) -> Verdict:
        return raw.needs if raw.is_open else Verdict.BROKEN

    async def ping(self, raw: ScriptedConnection) -> None:
        await asyncio.sleep(0)
        self.pinged.append(raw.number)
        if not self.answers:
            raise ConnectionResetError("gone")

    async def reset(self, raw: ScriptedConnection) -> None:
        await asyncio.sleep(0)
        raw.needs = Verdict.CLEAN

    async def close(self, raw: ScriptedConnection) -> None:
        await asyncio.sleep(0)
        raw.is_open = False

    def terminate(self, raw: ScriptedConnection) -> None:
        raw.is_open = False


def scripted_pool(clock, **options) -> PoolRunner:
    """A pool, not yet started, over a :class:`ScriptedDriver`."""
    spec = PoolSpec("p", "redis", "redis://h", PoolOptions(**options).validate(), {})
    return PoolRunner(spec, ScriptedDriver(spec), clock=clock)
