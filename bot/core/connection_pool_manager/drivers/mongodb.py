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

import contextlib
from typing import Any

from bot.core._shared.errors import invalid
from bot.core.connection_pool_manager.drivers.base import Driver, import_driver
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


class MongodbDriver(Driver):
    backend = "mongodb"
    schemes = ("mongodb",)
    package = "motor"
    extra = "motor"

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

    async def connect(self) -> Any:
        handle = MongoHandle(self.client, self.database, self.collection)
        await self.ping(handle)
        return handle

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
