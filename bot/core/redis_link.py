"""The one door to Redis: one client per URL, its health, its scripts, its reads in batches.

What fails here fails fast. After a failure the link is *open* (in the circuit breaker's sense): calls
are refused at once, without a timeout each, and one call at a time is let through as a probe, after
a delay that doubles from 0.2 to 5 seconds. The log says once that Redis is away and once that it is
back. Source: M. Nygard, "Release It!", the circuit breaker pattern.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import hashlib
import logging
import os
import random
import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlsplit

from bot.core._shared.backoff import exponential
from bot.core._shared.clock import SYSTEM_CLOCK, Clock
from bot.core._shared.demotion import redis_needs_another_server
from bot.core._shared.errors import BackendError, MisuseError, Phase4Error, invalid
from bot.core._shared.loop_owner import LoopOwner
from bot.core._shared.masking import mask_url, one_line
from bot.core._shared.tasks import BackgroundTasks, run_on_loop, to_the_end

logger = logging.getLogger(__name__)

T = TypeVar("T")

TIMEOUT = 1.0
"""Seconds that Redis may take for one call; it answers in less than a millisecond when it is well."""

PROBE_FIRST, PROBE_LONGEST = 0.2, 5.0
CALM = 10.0
"""Seconds that a server must have been back for its next failure to be news."""

LATE = 0.25
"""Seconds by which a time limit is noticed late when this event loop, and not the server, was held up."""

MAX_KEYS = 500
"""Keys in one MGET: more would keep other clients of the server waiting."""

MAX_CALLS = 256
"""Calls in one run of a script: more would keep other clients of the server waiting."""

LARGE_BATCH = 48
"""Keys or calls from which a batch is sent at once, even while another one is under way."""

SILENCE = 3.0
"""Seconds without a message after which a subscription asks whether the server is still there."""

REFUSED_PAUSE = 30.0
"""Seconds until a subscription that was refused is asked for again."""

REVIVAL = 0.5
"""Seconds after which a subscription begins anew whose task somebody else has cancelled."""

LOOK_FIRST, LOOK_LONGEST = 0.1, 1.0
"""Seconds between two looks at where the name leads while the server is read-only."""

CROWDED_CALM = 60.0
"""Seconds between two lines of log that the server takes no more connections."""

MAX_TEXT = 300
"""Characters of an error of Redis that are told."""


class RedisUnavailableError(BackendError):
    """Redis cannot be reached, or did not answer in time."""


class RedisRefusedError(BackendError):
    """Redis answered with an error, such as that its memory is full."""


class Failure(enum.Enum):
    """What an error of redis-py, or an error that Redis answered with, says of the server."""

    REFUSED = enum.auto()
    """It is there and does not want to do this."""
    AWAY = enum.auto()
    """It cannot be reached, or serves nobody now."""
    LOST = enum.auto()
    """A connection is gone; whether the server is, a new one tells."""
    CROWDED = enum.auto()
    """It takes no more connections; those that stand go on."""
    READ_ONLY = enum.auto()
    """It is no primary (any more). Nothing was run."""
    LOGIN = enum.auto()
    """This connection must log in anew. Nothing was run."""
    OLD_PROTOCOL = enum.auto()
    """It knows no HELLO, and so no RESP3. Nothing was run."""


# redis-py cuts the code off the text of an error that it has a class for.
_CODES = {
    "ReadOnlyError": "READONLY",
    "MasterDownError": "MASTERDOWN",
    "BusyLoadingError": "LOADING",
    "NoPermissionError": "NOPERM",
    "NoScriptError": "NOSCRIPT",
    "OutOfMemoryError": "OOM",
    "ClusterDownError": "CLUSTERDOWN",
}

_KNOWN_NOT = re.compile(r"unknown|unsupported|not supported|no permission|not allowed|disabled")
_SERVES_NOBODY = ("LOADING", "BUSY ", "CLUSTERDOWN", "MASTERDOWN")


def text_of(error: BaseException) -> str:
    """What Redis said, with its code in front (``NOPERM ...``), whole."""
    text = str(error)
    code = getattr(error, "status_code", None) or _CODES.get(type(error).__name__, "")
    if not code and type(error).__name__ == "AuthenticationError":  # redis-py 6 tells no code
        code = "NOAUTH" if text.startswith(("Authentication required", "HELLO must be")) else "WRONGPASS"
    return text if not code or code == "ERR" or text.startswith(code) else f"{code} {text}"


def told(text: str) -> str:
    """An error of Redis as a log or a caller may have it: one short line, with no arguments of a command.

    Redis quotes the arguments of a command that it does not know, and they may be anybody's values.
    """
    said = text[: 4 * MAX_TEXT].partition(", with args beginning with")[0]
    return one_line(said.partition("\n")[0].partition("\r")[0], MAX_TEXT)


def judge(error: BaseException) -> Failure:
    """What an error that a call ended with says of the server."""
    from redis.exceptions import AuthenticationError, RedisClusterException, ResponseError
    from redis.exceptions import ConnectionError as RedisConnectionError
    from redis.exceptions import TimeoutError as RedisTimeoutError

    text = text_of(error)
    if isinstance(error, ResponseError | RedisClusterException):
        lowered = text.lower()
        # Renamed or older than Redis 6; forbidden to this user; RESP3 switched off by a proxy.
        if text.startswith("NOPROTO") or ("hello" in lowered and _KNOWN_NOT.search(lowered)):
            return Failure.OLD_PROTOCOL
    if redis_needs_another_server(text):
        return Failure.READ_ONLY
    if text.startswith("NOAUTH"):
        return Failure.LOGIN
    if "max number of clients" in text:
        return Failure.CROWDED
    if text.startswith(_SERVES_NOBODY):
        return Failure.AWAY
    if isinstance(error, RedisTimeoutError | TimeoutError | RedisClusterException | AuthenticationError):
        return Failure.AWAY
    if isinstance(error, RedisConnectionError | OSError):
        return Failure.LOST
    return Failure.REFUSED


class Breaker:
    """What is known of one server's health, and whether it may be asked now.

    A server that fails again within ``CALM`` seconds of its return is one that flaps: its probes stay
    as rare as they were, and the log tells of it only if it then stays away.
    """

    def __init__(self, name: str, timeout: float, now: Callable[[], float]) -> None:
        self.name = name
        self._timeout = timeout
        self._now = now
        self.available = True
        """Whether the last call reached the server; True before the first."""
        self.probing = False
        """Whether a call that was let through to see whether it is back is under way."""
        # Changed only by failed and succeeded.
        self._failures = 0
        self._probe_at = 0.0
        self._back_at = -CALM
        self._said = False

    @property
    def probe_due(self) -> bool:
        """Whether the server is known to be away and it is time to see whether it still is."""
        return not self.available and not self.probing and self._now() >= self._probe_at

    @property
    def probe_in(self) -> float:
        """Seconds until the next probe is due."""
        return max(0.0, self._probe_at - self._now())

    def admit(self) -> bool:
        """True if this call is the probe; raises RedisUnavailableError while the server is away."""
        if self.available:
            return False
        if not self.probe_due:
            raise RedisUnavailableError(f"Redis at {self.name} is away")
        self.probing = True
        return True

    def failed(self, error: BaseException) -> None:
        """The server could not be reached."""
        now = self._now()
        if self.available:
            self.available = False
            if now - self._back_at >= CALM:
                self._failures = 0
                self._say(error)
        elif not self._said and now - self._back_at >= CALM:
            self._say(error)
        self._failures += 1
        delay = exponential(self._failures, PROBE_FIRST, PROBE_LONGEST)
        # Jitter, so that instances do not all knock on a server that has just come back.
        self._probe_at = now + delay * random.uniform(0.75, 1.0)

    def succeeded(self) -> bool:
        """The server answered; True if it was away until now."""
        if self.available:
            return False
        self.available = True
        self._back_at = self._now()
        if self._said:
            self._said = False
            logger.warning("Redis at %s is back", self.name)
        return True

    def _say(self, error: BaseException) -> None:
        self._said = True
        logger.warning("%s; going on without it", one_line(self.reason(error), 2 * MAX_TEXT))

    def reason(self, error: BaseException) -> str:
        """What to tell who wanted something of the server."""
        what = told(text_of(error)) or f"no answer within {self._timeout:g} s"
        return f"Redis at {self.name} is away ({type(error).__name__}: {what})"


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


_UNANSWERED: Any = object()
_FORBIDDEN = re.compile(r"^NOPERM|no permissions|unknown command")
_READS = frozenset(
    "EXISTS GET INFO MGET PING PTTL PUBLISH SCAN SUBSCRIBE TIME TTL XLEN XRANGE XREVRANGE".split()
)
_REPEATABLE = _READS | {"DEL", "EXPIRE", "MSET", "PEXPIRE", "SET", "UNLINK"}


def _is_repeatable(command: tuple[Any, ...]) -> bool:
    """Whether it may be run twice where once was asked for."""
    if command[0] == "SET" and len(command) > 3:
        return all(option in ("EX", "PX") or isinstance(option, int) for option in command[3:])
    return command[0] in _REPEATABLE


def _named(command: tuple[Any, ...]) -> str:
    """A command on a channel: rights are given by channel."""
    return f"{command[0]} {command[1]}"


def _redis_error() -> type[Exception]:
    from redis.exceptions import RedisError

    return RedisError


def _bytes(answer: Any) -> bytes:
    return answer if isinstance(answer, bytes) else str(answer).encode()


def _connect(url: str, timeout: float, protocol: int) -> Any:
    try:
        import redis.asyncio as redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ImportError as error:
        raise RedisUnavailableError("redis is missing: pip install redis[hiredis]") from error
    _need_hiredis()
    return redis.Redis.from_url(
        url,
        protocol=protocol,
        socket_connect_timeout=timeout,
        socket_timeout=timeout,
        # Retries belong to the breaker: redis-py's own would make each caller wait for all of them.
        retry=Retry(NoBackoff(), 0),
        max_connections=10_000,
        **_without_maintenance_notes(),
    )


def _connect_cluster(url: str, timeout: float, protocol: int) -> Any:
    try:
        from redis.asyncio.cluster import RedisCluster
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ImportError as error:
        raise RedisUnavailableError("redis is missing: pip install redis[hiredis]") from error
    _need_hiredis()
    return RedisCluster.from_url(
        url.replace("+cluster://", "://", 1),
        protocol=protocol,
        socket_connect_timeout=timeout,
        socket_timeout=timeout,
        # One more try, with a new map of the slots: what it takes when a node has gone.
        retry=Retry(NoBackoff(), 1),
        max_connections=1_000,
    )


def _need_hiredis() -> None:
    try:
        import hiredis  # noqa: F401
    except ImportError as error:
        raise RedisUnavailableError("hiredis is missing: pip install redis[hiredis]") from error


def _without_maintenance_notes() -> dict[str, Any]:
    """No pushes of planned maintenance: with them redis-py (7 and later) hands out connections unchecked.

    One that the server has closed while it was idle then fails its next call.
    """
    try:
        from redis.maint_notifications import MaintNotificationsConfig
    except ImportError:  # redis-py 6 has none
        return {}
    return {"maint_notifications_config": MaintNotificationsConfig(enabled=False)}


def _connection_to(node: Any) -> Any:
    return node.connection_class(**node.connection_kwargs)


async def _by_node(client: Any, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Commands with keys in one round trip to each node, then those without; errors are among the answers."""
    keyed = [command for command in commands if command[0] != "PUBLISH"]
    answers: list[Any] = []
    if keyed:
        async with client.pipeline() as pipe:
            for command in keyed:
                pipe.execute_command(*command)
            answers = await pipe.execute(raise_on_error=False)
    found = iter(answers)
    return [await _answer_of(client, c) if c[0] == "PUBLISH" else next(found) for c in commands]


