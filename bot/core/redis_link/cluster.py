"""Reads and scripts in a cluster: those of a node travel together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from bot.core._shared.errors import BackendError
from bot.core._shared.tasks import BackgroundTasks, run_on_loop
from bot.core.redis_link import driver
from bot.core.redis_link.errors import RedisRefusedError, RedisUnavailableError
from bot.core.redis_link.parts import Parts
from bot.core.redis_link.reads import BatchedReader, fail_waiter
from bot.core.redis_link.scripts import BatchedScript, Call, Script, Unclaimed, give


class ClusterReader:
    """A :class:`BatchedReader` for each node of a cluster: reads travel together by hash slot.

    A key whose slot has moved is refused once, and the map of the slots read again.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._connections = parts.connections
        self._by_node: dict[str, BatchedReader] = {}
        self._mapping: asyncio.Task[None] | None = None

    def get(self, key: bytes) -> asyncio.Future[bytes | None]:
        """As :meth:`BatchedReader.get`."""
        loop = asyncio.get_running_loop()
        if self._connections.owner.elsewhere:
            return loop.create_task(self._get_by_driver(key))
        node = self._connections.node_of(key)
        if node is None:
            return loop.create_task(self._get_after_look(key))
        if (refusal := self._parts.probes.refusal(node)) is not None:
            refused: asyncio.Future[bytes | None] = loop.create_future()
            refused.set_exception(refusal)
            return refused
        reader = self._by_node.get(node.name)
        if reader is None:
            reader = self._by_node[node.name] = BatchedReader(
                self._parts,
                lambda: driver.connection_to(node),
                self._parts.health.node(node.name),
                pipelined=True,
            )
        found = reader.get(key)
        found.add_done_callback(self._look_for_moves)
        return found

    async def _get_after_look(self, key: bytes) -> bytes | None:
        await self._parts.probes.find()
        if self._connections.node_of(key) is None:
            return await self._get_by_driver(key)
        return await self.get(key)

    async def _get_by_driver(self, key: bytes) -> bytes | None:
        # redis-py's own way, which reads the map of the slots and follows redirections.
        found: bytes | None = await self._parts.calls.run(
            lambda client: client.execute_command("GET", key), repeatable=True
        )
        return found

    def _look_for_moves(self, future: asyncio.Future[bytes | None]) -> None:
        if future.cancelled() or future.exception() is None:
            return
        if self._mapping is None or self._mapping.done():
            self._mapping = future.get_loop().create_task(self._remap(), name="redis-cluster-map")

    async def _remap(self) -> None:
        with contextlib.suppress(BackendError):
            await self._parts.calls.run(driver.read_slots)

    @property
    def batches(self) -> int:
        return sum(reader.batches for reader in self._by_node.values())

    async def close(self) -> None:
        if self._mapping is not None and not self._mapping.done():
            self._mapping.cancel()
            await asyncio.wait([self._mapping])
        readers, self._by_node = self._by_node, {}
        for reader in readers.values():
            await reader.close()

    def renew(self) -> None:
        """As :meth:`BatchedReader.renew`."""
        for reader in self._by_node.values():
            reader.renew()

    def abandon(self) -> None:
        readers, self._by_node = self._by_node, {}
        self._mapping = None
        for reader in readers.values():
            reader.abandon()


