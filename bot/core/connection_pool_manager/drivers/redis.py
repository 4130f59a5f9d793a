"""Redis by redis-py: each lease is a client over one connection of its own.

A connection on which a command changed its state (SELECT, CLIENT, WATCH, SUBSCRIBE and the like) is
reset by reconnecting, which is exact. A command that was interrupted makes redis-py disconnect.
"""

from __future__ import annotations

import asyncio
import functools
import weakref
from collections import OrderedDict
from typing import Any
from urllib.parse import urlsplit

from bot.core._shared.demotion import redis_needs_another_server
from bot.core._shared.errors import invalid, message_of
from bot.core._shared.masking import mask_url
from bot.core._shared.redis_driver_info import redis_driver_info
from bot.core.connection_pool_manager.drivers import session_state
from bot.core.connection_pool_manager.drivers.base import (
    Driver,
    hard_close,
    import_driver,
    keep_alive,
    references,
)
from bot.core.connection_pool_manager.drivers.url_options import redis_url
from bot.core.connection_pool_manager.guard import Guard
from bot.core.connection_pool_manager.models import PoolSpec
from bot.core.connection_pool_manager.pool import Slot, Verdict
from bot.core.phase4_config.connection_pools import SCHEMES

_set_own = object.__setattr__


@functools.cache
def _tracked(base: Any) -> Any:
    known: dict[Any, tuple[bool, bool]] = {}

    class TrackedConnection(base):  # type: ignore[misc]
        """redis-py's connection, noting whether its state may differ from a new one's."""

        phase4_taint = False
        phase4_seen = 0
        phase4_blocks = False
        """Whether the last command may block."""
        phase4_is_subscribed = False
        phase4_guard: Any = None
        phase4_is_over = False
        """The pool has given up the connection: it must not be opened again."""
        phase4_prepare: Any = None
        """Runs the user's init, each time that the connection was opened."""
        phase4_is_preparing = False

        async def connect(self) -> None:
            if self.phase4_is_over:
                from redis.exceptions import ConnectionError as RedisConnectionError

                raise RedisConnectionError("the lease has ended, so its connection is not opened again")
            if self.is_connected:
                return
            self.phase4_is_subscribed = False
            # Errors are noted where the answer is parsed, so that an answer without one costs nothing.
            self._parser.parse_error = self._phase4_error
            try:
                await super().connect()
                if self._writer is not None:
                    keep_alive(self._writer.transport)
                if self.phase4_prepare is not None:
                    await self._phase4_prepared(self.phase4_prepare)
            except BaseException:
                _hang_up(self)  # it is not logged in, or not as init wants it
                raise

        async def _phase4_prepared(self, prepare: Any) -> None:
            if self.phase4_is_preparing:
                from redis.exceptions import ConnectionError as RedisConnectionError

                raise RedisConnectionError("the connection was lost while init ran")
            taint = self.phase4_taint
            self.phase4_is_preparing = True
            try:
                await prepare()
            finally:
                self.phase4_is_preparing = False
            self.phase4_taint = taint

        def _phase4_error(self, response: Any) -> Any:
            error = type(self._parser).parse_error(response)
            if self.phase4_guard is not None:
                self.phase4_guard.failed(error)
            return error

        def phase4_waits(self) -> bool:
            """Whether a command is in progress: not all of it was sent, or its answer has not arrived."""
            reader, writer = self._reader, self._writer
            if self.phase4_blocks or reader is None or writer is None:
                return False
            # If nobody waits, a lease may keep its connection as long as it likes, as WATCH needs.
            return reader._waiter is not None or writer.transport.get_write_buffer_size() > 0

        def _phase4_note(self, command: Any) -> None:
            self.phase4_seen += 1
            kind = known.get(command)
            if kind is None:
                kind = session_state.classify_redis(command)
                if len(known) < 1024:
                    known[command] = kind
            harmful, blocks = kind
            if harmful:
                self.phase4_taint = True
                if blocks:
                    self.phase4_is_subscribed = True
            self.phase4_blocks = blocks or self.phase4_is_subscribed

        def pack_command(self, *args: Any) -> Any:
            self._phase4_note(args[0])
            return super().pack_command(*args)

        def pack_commands(self, commands: Any) -> Any:
            commands = list(commands)
            inner = commands
            if len(commands) > 1 and commands[0][0] == "MULTI" and commands[-1][0] == "EXEC":
                inner = commands[1:-1]  # opened and closed in one go
            before = self.phase4_taint
            for command in inner:
                self._phase4_note(command[0])
            # The base class packs each by pack_command, which would count MULTI and EXEC.
            tainted = self.phase4_taint
            packed = super().pack_commands(commands)
            self.phase4_taint = before or tainted
            return packed

    return TrackedConnection


