"""The link to one Redis: its connections, its health, and the calls that go over it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlsplit

from bot.core._shared.backoff import exponential
from bot.core._shared.clock import SYSTEM_CLOCK, Clock
from bot.core._shared.errors import BackendError, MisuseError, Phase4Error, invalid
from bot.core._shared.loop_owner import LoopOwner
from bot.core._shared.masking import mask_url
from bot.core._shared.tasks import BackgroundTasks, run_on_loop, to_the_end
from bot.core.redis_link.batches import LATE
from bot.core.redis_link.breaker import CALM, Breaker
from bot.core.redis_link.cluster import ClusterReader, ClusterScript
from bot.core.redis_link.commands import (
    _FORBIDDEN,
    _READS,
    _UNANSWERED,
    _by_node,
    _bytes,
    _is_repeatable,
    _named,
)
from bot.core.redis_link.driver import (
    _abandon,
    _abandon_connection,
    _close_idle,
    _connect,
    _connect_cluster,
    _connection_to,
    _drop,
    _has_open,
    _prefer_open,
    _retire,
)
from bot.core.redis_link.errors import RedisRefusedError, RedisUnavailableError
from bot.core.redis_link.failures import _DOWN, Failure, _redis_error, judge, text_of, told
from bot.core.redis_link.reads import BatchedReader
from bot.core.redis_link.scripts import BatchedScript, Script
from bot.core.redis_link.subscription import Subscription

logger = logging.getLogger("bot.core.redis_link")

T = TypeVar("T")

TIMEOUT = 1.0
"""Seconds that Redis may take for one call; it answers in less than a millisecond when it is well."""

LOOK_FIRST, LOOK_LONGEST = 0.1, 1.0
"""Seconds between two looks at where the name leads while the server is read-only."""

CROWDED_CALM = 60.0
"""Seconds between two lines of log that the server takes no more connections."""


class RedisLink:
    """One Redis, for every service that uses its URL.

    In a cluster each node has a breaker of its own: one that is away takes only its own keys with it.

    Calls may be cancelled at any time; the connection is then closed, not reused half-read.

    **Event loops.** A link lives on one event loop. When that loop has ended, or the process was
    forked, the next call begins anew under the running loop, subscriptions included. While that loop
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

    def __init__(self, url: str, *, timeout: float = TIMEOUT, clock: Clock = SYSTEM_CLOCK) -> None:
        schemes = ("redis://", "rediss://", "unix://", "redis+cluster://", "rediss+cluster://")
        if not url.startswith(schemes):
            raise invalid("redis url", mask_url(url), f"an address after one of {', '.join(schemes)}")
        try:
            parts = urlsplit(url)
            parts.port  # noqa: B018 - raises for one that is none
        except ValueError:
            # Not from the error: its text may hold a part of the password.
            allowed = "redis://user:password@host:port/number, with %23 for # and %2F for /"
            raise invalid("redis url", mask_url(url), allowed) from None
        self.url = url
        self._has_password = parts.password is not None or "password=" in parts.query
        self.cluster = "+cluster://" in url[:20]
        """Whether the URL names one node of a Redis cluster."""
        self.timeout = timeout
        self._clock = clock
        self._now = clock.monotonic
        self.owner = LoopOwner(self._forked)
        """The event loop that every connection of the link lives on."""
        self._client: Any = None
        self._protocol = 3
        # Connections of callers' own. Changed only by open_connection, close_connection and _abandon.
        self._opened: set[Any] = set()
        self.generation = 0
        """How often every connection was given up for another server."""
        self.breaker = Breaker(mask_url(url), timeout, clock.monotonic)
        self._nodes: dict[str, Breaker] = {}
        self._tasks = BackgroundTasks()
        self._recovered: list[Callable[[], None]] = []
        self._moved: list[Callable[[], None]] = []
        self._scripts: list[BatchedScript | ClusterScript] = []
        self._subscriptions: list[Subscription] = []
        self.refused: dict[str, str] = {}
        """What this user may not do, such as ``PUBLISH p4c:changes:0``, and the server's words."""
        # Whether the last write was refused because the server is no primary, and what is done about
        # it. Changed only by found_read_only, found_writable and on_another_server.
        self.read_only = False
        self._looking: asyncio.Future[None] | None = None
        self._looks = 0
        self._look_at = 0.0
        self._read_only_said = False
        self._read_only_said_at = -CALM
        # Whether the server takes no more connections, so that those that stand are worth keeping.
        self._crowded = False
        self._crowded_said_at = -CROWDED_CALM
        self.reader: BatchedReader | ClusterReader = (
            ClusterReader(self) if self.cluster else BatchedReader(self, self._new_connection)
        )

    @classmethod
    def shared(cls, url: str) -> RedisLink:
        """The process's link to ``url`` for the running loop; give it back with :meth:`release`."""
        links = cls._links.get(url, {})
        link = next((link for link in links if not link.owner.elsewhere), None) or cls(url)
        links[link] = links.get(link, 0) + 1
        cls._links[url] = links
        return link

    async def release(self) -> None:
        """Give the link back; its connections are closed when nobody holds it any more."""
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
        client, loop = self._client, self.owner.loop
        self._client = None
        tasks = self._forget_nodes()
        try:
            if client is None or loop is None:
                return

            async def close() -> None:
                await tasks.stop()
                for subscription in list(self._subscriptions):
                    await subscription.pause()
                for batched in (self.reader, *self._scripts):
                    await batched.close()
                await client.aclose()

            if not await run_on_loop(loop, close):
                self._abandon(loop, client)
        finally:
            if self.owner.loop is loop and self._client is None:
                self.owner.release()

    def on_recovery(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call ``callback`` when Redis answers again after a failure; returns what undoes this."""
        self._recovered.append(callback)
        return lambda: self._recovered.remove(callback) if callback in self._recovered else None

    def on_move(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call ``callback`` when the link begins anew under another event loop; returns what undoes this."""
        self._moved.append(callback)
        return lambda: self._moved.remove(callback) if callback in self._moved else None

    # The event loop.

    def here(self) -> None:
        """Live on the running event loop, unless the one before still runs.

        Raises RuntimeError without a running loop.
        """
        if asyncio.get_running_loop() is not self.owner.loop and not self.owner.elsewhere:
            with contextlib.suppress(BackendError):  # connecting will say it to who waits
                self.client()

    def client(self) -> Any:
        """The redis-py client of the running loop: bytes in and out, no retries of its own.

        Raises MisuseError while the link lives on a loop that runs in another thread.
        """
        owner = self.owner
        if self._client is None or owner.loop is not asyncio.get_running_loop():
            if owner.elsewhere:
                raise MisuseError(
                    f"the link to Redis at {self.breaker.name} lives on an event loop that still runs in "
                    "another thread; use it there"
                )
            before = owner.loop
            moved = owner.claim()
            if before is not None and moved:
                self._forget_nodes()
                self._abandon(before, self._client)
                self._client = None
            if self._client is None:
                self._client = self._connect()
            if moved:
                for subscription in self._subscriptions:
                    subscription.start()
                for callback in list(self._moved):
                    callback()
        return self._client

    def _connect(self) -> Any:
        connect = _connect_cluster if self.cluster else _connect
        return connect(self.url, self.timeout, self._protocol)

    def _abandon(self, loop: asyncio.AbstractEventLoop, client: Any) -> None:
        """Close the sockets of a loop that runs no more, and forget what waited there."""
        for batched in (self.reader, *self._scripts):
            batched.abandon()
        for subscription in self._subscriptions:
            subscription.abandon()
        opened, self._opened = self._opened, set()
        for connection in opened:
            _abandon_connection(connection, loop)
        self._looking = None
        if client is not None:
            _abandon(client, loop)

    def _forked(self, loop: asyncio.AbstractEventLoop) -> None:
        # The connections are the parent's: what the child wrote or read there would be lost to it.
        client, self._client = self._client, None
        self._forget_nodes()
        self._abandon(loop, client)

    async def hand_over(self, action: Callable[[], Awaitable[T]]) -> T:
        """Await ``action()`` on the loop that owns the link, which runs in another thread."""
        loop = self.owner.loop
        failure = RedisUnavailableError(
            "the event loop that owns the connections to Redis, in another thread, is blocked or has ended"
        )

        async def there() -> T:
            return await action()

        if loop is None:
            raise failure
        begun = there()
        try:
            waiting = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(begun, loop))
        except RuntimeError:  # closed this moment
            begun.close()
            raise failure from None
        task = asyncio.current_task()
        asked_to_end = task.cancelling() if task is not None else 0
        try:
            async with asyncio.timeout(2 * self.timeout):
                return await waiting
        except TimeoutError:
            raise failure from None
        except asyncio.CancelledError:
            if task is not None and task.cancelling() > asked_to_end:
                raise
            raise failure from None  # the other loop is ending, and has cancelled all it had

    # Connections.

    def _new_connection(self) -> Any:
        """A connection that nobody else uses, to any node, not yet open."""
        client = self.client()
        if self.cluster:
            return _connection_to(client.get_random_node())
        return client.connection_pool.make_connection()

    async def open_connection(self) -> Any:
        """A connection of the caller's own, to any node; raises redis-py's errors."""
        while True:
            connection: Any = None
            try:
                if self.cluster:
                    await self.client().initialize()
                connection = self._new_connection()
                await connection.connect()
            except Exception as error:
                if connection is not None:
                    await connection.disconnect(nowait=True)
                if not self.speaks_older(error, connection):
                    raise
            except BaseException:
                if connection is not None:
                    await connection.disconnect(nowait=True)
                raise
            else:
                self._opened.add(connection)
                return connection

    async def close_connection(self, connection: Any) -> None:
        """Close one of :meth:`open_connection`."""
        self._opened.discard(connection)
        await connection.disconnect(nowait=True)

    def speaks_older(self, error: BaseException, connection: Any = None) -> bool:
        """Whether connecting failed for want of HELLO, and is worth another try: in RESP2 from now on."""
        failure = judge(error)
        # Who has not logged in yet may not be told that HELLO, which would have done so, is unknown.
        unheard = failure is Failure.LOGIN and self._has_password
        if failure is not Failure.OLD_PROTOCOL and not unheard:
            return False
        if self._protocol == 2:
            # Made before that was known?
            return connection is None or str(getattr(connection, "protocol", 2)) == "3"
        self._protocol = 2
        logger.info("Redis at %s knows no HELLO; speaking RESP2", self.breaker.name)
        self._replace_client(self._connect())
        return True

    def _replace_client(self, client: Any) -> None:
        old, self._client = self._client, client
        if old is not None:
            self._tasks.spawn(_retire(old, self.timeout), name="redis-old-connections")

    # Calls.

    async def run(
        self, operation: Callable[[Any], Awaitable[T]], *, repeatable: bool = False, writes: bool = False
    ) -> T:
        """``await operation(client)``, within twice the timeout and the breaker.

        ``repeatable``: it may be run again when a connection broke under it, since twice is as once.
        What the server says that it did not run is tried again in any case, once.

        Raises RedisUnavailableError (at once while Redis is known to be away) or RedisRefusedError.
        """
        if self.owner.loop is not asyncio.get_running_loop() and self.owner.elsewhere:
            return await self.hand_over(lambda: self.run(operation, repeatable=repeatable, writes=writes))
        task = asyncio.current_task()
        asked_to_end = task.cancelling() if task is not None else 0
        try:
            return await self._run(operation, repeatable, writes)
        finally:
            # redis-py sends by asyncio.wait_for, which before Python 3.12 lets a cancellation get lost.
            if task is not None and task.cancelling() > asked_to_end:
                raise asyncio.CancelledError

    async def _run(self, operation: Callable[[Any], Awaitable[T]], repeatable: bool, writes: bool) -> T:
        probe = self.breaker.admit()
        try:
            if probe and not self.cluster and not self._crowded:
                # Idle connections from before the failure are dead, and would fail call after call.
                await _close_idle(self.client())
            result = await self._try(operation, repeatable)
        finally:
            if probe:
                self.breaker.probing = False
        self.succeeded(self.breaker)
        if writes and self.read_only:
            self.found_writable()
        return result

    async def _try(self, operation: Callable[[Any], Awaitable[T]], repeatable: bool) -> T:
        """The operation, and again for each reason that another try can help with; each reason once."""
        loop = asyncio.get_running_loop()
        until = loop.time() + 2 * self.timeout
        met: list[Failure] = []
        held_up = False
        client: Any = None
        while True:
            used, client = client, self.client()
            begun = loop.time()
            try:
                async with asyncio.timeout_at(min(until, begun + self.timeout)):
                    if met and met[-1] is Failure.READ_ONLY:
                        return await self.on_another_server(operation, used)
                    return await operation(client)
            except Phase4Error:
                raise
            except Exception as error:
                failure = judge(error)
                if failure is Failure.AWAY and loop.time() - begun > self.timeout + LATE:
                    # This event loop did not run meanwhile: the answer may have lain there all along.
                    if repeatable and not held_up:
                        held_up, until = True, loop.time() + self.timeout
                        continue
                    raise RedisUnavailableError(
                        f"no answer of Redis at {self.breaker.name}: this event loop was held up for "
                        f"{loop.time() - begun:.1f} s"
                    ) from error
                if failure not in met:
                    met.append(failure)
                    if await self._may_help(failure, error, client, repeatable):
                        continue
                    if failure is Failure.LOST and await self._is_there(client):
                        raise RedisUnavailableError(
                            f"the connection to Redis at {self.breaker.name} was lost: {told(text_of(error))}"
                        ) from error
                raise self._error(failure, error, client) from error

    async def _may_help(self, failure: Failure, error: Exception, client: Any, repeatable: bool) -> bool:
        """Do what another try needs; False if there is nothing to be done."""
        if failure is Failure.OLD_PROTOCOL:
            return self.speaks_older(error)
        if failure is Failure.READ_ONLY:
            self.found_read_only(text_of(error))
            return self.may_look or client is not self._client
        if failure is Failure.LOGIN and self.speaks_older(error):
            return True
        if failure is Failure.CROWDED:
            return not self.cluster and _prefer_open(client)
        if failure not in (Failure.LOST, Failure.LOGIN) or self.cluster or not self.breaker.available:
            return False  # one that is known to be away is asked once
        await _close_idle(client)
        return repeatable or failure is Failure.LOGIN

    async def _is_there(self, client: Any) -> bool:
        """Whether a new connection gets an answer."""
        if self.cluster or not self.breaker.available:
            return False
        try:
            async with asyncio.timeout(self.timeout):
                await client.execute_command("PING")
        except Exception as error:
            return judge(error) in (Failure.REFUSED, Failure.READ_ONLY)
        return True

    def _error(self, failure: Failure, error: Exception, client: Any) -> BackendError:
        """What to raise for a failure; the breaker hears of it."""
        if failure in (Failure.REFUSED, Failure.READ_ONLY):
            self.succeeded(self.breaker)  # it is there; it only does not want to
            if isinstance(error, _redis_error()):
                return RedisRefusedError(told(text_of(error)))
            return RedisRefusedError(
                f"unexpected answer of Redis: {told(f'{type(error).__name__}: {error}')}"
            )
        self._crowded = failure is Failure.CROWDED
        if self._crowded and not self.cluster and client is not None and _has_open(client):
            now = self._now()
            if now - self._crowded_said_at >= CROWDED_CALM:
                self._crowded_said_at = now
                logger.warning(
                    "Redis at %s takes no more connections (%s); going on with those that stand",
                    self.breaker.name, told(text_of(error)),
                )  # fmt: skip
            return RedisUnavailableError(f"Redis at {self.breaker.name}: {told(text_of(error))}")
        breaker = self._breaker_of(error)
        breaker.failed(error)
        return RedisUnavailableError(breaker.reason(error))

    # A server that is no primary.

    @property
    def may_look(self) -> bool:
        """Whether it is time to look where the name leads now, or somebody is about it."""
        return self.cluster or self._looking is not None or self._now() >= self._look_at

    def found_read_only(self, text: str) -> None:
        """The server refused a write because it is no primary."""
        if self.read_only:
            return
        self.read_only = True
        now = self._now()
        if now - self._read_only_said_at >= CALM:
            self._read_only_said, self._read_only_said_at = True, now
            logger.warning(
                "Redis at %s takes no writes (%s); looking where its name leads now",
                self.breaker.name, told(text),
            )  # fmt: skip

    def found_writable(self) -> None:
        """A write was taken."""
        self.read_only = False
        self._looks = 0
        if self._read_only_said:
            self._read_only_said = False
            logger.warning("Redis at %s takes writes again", self.breaker.name)

    async def on_another_server(self, operation: Callable[[Any], Awaitable[T]], used: Any = None) -> T:
        """Run what was refused by a server that is no primary where the name leads now.

        ``used`` is the client that was refused. Raises redis-py's errors.
        """
        if self.cluster:
            await self.client().nodes_manager.initialize()
            return await operation(self.client())
        if self._looking is not None:
            await asyncio.shield(self._looking)
            return await operation(self.client())
        if used is not None and used is not self._client:
            return await operation(self.client())  # it was found meanwhile
        self._looks += 1
        self._look_at = self._now() + exponential(self._looks, LOOK_FIRST, LOOK_LONGEST)
        looking = self._looking = asyncio.get_running_loop().create_future()
        # One connection first, and not all of them: it may be the same server still.
        fresh = self._connect()
        found = False
        try:
            result = await operation(fresh)
            found = True
            return result
        except Exception as error:
            found = judge(error) is Failure.REFUSED
            raise
        finally:
            if self._looking is looking:
                self._looking = None
            if found:
                self._leave_for(fresh)
            else:
                _drop(fresh)
            if not looking.done():
                looking.set_result(None)

    def _leave_for(self, client: Any) -> None:
        """Move every connection to where ``client`` leads."""
        self.generation += 1
        self._replace_client(client)
        for batched in (self.reader, *self._scripts):
            batched.renew()
        for subscription in self._subscriptions:
            subscription.start()
        self.found_writable()

    # What an ACL forbids.

    def found_refused(self, what: str, text: str, consequence: str) -> None:
        """Redis does not let this user do ``what``: the first time it is said."""
        if what not in self.refused:
            logger.warning("Redis at %s refuses %s (%s): %s", self.breaker.name, what, text, consequence)
        self.refused[what] = text

    def _tolerated(self, command: tuple[Any, ...], text: str) -> bool:
        # Without the message others hear of the change later; without the change they never would.
        if command[0] != "PUBLISH" or not _FORBIDDEN.search(text):
            return False
        self.found_refused(_named(command), told(text), "other instances are not told of changes made here")
        return True

    def forbids_evalsha(self, text: str) -> bool:
        """Whether an error means that scripts must be sent whole; it is remembered."""
        if not _FORBIDDEN.search(text) or "evalsha" not in text.lower():
            return False
        self.found_refused("EVALSHA", told(text), "scripts are sent whole each time")
        return True

    async def execute(self, *command: Any) -> Any:
        """One command; raises as :meth:`run`. A forbidden PUBLISH is said once, and reaches nobody."""
        try:
            answer = await self.run(
                lambda client: client.execute_command(*command),
                repeatable=_is_repeatable(command),
                writes=command[0] not in _READS,
            )
        except RedisRefusedError as error:
            if self._tolerated(command, str(error)):
                return 0
            raise
        if self.refused and command[0] == "PUBLISH":
            self.refused.pop(_named(command), None)
        return answer

    async def pipeline(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Several commands in one round trip; a refused one raises, after the others have run.

        In a cluster that is one to each node; what names no key comes last. A PUBLISH that is forbidden
        is said once, and reaches nobody.
        """
        answers: list[Any] = [_UNANSWERED] * len(commands)

        async def operation(client: Any) -> None:
            # At another try, what was not run at the first.
            asked = [index for index, answer in enumerate(answers) if answer is _UNANSWERED]
            wanted = [commands[index] for index in asked]
            if self.cluster:
                found = await _by_node(client, wanted)
            else:
                async with client.pipeline(transaction=False) as pipe:
                    for command in wanted:
                        pipe.execute_command(*command)
                    found = await pipe.execute(raise_on_error=False)
            trouble: Exception | None = None
            for index, answer in zip(asked, found, strict=True):
                if isinstance(answer, Exception) and judge(answer) is not Failure.REFUSED:
                    trouble = trouble or answer
                else:
                    answers[index] = answer
            if trouble is not None:
                # A message goes again with what it tells of: the others may listen elsewhere now.
                for index, command in enumerate(commands):
                    if command[0] == "PUBLISH":
                        answers[index] = _UNANSWERED
                raise trouble

        await self.run(
            operation,
            repeatable=all(_is_repeatable(command) for command in commands),
            writes=any(command[0] not in _READS for command in commands),
        )
        for index, answer in enumerate(answers):
            if isinstance(answer, Exception):
                if not self._tolerated(commands[index], text_of(answer)):
                    raise RedisRefusedError(told(text_of(answer))) from answer
                answers[index] = 0
            elif self.refused and commands[index][0] == "PUBLISH":
                self.refused.pop(_named(commands[index]), None)
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

            async def primaries(client: Any) -> list[Any]:
                await client.initialize()
                return list(client.get_primaries())

            nodes = await self.run(primaries)
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
                    after, found = await self.run(step, repeatable=True)
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

        It begins on the running event loop, and anew wherever the link does.
        """
        self.here()
        subscription = Subscription(self, channel, on_message, on_state)
        self._subscriptions.append(subscription)
        subscription.start()
        return subscription

    def spawn(self, coro: Coroutine[Any, Any, None], *, name: str) -> None:
        """Run ``coro`` as a task of the link, which ends when the link is closed."""
        self._tasks.spawn(coro, name=name)

    def forget(self, subscription: Subscription) -> None:
        """The subscription's own: it was stopped."""
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    def script(self, source: str) -> Script:
        """A Lua script, sent to the server once and called by its digest."""
        return Script(self, source)

    def batched_script(
        self, source: str, decode: Callable[[Any, int], Sequence[Any]]
    ) -> BatchedScript | ClusterScript:
        """A Lua script whose concurrent calls travel together; ``stop`` it before the link is released."""
        script: BatchedScript | ClusterScript = (
            ClusterScript(self, source, decode)
            if self.cluster
            else BatchedScript(self, source, decode, self._new_connection)
        )
        self._scripts.append(script)
        return script

    def _forget(self, script: BatchedScript | ClusterScript) -> None:
        if script in self._scripts:
            self._scripts.remove(script)

    @property
    def impaired(self) -> bool:
        """Whether Redis answers and yet takes no writes, or does not let this user do what is wanted."""
        return self.read_only or bool(self.refused)

    @property
    def probe_due(self) -> bool:
        """Whether Redis is known to be away and it is time to see whether it still is."""
        return self.breaker.probe_due

    async def probe(self) -> bool:
        """See whether Redis answers, so that no caller has to; False if it does not."""
        try:
            if self.cluster:
                # Reads the map of the slots: a node that failed may have been replaced.
                await self.run(lambda client: client.nodes_manager.initialize())
            else:
                await self.execute("PING")
        except RedisRefusedError:
            return True  # it answers; PING may be forbidden
        except BackendError:
            return False
        return True

    # The breakers.

    @property
    def available(self) -> bool:
        """Whether calls are let through: the last one reached Redis, or there was none."""
        return self.breaker.available

    @property
    def complete(self) -> bool:
        """Whether, besides, every node of a cluster answered the last time."""
        if not self.breaker.available:
            return False
        if all(breaker.available for breaker in self._nodes.values()):
            return True
        known = self._client.nodes_manager.nodes_cache if self._client is not None else {}
        return all(breaker.available for name, breaker in self._nodes.items() if name in known)

    def succeeded(self, breaker: Breaker) -> None:
        """A server of this link answered."""
        if breaker.succeeded():
            for callback in list(self._recovered):
                callback()

    def _forget_nodes(self) -> BackgroundTasks:
        """What is known of nodes, and the tasks that probe them, which are handed over to be stopped."""
        tasks, self._tasks, self._nodes = self._tasks, BackgroundTasks(), {}
        return tasks

    def node_breaker(self, name: str) -> Breaker:
        """The breaker of a node, by its ``host:port``."""
        breaker = self._nodes.get(name)
        if breaker is None:
            where = f"{mask_url(self.url)}, node {name},"
            breaker = self._nodes[name] = Breaker(where, self.timeout, self._now)
        return breaker

    def refusal(self, node: Any) -> RedisUnavailableError | None:
        """Why a node is not to be asked now: it is away, and a task of the link sees whether it is back."""
        breaker = self.node_breaker(node.name)
        if breaker.available:
            return None
        if not breaker.probing:
            breaker.probing = True
            self._tasks.spawn(self._until_back(node, breaker), name="redis-node-probe")
        return RedisUnavailableError(f"Redis at {breaker.name} is away")

    async def _until_back(self, node: Any, breaker: Breaker) -> None:
        try:
            while not breaker.available:
                await asyncio.sleep(breaker.probe_in)
                # The map first: another node may have taken its place.
                if await self.probe() and node.name not in self.client().nodes_manager.nodes_cache:
                    self._nodes.pop(node.name, None)
                    return
                await self._probe_node(node, breaker)
        finally:
            breaker.probing = False

    async def _probe_node(self, node: Any, breaker: Breaker) -> None:
        connection: Any = None
        try:
            async with asyncio.timeout(self.timeout):
                connection = _connection_to(node)
                await connection.connect()
                await connection.send_command("CLUSTER", "INFO")
                told = await connection.read_response()
            # A node that has just started knows nothing yet, and would refuse everything.
            if b"cluster_state:ok" not in _bytes(told):
                raise ConnectionError(_DOWN)
        except Exception as error:
            # In whichever way it fails, it is not there.
            breaker.failed(error)
        else:
            self.succeeded(breaker)
        finally:
            if connection is not None:
                await connection.disconnect(nowait=True)

    def _breaker_of(self, error: BaseException) -> Breaker:
        # Who waits in vain is not known to wait for one node; a refused connection tells at once.
        if self.cluster and "Timeout" not in type(error).__name__:
            name = getattr(getattr(error, "connection", None), "name", None)
            if isinstance(name, str):
                return self.node_breaker(name)
        return self.breaker