class ClusterScript:
    """A :class:`BatchedScript` for each node of a cluster: one EVALSHA for the calls of a slot, and
    one round trip for those of a node."""

    def __init__(
        self,
        parts: Parts,
        source: str,
        decode: Callable[[Any, int], Sequence[Any]],
        on_stop: Callable[[ClusterScript], None],
    ) -> None:
        self._parts = parts
        self._connections = parts.connections
        self._on_stop = on_stop
        self._source = source
        self._decode = decode
        self._script = Script(parts, source, None)
        self._by_node: dict[str, BatchedScript] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks = BackgroundTasks()
        # Calls that wait for the first look at the nodes. Changed only by _add, _place, _fail_unplaced and
        # abandon.
        self._unplaced: list[Call] = []

    def call(self, key: bytes, argument: bytes, unclaimed: Unclaimed | None = None) -> asyncio.Future[Any]:
        """As :meth:`BatchedScript.call`."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._add((key, argument, future, unclaimed))
        return future

    def send(self, key: bytes, argument: bytes, unclaimed: Unclaimed | None = None) -> None:
        """As :meth:`BatchedScript.send`."""
        self._add((key, argument, None, unclaimed))

    def _add(self, call: Call) -> None:
        if self._connections.owner.elsewhere:
            self._run_by_driver([call])
            return
        loop = self._loop = asyncio.get_running_loop()
        key, _, future, _ = call
        node = self._connections.node_of(key)
        if node is None:
            self._unplaced.append(call)
            if len(self._unplaced) == 1:
                self._tasks.spawn(self._place(), name="redis-cluster-script").add_done_callback(self._placed)
            return
        if (refusal := self._parts.probes.refusal(node)) is not None:
            if future is not None:
                fail_waiter(future, refusal)
            return
        script = self._by_node.get(node.name)
        if script is None:
            script = self._by_node[node.name] = BatchedScript(
                self._parts,
                self._source,
                self._decode,
                lambda: driver.connection_to(node),
                self._parts.health.node(node.name),
                elsewhere=self._run_by_driver,
            )
        script._add(call, loop)

    async def _place(self) -> None:
        """Give the calls that came before the nodes were known to their nodes."""
        try:
            await self._parts.probes.find()
        except BackendError as error:
            self._fail_unplaced(error)
            return
        calls, self._unplaced = self._unplaced, []
        unknown: list[Call] = []
        for call in calls:
            if self._connections.node_of(call[0]) is None:
                unknown.append(call)
            else:
                self._add(call)
        if unknown:
            self._run_by_driver(unknown)

    def _placed(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():  # perhaps before its first step
            self._fail_unplaced(RedisUnavailableError("the script was stopped"))

    def _fail_unplaced(self, error: BackendError) -> None:
        calls, self._unplaced = self._unplaced, []
        _fail(calls, error)

    def _run_by_driver(self, calls: list[Call]) -> None:
        # redis-py's own way, which reads the map of the slots and follows redirections.
        task = self._tasks.spawn(self._one_by_one(calls), name="redis-cluster-script")
        # By the task's end, and not in it: one that is cancelled before its first step runs nothing.
        task.add_done_callback(lambda _: _fail(calls, RedisUnavailableError("the script was stopped")))

    async def _one_by_one(self, calls: list[Call]) -> None:
        for call in calls:
            key, argument, *_ = call
            try:
                result = self._decode(await self._script([key], [argument]), 1)[0]
            except BackendError as error:
                _fail((call,), error)
            except Exception as nonsense:
                reason = nonsense if isinstance(nonsense, ValueError) else type(nonsense).__name__
                _fail((call,), RedisRefusedError(f"unexpected answer of a script: {reason}"))
            else:
                give((call,), (result,))

    @property
    def batches(self) -> int:
        return sum(script.batches for script in self._by_node.values())

    @property
    def calls(self) -> int:
        return sum(script.calls for script in self._by_node.values())

    async def drain(self) -> None:
        """As :meth:`BatchedScript.drain`."""
        if running := self._tasks.running():
            await asyncio.wait(running, timeout=self._connections.timeout)
        for script in list(self._by_node.values()):
            await script.drain()

    async def close(self) -> None:
        await self._tasks.stop()
        self._fail_unplaced(RedisUnavailableError("the script was stopped"))
        scripts, self._by_node = self._by_node, {}
        for script in scripts.values():
            await script.close()

    async def stop(self) -> None:
        """As :meth:`BatchedScript.stop`."""
        self._on_stop(self)
        loop = self._loop
        if loop is not None and not await run_on_loop(loop, self.close):
            self.abandon()

    def renew(self) -> None:
        """As :meth:`BatchedScript.renew`."""
        for script in self._by_node.values():
            script.renew()

    def abandon(self) -> None:
        scripts, self._by_node = self._by_node, {}
        self._tasks = BackgroundTasks()
        self._unplaced = []
        for script in scripts.values():
            script.abandon()


def _fail(calls: Sequence[Call], error: BackendError) -> None:
    """Tell the callers that still wait."""
    for _, _, future, _ in calls:
        if future is not None:
            fail_waiter(future, error)