async def _answer_of(client: Any, command: tuple[Any, ...]) -> Any:
    from redis.exceptions import ResponseError

    try:
        return await client.execute_command(*command)
    except ResponseError as error:
        return error


def _connections(client: Any) -> list[Any]:
    pool = client.connection_pool
    return [*getattr(pool, "_available_connections", ()), *getattr(pool, "_in_use_connections", ())]


def _has_open(client: Any) -> bool:
    return any(connection.is_connected for connection in _connections(client))


def _prefer_open(client: Any) -> bool:
    """Have the next call use a connection that stands; False if none is idle."""
    idle = client.connection_pool._available_connections
    idle.sort(key=lambda connection: connection.is_connected)  # the last one is used first
    return bool(idle) and bool(idle[-1].is_connected)


async def _close_idle(client: Any) -> None:
    # Whatever comes of it: they are given up.
    with contextlib.suppress(Exception):
        async with asyncio.timeout(0.5):
            await client.connection_pool.disconnect(inuse_connections=False)


async def _retire(client: Any, timeout: float) -> None:
    """Close a client when those who use it have ended, which is within the timeout."""
    loop = asyncio.get_running_loop()
    until = loop.time() + 2 * timeout
    try:
        if hasattr(client, "connection_pool"):
            await _close_idle(client)
            # Polled: redis-py tells of no connection's return.
            while client.connection_pool._in_use_connections and loop.time() < until:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    finally:
        await client.aclose()