@functools.cache
def _pool_class() -> Any:
    from redis.asyncio.connection import ConnectionPool

    class OneConnectionPool(ConnectionPool):
        """What redis-py calls a pool; it holds the one connection of a lease.

        Tasks that share a lease take turns. A pubsub or a watching pipeline keeps the connection until
        it is closed.
        """

        def phase4_setup(self, connection: Any, timeout: float) -> None:
            self.phase4_connection = connection
            self.phase4_held = False
            self.phase4_queue: OrderedDict[asyncio.Future[None], None] = OrderedDict()
            self.phase4_timeout = timeout

        async def get_connection(self, *_: Any, **__: Any) -> Any:
            if self.phase4_connection.phase4_is_preparing:
                return self.phase4_connection  # init asks for it; it has it already
            return await self.phase4_take()

        async def phase4_take(self) -> Any:
            if self.phase4_held:
                await self._phase4_turn()
            self.phase4_held = True
            connection = self.phase4_connection
            if not connection.is_connected:
                try:
                    await connection.connect()
                except BaseException:
                    self._phase4_free()
                    raise
            return connection

        async def _phase4_turn(self) -> None:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.phase4_queue[turn] = None
            try:
                async with asyncio.timeout(self.phase4_timeout):
                    await turn
            except TimeoutError:
                self._phase4_leave(turn)
                from redis.exceptions import ConnectionError as RedisConnectionError

                raise RedisConnectionError(
                    "this lease's one connection is in use, by a pubsub, a watching pipeline or another "
                    "task; close that first, or acquire a second lease"
                ) from None
            except BaseException:
                self._phase4_leave(turn)
                raise

        def _phase4_leave(self, turn: asyncio.Future[None]) -> None:
            if turn.done() and not turn.cancelled():
                self._phase4_free()  # it was our turn already
            else:
                self.phase4_queue.pop(turn, None)

        async def release(self, connection: Any) -> None:
            if not connection.phase4_is_preparing:
                self._phase4_free()

        def _phase4_free(self) -> None:
            self.phase4_held = False
            while self.phase4_queue:
                turn, _ = self.phase4_queue.popitem(last=False)
                if not turn.done():
                    self.phase4_held = True  # handed over: no other task may take it in between
                    turn.set_result(None)
                    return

        async def disconnect(self, *_: Any, **__: Any) -> None:
            await self.phase4_connection.disconnect()

    return OneConnectionPool


@functools.cache
def _view_classes() -> tuple[Any, Any]:
    from redis import asyncio

    base: Any = _pool_class()
    client: Any = asyncio.Redis

    class LeasedPool(base):  # type: ignore[misc]
        """One connection as a lease sees it: clients, pipelines, pubsubs and locks ask it for theirs."""

        __slots__ = ("phase4_guard",)

        def __del__(self) -> None:
            """Does not close the connection."""

        async def get_connection(self, *args: Any, **kwargs: Any) -> Any:
            guard = self.phase4_guard
            if guard.ended:
                guard.check()
            if not self.phase4_held and self.phase4_connection.is_connected:  # type: ignore[has-type]
                self.phase4_held = True  # type: ignore[misc]
                return self.phase4_connection
            return await self.phase4_take()

        async def release(self, connection: Any) -> None:
            guard = self.phase4_guard
            if guard.ended:
                return  # it belongs to another caller, or is closed
            self.phase4_held = False  # type: ignore[misc]
            if self.phase4_queue:
                self._phase4_free()
            if guard.timed_out is not None:  # why the call failed that gives its connection back
                timed_out, guard.timed_out = guard.timed_out, None
                raise timed_out

        async def disconnect(self, *_: Any, **__: Any) -> None:
            if not self.phase4_guard.ended:
                await super().disconnect()

    class LeasedClient(client):  # type: ignore[misc]
        """The client as one lease sees it: attributes that are set on it belong to the lease alone."""

        __slots__ = ("phase4_has_own", "phase4_pool")

        def __init__(self, *args: Any, **kwargs: Any) -> None:  # client() makes one more of its kind
            _set_own(self, "phase4_has_own", True)
            super().__init__(*args, **kwargs)

        @property
        def connection_pool(self) -> Any:
            return self.phase4_pool

        @connection_pool.setter
        def connection_pool(self, value: Any) -> None:
            _set_own(self, "phase4_pool", value)

        def __setattr__(self, name: str, value: Any) -> None:
            if not self.phase4_has_own:
                _set_own(self, "__dict__", dict(self.__dict__))
                _set_own(self, "phase4_has_own", True)
            _set_own(self, name, value)

        def set_response_callback(self, command: str, callback: Any) -> None:
            own: Any = vars(self)["response_callbacks"]
            setattr(self, "response_callbacks", type(own)(own))  # noqa: B010  # its own from here on
            super().set_response_callback(command, callback)

    return LeasedPool, LeasedClient


