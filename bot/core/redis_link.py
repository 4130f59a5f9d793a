"""The one door to Redis: one client per URL, its health, its scripts, its reads in batches.

What fails here fails fast. After a failure the link is *open* (in the circuit breaker's sense): calls
are refused at once, without a timeout each, and one call at a time is let through as a probe, after
a delay that doubles from 0.2 to 5 seconds. The log says once that Redis is away and once that it is
back. Source: M. Nygard, "Release It!", the circuit breaker pattern.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlsplit

from bot.core._shared.backoff import exponential
from bot.core._shared.clock import SYSTEM_CLOCK, Clock
from bot.core._shared.errors import BackendError, invalid
from bot.core._shared.tasks import BackgroundTasks, run_on_loop
from bot.core.phase4_config import mask_secrets, mask_url

logger = logging.getLogger(__name__)

T = TypeVar("T")

TIMEOUT = 1.0
"""Seconds that Redis may take for one call; it answers in less than a millisecond when it is well."""

PROBE_FIRST, PROBE_LONGEST = 0.2, 5.0
CALM = 10.0
"""Seconds that a server must have been back for its next failure to be news."""

MAX_KEYS = 500
"""Keys in one MGET: more would keep other clients of the server waiting."""

MAX_CALLS = 256
"""Calls in one run of a script: more would keep other clients of the server waiting."""

LARGE_BATCH = 48
"""Keys or calls from which a batch is sent at once, even while another one is under way."""

SILENCE = 3.0
"""Seconds without a message after which a subscription asks whether the server is still there."""


class RedisUnavailableError(BackendError):
    """Redis cannot be reached, or did not answer in time."""


class RedisRefusedError(BackendError):
    """Redis answered with an error, such as that its memory is full."""


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
        logger.warning("%s; going on without it", self.reason(error))

    def reason(self, error: BaseException) -> str:
        """What to tell who wanted something of the server."""
        what = mask_secrets(str(error)) or f"no answer within {self._timeout:g} s"
        return f"Redis at {self.name} is away ({type(error).__name__}: {what})"


class RedisLink:
    """One Redis, for every service that uses its URL.

    In a cluster each node has a breaker of its own: one that is away takes only its own keys with it.

    Calls may be cancelled at any time; the connection is then closed, not reused half-read. Works
    under one event loop at a time; under another one it connects anew.
    """

    # Links by URL, with how many hold them. Changed only by shared and release.
    _links: ClassVar[dict[str, tuple[RedisLink, int]]] = {}

    def __init__(self, url: str, *, timeout: float = TIMEOUT, clock: Clock = SYSTEM_CLOCK) -> None:
        schemes = ("redis://", "rediss://", "unix://", "redis+cluster://", "rediss+cluster://")
        if not url.startswith(schemes):
            raise invalid("redis url", mask_url(url), f"an address after one of {', '.join(schemes)}")
        try:
            urlsplit(url).port  # noqa: B018
        except ValueError:
            # Not from the error: its text may hold a part of the password.
            allowed = "redis://user:password@host:port/number, with %23 for # and %2F for /"
            raise invalid("redis url", mask_url(url), allowed) from None
        self.url = url
        self.cluster = "+cluster://" in url[:20]
        """Whether the URL names one node of a Redis cluster."""
        self.timeout = timeout
        self._clock = clock
        self._now = clock.monotonic
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: Any = None
        self.breaker = Breaker(mask_url(url), timeout, clock.monotonic)
        self._nodes: dict[str, Breaker] = {}
        self._tasks = BackgroundTasks()
        self._recovered: list[Callable[[], None]] = []
        self._scripts: list[BatchedScript | ClusterScript] = []
        self.reader: BatchedReader | ClusterReader = (
            ClusterReader(self) if self.cluster else BatchedReader(self, self._new_connection)
        )

    @classmethod
    def shared(cls, url: str) -> RedisLink:
        """The process's link to ``url``; give it back with :meth:`release`."""
        link, holders = cls._links.get(url) or (cls(url), 0)
        cls._links[url] = (link, holders + 1)
        return link

    async def release(self) -> None:
        """Give the link back; its connections are closed when nobody holds it any more."""
        link, holders = RedisLink._links.get(self.url, (self, 1))
        if link is self and holders > 1:
            RedisLink._links[self.url] = (link, holders - 1)
            return
        if link is self:
            RedisLink._links.pop(self.url, None)
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        client, loop = self._client, self._loop
        self._client = self._loop = None
        tasks = self._forget_nodes()
        if client is None or loop is None:
            return

        async def close() -> None:
            await tasks.stop()
            for batched in (self.reader, *self._scripts):
                await batched.close()
            await client.aclose()

        if not await run_on_loop(loop, close):
            for batched in (self.reader, *self._scripts):
                batched.abandon()
            _abandon(client)

    def on_recovery(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call ``callback`` when Redis answers again after a failure; returns what undoes this."""
        self._recovered.append(callback)
        return lambda: self._recovered.remove(callback) if callback in self._recovered else None

    def client(self) -> Any:
        """The redis-py client of the running loop: RESP3, bytes in and out, no retries of its own."""
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            if self._client is not None:
                self._forget_nodes()
                for batched in (self.reader, *self._scripts):
                    batched.abandon()
                _abandon(self._client)
            connect = _connect_cluster if self.cluster else _connect
            self._client = connect(self.url, self.timeout)
            self._loop = loop
        return self._client

    def _new_connection(self) -> Any:
        """A connection that nobody else uses, to any node, not yet open."""
        client = self.client()
        if self.cluster:
            return _connection_to(client.get_random_node())
        return client.connection_pool.make_connection()

    async def open_connection(self) -> Any:
        """A connection of the caller's own, to any node; raises redis-py's errors."""
        if self.cluster:
            await self.client().initialize()
        connection = self._new_connection()
        await connection.connect()
        return connection

    async def run(self, operation: Callable[[Any], Awaitable[T]]) -> T:
        """``await operation(client)``, within the timeout and the breaker.

        Raises RedisUnavailableError (at once while Redis is known to be away) or RedisRefusedError.
        """
        task = asyncio.current_task()
        asked_to_end = task.cancelling() if task is not None else 0
        try:
            return await self._run(operation)
        finally:
            # redis-py sends by asyncio.wait_for, which before Python 3.12 lets a cancellation get lost.
            if task is not None and task.cancelling() > asked_to_end:
                raise asyncio.CancelledError

    async def _run(self, operation: Callable[[Any], Awaitable[T]]) -> T:
        from redis.exceptions import ConnectionError as RedisConnectionError
        from redis.exceptions import RedisClusterException, RedisError
        from redis.exceptions import TimeoutError as RedisTimeoutError

        probe = self.breaker.admit()
        try:
            async with asyncio.timeout(self.timeout):
                client = self.client()
                if probe and not self.cluster:
                    # Idle connections from before the failure are dead, and would fail call after call.
                    await client.connection_pool.disconnect(inuse_connections=False)
                result = await operation(client)
        except (
            RedisConnectionError,
            RedisTimeoutError,
            RedisClusterException,
            OSError,
            TimeoutError,
        ) as error:
            breaker = self._breaker_of(error)
            breaker.failed(error)
            raise RedisUnavailableError(breaker.reason(error)) from error
        except RedisError as error:
            self.succeeded(self.breaker)  # it is there; it only does not want to
            raise RedisRefusedError(mask_secrets(str(error))) from error
        finally:
            if probe:
                self.breaker.probing = False
        self.succeeded(self.breaker)
        return result

    async def execute(self, *command: Any) -> Any:
        """One command; raises as :meth:`run`."""
        return await self.run(lambda client: client.execute_command(*command))

    async def pipeline(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Several commands in one round trip; a refused one raises, after the others have run.

        In a cluster that is one to each node; what names no key comes last.
        """
        if self.cluster:
            return await self.run(lambda client: _by_node(client, commands))

        async def operation(client: Any) -> list[Any]:
            async with client.pipeline(transaction=False) as pipe:
                for command in commands:
                    pipe.execute_command(*command)
                found: list[Any] = await pipe.execute()
                return found

        return await self.run(operation)

    async def unlink(self, keys: Sequence[bytes]) -> int:
        """Remove keys, wherever in a cluster they lie; how many there were."""
        if not keys:
            return 0
        if not self.cluster:
            return int(await self.execute("UNLINK", *keys))
        return sum(await self.pipeline([("UNLINK", key) for key in keys]))

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

                after, found = await self.run(step)
                if found:
                    yield found
                # A cluster's client answers with the cursor of each node.
                cursor = int(next(iter(after.values())) if isinstance(after, dict) else after)
                if cursor == 0:
                    break

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


def _bytes(answer: Any) -> bytes:
    return answer if isinstance(answer, bytes) else str(answer).encode()


def _connect(url: str, timeout: float) -> Any:
    try:
        import redis.asyncio as redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ImportError as error:
        raise RedisUnavailableError("redis is missing: pip install redis") from error
    return redis.Redis.from_url(
        url,
        protocol=3,
        socket_connect_timeout=timeout,
        socket_timeout=timeout,
        # Retries belong to the breaker: redis-py's own would make each caller wait for all of them.
        retry=Retry(NoBackoff(), 0),
        max_connections=10_000,
    )


def _connect_cluster(url: str, timeout: float) -> Any:
    try:
        from redis.asyncio.cluster import RedisCluster
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ImportError as error:
        raise RedisUnavailableError("redis is missing: pip install redis") from error
    return RedisCluster.from_url(
        url.replace("+cluster://", "://", 1),
        protocol=3,
        socket_connect_timeout=timeout,
        socket_timeout=timeout,
        # One more try, with a new map of the slots: what it takes when a node has gone.
        retry=Retry(NoBackoff(), 1),
        max_connections=1_000,
    )


def _connection_to(node: Any) -> Any:
    return node.connection_class(**node.connection_kwargs)


async def _by_node(client: Any, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Commands with keys in one round trip to each node, then those without."""
    keyed = [command for command in commands if command[0] != "PUBLISH"]
    answers: list[Any] = []
    if keyed:
        async with client.pipeline() as pipe:
            for command in keyed:
                pipe.execute_command(*command)
            answers = await pipe.execute()
    found = iter(answers)
    return [
        await client.execute_command(*command) if command[0] == "PUBLISH" else next(found)
        for command in commands
    ]


def _abandon(client: Any) -> None:
    """Close the sockets of a client whose event loop runs no more."""
    if not hasattr(client, "connection_pool"):
        for node in client.get_nodes():
            for connection in node._connections:
                _abandon_connection(connection)
        return
    pool = client.connection_pool
    connections = [*getattr(pool, "_available_connections", ()), *getattr(pool, "_in_use_connections", ())]
    for connection in connections:
        _abandon_connection(connection)
    pool.reset()


def _abandon_connection(connection: Any) -> None:
    writer = getattr(connection, "_writer", None)
    if writer is not None:
        _abandon_transport(writer.transport)
        connection._writer = connection._reader = None


def _abandon_transport(transport: Any) -> None:
    socket = transport.get_extra_info("socket")
    # The transport's own close would call the dead loop; the socket beneath it needs none.
    inner = getattr(socket, "_sock", None)
    if inner is not None:
        inner.close()
    for attribute in ("_sock", "_loop"):
        if hasattr(transport, attribute):
            setattr(transport, attribute, None)


class Script:
    """A Lua script of one link."""

    def __init__(self, link: RedisLink, source: str) -> None:
        self._link = link
        self._source = source
        self._digest = hashlib.sha1(source.encode()).hexdigest()  # noqa: S324 - Redis's own naming

    async def __call__(self, keys: Sequence[Any], arguments: Sequence[Any] = ()) -> Any:
        """Run it; raises as :meth:`RedisLink.run`."""
        from redis.exceptions import NoScriptError

        async def operation(client: Any) -> Any:
            try:
                return await client.execute_command("EVALSHA", self._digest, len(keys), *keys, *arguments)
            except NoScriptError:
                return await client.execute_command("EVAL", self._source, len(keys), *keys, *arguments)

        return await self._link.run(operation)


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
        self.batches = 0

    @abstractmethod
    def _nobody(self) -> Any:
        """An empty collection of waiting calls."""

    @abstractmethod
    def _next_batch(self, wire: _Wire) -> tuple[Any, int, bytes]:
        """Take a batch from the waiting calls: it, how many answers it gets, and its bytes."""

    @abstractmethod
    def _deliver(self, batch: Any, answers: list[Any]) -> bool:
        """Hand the answers to who waits for them; False if the server serves nobody: its cluster is down."""

    @abstractmethod
    def _fail(self, batch: Any, error: BackendError) -> None:
        """Tell everybody in a batch, or in what ``_nobody`` made."""

    def _send(self) -> None:
        """Start the next batch, if there is one to start."""
        self._scheduled = False
        loop = self._loop
        if loop is None or not self._waiting or self._opening is not None:
            return
        if self._under_way and (len(self._under_way) > 1 or len(self._waiting) < LARGE_BATCH):
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
                connection = self._new_connection()
                await connection.connect()
            self._wire = _Wire(connection, self._answered, self._lost)
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
            return  # a push message, or the answer to a batch that was given up
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
        if self._deliver(batch, answers):
            self._link.succeeded(self._breaker)
        else:
            self._breaker.failed(ConnectionError(_DOWN))
        self._send()

    def _finish(self) -> Any:
        """The oldest batch under way is so no more."""
        batch, _, timer, probe = self._under_way.popleft()
        timer.cancel()
        if probe:
            self._breaker.probing = False
        return batch

    def _too_late(self) -> None:
        # The answer may still come: the connection is given up, or it would answer the next batch.
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.drop()
        self._broken(TimeoutError())

    def _lost(self, wire: _Wire, error: BaseException | None) -> None:
        if wire is not self._wire:
            return
        self._wire = None
        if not self._under_way:
            return  # it was idle; the next call finds out whether the server is there
        self._broken(error or ConnectionResetError("connection closed by the server"))

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
        # The client first: on a new loop it abandons everything, and what waits must come after that.
        with contextlib.suppress(BackendError):  # connecting will say it to who waits
            self._link.client()
        self.abandon()
        self._loop = loop

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
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.drop()
            await asyncio.sleep(0)  # the transport closes its socket on the next turn of the loop

    def abandon(self) -> None:
        """Forget everything of an event loop that runs no more."""
        wire, self._wire = self._wire, None
        if wire is not None:
            _abandon_transport(wire.transport)
        if any(probe for *_, probe in self._under_way):
            self._breaker.probing = False
        self._loop = self._opening = None
        self._under_way = deque()
        self._answers = []
        self._waiting = self._nobody()
        self._scheduled = False


_DOWN = "the node answers that its cluster is down"

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

    def _deliver(self, batch: _Batch, answers: list[Any]) -> bool:
        found = answers if self._pipelined else answers[0]
        if not isinstance(found, list) or len(found) != len(batch):
            self._fail(batch, RedisRefusedError(mask_secrets(str(found))))
            return True
        serves = True
        self.keys_read += len(batch)
        refusals = self._pipelined and any(isinstance(value, Exception) for value in found)
        for waiter, value in zip(batch.values(), found, strict=True):
            if refusals and isinstance(value, Exception):
                if str(value).startswith("CLUSTERDOWN"):
                    serves = False
                    _fail_one(waiter, RedisUnavailableError(_DOWN))
                else:
                    _fail_one(waiter, RedisRefusedError(mask_secrets(str(value))))
            elif waiter.__class__ is not list:
                if not waiter.done():  # type: ignore[union-attr]  # no list, by the line above
                    waiter.set_result(value)  # type: ignore[union-attr]
            else:
                for future in waiter:
                    if not future.done():
                        future.set_result(value)
        return serves

    def _fail(self, batch: _Batch, error: BackendError) -> None:
        for waiter in batch.values():
            _fail_one(waiter, error)


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
        self.pack: Callable[[tuple[Any, ...]], bytes] = hiredis.pack_command
        self._on_answer = on_answer
        self._on_lost = on_lost
        self.lost = False
        # redis-py's connection object has done its part; its transport lives on. So must its streams,
        # which close the transport when they are collected.
        self._streams = (connection._reader, connection._writer)
        self.transport: Any = connection._writer.transport
        connection._writer = connection._reader = None
        self.transport.set_protocol(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed(data)
        while (answer := self._parser.gets()) is not _NOT_YET:
            self._on_answer(answer)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost = True
        self._on_lost(self, exc)

    def drop(self) -> None:
        self.lost = True
        self.transport.abort()


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
        self._elsewhere = elsewhere
        self.calls = 0

    def call(self, key: bytes, argument: bytes, unclaimed: _Unclaimed | None = None) -> asyncio.Future[Any]:
        """A future of the script's result for ``key``. Raises as ``RedisLink.run``."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._add((key, argument, future, unclaimed), loop)
        return future

    def send(self, key: bytes, argument: bytes, unclaimed: _Unclaimed | None = None) -> None:
        """:meth:`call` when nobody waits for the result; if it fails, it is as if it were not made."""
        self._add((key, argument, None, unclaimed), asyncio.get_running_loop())

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
        groups = [calls] if self._elsewhere is None else _by_slot(calls)
        return (groups, False), len(groups), self._packed(groups, wire)

    def _packed(self, groups: list[list[_Call]], wire: _Wire) -> bytes:
        return b"".join(
            [
                wire.pack(
                    ("EVALSHA", self._digest, len(calls), *[c[0] for c in calls], *[c[1] for c in calls])
                )
                for calls in groups
            ]
        )

    def _deliver(self, batch: _Groups, answers: list[Any]) -> bool:
        groups, with_script = batch
        serves = True
        again: list[list[_Call]] = []
        for calls, answer in zip(groups, answers[with_script:], strict=True):
            error: BackendError | None = None
            if isinstance(answer, Exception):
                text = str(answer)
                if text.startswith("NOSCRIPT") and not with_script:
                    again.append(calls)  # the server was started anew; it has not run them
                    continue
                if self._elsewhere is not None and text.startswith(_ELSEWHERE):
                    self._elsewhere(calls)
                    continue
                if text.startswith("CLUSTERDOWN"):
                    serves = False
                    error = RedisUnavailableError(_DOWN)
                else:
                    error = RedisRefusedError(mask_secrets(text))
            else:
                try:
                    self._give(calls, self._decode(answer, len(calls)))
                except ValueError as nonsense:
                    error = RedisRefusedError(f"unexpected answer of a script: {nonsense}")
            if error is not None:
                self._fail(calls, error)
        if again:
            self._send_with_script(again)
        return serves

    def _send_with_script(self, groups: list[list[_Call]]) -> None:
        wire, loop = self._wire, self._loop
        if wire is None or loop is None or wire.lost:
            error = RedisUnavailableError("connection lost")
            for calls in groups:
                self._fail(calls, error)
            return
        timer = loop.call_later(self._link.timeout, self._too_late)
        self._under_way.append(((groups, True), len(groups) + 1, timer, False))
        wire.transport.write(wire.pack(("SCRIPT", "LOAD", self._source)) + self._packed(groups, wire))

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
                except ValueError as nonsense:
                    error: BackendError = RedisRefusedError(f"unexpected answer of a script: {nonsense}")
                except BackendError as failure:
                    error = failure
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

    def abandon(self) -> None:
        scripts, self._by_node = self._by_node, {}
        self._tasks = BackgroundTasks()
        for script in scripts.values():
            script.abandon()


async def subscribe(
    link: RedisLink,
    channel: str,
    on_message: Callable[[bytes], None],
    on_state: Callable[[bool], None],
) -> None:
    """Hand every message of ``channel`` to ``on_message``, for ever; cancel to stop.

    ``on_state(True)`` is called each time the subscription stands, before any message of it, and
    ``on_state(False)`` when it is lost: messages sent in between were missed. A silent server is
    asked every ``SILENCE`` seconds whether it is there.
    """
    failures = 0
    while True:
        stood = False
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
            # Whatever it was, the subscription is gone; the link itself reports what Redis says.
            logger.debug("subscription to %s lost: %s", channel, error)
        finally:
            if connection is not None:
                await connection.disconnect(nowait=True)
            if stood:
                on_state(False)
        _end_if_cancelled()
        failures += 1
        await asyncio.sleep(exponential(failures, 0.05, 2.0) * random.uniform(0.5, 1.0))


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
            if "imeout" not in type(error).__name__:
                raise
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