def _drop(client: Any) -> None:
    """Close a client's connections at once."""
    for connection in _connections(client):
        writer = getattr(connection, "_writer", None)
        if writer is not None:
            writer.transport.abort()
            connection._writer = connection._reader = None


def _abandon(client: Any, loop: asyncio.AbstractEventLoop) -> None:
    """Close the sockets of a client whose event loop runs no more."""
    if not hasattr(client, "connection_pool"):
        for node in client.get_nodes():
            for connection in node._connections:
                _abandon_connection(connection, loop)
        return
    for connection in _connections(client):
        _abandon_connection(connection, loop)
    client.connection_pool.reset()


def _abandon_connection(connection: Any, loop: asyncio.AbstractEventLoop) -> None:
    writer = getattr(connection, "_writer", None)
    if writer is not None:
        _abandon_transport(writer.transport, loop)
        connection._writer = connection._reader = None


def _abandon_transport(transport: Any, loop: asyncio.AbstractEventLoop) -> None:
    socket = transport.get_extra_info("socket")
    # The transport's own close would call the dead loop; the socket beneath it needs none.
    inner = getattr(socket, "_sock", None)
    if loop.is_closed():
        if inner is not None:
            inner.close()
        for attribute in ("_sock", "_loop"):
            if hasattr(transport, attribute):
                setattr(transport, attribute, None)
        return
    # A loop that may run again knows the descriptor by its number, which must not become another
    # connection's: the connection is closed by giving the number another file. In a child after a
    # fork this leaves the parent's connection and its (shared) epoll as they are.
    with contextlib.suppress(OSError, ValueError, AttributeError):
        number = socket.fileno()
        if number >= 0:
            null = os.open(os.devnull, os.O_RDWR)
            try:
                os.dup2(null, number, inheritable=False)
            finally:
                os.close(null)


class Script:
    """A Lua script of one link."""

    def __init__(self, link: RedisLink, source: str) -> None:
        self._link = link
        self._source = source
        self._digest = hashlib.sha1(source.encode()).hexdigest()  # noqa: S324 - Redis's own naming

    async def __call__(self, keys: Sequence[Any], arguments: Sequence[Any] = ()) -> Any:
        """Run it; raises as :meth:`RedisLink.run`."""
        from redis.exceptions import NoScriptError, ResponseError

        async def operation(client: Any) -> Any:
            if "EVALSHA" not in self._link.refused:
                try:
                    return await client.execute_command("EVALSHA", self._digest, len(keys), *keys, *arguments)
                except NoScriptError:
                    pass
                except ResponseError as error:
                    if not self._link.forbids_evalsha(text_of(error)):
                        raise
            return await client.execute_command("EVAL", self._source, len(keys), *keys, *arguments)

        return await self._link.run(operation, writes=True)


