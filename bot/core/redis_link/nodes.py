"""The nodes of a cluster that are away, and seeing whether they are back."""

from __future__ import annotations

import asyncio
from typing import Any

from bot.core._shared.errors import BackendError
from bot.core.redis_link import driver
from bot.core.redis_link.breaker import Breaker, State
from bot.core.redis_link.calls import Calls
from bot.core.redis_link.commands import as_bytes
from bot.core.redis_link.connections import Connections
from bot.core.redis_link.errors import RedisRefusedError, RedisUnavailableError
from bot.core.redis_link.failures import NODE_DOWN
from bot.core.redis_link.health import Health


class NodeProbes:
    """A task for each node that is away, so that no caller has to find out whether it is back."""

    def __init__(self, connections: Connections, health: Health, calls: Calls) -> None:
        self._connections = connections
        self._health = health
        self._calls = calls
        # The first look at the nodes, for all callers that wait for it. Changed only by find.
        self._look: asyncio.Task[BackendError | None] | None = None

    async def find(self) -> None:
        """Read the map of the slots, unless it was read: once for all callers that wait for it.

        Raises as :meth:`RedisLink.run`.
        """
        look = self._look
        if look is None or look.done() or look.get_loop() is not asyncio.get_running_loop():
            look = self._look = self._connections.tasks.spawn(self._find(), name="redis-cluster-nodes")
        await asyncio.wait([look])
        if look.cancelled():
            raise RedisUnavailableError("the connection was closed")
        if (error := look.result()) is not None:
            raise type(error)(*error.args)  # one each: a traceback grows with every task that raises it

    async def _find(self) -> BackendError | None:
        try:
            await self._calls.run(driver.find_nodes)
        except BackendError as error:
            return error
        return None

    def refusal(self, node: Any) -> RedisUnavailableError | None:
        """Why a node is not to be asked now: it is away, and a task of the link sees whether it is back."""
        breaker = self._health.node(node.name)
        if breaker.available:
            return None
        if breaker.state is State.AWAY:
            breaker.probe_began()
            self._connections.spawn(self._until_back(node, breaker), name="redis-node-probe")
        return RedisUnavailableError(f"Redis at {breaker.name} is away")

    async def read_slots(self) -> bool:
        """Read the map of the slots again: a node that failed may have been replaced. False: no answer."""
        try:
            await self._calls.run(driver.read_slots)
        except RedisRefusedError:
            return True
        except BackendError:
            return False
        return True

    async def _until_back(self, node: Any, breaker: Breaker) -> None:
        try:
            while not breaker.available:
                await asyncio.sleep(breaker.probe_in)
                # The map first: another node may have taken its place.
                if await self.read_slots() and node.name not in self._connections.node_names():
                    self._health.forget_node(node.name)
                    return
                breaker.probe_began()
                await self._probe(node, breaker)
        finally:
            breaker.probe_ended()

    async def _probe(self, node: Any, breaker: Breaker) -> None:
        try:
            async with asyncio.timeout(self._connections.timeout):
                answer = await driver.ask(node, "CLUSTER", "INFO")
            # A node that has just started knows nothing yet, and would refuse everything.
            if b"cluster_state:ok" not in as_bytes(answer):
                raise ConnectionError(NODE_DOWN)
        except Exception as error:
            # In whichever way it fails, it is not there.
            breaker.failed(error)
        else:
            self._health.succeeded(breaker)