def _held(view: Any, guard: Guard) -> int:
    """How many references there are to a lease's client, the connection it shows, and its guard."""
    assert references is not None
    return references(view) + references(view.phase4_pool) + references(guard)


class RedisDriver(Driver):
    backend = "redis"
    schemes = SCHEMES["redis"]
    package = "redis"
    extra = "redis[hiredis]"
    held_by_pool: int | None = None

    async def start(self) -> None:
        import_driver(self.package, self.extra, self.backend)
        from redis.asyncio.connection import Connection, parse_url
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        url = redis_url(self.url)
        primary: Any = None
        if "+sentinel://" in url:
            # Here: a pool of one server needs nothing of the link's.
            from bot.core._shared.redis_address import RedisAddress
            from bot.core.redis_link import greeting, leading, primary_of

            address = RedisAddress.read(url)
            primary = primary_of(address, self.spec.options.connect_timeout)
            url = address.url
        number = urlsplit(url).path.strip("/") if not url.startswith("unix") else ""
        if number and not (number.isascii() and number.isdigit()):  # redis-py would use database 0
            raise invalid("url", mask_url(self.url), "redis://host:port/number, the number of a database")
        try:
            given: dict[str, Any] = dict(parse_url(url))
        except ValueError:
            # Not from the error: its text may hold a part of the password.
            raise invalid(
                "url",
                mask_url(self.url),
                "redis://user:password@host:port/number, with %23 for # and %2F for /",
            ) from None
        self.connection_class = _tracked(given.pop("connection_class", Connection))
        if self.spec.password is not None:
            given.pop("password", None)
            given["credential_provider"] = self._credentials(given.pop("username", None))
        own_name = {"lib_name", "lib_version"} & (given.keys() | self.options.keys())
        # Retries are the caller's decision: a command that failed may have been executed.
        self.connect_options = {
            "retry": Retry(NoBackoff(), 0),
            "socket_connect_timeout": self.spec.options.connect_timeout,
            **({} if own_name else redis_driver_info()),
            **given,
            **self.options,
        }
        if primary is not None:
            self.connection_class = leading(self.connection_class, primary)
            self.connect_options["redis_connect_func"] = greeting(primary)

    def _new_client(self) -> Any:
        from redis.asyncio import Redis

        connections = _pool_class()(
            connection_class=self.connection_class, max_connections=1, **self.connect_options
        )
        connection = connections.make_connection()
        connections.phase4_setup(connection, self.spec.options.acquire_timeout)
        client = Redis(connection_pool=connections)
        if self.spec.init is not None:
            connection.phase4_prepare = functools.partial(self.prepare, client)
        return client

    def _credentials(self, username: str | None) -> Any:
        """What redis-py asks for user and password each time that it opens a connection."""
        from redis.credentials import CredentialProvider

        driver = self

        class Credentials(CredentialProvider):
            def get_credentials(self) -> Any:
                raise NotImplementedError  # of the client without asyncio

            async def get_credentials_async(self) -> Any:
                password = await driver.password()
                return (username, password) if username else (password,)

        return Credentials()

    async def connect(self) -> Any:
        client = self._new_client()
        connection = client.connection_pool.phase4_connection
        try:
            await connection.connect()
        except BaseException:
            self._drop(connection)
            raise
        connection.phase4_taint = False
        try:
            await self.check_tracker(client)
        except BaseException:
            self._drop(connection)
            raise
        return client

    def seen(self, raw: Any) -> int:
        return int(raw.connection_pool.phase4_connection.phase4_seen)

    def view(self, raw: Any, guard: Guard) -> Any:
        pool_kind, client_kind = _view_classes()
        connections = raw.connection_pool
        connections.phase4_connection.phase4_guard = guard
        leased = pool_kind.__new__(pool_kind)
        leased.__dict__ = connections.__dict__
        leased.phase4_guard = guard
        view = client_kind.__new__(client_kind)
        _set_own(view, "__dict__", raw.__dict__)
        _set_own(view, "phase4_pool", leased)
        _set_own(view, "phase4_has_own", False)
        return view

    def is_let_go(self, view: Any, guard: Guard) -> bool:
        # Making a client costs a tenth of a query. Bound methods, pipelines, pubsubs, locks and calls that
        # are not over hold the client, its connection or the guard.
        if references is None or view.phase4_has_own or weakref.getweakrefcount(view):
            return False
        if self.held_by_pool is None:
            self.held_by_pool = self._held_by_pool()
        return _held(view, guard) == self.held_by_pool

    def _held_by_pool(self) -> int:
        """What :func:`_held` says of what only a slot holds, asked in the same way as by is_let_go."""

        def ask(view: Any, guard: Guard) -> int:
            return _held(view, guard)

        slot = Slot(self._new_client(), 0)
        slot.guard = Guard(self, slot.raw)
        slot.view = self.view(slot.raw, slot.guard)
        return ask(slot.view, slot.guard)

    def is_demotion(self, error: BaseException, raw: Any) -> bool:
        from redis import exceptions

        if isinstance(error, exceptions.ReadOnlyError | exceptions.MasterDownError):
            return True
        return isinstance(error, exceptions.ResponseError) and redis_needs_another_server(message_of(error))

    def adopt(self, spec: PoolSpec) -> bool:
        if self.connect_options["socket_connect_timeout"] == self.spec.options.connect_timeout:
            self.connect_options["socket_connect_timeout"] = spec.options.connect_timeout
        return super().adopt(spec)

    def call_in_progress(self, raw: Any, guard: Guard) -> Any:
        connection = raw.connection_pool.phase4_connection
        return int(connection.phase4_seen) if connection.phase4_waits() else None

    def is_login_refused(self, error: BaseException) -> bool:
        from redis import exceptions

        kinds = (exceptions.AuthenticationError, exceptions.AuthenticationWrongNumberOfArgsError)
        return isinstance(error, kinds)

    async def is_primary(self, raw: Any) -> bool | None:
        from redis import exceptions

        try:
            return (await raw.execute_command("ROLE"))[0] in (b"master", "master")
        except exceptions.ConnectionError:
            raise
        except exceptions.ResponseError:  # an ACL that forbids it, or a proxy that does not know it
            return None

    def is_open(self, raw: Any) -> bool:
        connection = raw.connection_pool.phase4_connection
        if not connection.is_connected:
            return False
        reader, writer = connection._reader, connection._writer
        return reader is not None and writer is not None and not (reader.at_eof() or writer.is_closing())

    def verdict(self, raw: Any) -> Verdict:
        connections = raw.connection_pool
        if connections.phase4_held or not self.is_open(raw):
            return Verdict.BROKEN
        if self.is_blind:
            return Verdict.DISCARD
        if connections.phase4_connection.phase4_taint:
            return Verdict.CLEAN if self.reset_mode == "never" else Verdict.RESET
        return Verdict.RESET if self.reset_mode == "always" else Verdict.CLEAN

    async def ping(self, raw: Any) -> None:
        await raw.ping()

    async def reset(self, raw: Any) -> None:
        connection = raw.connection_pool.phase4_connection
        await connection.disconnect()
        await connection.connect()
        connection.phase4_taint = False

    async def close(self, raw: Any) -> None:
        connection = raw.connection_pool.phase4_connection
        connection.phase4_is_over = True
        await connection.disconnect()

    def terminate(self, raw: Any) -> None:
        self._drop(raw.connection_pool.phase4_connection)

    @staticmethod
    def _drop(connection: Any) -> None:
        connection.phase4_is_over = True
        _hang_up(connection)


def _hang_up(connection: Any) -> None:
    """Close a connection's socket at once."""
    writer = connection._writer
    connection._reader = connection._writer = None
    if writer is not None:
        hard_close(writer.transport)