class _Batched(ABC):
    """Calls that are made together travel together, on one connection.

    Calls of one tick of the event loop, and those that come while a batch is under way, make the next
    batch: load makes batches larger, not more numerous. A second one is sent before the first is
    answered only when it is large, so that the server works while this process does. A caller that
    is cancelled leaves its batch as it is; an error reaches each of its callers.

    redis-py makes the connection (address, TLS, login); the bytes then go through a protocol of our
    own and hiredis, without a task, a lock and a timeout for each call.
    """

    def __init__(
        self, link: RedisLink, new_connection: Callable[[], Any], breaker: Breaker | None = None
    ) -> None:
        self._link = link
        self._breaker = breaker or link.breaker
        self._new_connection = new_connection
        self._answers: list[Any] = []
        # All of this belongs to one event loop. Changed only by the methods below, none of which
        # awaits between reading and writing it.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: Any = self._nobody()
        self._scheduled = False
        # Sent and not yet answered, in order, each with how many answers it gets, its timer, and
        # whether it is the breaker's probe.
        self._under_way: deque[tuple[Any, int, asyncio.TimerHandle, bool]] = deque()
        self._opening: asyncio.Task[None] | None = None
        self._wire: _Wire | None = None
        # Whether the connection is given up as soon as what is under way is answered.
        self._leaving = False
        self.batches = 0

    @abstractmethod
    def _nobody(self) -> Any:
        """An empty collection of waiting calls."""

    @abstractmethod
    def _next_batch(self, wire: _Wire) -> tuple[Any, int, bytes]:
        """Take a batch from the waiting calls: it, how many answers it gets, and its bytes."""

    @abstractmethod
    def _deliver(self, batch: Any, answers: list[Any]) -> Exception | None:
        """Hand the answers to who waits for them; what is wrong with the server or the connection, if any."""

    def _again(self, batch: Any) -> bool:
        """Let a batch wait again that a lost connection left unanswered; False if it may have been run."""
        return False

    @abstractmethod
    def _fail(self, batch: Any, error: BackendError) -> None:
        """Tell everybody in a batch, or in what ``_nobody`` made."""

    def _send(self) -> None:
        """Start the next batch, if there is one to start."""
        self._scheduled = False
        loop = self._loop
        if loop is None or not self._waiting or self._opening is not None:
            return
        if self._under_way and (
            len(self._under_way) > 1 or len(self._waiting) < LARGE_BATCH or self._leaving
        ):
            return
        wire = self._wire
        try:
            probe = self._breaker.admit()
        except RedisUnavailableError as error:
            self._fail_waiting(error)
            return
        if wire is None or wire.lost:
            self._opening = loop.create_task(self._open(probe), name="redis-batches-connect")
            return
        batch, answers, data = self._next_batch(wire)
        if not answers:  # all of them were cancelled meanwhile
            if probe:
                self._breaker.probing = False
            self._send()
            return
        timer = loop.call_later(self._link.timeout, self._too_late)
        self._under_way.append((batch, answers, timer, probe))
        wire.transport.write(data)

    async def _open(self, probe: bool) -> None:
        connection: Any = None
        try:
            async with asyncio.timeout(self._link.timeout):
                while connection is None:
                    generation = self._link.generation
                    connection = self._new_connection()
                    try:
                        await connection.connect()
                    except Exception as error:
                        await connection.disconnect(nowait=True)
                        if not self._link.speaks_older(error, connection):
                            raise
                        connection = None
                    else:
                        if generation != self._link.generation:  # it leads to a server that was left
                            await connection.disconnect(nowait=True)
                            connection = None
            self._wire = _Wire(connection, self._answered, self._lost)
            self._leaving = False
            connection = None  # the wire's now
        except asyncio.CancelledError:
            self._fail_waiting(RedisUnavailableError("the connection was closed"))
            raise
        except Exception as error:
            # Every way in which a connection can fail to come about means the same to who waits.
            self._breaker.failed(error)
            self._fail_waiting(RedisUnavailableError(self._breaker.reason(error)))
        finally:
            # That it connects is not yet the breaker's success: that is an answer.
            if probe:
                self._breaker.probing = False
            self._opening = None
            if connection is not None:
                # Half open: redis-py leaves it so when it is cancelled during the handshake.
                await connection.disconnect(nowait=True)
        self._send()

    def _answered(self, answer: Any) -> None:
        if not self._under_way:
            self._out_of_step()
            return
        expected = self._under_way[0][1]
        if expected > 1:
            self._answers.append(answer)
            if len(self._answers) < expected:
                return
            answers, self._answers = self._answers, []
        else:
            answers = [answer]
        batch = self._finish()
        self.batches += 1
        trouble = self._deliver(batch, answers)
        if trouble is None:
            self._link.succeeded(self._breaker)
            if self._leaving and not self._under_way:
                self._drop_wire()
        elif isinstance(trouble, _OutOfStep):
            self._out_of_step()
        else:
            self._drop_wire()  # the next one resolves the name, and logs in, anew
            self._broken(trouble)
        self._send()

    def _out_of_step(self) -> None:
        # Answers that nobody asked for: those that follow would be given to others than they are for.
        self._drop_wire()
        self._answers = []
        error = RedisUnavailableError(f"unexpected answers of Redis at {self._breaker.name}")
        while self._under_way:
            self._fail(self._finish(), error)

    def _drop_wire(self) -> None:
        wire, self._wire = self._wire, None
        self._leaving = False
        if wire is not None:
            wire.drop()

    def renew(self) -> None:
        """Use a new connection, to wherever the name leads now, as soon as nobody waits on this one."""
        if self._under_way:
            self._leaving = True
        else:
            self._drop_wire()

    def _finish(self) -> Any:
        """The oldest batch under way is so no more."""
        batch, _, timer, probe = self._under_way.popleft()
        timer.cancel()
        if probe:
            self._breaker.probing = False
        return batch

    def _too_late(self) -> None:
        loop = self._loop
        for index, (batch, answers, timer, probe) in enumerate(self._under_way):
            late = loop.time() - timer.when() if loop is not None else 0.0
            if loop is not None and late > LATE:
                # This event loop did not run meanwhile: it gets a moment to read what has come.
                again = loop.call_later(LATE, self._too_late)
                self._under_way[index] = (batch, answers, again, probe)
                return
            if late >= 0.0:
                break
        # The answer may still come: the connection is given up, or it would answer the next batch.
        self._drop_wire()
        self._broken(TimeoutError())

    def _lost(self, wire: _Wire, error: BaseException | None) -> None:
        if wire is not self._wire:
            return
        self._wire = None
        self._leaving = False
        if not self._under_way:
            return  # it was idle; the next call finds out whether the server is there
        reason = error or ConnectionResetError("connection closed by the server")
        if not wire.proven or not self._breaker.available:
            self._broken(reason)
            return
        # Only this connection is known to be gone: a new one tells whether the server is.
        self._answers = []
        failure = RedisUnavailableError(
            f"the connection to Redis at {self._breaker.name} was lost: {told(str(reason))}"
        )
        while self._under_way:
            batch = self._finish()
            if not self._again(batch):
                self._fail(batch, failure)
        self._send()

    def _broken(self, error: BaseException) -> None:
        self._breaker.failed(error)
        self._fail_all(RedisUnavailableError(self._breaker.reason(error)))

    def _fail_all(self, error: BackendError) -> None:
        self._answers = []
        while self._under_way:
            self._fail(self._finish(), error)
        self._fail_waiting(error)

    def _fail_waiting(self, error: BackendError) -> None:
        waiting, self._waiting = self._waiting, self._nobody()
        self._fail(waiting, error)

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        # The link first: on a new loop it abandons everything, and what waits must come after that.
        self._link.here()
        self.abandon()
        self._loop = loop

    def _elsewhere(self, call: Callable[[], asyncio.Future[T]]) -> asyncio.Future[T]:
        """``call()`` on the event loop that the link lives on, which runs in another thread."""

        async def there() -> T:
            return await call()

        return asyncio.get_running_loop().create_task(self._link.hand_over(there), name="redis-hand-over")

    async def drain(self) -> None:
        """Wait until all that was asked is answered, for the link's timeout at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._link.timeout):
                # Polled: this is for shutdown, and the paths of every call shall not pay for it.
                while self._waiting or self._under_way or self._opening is not None:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)

    async def close(self) -> None:
        """Stop; who still waits gets RedisUnavailableError."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        self._fail_all(RedisUnavailableError("the connection was closed"))
        if self._wire is not None:
            self._drop_wire()
            await asyncio.sleep(0)  # the transport closes its socket on the next turn of the loop

    def abandon(self) -> None:
        """Forget everything of an event loop that runs no more."""
        wire, self._wire, loop = self._wire, None, self._loop
        self._leaving = False
        if wire is not None and loop is not None:
            wire.lost = True
            _abandon_transport(wire.transport, loop)
        if any(probe for *_, probe in self._under_way):
            self._breaker.probing = False
        self._loop = self._opening = None
        self._under_way = deque()
        self._answers = []
        self._waiting = self._nobody()
        self._scheduled = False


_DOWN = "the node answers that its cluster is down"


class _OutOfStep(Exception):
    """What came is no answer to what was asked."""


def _no_service(text: str) -> Exception | None:
    """Why a server that answered with this error serves nobody now, or this connection."""
    if text.startswith("CLUSTERDOWN"):
        return ConnectionError(_DOWN)
    if text.startswith((*_SERVES_NOBODY, "NOAUTH")):
        return ConnectionError(told(text))
    return None


_Reader = asyncio.Future[bytes | None]
# Who waits for a key: nearly always one, so that one needs no list.
_Batch = dict[bytes, _Reader | list[_Reader]]
_NOT_YET: Any = object()


