"""Makes the faults of a plan happen, and undoes each."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import asyncpg
from aiohttp import ClientSession, ClientTimeout

from bot.testing.telegram import TelegramServer
from tests.chaos.instances import Host, until_up
from tests.chaos.plan import NETWORK, Fault, Happened, History
from tests.chaos.servers import Servers, until_redis_answers

logger = logging.getLogger("chaos.faults")

GROUP = -1_001
"""The chat that Telegram refuses at times."""

Undo = Callable[[], Awaitable[None]]


async def _nothing() -> None:
    pass


async def _connected(url: str, tell: Callable[[str], None], seconds: float = 15.0) -> Any:
    """A connection to PostgreSQL, when it has one again."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return await asyncpg.connect(url)
        except (asyncpg.PostgresError, OSError) as error:
            tell(f"PostgreSQL has no connection for the run: {error}")
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.1)


class Faults:
    """Knows every server, process and proxy; ``history`` is what it did."""

    def __init__(self, servers: Servers, hosts: list[Host], telegram: TelegramServer) -> None:
        self.history = History()
        self._servers = servers
        self._hosts: Mapping[str, Host] = {host.name: host for host in hosts}
        self._telegram = telegram
        self._tell: Callable[[str], None] = lambda line: None

    async def run(self, plan: list[Fault], start: float, tell: Callable[[str], None]) -> None:
        """Make all happen at their times; returns when the last one has been undone."""
        self._tell = tell
        async with asyncio.TaskGroup() as group:
            for fault in plan:
                group.create_task(self._one(fault, start))

    async def _one(self, fault: Fault, start: float) -> None:
        await asyncio.sleep(start + fault.at - time.monotonic())
        self._tell(str(fault))
        begin = time.monotonic()
        undo = await self._cause(fault)
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            await undo()
            self.history.happened.append(Happened(fault, begin, time.monotonic()))

    async def _cause(self, fault: Fault) -> Undo:
        if fault.target == "instance":
            return await self._instance(self._hosts[fault.instance], fault.kind)
        if fault.target == "telegram":
            return self._of_telegram(fault)
        if fault.kind in NETWORK:
            return await self._network(fault)
        if fault.kind in ("kill", "freeze"):
            return await self._process(fault)
        if fault.target in ("cache", "queue"):
            return await asyncio.to_thread(self._redis, fault)
        if fault.target == "postgresql":
            return await self._postgresql(fault.kind)
        return await asyncio.to_thread(self._mysql, fault.kind)

    async def _network(self, fault: Fault) -> Undo:
        hosts = [self._hosts[fault.instance]] if fault.instance else list(self._hosts.values())
        links = [host.links[fault.target] for host in hosts]
        for link in links:
            await link.set_fault(fault.kind)

        async def undo() -> None:
            for link in links:
                await link.stop_faults()

        return undo

    async def _process(self, fault: Fault) -> Undo:
        server = self._servers.by_target[fault.target]
        if fault.kind == "freeze":
            await asyncio.to_thread(server.freeze)
            return lambda: asyncio.to_thread(server.thaw)
        await asyncio.to_thread(server.kill)

        def start() -> None:
            server.start()
            if fault.target in ("cache", "queue"):
                until_redis_answers(server)  # type: ignore[arg-type]

        return lambda: asyncio.to_thread(start)

    async def _instance(self, host: Host, kind: str) -> Undo:
        if kind == "freeze":
            host.freeze()

            async def thaw() -> None:
                host.thaw()

            return thaw
        await asyncio.to_thread(host.kill if kind == "kill" else host.stop)

        async def begin() -> None:
            host.begin()
            async with ClientSession(timeout=ClientTimeout(total=3)) as session:
                await until_up(session, [host])

        return begin

    def _of_telegram(self, fault: Fault) -> Undo:
        server = self._telegram
        if fault.kind == "error":
            for code in (500, 502, 0):
                server.fail("sendMessage", code=code, times=2)
            return _nothing
        if fault.kind == "hold":
            server.penalize(GROUP, max(1.0, fault.seconds))
            return _nothing
        server.delay = 0.5

        async def undo() -> None:
            server.delay = 0.0

        return undo

    def _redis(self, fault: Fault) -> Undo:
        server: Any = self._servers.by_target[fault.target]
        if fault.kind == "flush":
            server.execute("FLUSHALL")
            return _nothing
        if fault.kind == "demote":
            server.execute("REPLICAOF", "127.0.0.1", "1")
            return lambda: asyncio.to_thread(server.execute, "REPLICAOF", "NO", "ONE")
        if fault.kind == "evict":
            server.execute("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        server.execute("CONFIG", "SET", "maxmemory", "1mb")  # less than it uses with nothing in it

        def undo() -> None:
            server.execute("CONFIG", "SET", "maxmemory", "0")
            server.execute("CONFIG", "SET", "maxmemory-policy", "noeviction")

        return lambda: asyncio.to_thread(undo)

    async def _postgresql(self, kind: str) -> Undo:
        server = self._servers.postgresql
        if kind == "connections":
            return await self._take_connections(server.url)
        connection = await _connected(server.url, self._tell)
        try:
            if kind == "terminate":
                await connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
                )
                return _nothing
            await self._set_read_only(connection, "on")
        finally:
            await connection.close()

        async def undo() -> None:
            connection = await _connected(server.url, self._tell)
            try:
                await self._set_read_only(connection, "off")
            finally:
                await connection.close()

        return undo

    @staticmethod
    async def _set_read_only(connection: Any, value: str) -> None:
        await connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
        await connection.execute("SELECT pg_reload_conf()")

    async def _take_connections(self, url: str) -> Undo:
        """Every connection that the server has left."""
        taken: list[Any] = []
        try:
            while len(taken) < 200:
                taken.append(await asyncpg.connect(url))
        except (asyncpg.PostgresError, OSError):
            pass

        async def undo() -> None:
            for connection in taken:
                connection.terminate()

        return undo

    def _mysql(self, kind: str) -> Undo:
        server = self._servers.mysql
        assert server is not None
        if kind == "terminate":
            server.execute("KILL USER bot@'127.0.0.1'")
            return _nothing
        name, set_to, back = (
            ("max_connections", "10", "60") if kind == "connections" else ("read_only", "ON", "OFF")
        )
        server.execute(f"SET GLOBAL {name} = {set_to}")

        async def undo() -> None:
            await asyncio.to_thread(server.execute, f"SET GLOBAL {name} = {back}")

        return undo
