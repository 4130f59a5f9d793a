"""MongoDB by motor, or by PyMongo's own asyncio client (``driver="pymongo"``).

The driver multiplexes: a connection belongs to it only for one operation. So leases are slots over one
client, whose ``maxPoolSize`` is the pool's: at most that many operations, and server connections, at once
(the driver keeps two more per server to watch its health). Sessions keep no state between leases.

Of a replica set the driver finds the new primary by itself. With a url of one address it never looks for
another server. There, once the server says that it is no longer the primary, the next connection is one of a
new client, which resolves the name again.

A lease is bound to a database and a collection. The database is the url's, or ``test`` as in MongoDB's own
tools; the collection is the ``collection`` option, or has the pool's name. ``conn.find_one(...)`` goes to the
collection, ``conn.command(...)`` to the database, ``conn.users`` and ``conn["users"]`` are collections of the
database.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from bot.core._shared.demotion import mongodb_needs_another_server
from bot.core._shared.errors import invalid
from bot.core._shared.masking import mask_secrets, mask_url
from bot.core.connection_pool_manager.drivers.base import Driver, import_driver
from bot.core.connection_pool_manager.guard import Guard
from bot.core.connection_pool_manager.models import PoolSpec
from bot.core.connection_pool_manager.pool import Verdict
from bot.core.phase4_config.connection_pools import SCHEMES


class MongoHandle:
    """What a mongodb lease gives access to: ``client``, ``database``, ``collection``, and their methods."""

    __slots__ = ("client", "collection", "database", "has_own_options", "is_usable")

    def __init__(self, client: Any, database: Any, collection: Any) -> None:
        self.client = client
        self.database = database
        self.collection = collection
        self.is_usable = True
        self.has_own_options = False
        """Whether init has set a database or collection with other options than the client's."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        # By class: on an instance, every name is a collection; and of the class that it passes for.
        if name.startswith("_") or hasattr(self.collection.__class__, name):
            return getattr(self.collection, name)
        if hasattr(type(self.database), name):
            return getattr(self.database, name)
        return self.database[name]

    def __getitem__(self, name: str) -> Any:
        return self.database[name]

    def __repr__(self) -> str:
        return f"<MongoHandle {self.collection.full_name}>"


def _options_of(part: Any) -> dict[str, Any]:
    """What a database or collection has of its own: codecs, and what is read and written where."""
    names = ("codec_options", "read_preference", "write_concern", "read_concern")
    return {name: getattr(part, name) for name in names}


def _is_not_primary(error: BaseException) -> bool:
    from pymongo.errors import NotPrimaryError

    code = getattr(error, "code", None)
    if isinstance(code, int):
        return mongodb_needs_another_server(code)
    return isinstance(error, NotPrimaryError)


def _is_single(client: Any) -> bool:
    """Whether the driver keeps to one address, even if the server there is demoted."""
    return client.topology_description.topology_type_name in ("Single", "Unknown")


@functools.cache
def _view_class(base: Any) -> Any:
    """The client as one lease sees it: databases, collections, cursors and sessions all ask their client."""

    class LeasedClient(base):  # type: ignore[misc]
        __slots__ = ("phase4_guard",)

        def __del__(self) -> None:
            """Does not close the client."""

    if hasattr(base, "get_io_loop"):  # motor's

        def get_io_loop(self: Any) -> Any:
            self.phase4_guard.check()
            return base.get_io_loop(self)

        LeasedClient.get_io_loop = get_io_loop
    else:

        async def _get_topology(self: Any) -> Any:
            self.phase4_guard.check()
            return await base._get_topology(self)

        LeasedClient._get_topology = _get_topology
    return LeasedClient