class BatchedReader(_Batched):
    """Reads of many callers: one MGET for all that are asked for together."""

    def __init__(
        self,
        link: RedisLink,
        new_connection: Callable[[], Any],
        breaker: Breaker | None = None,
        *,
        pipelined: bool = False,
    ) -> None:
        super().__init__(link, new_connection, breaker)
        # In a cluster the keys of one MGET must share a slot: there a batch is as many GETs at once.
        self._pipelined = pipelined
        self.keys_read = 0

    def get(self, key: bytes) -> asyncio.Future[bytes | None]:
        """A future of the value under ``key``; None if there is none. Raises as ``RedisLink.run``."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            if self._link.owner.elsewhere:
                return self._elsewhere(lambda: self.get(key))
            self._move_to(loop)
        future: asyncio.Future[bytes | None] = loop.create_future()
        waiting = self._waiting.setdefault(key, future)
        if waiting is future:
            if not self._scheduled and not self._under_way and self._opening is None:
                self._scheduled = True
                loop.call_soon(self._send)
            if len(self._waiting) == LARGE_BATCH:
                self._send()
        elif isinstance(waiting, list):
            waiting.append(future)
        else:
            self._waiting[key] = [waiting, future]
        return future

    def _nobody(self) -> _Batch:
        return {}

    def _next_batch(self, wire: _Wire) -> tuple[_Batch, int, bytes]:
        batch: _Batch
        if len(self._waiting) <= MAX_KEYS:
            batch, self._waiting = self._waiting, {}
        else:
            batch = {key: self._waiting.pop(key) for key in list(self._waiting)[:MAX_KEYS]}
        if self._pipelined:
            return batch, len(batch), b"".join([wire.pack(("GET", key)) for key in batch])
        return batch, 1, wire.pack(("MGET", *batch))

    def _deliver(self, batch: _Batch, answers: list[Any]) -> Exception | None:
        found = answers if self._pipelined else answers[0]
        if not isinstance(found, list) or len(found) != len(batch):
            return self._refuse(batch, found)
        trouble: Exception | None = None
        self.keys_read += len(batch)
        refusals = self._pipelined and any(isinstance(value, Exception) for value in found)
        for waiter, value in zip(batch.values(), found, strict=True):
            if refusals and isinstance(value, Exception):
                trouble = trouble or _no_service(str(value))
                _fail_one(waiter, _error_of(value))
            elif waiter.__class__ is not list:
                if not waiter.done():  # type: ignore[union-attr]  # no list, by the line above
                    waiter.set_result(value)  # type: ignore[union-attr]
            else:
                for future in waiter:
                    if not future.done():
                        future.set_result(value)
        return trouble

    def _refuse(self, batch: _Batch, answer: Any) -> Exception | None:
        if isinstance(answer, Exception):
            self._fail(batch, _error_of(answer))
            return _no_service(str(answer))
        self._fail(batch, RedisRefusedError("unexpected answer of Redis to a read"))
        return _OutOfStep()

    def _again(self, batch: _Batch) -> bool:
        for key, waiter in batch.items():
            later = self._waiting.get(key)
            if later is None:
                self._waiting[key] = waiter
            else:
                self._waiting[key] = [*_listed(waiter), *_listed(later)]
        return True

    def _fail(self, batch: _Batch, error: BackendError) -> None:
        for waiter in batch.values():
            _fail_one(waiter, error)


class _NoPush:
    """The class of nothing, for hiredis 2, whose pushes are lists; no server sends any unasked."""


class _Wire(asyncio.Protocol):
    """One connection's bytes, parsed by hiredis."""

    def __init__(
        self,
        connection: Any,
        on_answer: Callable[[Any], None],
        on_lost: Callable[[_Wire, BaseException | None], None],
    ) -> None:
        import hiredis

        self._parser = hiredis.Reader(notEnoughData=_NOT_YET)
        self._nonsense = hiredis.ProtocolError
        self.pack: Callable[[tuple[Any, ...]], bytes] = hiredis.pack_command
        # What RESP3 servers send unasked, such as that they will be moved: no answer to anybody.
        self._push: type = getattr(hiredis, "PushNotification", _NoPush)
        self._on_answer = on_answer
        self._on_lost = on_lost
        self.lost = False
        self.proven = False
        """Whether it has brought an answer."""
        # redis-py's connection object has done its part; its transport lives on. So must its streams,
        # which close the transport when they are collected.
        self._streams = (connection._reader, connection._writer)
        self.transport: Any = connection._writer.transport
        connection._writer = connection._reader = None
        self.transport.set_protocol(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed(data)
        push = self._push
        try:
            while (answer := self._parser.gets()) is not _NOT_YET:
                if answer.__class__ is push:
                    continue
                self.proven = True
                self._on_answer(answer)
                if self.lost:
                    return
        except self._nonsense as error:
            self.drop()
            self._on_lost(self, ConnectionError(f"no answer in Redis's protocol: {error}"))

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost = True
        self._on_lost(self, exc)

    def drop(self) -> None:
        self.lost = True
        self.transport.abort()


def _error_of(answer: Exception) -> BackendError:
    """What to raise for an error among the answers."""
    trouble = _no_service(str(answer))
    return RedisRefusedError(told(str(answer))) if trouble is None else RedisUnavailableError(str(trouble))


def _listed(waiter: _Reader | list[_Reader]) -> list[_Reader]:
    return waiter if isinstance(waiter, list) else [waiter]


def _fail_one(waiter: _Reader | list[_Reader], error: BackendError) -> None:
    for future in waiter if isinstance(waiter, list) else (waiter,):
        if not future.done():
            # One error each: a traceback grows with every task that raises the same one.
            future.set_exception(type(error)(*error.args))


class ClusterReader:
    """A :class:`BatchedReader` for each node of a cluster: reads travel together by hash slot.

    A key whose slot has moved is refused once, and the map of the slots read anew.
    """

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._by_node: dict[str, BatchedReader] = {}
        self._mapping: asyncio.Task[None] | None = None

    def get(self, key: bytes) -> asyncio.Future[bytes | None]:
        """As :meth:`BatchedReader.get`."""
        loop = asyncio.get_running_loop()
        if self._link.owner.elsewhere:
            return loop.create_task(self._get_slowly(key))
        client = self._link.client()
        try:
            # Raises, or has no node, before the first contact and after the map was dropped.
            node = client.get_node_from_key(key)
        except Exception:
            node = None
        if node is None:
            return loop.create_task(self._get_slowly(key))
        if (refusal := self._link.refusal(node)) is not None:
            refused: asyncio.Future[bytes | None] = loop.create_future()
            refused.set_exception(refusal)
            return refused
        reader = self._by_node.get(node.name)
        if reader is None:
            reader = self._by_node[node.name] = BatchedReader(
                self._link, lambda: _connection_to(node), self._link.node_breaker(node.name), pipelined=True
            )
        found = reader.get(key)
        found.add_done_callback(self._look_for_moves)
        return found

    async def _get_slowly(self, key: bytes) -> bytes | None:
        # redis-py's own way, which reads the map of the slots and follows redirections.
        found: bytes | None = await self._link.execute("GET", key)
        return found

    def _look_for_moves(self, future: asyncio.Future[bytes | None]) -> None:
        if future.cancelled() or future.exception() is None:
            return
        if self._mapping is None or self._mapping.done():
            self._mapping = future.get_loop().create_task(self._map_anew(), name="redis-cluster-map")

    async def _map_anew(self) -> None:
        with contextlib.suppress(BackendError):
            await self._link.run(lambda client: client.nodes_manager.initialize())

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


# One call of a script: its key, its argument, who waits (nobody, when it is only to be done), and who
# is told the result, with more arguments, when nobody waits any more.
_Unclaimed = tuple[Any, ...]
_Call = tuple[bytes, bytes, "asyncio.Future[Any] | None", _Unclaimed | None]
# Calls of one slot (everywhere but in a cluster: all), and whether the script was sent with them.
_Groups = tuple[list[list[_Call]], bool]

_ELSEWHERE = ("MOVED", "ASK", "TRYAGAIN")


class BatchedScript(_Batched):
    """Calls of a Lua script that are made together travel together: one EVALSHA for all.

    The script takes any number of keys with an argument each, and its answer, given to ``decode``
    with their number, is a result for each. What ``decode`` refuses by a ValueError is a
    RedisRefusedError for who waits.

    **Cancellation.** A call that is cancelled before it was sent is not made. One that was sent is
    made; its result then goes to ``unclaimed[0](result, *unclaimed[1:])``, which can undo it. Nothing
    that was sent is sent again, unless the server says that it did not run it.
    """

    def __init__(
        self,
        link: RedisLink,
        source: str,
        decode: Callable[[Any, int], Sequence[Any]],
        new_connection: Callable[[], Any],
        breaker: Breaker | None = None,
        *,
        elsewhere: Callable[[list[_Call]], None] | None = None,
    ) -> None:
        super().__init__(link, new_connection, breaker)
        self._source = source
        self._digest = hashlib.sha1(source.encode()).hexdigest()  # noqa: S324 - Redis's own naming
        self._decode = decode
        # In a cluster: gets the calls that a node refused because their slot is another's.
        self._elsewhere_slot = elsewhere
        self.calls = 0

    def call(self, key: bytes, argument: bytes, unclaimed: _Unclaimed | None = None) -> asyncio.Future[Any]:
        """A future of the script's result for ``key``. Raises as ``RedisLink.run``."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop and self._link.owner.elsewhere:
            return self._elsewhere(lambda: self.call(key, argument, unclaimed))
        future: asyncio.Future[Any] = loop.create_future()
        self._add((key, argument, future, unclaimed), loop)
        return future

    def send(self, key: bytes, argument: bytes, unclaimed: _Unclaimed | None = None) -> None:
        """:meth:`call` when nobody waits for the result; if it fails, it is as if it were not made."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop and self._link.owner.elsewhere:
            if self._loop is not None:
                with contextlib.suppress(RuntimeError):  # closed this moment
                    self._loop.call_soon_threadsafe(self.send, key, argument, unclaimed)
            return
        self._add((key, argument, None, unclaimed), loop)

    def _add(self, call: _Call, loop: asyncio.AbstractEventLoop) -> None:
        if loop is not self._loop:
            self._move_to(loop)
        waiting = self._waiting
        waiting.append(call)
        if len(waiting) == LARGE_BATCH:
            # Enough for the server to begin with, while this process gathers the others.
            self._send()
        elif not self._scheduled and not self._under_way and self._opening is None:
            self._scheduled = True
            loop.call_soon(self._send)

    def _nobody(self) -> list[_Call]:
        return []

    def _next_batch(self, wire: _Wire) -> tuple[_Groups, int, bytes]:
        waiting: list[_Call] = self._waiting
        calls = [call for call in waiting[:MAX_CALLS] if call[2] is None or not call[2].done()]
        self._waiting = waiting[MAX_CALLS:]
        if not calls:
            return ([], False), 0, b""
        groups = [calls] if self._elsewhere_slot is None else _by_slot(calls)
        whole = bool(self._link.refused) and "EVALSHA" in self._link.refused
        return (groups, whole), len(groups), self._packed(groups, wire)

    def _packed(self, groups: list[list[_Call]], wire: _Wire) -> bytes:
        if self._link.refused and "EVALSHA" in self._link.refused:
            return self._packed_whole(groups, wire)
        return b"".join(
            [
                wire.pack(
                    ("EVALSHA", self._digest, len(calls), *[c[0] for c in calls], *[c[1] for c in calls])
                )
                for calls in groups
            ]
        )

    def _packed_whole(self, groups: list[list[_Call]], wire: _Wire) -> bytes:
        return b"".join([wire.pack(self._whole(calls)) for calls in groups])

    def _whole(self, calls: list[_Call]) -> tuple[Any, ...]:
        # The server remembers the script. EVAL and not SCRIPT LOAD: one right less to have.
        return ("EVAL", self._source, len(calls), *[c[0] for c in calls], *[c[1] for c in calls])

    def _deliver(self, batch: _Groups, answers: list[Any]) -> Exception | None:
        groups, whole = batch
        trouble: Exception | None = None
        again: list[list[_Call]] = []
        refused: list[list[_Call]] = []
        for calls, answer in zip(groups, answers, strict=True):
            if not isinstance(answer, Exception):
                self._decoded(calls, answer)
                continue
            text = str(answer)
            if not whole and (text.startswith("NOSCRIPT") or self._link.forbids_evalsha(text)):
                again.append(calls)  # the server was started anew; it has not run them
            elif self._elsewhere_slot is not None and text.startswith(_ELSEWHERE):
                self._elsewhere_slot(calls)
            elif redis_needs_another_server(text):
                self._link.found_read_only(text)
                refused.append(calls)
            else:
                trouble = trouble or _no_service(text)
                self._fail(calls, _error_of(answer))
        if refused:
            self._not_run(refused, text)
        elif self._link.read_only and trouble is None:
            self._link.found_writable()
        if again and trouble is None:
            self._send_whole(again)
        elif again:
            for calls in again:
                self._fail(calls, RedisUnavailableError(str(trouble)))
        return trouble

    def _decoded(self, calls: list[_Call], answer: Any) -> None:
        try:
            results = self._decode(answer, len(calls))
            if len(results) != len(calls):
                raise ValueError(f"{len(results)} results for {len(calls)} calls")
        except Exception as nonsense:  # whatever it is: the answer is another's word
            reason = nonsense if isinstance(nonsense, ValueError) else type(nonsense).__name__
            self._fail(calls, RedisRefusedError(f"unexpected answer of a script: {reason}"))
        else:
            self._give(calls, results)

    def _send_whole(self, groups: list[list[_Call]]) -> None:
        wire, loop = self._wire, self._loop
        if wire is None or loop is None or wire.lost:
            error = RedisUnavailableError("connection lost")
            for calls in groups:
                self._fail(calls, error)
            return
        timer = loop.call_later(self._link.timeout, self._too_late)
        self._under_way.append(((groups, True), len(groups), timer, False))
        wire.transport.write(self._packed_whole(groups, wire))

    def _not_run(self, groups: list[list[_Call]], text: str) -> None:
        """Calls that a server refused because it is no primary: try them where the name leads now."""
        if self._link.cluster and self._elsewhere_slot is not None:
            for calls in groups:
                self._elsewhere_slot(calls)
        elif self._link.may_look:
            self._link.spawn(self._on_another_server(groups), name="redis-script-elsewhere")
        else:
            for calls in groups:
                self._fail(calls, RedisRefusedError(told(text)))

    async def _on_another_server(self, groups: list[list[_Call]]) -> None:
        left = deque(groups)

        async def operation(client: Any) -> list[Any]:
            async with client.pipeline(transaction=False) as pipe:
                for calls in groups:
                    pipe.execute_command(*self._whole(calls))
                answers: list[Any] = await pipe.execute(raise_on_error=False)
            if isinstance(answers[0], Exception) and judge(answers[0]) is not Failure.REFUSED:
                raise answers[0]
            return answers

        failure: BackendError = RedisUnavailableError("the script was stopped")
        try:
            async with asyncio.timeout(self._link.timeout):
                answers = await self._link.on_another_server(operation)
            for answer in answers:
                calls = left.popleft()
                if isinstance(answer, Exception):
                    self._fail(calls, RedisRefusedError(told(text_of(answer))))
                else:
                    self._decoded(calls, answer)
        except BackendError as error:
            failure = error
        except Exception as error:
            failure = RedisRefusedError(told(text_of(error)) or "Redis takes no writes")
        finally:
            for calls in left:
                self._fail(calls, failure)

    def _give(self, calls: list[_Call], results: Sequence[Any]) -> None:
        self.calls += len(calls)
        for (_, _, future, unclaimed), result in zip(calls, results, strict=True):
            if future is not None and not future.done():
                future.set_result(result)
            elif unclaimed is not None:
                unclaimed[0](result, *unclaimed[1:])

    def _fail(self, batch: _Groups | list[_Call], error: BackendError) -> None:
        calls = [call for group in batch[0] for call in group] if isinstance(batch, tuple) else batch
        for _, _, future, _ in calls:
            if future is not None:
                _fail_one(future, error)

    async def stop(self) -> None:
        """Close the connection, on whichever event loop it lives; the link stays."""
        self._link._forget(self)
        loop = self._loop
        if loop is not None and not await run_on_loop(loop, self.close):
            self.abandon()


def _by_slot(calls: list[_Call]) -> list[list[_Call]]:
    from redis.crc import key_slot

    groups: dict[int, list[_Call]] = {}
    for call in calls:
        groups.setdefault(key_slot(call[0]), []).append(call)
    return list(groups.values())


class ClusterScript:
    """A :class:`BatchedScript` for each node of a cluster: one EVALSHA for the calls of a slot, and
    one round trip for those of a node."""

    def __init__(self, link: RedisLink, source: str, decode: Callable[[Any, int], Sequence[Any]]) -> None:
        self._link = link
        self._source = source
        self._decode = decode
        self._script = link.script(source)
        self._by_node: dict[str, BatchedScript] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks = BackgroundTasks()

    def call(self, key: bytes, argument: bytes, unclaimed: _Unclaimed | None = None) -> asyncio.Future[Any]:
        """As :meth:`BatchedScript.call`."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._add((key, argument, future, unclaimed))
        return future

    def send(self, key: bytes, argument: bytes, unclaimed: _Unclaimed | None = None) -> None:
        """As :meth:`BatchedScript.send`."""
        self._add((key, argument, None, unclaimed))

    def _add(self, call: _Call) -> None:
        if self._link.owner.elsewhere:
            self._slowly([call])
            return
        loop = self._loop = asyncio.get_running_loop()
        client = self._link.client()
        try:
            # Raises, or has no node, before the first contact and after the map was dropped.
            node = client.get_node_from_key(call[0])
        except Exception:
            node = None
        if node is None:
            self._slowly([call])
            return
        if (refusal := self._link.refusal(node)) is not None:
            if call[2] is not None:
                call[2].set_exception(refusal)
            return
        script = self._by_node.get(node.name)
        if script is None:
            script = self._by_node[node.name] = BatchedScript(
                self._link,
                self._source,
                self._decode,
                lambda: _connection_to(node),
                self._link.node_breaker(node.name),
                elsewhere=self._slowly,
            )
        script._add(call, loop)

    def _slowly(self, calls: list[_Call]) -> None:
        # redis-py's own way, which reads the map of the slots and follows redirections.
        self._tasks.spawn(self._one_by_one(calls), name="redis-cluster-script")

    async def _one_by_one(self, calls: list[_Call]) -> None:
        left = deque(calls)
        try:
            while left:
                key, argument, future, unclaimed = left[0]
                try:
                    result = self._decode(await self._script([key], [argument]), 1)[0]
                except BackendError as failure:
                    error: BackendError = failure
                except Exception as nonsense:
                    reason = nonsense if isinstance(nonsense, ValueError) else type(nonsense).__name__
                    error = RedisRefusedError(f"unexpected answer of a script: {reason}")
                else:
                    left.popleft()
                    if future is not None and not future.done():
                        future.set_result(result)
                    elif unclaimed is not None:
                        unclaimed[0](result, *unclaimed[1:])
                    continue
                left.popleft()
                if future is not None:
                    _fail_one(future, error)
        finally:
            for _, _, future, _ in left:
                if future is not None:
                    _fail_one(future, RedisUnavailableError("the script was stopped"))

    @property
    def batches(self) -> int:
        return sum(script.batches for script in self._by_node.values())

    @property
    def calls(self) -> int:
        return sum(script.calls for script in self._by_node.values())

    async def drain(self) -> None:
        """As :meth:`BatchedScript.drain`."""
        for script in list(self._by_node.values()):
            await script.drain()

    async def close(self) -> None:
        await self._tasks.stop()
        scripts, self._by_node = self._by_node, {}
        for script in scripts.values():
            await script.close()

    async def stop(self) -> None:
        """As :meth:`BatchedScript.stop`."""
        self._link._forget(self)
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
        for script in scripts.values():
            script.abandon()


class Subscription:
    """Messages of one channel, for as long as the link lives or :meth:`stop` is called.

    It goes with its link: to another event loop, to another server, into a child after a fork. Each
    time ``on_state(False)`` says that messages may have been missed, before ``on_state(True)``.
    """

    def __init__(
        self,
        link: RedisLink,
        channel: str,
        on_message: Callable[[bytes], None],
        on_state: Callable[[bool], None],
    ) -> None:
        self._link = link
        self.channel = channel
        self._on_message = on_message
        self._on_state = on_state
        self.standing = False
        self.refused = ""
        """Why Redis does not let this user subscribe, if so."""
        self._settled: asyncio.Event | None = None
        self._tasks = BackgroundTasks()
        self._stopped = False
        # The run whose word counts: one that is on its way out has nothing to say any more.
        self._run: object | None = None

    def start(self) -> None:
        """Subscribe on a new connection, on the running event loop."""
        self._end_run()
        if self._stopped:
            return
        self._tasks = BackgroundTasks()
        run = self._run = object()
        settled = self._settled = asyncio.Event()

        def on_message(message: bytes) -> None:
            if self._run is run:
                self._on_message(message)

        def on_state(stands: bool) -> None:
            settled.set()
            if self._run is run:
                self.standing = stands
                if stands:
                    self.refused = ""
                    self._link.refused.pop(f"SUBSCRIBE {self.channel}", None)
                self._on_state(stands)

        def on_failure(text: str, refused: bool) -> None:
            settled.set()
            if self._run is run and refused:
                self.refused = text
                self._link.found_refused(
                    f"SUBSCRIBE {self.channel}",
                    text,
                    "changes that other instances tell of are not heard here",
                )

        loop = asyncio.get_running_loop()

        def ended(task: asyncio.Task[Any]) -> None:
            settled.set()
            # Cancelled by somebody else: go on. Soon, not at once: this may be an event loop on its way
            # out, that cancels all it has.
            if self._run is run and not loop.is_closed():
                loop.call_later(REVIVAL, revive)

        def revive() -> None:
            if self._run is run:
                self.start()

        task = self._tasks.spawn(
            subscribe(self._link, self.channel, on_message, on_state, on_failure),
            name=f"redis-subscription {self.channel}",
        )
        task.add_done_callback(ended)

    def _end_run(self) -> None:
        self._run = None
        for task in self._tasks:
            if task.get_loop() is _running_loop():
                task.cancel()
        if self.standing:
            self.standing = False
            self._on_state(False)

    def abandon(self) -> None:
        """Forget everything of an event loop that runs no more."""
        self._end_run()
        self._tasks.abandon()

    async def settled(self) -> None:
        """Wait until it stands, or is known not to; for the link's timeout at most."""
        event = self._settled
        if event is not None and not event.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._link.timeout):
                    await event.wait()

    @property
    def beginning(self) -> bool:
        """Whether it is not known yet if it will stand."""
        return self._settled is not None and not self._settled.is_set()

    async def pause(self) -> None:
        """End until the link begins anew."""
        self._run = None
        await self._tasks.stop()
        if self.standing:
            self.standing = False
            self._on_state(False)

    async def stop(self) -> None:
        """End for good, on whichever event loop it lives; ``on_state`` is not called any more."""
        self._stopped = True
        self._link.forget(self)
        self._run = None
        self.standing = False
        await self._tasks.stop()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


