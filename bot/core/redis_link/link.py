"""The link to one Redis, for every service that uses its URL."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, ClassVar, TypeVar

from bot.core._shared.clock import SYSTEM_CLOCK, Clock
from bot.core._shared.errors import BackendError, invalid
from bot.core._shared.loop_owner import LoopOwner
from bot.core._shared.redis_address import TIMEOUT, Kind, RedisAddress, files_of
from bot.core._shared.tasks import run_on_loop, to_the_end
from bot.core.redis_link import driver
from bot.core.redis_link.breaker import Breaker
from bot.core.redis_link.calls import Calls
from bot.core.redis_link.cluster import ClusterReader, ClusterScript
from bot.core.redis_link.commands import (
    READS,
    UNANSWERED,
    is_blocking,
    is_repeatable,
    is_short,
    run_by_node,
)
from bot.core.redis_link.connections import Connections
from bot.core.redis_link.errors import RedisCrowdedError, RedisRefusedError
from bot.core.redis_link.failures import Failure, judge, text_of, told
from bot.core.redis_link.health import Health
from bot.core.redis_link.nodes import NodeProbes
from bot.core.redis_link.parts import Parts
from bot.core.redis_link.primary import PrimarySearch
from bot.core.redis_link.reads import BatchedReader
from bot.core.redis_link.rights import Rights
from bot.core.redis_link.scripts import BatchedScript, Script
from bot.core.redis_link.subscription import Subscription
from bot.core.redis_link.together import MAX_WHOLE, Together
from bot.core.redis_link.watching import Watch

T = TypeVar("T")


class RedisLink:
    """One Redis, for every service that uses its URL.

    In a cluster each node has a breaker of its own: one that is away takes only its own keys with it.

    Calls may be cancelled at any time. Short ones share a connection (:class:`Together`); where a call has
    one of its own, that is closed then, not reused half-read.

    **Sentinels** are asked for the primary by each new connection, and heard when it becomes another.

    **Event loops.** A link lives on one event loop. When that loop has ended, or the process was
    forked, the next call starts again under the running loop, subscriptions included. While that loop
    still runs in another thread, calls are handed over to it.

    **A server that is no primary any more** refuses writes. The first refused one is tried once where
    the name leads now; if it is taken there, every connection moves. Otherwise the call fails, and the
    next look is after ``LOOK_FIRST`` to ``LOOK_LONGEST`` seconds.

    **A Redis that allows less.** Without HELLO the link speaks RESP2. What an ACL forbids is in
    ``refused``, and in the log once.
    """

    # Links by URL, each with how many hold it: more than one only where several threads have an event
    # loop each. Changed only by shared and release.
    _links: ClassVar[dict[str, dict[RedisLink, int]]] = {}

    def __init__(self, url: str, *, timeout: float | None = None, clock: Clock = SYSTEM_CLOCK) -> None:
        """``timeout``: seconds for one call; None: those of the URL's ``socket_timeout``, or TIMEOUT.

        Raises InvalidArgumentError for a URL that cannot be one.
        """
        address = RedisAddress.read(url)
        for option, path in files_of(url).items():
            # Else each connection would fail, as if the server were away.
            if not os.path.exists(path):
                raise invalid(f"{option} of the redis url", path, "a file that is there")
        self.url = url
        self.root = address.root
        """What every key and channel of a service begins with here: ``shop:`` for the prefix ``shop``."""
        self.root_bytes = address.root.encode()
        self.cluster = address.kind is Kind.CLUSTER
        """Whether the URL names one node of a Redis cluster."""
        self.timeout = timeout = timeout or address.timeout or TIMEOUT
        now = clock.monotonic
        self._health = health = Health(address.shown, timeout, now, cluster=self.cluster)
        self.breaker: Breaker = health.breaker
        self._connections = connections = Connections(
            address, timeout, on_left=self._abandon, on_moved=self._restart
        )
        self._primary = primary = PrimarySearch(connections, now, self._leave_for)
        self._watch = (
            None
            if address.sentinels is None or connections.primary is None
            else Watch(connections, connections.primary, address.sentinels, address.url, self._switched)
        )
        self._rights = rights = Rights(health.name)
        self._calls = calls = Calls(connections, health, primary, now)
        self._probes = probes = NodeProbes(connections, health, calls)
        self.parts = Parts(connections, health, primary, rights, calls, probes)
        # Changed only by on_move, batched_script and listen, and by what undoes each.
        self._on_move: list[Callable[[], None]] = []
        # In a cluster a command goes to the node that has its key, and behind Sentinel to whoever is the
        # primary at that moment: by redis-py's own connections.
        alone = self.cluster or connections.primary is not None
        self._together = None if alone else Together(self.parts, connections.new_connection)
        if self._together is not None:
            calls.another_stands = self._together.stands
        self._scripts: list[BatchedScript | ClusterScript] = []
        self._subscriptions: list[Subscription] = []
        self.reader: BatchedReader | ClusterReader = (
            ClusterReader(self.parts)
            if self.cluster
            else BatchedReader(self.parts, connections.new_connection)
        )

    # Its life.

    @classmethod
    def shared(cls, url: str) -> RedisLink:
        """The process's link to ``url`` for the running loop; give it back with :meth:`release`."""
        links = cls._links.get(url, {})
        link = next((link for link in links if not link.owner.elsewhere), None) or cls(url)
        links[link] = links.get(link, 0) + 1
        cls._links[url] = links
        return link

    async def release(self) -> None:
        """Give the link back; its connections are closed when its last user has given it back."""
        links = RedisLink._links.get(self.url, {})
        holders = links.get(self, 1)
        if holders > 1:
            links[self] = holders - 1
            return
        links.pop(self, None)
        if not links:
            RedisLink._links.pop(self.url, None)
        await self.close()

    async def close(self) -> None:
        """Close every connection, also if the caller is cancelled meanwhile."""
        await to_the_end(self._close())

    async def _close(self) -> None:
        connections, loop = self._connections, self.owner.loop
        client, tasks = connections.take_client()
        self._health.forget_nodes()
        try:
            if client is None or loop is None:
                return

            async def close() -> None:
                await tasks.stop()
                for subscription in list(self._subscriptions):
                    await subscription.pause()
                for batches in self._every_batches():
                    await batches.close()
                await client.aclose()

            if not await run_on_loop(loop, close):
                connections.abandon(loop, client)
        finally:
            connections.release(loop)

    def _abandon(self) -> None:
        """Forget what waited on an event loop that runs no more."""
        self._health.forget_nodes()
        for batches in self._every_batches():
            batches.abandon()
        for subscription in self._subscriptions:
            subscription.abandon()
        self._primary.abandon()

    def _every_batches(
        self,
    ) -> list[Together | BatchedReader | ClusterReader | BatchedScript | ClusterScript]:
        together = () if self._together is None else (self._together,)
        return [*together, self.reader, *self._scripts]

    def _restart(self) -> None:
        """The link lives on another event loop now."""
        if self._watch is not None:
            self._watch.start()
        for subscription in self._subscriptions:
            subscription.start()
        for callback in list(self._on_move):
            callback()

    def _switched(self) -> None:
        """The sentinels name another primary."""
        self._leave_for(self._connections.connect())
        self.breaker.may_be_back()

    def _leave_for(self, client: Any) -> None:
        """Move every connection to where ``client`` leads."""
        self._connections.switch_to(client)
        for batches in self._every_batches():
            batches.renew()
        for subscription in self._subscriptions:
            subscription.start()
        self._primary.found_writable()

    def on_recovery(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call ``callback`` when Redis answers again after a failure; returns what undoes this."""
        return self._health.on_recovery(callback)

    def on_move(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call ``callback`` when the link starts again under another event loop; returns what undoes this."""
        self._on_move.append(callback)
        return lambda: self._on_move.remove(callback) if callback in self._on_move else None

    # How it stands.

    @property
    def owner(self) -> LoopOwner:
        """The event loop that every connection of the link lives on."""
        return self._connections.owner

    @property
    def available(self) -> bool:
        """Whether calls are let through: the last one reached Redis, or there was none."""
        return self.breaker.available

    @property
    def complete(self) -> bool:
        """Whether, besides, every node of a cluster answered the last time."""
        if not self.breaker.available:
            return False
        away = self._health.nodes_away()
        return not away or away.isdisjoint(self._connections.node_names())

    @property
    def read_only(self) -> bool:
        """Whether the last write was refused because the server is no primary."""
        return self._primary.read_only

    @property
    def refused(self) -> dict[str, str]:
        """What this user may not do, such as ``PUBLISH p4c:changes:0``, and the server's words."""
        return self._rights.refused

    @property
    def impaired(self) -> bool:
        """Whether Redis answers and yet takes no writes, or does not let this user do what is wanted."""
        return self.read_only or bool(self.refused)

    def warnings(self, without: str) -> list[str]:
        """What is amiss, a sentence each; ``without`` says what is done while Redis is away."""
        found = [f"{self.breaker.trouble}: {without}"] if self.breaker.trouble else []
        if self.read_only:
            found.append(f"Redis at {self.breaker.name} takes no writes: it is no primary")
        return found + [
            f"Redis at {self.breaker.name} refuses {what} ({text})" for what, text in self.refused.items()
        ]

    @property
    def probe_due(self) -> bool:
        """Whether Redis is known to be away and it is time to see whether it still is."""
        return self.breaker.probe_due

    async def probe(self) -> bool:
        """See whether Redis answers, so that no caller has to; False if it does not."""
        if self.cluster:
            return await self._probes.read_slots()
        try:
            await self.execute("PING")
        except RedisRefusedError:
            return True  # it answers; PING may be forbidden
        except BackendError:
            return False
        return True

    # Connections.

    def here(self) -> None:
        """Live on the running event loop, unless the one before still runs.

        Raises RuntimeError without a running loop.
        """
        self._connections.here()

    def client(self) -> Any:
        """The redis-py client of the running loop: bytes in and out, no retries of its own.

        Raises MisuseError while the link lives on a loop that runs in another thread.
        """
        return self._connections.client()

    async def open_connection(self) -> Any:
        """A connection of the caller's own, to any node; raises redis-py's errors."""
        return await self._connections.open_connection()

    async def close_connection(self, connection: Any) -> None:
        """Close one of :meth:`open_connection`."""
        await self._connections.close_connection(connection)

    # Calls.

    async def run(
        self, operation: Callable[[Any], Awaitable[T]], *, repeatable: bool = False, writes: bool = False
    ) -> T:
        """``await operation(client)``, within twice the timeout and the breaker.

        Some of them run at once, each with a connection; the others wait for their turn.
        ``repeatable``: it may be run again when a connection broke under it, since twice is as once.
        What the server says that it did not run is tried again in any case, once.

        Raises RedisUnavailableError (at once while Redis is known to be away) or RedisRefusedError.
        """
        return await self._calls.run(operation, repeatable=repeatable, writes=writes)

    async def execute(self, *command: Any) -> Any:
        """One command; raises as :meth:`run`. A forbidden PUBLISH is logged once, and not delivered."""
        repeatable, writes = is_repeatable(command), command[0] not in READS
        answer = UNANSWERED
        try:
            if self._together is not None and is_short(command):
                (answer,) = await self._together.run((command,), repeatable=repeatable, writes=writes)
                answer = self._checked(command, answer)
            if answer is UNANSWERED:
                try:
                    answer = await self._calls.run(
                        lambda client: client.execute_command(*command),
                        repeatable=repeatable,
                        writes=writes,
                        waits=is_blocking(command),
                    )
                except RedisCrowdedError as error:
                    (answer,) = await self._crowded((command,), error)
                    answer = self._checked(command, answer)
        except RedisRefusedError as error:
            if self._rights.tolerates(command, str(error)):
                return 0
            raise
        if command[0] == "PUBLISH":
            self._rights.found_allowed(command)
        return answer

    def _checked(self, command: tuple[Any, ...], answer: Any) -> Any:
        """An answer of ``Together`` as redis-py has it; raises RedisRefusedError for a refusal."""
        if answer is UNANSWERED:
            return answer
        if isinstance(answer, Exception):
            raise RedisRefusedError(told(text_of(answer))) from answer
        return driver.as_redis_py_has_it(self.client(), command, answer)

    async def pipeline(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Several commands in one round trip; a refused one raises, after the others have run.

        In a cluster that is one to each node; what names no key comes last. A PUBLISH that is forbidden
        is logged once, and not delivered.
        """
        answers: list[Any] = [UNANSWERED] * len(commands)
        repeatable = all(is_repeatable(command) for command in commands)
        writes = any(command[0] not in READS for command in commands)

        async def operation(client: Any) -> None:
            # At another try, what was not run at the first.
            asked = [index for index, answer in enumerate(answers) if answer is UNANSWERED]
            wanted = [commands[index] for index in asked]
            if self.cluster:
                found = await run_by_node(client, wanted)
            else:
                found = await driver.pipeline(client, wanted)
            trouble: Exception | None = None
            for index, answer in zip(asked, found, strict=True):
                if isinstance(answer, Exception) and judge(answer) is not Failure.REFUSED:
                    trouble = trouble or answer
                else:
                    answers[index] = answer
            if trouble is not None:
                _ask_again_for_messages(commands, answers)
                raise trouble

        if self._together is not None and all(map(is_short, commands)):
            answers = await self._together.run(commands, repeatable=repeatable, writes=writes)
            if commands[-1][0] == "PUBLISH":
                await asyncio.sleep(0)  # other services of this process hear of it first
        if any(answer is UNANSWERED for answer in answers):
            _ask_again_for_messages(commands, answers)
            try:
                await self._calls.run(operation, repeatable=repeatable, writes=writes)
            except RedisCrowdedError as error:
                answers = await self._crowded(commands, error)
        for index, answer in enumerate(answers):
            if isinstance(answer, Exception):
                if not self._rights.tolerates(commands[index], text_of(answer)):
                    raise RedisRefusedError(told(text_of(answer))) from answer
                answers[index] = 0
            elif commands[index][0] == "PUBLISH":
                self._rights.found_allowed(commands[index])
        return answers

    async def _crowded(self, commands: Sequence[tuple[Any, ...]], error: RedisCrowdedError) -> list[Any]:
        """The answers by the one connection that stands, however large; raises ``error`` if none does."""
        together = self._together
        if together is None or not together.stands() or any(map(is_blocking, commands)):
            raise error
        answers = await together.run(
            commands,
            repeatable=all(map(is_repeatable, commands)),
            writes=any(command[0] not in READS for command in commands),
            most=MAX_WHOLE,
        )
        if any(answer is UNANSWERED for answer in answers):
            raise error
        return answers

    async def unlink(self, keys: Sequence[bytes]) -> int:
        """Remove keys, wherever in a cluster they lie; how many there were."""
        if not keys:
            return 0
        if self.cluster:
            counts = await self.pipeline([("UNLINK", key) for key in keys])
        else:
            counts = [await self.execute("UNLINK", *keys)]
        if not all(isinstance(count, int) for count in counts):
            raise RedisRefusedError("unexpected answer of Redis to UNLINK")
        return sum(counts)

    async def scan(self, pattern: bytes, count: int = 1000) -> AsyncIterator[list[bytes]]:
        """The keys that match a pattern, some at a time, of every node; raises as :meth:`run`."""
        nodes: list[Any] = [None]
        if self.cluster:
            nodes = await self._calls.run(driver.primaries)
        for node in nodes:
            target = {} if node is None else {"target_nodes": node}
            cursor = 0
            while True:

                def step(
                    client: Any, cursor: int = cursor, target: dict[str, Any] = target
                ) -> Awaitable[Any]:
                    return client.execute_command(  # type: ignore[no-any-return]
                        "SCAN", cursor, "MATCH", pattern, "COUNT", count, **target
                    )

                try:
                    after, found = await self._calls.run(step, repeatable=True)
                    # A cluster's client answers with the cursor of each node.
                    cursor = int(next(iter(after.values())) if isinstance(after, dict) else after)
                    if not all(isinstance(key, bytes) for key in found):
                        raise ValueError("keys that are no bytes")
                except (TypeError, ValueError, StopIteration) as error:
                    raise RedisRefusedError("unexpected answer of Redis to SCAN") from error
                if found:
                    yield found
                if cursor == 0:
                    break

    def listen(
        self, channel: str, on_message: Callable[[bytes], None], on_state: Callable[[bool], None]
    ) -> Subscription:
        """Hear every message of ``channel`` until the subscription is stopped; see :func:`subscribe`.

        It starts on the running event loop, and again wherever the link does.
        """
        self.here()
        subscriptions = self._subscriptions
        subscription = Subscription(
            self.parts,
            channel,
            on_message,
            on_state,
            lambda stopped: subscriptions.remove(stopped) if stopped in subscriptions else None,
        )
        subscriptions.append(subscription)
        subscription.start()
        return subscription

    def script(self, source: str) -> Script:
        """A Lua script, sent to the server once and called by its digest."""
        return Script(self.parts, source, self._together)

    def batched_script(
        self, source: str, decode: Callable[[Any, int], Sequence[Any]]
    ) -> BatchedScript | ClusterScript:
        """A Lua script whose concurrent calls travel together; ``stop`` it before the link is released."""
        script: BatchedScript | ClusterScript = (
            ClusterScript(self.parts, source, decode, self._forget)
            if self.cluster
            else BatchedScript(
                self.parts, source, decode, self._connections.new_connection, on_stop=self._forget
            )
        )
        self._scripts.append(script)
        return script

    def _forget(self, script: BatchedScript | ClusterScript) -> None:
        if script in self._scripts:
            self._scripts.remove(script)


def _ask_again_for_messages(commands: Sequence[tuple[Any, ...]], answers: list[Any]) -> None:
    # A message goes again with what it tells of: the others may listen elsewhere now.
    for index, command in enumerate(commands):
        if command[0] == "PUBLISH":
            answers[index] = UNANSWERED
