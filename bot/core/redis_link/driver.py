"""Making and closing redis-py's connections: the one file that touches private parts of redis-py.

Versions 6 and later; the tests run against what is installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections.abc import Iterator, Sequence
from typing import Any

from bot.core._shared.answer_bounds import AnswerBounds
from bot.core._shared.redis_address import RedisAddress, Sentinels
from bot.core._shared.redis_driver_info import redis_driver_info
from bot.core.redis_link.errors import RedisUnavailableError
from bot.core.redis_link.sentinels import Primary


def connect(url: str, timeout: float, protocol: int) -> Any:
    """A client of one server; it connects when it is used. Raises RedisUnavailableError without redis-py."""
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
        parser_class=_bounded_parser(),
        **redis_driver_info(),
        **_without_maintenance_notes(),
    )


def connect_by_sentinels(address: RedisAddress, timeout: float, protocol: int, primary: Primary) -> Any:
    """A client of the primary that sentinels name; otherwise as :func:`connect`."""
    client = connect(address.url, timeout, protocol)
    lead_to(client.connection_pool, primary)
    return client


def lead_to(pool: Any, primary: Primary) -> None:
    """Have every connection that a pool of redis-py makes from now on lead to the primary."""
    pool.connection_class = leading(pool.connection_class, primary)
    pool.connection_kwargs["redis_connect_func"] = greeting(primary)


def leading(base: Any, primary: Primary) -> Any:
    """A kind of redis-py's connection that leads to the primary; needs :func:`greeting`."""

    class PrimaryConnection(base):  # type: ignore[misc]
        """A connection that asks for its address each time it connects."""

        async def _connect(self) -> None:
            self.host, self.port = await primary.find()
            await super()._connect()

    return PrimaryConnection


def greeting(primary: Primary) -> Any:
    """The ``redis_connect_func`` of :func:`leading`: log in, and ask the server for its role."""

    async def greet(connection: Any) -> None:
        await connection.on_connect()
        await _check_role(connection, primary)

    return greet


def primary_of(address: RedisAddress, timeout: float) -> Primary:
    """The way to the primary of an address with sentinels. Raises RedisUnavailableError without hiredis."""
    sentinels = address.sentinels
    assert sentinels is not None
    _need_hiredis()

    async def ask(at: tuple[str, int]) -> Any:
        return await ask_sentinel(at, sentinels, address.url, timeout)

    return Primary(sentinels, timeout, address.shown, ask)


async def _check_role(connection: Any, primary: Primary) -> None:
    """Raise redis-py's ConnectionError if a server is no primary: it is demoted before all sentinels know."""
    from redis.exceptions import ConnectionError as RedisConnectionError
    from redis.exceptions import ResponseError

    await connection.send_command("ROLE")
    try:
        role = await connection.read_response()
    except ResponseError:
        return  # forbidden to this user: it finds out by the first write that is refused
    if isinstance(role, list) and role and role[0] not in (b"master", "master"):
        primary.distrust()
        raise RedisConnectionError(f"{connection.host}:{connection.port} is not the primary (any more)")


async def ask_sentinel(at: tuple[str, int], sentinels: Sentinels, url: str, timeout: float) -> Any:
    """What one sentinel answers when it is asked for the primary: (its address, what else it knows of it;
    None if this user may not ask for that). Otherwise as :func:`open_sentinel`.
    """
    from redis.exceptions import ResponseError

    connection = await open_sentinel(at, sentinels, url, timeout)
    try:
        # The second knows the epoch, but while a failover ends not yet the new address.
        asked = [("SENTINEL", what, sentinels.service) for what in ("GET-MASTER-ADDR-BY-NAME", "MASTER")]
        await connection.send_packed_command(connection.pack_commands(asked))
        address = await connection.read_response()
        try:
            return address, await connection.read_response()
        except ResponseError:
            return address, None
    finally:
        await connection.disconnect(nowait=True)