async def subscribe(
    link: RedisLink,
    channel: str,
    on_message: Callable[[bytes], None],
    on_state: Callable[[bool], None],
    on_failure: Callable[[str, bool], None] | None = None,
) -> None:
    """Hand every message of ``channel`` to ``on_message``, for ever; cancel to stop.

    ``on_state(True)`` is called each time the subscription stands, before any message of it, and
    ``on_state(False)`` when it is lost: messages sent in between were missed. A silent server is
    asked every ``SILENCE`` seconds whether it is there. ``on_failure(text, refused)`` is called when it
    does not come about; ``refused``: this user may not, and is back every ``REFUSED_PAUSE`` seconds.
    """
    from redis.exceptions import ResponseError

    failures = 0
    while True:
        stood = refused = False
        connection: Any = None
        try:
            async with asyncio.timeout(link.timeout):
                connection = await link.open_connection()
                await connection.send_command("SUBSCRIBE", channel)
                await connection.read_response(push_request=True)
            _end_if_cancelled()
            stood = True
            failures = 0
            on_state(True)
            await _listen(connection, link.timeout, on_message)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            # Whatever it was, the subscription is gone.
            logger.debug("subscription to %s lost: %s", one_line(channel), one_line(error))
            refused = isinstance(error, ResponseError) and judge(error) is Failure.REFUSED
            if on_failure is not None and not stood:
                on_failure(told(text_of(error)), refused)
            if not refused and failures == 2 and link.available:
                # What the link itself says is of its other calls, which work.
                logger.warning(
                    "Redis at %s: no subscription to %s, and trying on: %s",
                    link.breaker.name, one_line(channel), told(text_of(error)) or type(error).__name__,
                )  # fmt: skip
        finally:
            if connection is not None:
                await link.close_connection(connection)
            if stood:
                on_state(False)
        _end_if_cancelled()
        failures += 1
        longest = REFUSED_PAUSE if refused else exponential(failures, 0.05, 2.0)
        await asyncio.sleep(longest * random.uniform(0.5, 1.0))


def _end_if_cancelled() -> None:
    # redis-py turns a cancellation that comes with a timeout or an answer into these; a subscription
    # that went on then would never end, and who waits for its end would wait for ever.
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def _listen(connection: Any, timeout: float, on_message: Callable[[bytes], None]) -> None:
    asked = False
    while True:
        _end_if_cancelled()
        try:
            answer = await connection.read_response(
                timeout=timeout if asked else SILENCE, disconnect_on_error=False, push_request=True
            )
        except TimeoutError:
            answer = None
        except Exception as error:
            if judge(error) is Failure.REFUSED:
                answer = error  # PING is forbidden, and yet this was an answer
            elif "imeout" not in type(error).__name__:
                raise
            else:
                answer = None
        if answer is None:
            if asked:
                raise TimeoutError("no answer to PING")
            await connection.send_command("PING")
            asked = True
            continue
        asked = False
        if isinstance(answer, list) and len(answer) == 3 and answer[0] == b"message":
            on_message(answer[2])