class MongodbDriver(Driver):
    backend = "mongodb"
    schemes = SCHEMES["mongodb"]
    package = "motor"
    extra = "motor"
    is_reached = False
    """Whether the last attempt to connect worked."""

    def __init__(self, spec: PoolSpec) -> None:
        super().__init__(spec)
        self.clients: dict[int, tuple[Any, set[int]]] = {}
        """By identity, since two clients of one url are equal: the client, and its handles in use."""
        self.closing: set[asyncio.Task[Any]] = set()  # clients that were replaced
        self.must_look_elsewhere = False
        # By identity of a client: who observes it, and what ends that. Changed by let_watch, and when a
        # client is closed.
        self.watched: dict[int, tuple[Any, Any]] = {}

    def let_watch(self, raw: Any) -> None:
        """All leases share a client, so it is the client that is watched."""
        client = raw.client
        observer, watch = self.watched.get(id(client), (None, None))
        if observer is self.observer:
            return
        if watch is not None:
            del self.watched[id(client)]
            watch.end()
        if self.observer is not None:
            self.watched[id(client)] = self.observer, self.observer(client)

    async def start(self) -> None:
        kind = self.options.pop("driver", "motor")
        if kind not in ("motor", "pymongo"):
            raise invalid("driver", kind, "'motor' or 'pymongo'")
        collection = self.options.pop("collection", None) or self.spec.name
        database = self.options.pop("database", None)
        if not isinstance(collection, str):
            raise invalid("collection", collection, "the name of a collection")
        options = self.spec.options
        self.given_listeners = self.options.pop("event_listeners", ())
        self.own_limit = self._own_limit()
        # Ours first: the pool's own size must hold whatever the url says.
        if options.query_timeout and not re.search(r"(?i)[?&](socket)?timeoutms=", self.url):
            self.options.setdefault("socketTimeoutMS", int(options.query_timeout * 1000))
        settings = {
            "serverSelectionTimeoutMS": int(options.connect_timeout * 1000),
            "connectTimeoutMS": int(options.connect_timeout * 1000),
            **self.options,
            "maxPoolSize": options.max_size,
            "minPoolSize": 0,
            "maxConnecting": min(8, options.max_size),
        }
        if kind == "motor":
            self.factory = import_driver("motor.motor_asyncio", "motor", self.backend).AsyncIOMotorClient
        else:
            self.factory = import_driver("pymongo", "pymongo>=4.13", self.backend).AsyncMongoClient
        self.settings = settings
        self.is_motor = kind == "motor"
        from pymongo.errors import ConfigurationError, InvalidName, InvalidURI

        try:
            self.client: Any = self._new_client()
            self.database_name = database or self.client.get_default_database("test").name
            self.seeds = self._seeds()
        except (ConfigurationError, InvalidName, InvalidURI) as error:
            if "DNS" in str(error):
                raise
            # Not from the error, whose frames may hold the password.
            allowed = f"a url and options that PyMongo takes, but: {mask_secrets(str(error))}"
            raise invalid("url", mask_url(self.url), allowed) from None
        self.collection_name = collection
        self.clients[id(self.client)] = (self.client, set())

    def _new_client(self) -> Any:
        from pymongo.monitoring import ServerListener

        class Watch(ServerListener):
            """Notes that a server is no longer the primary. The driver calls it on its own threads, so it
            does no more.
            """

            refusal: str | None = None

            def opened(self, event: Any) -> None:
                pass

            def closed(self, event: Any) -> None:
                pass

            def description_changed(self, event: Any) -> None:
                error = event.new_description.error
                if error is not None and _is_not_primary(error):
                    self.refusal = f"{type(error).__name__}: {error}"

        self.watch = Watch()
        return self.factory(self.url, **self.settings, event_listeners=[*self.given_listeners, self.watch])

    def _seeds(self) -> list[tuple[str, int | None]]:
        """The addresses of the url; none if only the driver can find them."""
        if "+" in self.url.split("://", 1)[0] or "proxyhost" in self.url.lower():
            return []
        from pymongo import uri_parser

        return list(uri_parser.parse_uri(self.url)["nodelist"])

    async def connect(self) -> Any:
        client, old = self.client, None
        if self.must_look_elsewhere and _is_single(client.delegate if self.is_motor else client):
            old, client = client, self._new_client()
            self.client = client
            self.clients[id(client)] = (client, set())
            self.is_reached = False
        self.must_look_elsewhere = False
        database = client[self.database_name]
        handle = MongoHandle(client, database, database[self.collection_name])
        self.clients[id(client)][1].add(id(handle))
        try:
            reached = await self._reach(handle)
            self.let_watch(reached)  # or no longer
            return reached
        except BaseException:
            self._forget(handle)
            raise
        finally:
            if old is not None:
                self._close_if_unused(old)

    async def _reach(self, handle: MongoHandle) -> MongoHandle:
        if not self.is_reached:
            await self._knock()
        self.is_reached = False
        await self.ping(handle)
        self.is_reached = True
        before = handle.database, handle.collection
        await self.prepare(handle)
        # By identity: two of one name are equal whatever their options.
        handle.has_own_options = not (handle.database is before[0] and handle.collection is before[1])
        return handle

    async def _knock(self) -> None:
        """Raise OSError at once if every address refuses; the driver would retry until its timeout."""
        refusal: OSError | None = None
        for host, port in self.seeds:
            try:
                if port is None:
                    _, writer = await asyncio.open_unix_connection(host)
                else:
                    _, writer = await asyncio.open_connection(host, port)
            except OSError as error:
                refusal = error
            else:
                writer.transport.abort()
                return
        if refusal is not None:
            raise refusal

    def view(self, raw: Any, guard: Guard) -> Any:
        base: Any = type(raw.client)
        kind = _view_class(base)
        client = kind.__new__(kind)
        client.__dict__ = raw.client.__dict__
        client.phase4_guard = guard
        if raw.has_own_options:
            database = client.get_database(raw.database.name, **_options_of(raw.database))
            collection = database.get_collection(raw.collection.name, **_options_of(raw.collection))
            return MongoHandle(client, database, collection)
        database = client[raw.database.name]
        return MongoHandle(client, database, database[raw.collection.name])

    def is_open(self, raw: Any) -> bool:
        return bool(raw.is_usable)

    def verdict(self, raw: Any) -> Verdict:
        if not raw.is_usable:
            return Verdict.DISCARD
        if self.watch.refusal is not None and raw.client is self.client:
            self.watch.refusal = None  # logged once
            return Verdict.DEMOTED
        return Verdict.CLEAN

    def look_elsewhere(self) -> None:
        self.must_look_elsewhere = True

    def is_demotion(self, error: BaseException, raw: Any) -> bool:
        return _is_not_primary(error)

    def adopt(self, spec: PoolSpec) -> bool:
        old, new = self.spec.options, spec.options
        fixed = (old.max_size, old.connect_timeout, old.query_timeout)
        if fixed != (new.max_size, new.connect_timeout, new.query_timeout):
            return False  # they are the client's own, which cannot change them
        return super().adopt(spec)

    def call_in_progress(self, raw: Any, guard: Guard) -> Any:
        return None  # the driver has its own timeout, for each of the connections it shares

    def _own_limit(self) -> tuple[str, float] | None:
        """The first limit for a call that is found in the url and the options."""
        given = {name.lower(): value for name, value in self.options.items()}
        given |= {name.lower(): value for name, value in parse_qsl(urlsplit(self.url).query)}
        for name in ("timeoutMS", "socketTimeoutMS"):
            with contextlib.suppress(TypeError, ValueError):
                if seconds := float(given[name.lower()]) / 1000 if name.lower() in given else 0.0:
                    return name, seconds
        return None

    def is_timeout(self, error: BaseException) -> bool:
        from pymongo.errors import ExecutionTimeout, NetworkTimeout, ServerSelectionTimeoutError

        if isinstance(error, ServerSelectionTimeoutError):
            return False  # there is no server that could be slow
        return isinstance(error, NetworkTimeout | ExecutionTimeout)

    def is_login_refused(self, error: BaseException) -> bool:
        return getattr(error, "code", None) == 18

    async def is_primary(self, raw: Any) -> bool | None:
        answer = await raw.client.admin.command("hello")
        return bool(answer.get("isWritablePrimary", answer.get("ismaster", True)))

    async def ping(self, raw: Any) -> None:
        await raw.client.admin.command("ping")

    async def reset(self, raw: Any) -> None:
        pass

    async def close(self, raw: Any) -> None:
        self._forget(raw)

    def terminate(self, raw: Any) -> None:
        self._forget(raw)

    def _forget(self, raw: MongoHandle) -> None:
        if raw.is_usable:
            raw.is_usable = False
            if (known := self.clients.get(id(raw.client))) is not None:
                known[1].discard(id(raw))
                self._close_if_unused(raw.client)

    def _close_if_unused(self, client: Any) -> None:
        """Close a client that was replaced, once its last handle is gone."""
        known = self.clients.get(id(client))
        if client is self.client or known is None or known[1]:
            return
        del self.clients[id(client)]
        self.watched.pop(id(client), None)
        if self.is_motor:
            client.close()
        else:
            with contextlib.suppress(RuntimeError):  # no event loop runs
                closing = asyncio.get_running_loop().create_task(client.close())
                self.closing.add(closing)
                closing.add_done_callback(self.closing.discard)

    async def stop(self) -> None:
        for client, _ in list(self.clients.values()):
            if self.is_motor:
                client.close()
            else:
                await client.close()
        if self.closing:
            await asyncio.wait(self.closing)

    def abandon(self) -> None:
        for client, _ in list(self.clients.values()):
            with contextlib.suppress(Exception):
                if self.is_motor:
                    client.close()