async def open_sentinel(at: tuple[str, int], sentinels: Sentinels, url: str, timeout: float) -> Any:
    """A connection to one sentinel; raises redis-py's errors.

    ``url`` is the primary's, which has the options for TLS.
    """
    from redis.asyncio.connection import Connection, SSLConnection, parse_url
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    options: dict[str, Any] = dict(parse_url(url)) if sentinels.tls else {}
    tls = {name: value for name, value in options.items() if name.startswith("ssl_")}
    kind: Any = SSLConnection if sentinels.tls else Connection
    connection = kind(
        host=at[0],
        port=at[1],
        username=sentinels.username,
        password=sentinels.password,
        protocol=2,  # no HELLO: old sentinels know none
        socket_connect_timeout=timeout,
        socket_timeout=timeout,
        retry=Retry(NoBackoff(), 0),
        parser_class=_bounded_parser(),
        **redis_driver_info(),
        **tls,
    )
    for name in ("driver_info", "lib_name", "lib_version"):  # it is asked one thing: no CLIENT SETINFO before
        if hasattr(connection, name):
            setattr(connection, name, None)
    try:
        await connection.connect()
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    return connection


def connect_cluster(url: str, timeout: float, protocol: int) -> Any:
    """A client of a cluster; otherwise as :func:`connect`."""
    try:
        from redis.asyncio.cluster import RedisCluster
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ImportError as error:
        raise RedisUnavailableError("redis is missing: pip install redis[hiredis]") from error
    _need_hiredis()
    client = RedisCluster.from_url(
        url,
        protocol=protocol,
        socket_connect_timeout=timeout,
        socket_timeout=timeout,
        # One more try, with a new map of the slots: what it takes when a node has gone.
        retry=Retry(NoBackoff(), 1),
        # After so many slots that moved it would close every connection, and with them the calls of
        # others. It notes each slot that moved in any case.
        reinitialize_steps=0,
        max_connections=1_000,
    )
    # It takes neither as an argument, and hands these on to every connection.
    nodes = client.nodes_manager
    for kwargs in (
        nodes.connection_kwargs,
        *(node.connection_kwargs for node in nodes.startup_nodes.values()),
    ):
        kwargs.update(parser_class=_bounded_parser(), **redis_driver_info())
    return client


@functools.cache
def _bounded_parser() -> type[Any]:
    """redis-py's parser, which is given no answer that would take too much memory."""
    from redis.asyncio.connection import DefaultParser

    base: Any = DefaultParser
    wait_for_answer = base.read_response

    class BoundedParser(base):  # type: ignore[misc]
        def on_connect(self, connection: Any) -> None:
            super().on_connect(connection)
            self._bounds = AnswerBounds(self._reader.has_data)
            self._pieces: Iterator[bytes] = iter(())
            self._piece: bytes | None = None
            # What the reader was given since an answer was asked for, if that is not added up yet.
            self._given: bytes | None = None

        def read_response(self, *args: Any, **kwargs: Any) -> Any:
            if self._given is not None:
                self._given = None  # the answer before came of it
            else:
                self._bounds.answered()
            return wait_for_answer(self, *args, **kwargs)

        async def read_from_socket(self) -> bool:
            # Called when the reader has given every answer that it has.
            piece = self._next_piece()
            if piece is None:
                bounds = self._bounds
                if self._given is not None:
                    bounds.unanswered(self._given)
                    self._given = None
                data = await self._stream.read(self._read_size)
                if not data:
                    raise ConnectionError("Connection closed by server.")
                if bounds.harmless(data):
                    self._given = data
                    self._reader.feed(data)
                    return True
                self._pieces = iter(bounds.pieces(data))
                piece = next(self._pieces, b"")
            self._reader.feed(piece)
            return True

        def _next_piece(self) -> bytes | None:
            piece, self._piece = self._piece, None
            return next(self._pieces, None) if piece is None else piece

        async def can_read(self) -> bool:
            self._piece = self._next_piece()
            return self._bounds.holds or self._piece is not None or bool(await super().can_read())

    return BoundedParser


