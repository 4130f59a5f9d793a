"""MongoDB by motor, or by PyMongo's own asyncio client (``driver="pymongo"``).

The driver multiplexes: a connection belongs to it only for one operation. So leases are slots over one
client, whose ``maxPoolSize`` is the pool's: at most that many operations, and server connections, at once
(the driver keeps two more per server to watch its health). Sessions keep no state between leases.

A lease is bound to a database and a collection. The database is the url's, or ``test`` as in MongoDB's
own tools; the collection is the ``collection`` option, or one called like the pool. ``conn.find_one(...)``
goes to the collection, ``conn.command(...)`` to the database, ``conn.users`` and ``conn["users"]`` are
collections of the database.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from typing import Any

from bot.core._shared.errors import invalid
from bot.core.connection_pool_manager.drivers.base import Driver, import_driver
from bot.core.connection_pool_manager.guard import Guard
from bot.core.connection_pool_manager.pool import Verdict


class MongoHandle:
    """What a mongodb lease gives access to: ``client``, ``database``, ``collection``, and their methods."""

    __slots__ = ("client", "collection", "database", "is_usable")

    def __init__(self, client: Any, database: Any, collection: Any) -> None:
        self.client = client
        self.database = database
        self.collection = collection
        self.is_usable = True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        # By class: on an instance, every name is a collection.
        if name.startswith("_") or hasattr(type(self.collection), name):
            return getattr(self.collection, name)
        if hasattr(type(self.database), name):
            return getattr(self.database, name)
        return self.database[name]

    def __getitem__(self, name: str) -> Any:
        return self.database[name]

    def __repr__(self) -> str:
        return f"<MongoHandle {self.collection.full_name}>"


@functools.cache
def _view_class(base: Any) -> Any:
    """The client as one lease sees it: databases, collections, cursors and sessions all ask their client."""

    class LeasedClient(base):  # type: ignore[misc]
        __slots__ = ("phase4_guard",)

        def __del__(self) -> None:
            """Not the client's end."""

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
    schemes = ("mongodb",)
    package = "motor"
    extra = "motor"
    is_reached = False
    """The last attempt to connect worked."""

    async def start(self) -> None:
        kind = self.options.pop("driver", "motor")
        if kind not in ("motor", "pymongo"):
            raise invalid("driver", kind, "'motor' or 'pymongo'")
        collection = self.options.pop("collection", None) or self.spec.name
        database = self.options.pop("database", None)
        if not isinstance(collection, str):
            raise invalid("collection", collection, "the name of a collection")
        options = self.spec.options
        # Ours first: the pool's own size must hold whatever the url says.
        settings = {
            "serverSelectionTimeoutMS": int(options.connect_timeout * 1000),
            "connectTimeoutMS": int(options.connect_timeout * 1000),
            **self.options,
            "maxPoolSize": options.max_size,
            "minPoolSize": 0,
            "maxConnecting": min(8, options.max_size),
        }
        if kind == "motor":
            factory = import_driver("motor.motor_asyncio", "motor", self.backend).AsyncIOMotorClient
        else:
            factory = import_driver("pymongo", "pymongo>=4.13", self.backend).AsyncMongoClient
        self.client: Any = factory(self.url, **settings)
        self.database = self.client.get_default_database(database or "test")
        if database:
            self.database = self.client[database]
        self.collection = self.database[collection]
        self.is_motor = kind == "motor"
        self.seeds = self._seeds()

    def _seeds(self) -> list[tuple[str, int | None]]:
        """The addresses of the url; none where only the driver can find them."""
        if "+" in self.url.split("://", 1)[0] or "proxyhost" in self.url.lower():
            return []
        from pymongo import uri_parser

        return list(uri_parser.parse_uri(self.url)["nodelist"])

    async def connect(self) -> Any:
        handle = MongoHandle(self.client, self.database, self.collection)
        if not self.is_reached:
            await self._knock()
        self.is_reached = False
        await self.ping(handle)
        self.is_reached = True
        return handle

    async def _knock(self) -> None:
        """Raise OSError at once if every address refuses; the driver would go on trying until its timeout."""
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
        database = client[raw.database.name]
        return MongoHandle(client, database, database[raw.collection.name])

    def is_open(self, raw: Any) -> bool:
        return bool(raw.is_usable)

    def verdict(self, raw: Any) -> Verdict:
        return Verdict.CLEAN if raw.is_usable else Verdict.DISCARD

    async def ping(self, raw: Any) -> None:
        await self.client.admin.command("ping")

    async def reset(self, raw: Any) -> None:
        pass

    async def close(self, raw: Any) -> None:
        raw.is_usable = False

    def terminate(self, raw: Any) -> None:
        raw.is_usable = False

    async def stop(self) -> None:
        client = getattr(self, "client", None)
        if client is None:
            return
        if self.is_motor:
            client.close()
        else:
            await client.close()

    def abandon(self) -> None:
        client = getattr(self, "client", None)
        if client is not None and self.is_motor:
            with contextlib.suppress(Exception):
                client.close()