async def pipeline(client: Any, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    """The answers to several commands, errors among them; raises redis-py's errors. Not for a cluster.

    redis-py's own pipeline packs in Python and sets a timer for each answer, which takes most of its time.
    The caller limits the time: one that is cancelled closes the connection.
    """
    import hiredis

    pack = hiredis.pack_command
    pool = client.connection_pool
    connection = await pool.get_connection()
    try:
        await connection.send_packed_command([pack(command) for command in commands])
        read = connection._parser.read_response
        answers = [await read() for _ in commands]
        await asyncio.sleep(0)  # a message that was sent along reaches other services of this process first
        return answers
    except BaseException:
        await connection.disconnect(nowait=True)  # or its answers would be taken for those to others
        raise
    finally:
        await pool.release(connection)


def as_redis_py_has_it(client: Any, command: tuple[Any, ...], answer: Any) -> Any:
    """The server's answer to a command as redis-py's client would return it."""
    callback = client.response_callbacks.get(command[0])
    return answer if callback is None else callback(answer)


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


def new_connection(client: Any, *, cluster: bool) -> Any:
    """A connection outside of the client's pool, to any node, not yet open."""
    if cluster:
        return connection_to(client.get_random_node())
    return client.connection_pool.make_connection()


def connection_to(node: Any) -> Any:
    """A connection to one node of a cluster, not yet open."""
    return node.connection_class(**node.connection_kwargs)


def take_streams(connection: Any) -> tuple[Any, Any]:
    """The streams of an open connection, which is left without: its bytes are another's from now on."""
    streams = connection._reader, connection._writer
    connection._writer = connection._reader = None
    return streams


async def ask(node: Any, *command: str) -> Any:
    """What a node of a cluster answers on a new connection; raises redis-py's errors."""
    connection: Any = None
    try:
        connection = connection_to(node)
        await connection.connect()
        await connection.send_command(*command)
        return await connection.read_response()
    finally:
        if connection is not None:
            await connection.disconnect(nowait=True)


async def find_nodes(client: Any) -> None:
    """Read a cluster's map of the slots, unless it was read.

    Before that redis-py sends commands that it does not know, scripts among them, to any node.
    """
    await client.initialize()


async def read_slots(client: Any) -> None:
    """Read a cluster's map of the slots again."""
    await client.nodes_manager.initialize()


def node_names(client: Any) -> set[str]:
    """The nodes that the map of the slots names, as ``host:port``."""
    return set(client.nodes_manager.nodes_cache)


def node_of(client: Any, key: bytes) -> Any:
    """The node that has a key; None before the first contact, and after the map was dropped."""
    try:
        return client.get_node_from_key(key)
    except Exception:  # whatever its map lacks: the caller goes redis-py's own way, which makes one
        return None


async def primaries(client: Any) -> list[Any]:
    """The nodes of a cluster that take writes."""
    await client.initialize()
    return list(client.get_primaries())


def _connections(client: Any) -> list[Any]:
    pool = client.connection_pool
    return [*getattr(pool, "_available_connections", ()), *getattr(pool, "_in_use_connections", ())]


def has_open(client: Any) -> bool:
    """Whether any connection of the client stands."""
    return any(connection.is_connected for connection in _connections(client))


def prefer_open(client: Any) -> bool:
    """Have the next call use a connection that stands; False if none is idle."""
    idle = client.connection_pool._available_connections
    idle.sort(key=lambda connection: connection.is_connected)  # the last one is used first
    return bool(idle) and bool(idle[-1].is_connected)


async def close_idle(client: Any) -> None:
    """Close the unused connections; they are given up even if that fails."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(0.5):
            await client.connection_pool.disconnect(inuse_connections=False)


async def retire(client: Any, timeout: float) -> None:
    """Close a client when the calls that use it have ended, which is within the timeout."""
    loop = asyncio.get_running_loop()
    until = loop.time() + 2 * timeout
    try:
        if hasattr(client, "connection_pool"):
            await close_idle(client)
            # Polled: redis-py tells of no connection's return.
            while client.connection_pool._in_use_connections and loop.time() < until:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    finally:
        await client.aclose()


def abort_client(client: Any) -> None:
    """Close a client's connections at once."""
    for connection in _connections(client):
        writer = getattr(connection, "_writer", None)
        if writer is not None:
            writer.transport.abort()
            connection._writer = connection._reader = None


def abandon_client(client: Any, loop: asyncio.AbstractEventLoop) -> None:
    """Close the sockets of a client whose event loop runs no more."""
    if not hasattr(client, "connection_pool"):
        for node in client.get_nodes():
            for connection in node._connections:
                abandon_connection(connection, loop)
        return
    for connection in _connections(client):
        abandon_connection(connection, loop)
    client.connection_pool.reset()


def abandon_connection(connection: Any, loop: asyncio.AbstractEventLoop) -> None:
    """Close the socket of one connection whose event loop runs no more."""
    writer = getattr(connection, "_writer", None)
    if writer is not None:
        abandon_transport(writer.transport, loop)
        connection._writer = connection._reader = None


def abandon_transport(transport: Any, loop: asyncio.AbstractEventLoop) -> None:
    """Close the socket under a transport whose event loop runs no more."""
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
