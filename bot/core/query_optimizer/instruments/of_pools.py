"""Watches the leases of the connection pool manager, which the start-up code hands an observer."""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from bot.core.query_optimizer.instruments.watching import Instrument, Options, Session
from bot.core.query_optimizer.service import QueryOptimizer

_MODULES = {
    "postgresql": "of_asyncpg",
    "sqlite": "of_aiosqlite",
    "mysql": "of_asyncmy",
    "mongodb": "of_mongodb",
}


def observer(
    optimizer: QueryOptimizer, *, cache: bool = False, tenants: Mapping[str, Callable[[], Any]] | None = None
) -> Callable[[str, str, bool], Any]:
    """What the pool manager's ``observe`` takes. With ``cache``, reads by asyncpg and by aiosqlite's
    ``execute_fetchall``, and of MongoDB's collections, are answered from the cache, except those of replicas:
    a replica may still give what was there before a write, which would then be kept after it. ``tenants``
    has, by the name of a pool, the function that tells whose view of the data a read has.
    """

    def observe(pool: str, backend: str, replica: bool) -> Callable[[Any], Watch | ClientWatch]:
        module = importlib.import_module(f"bot.core.query_optimizer.instruments.{_MODULES[backend]}")
        tenant = None if tenants is None else tenants.get(pool)
        options = Options(cache and module.ANSWERS and not replica, tenant=tenant)
        instrument = Instrument(optimizer, options)
        if backend == "mongodb":
            return lambda client: ClientWatch(module, client, instrument)
        instrument.details = {"factories": []}

        def watch(connection: Any) -> Watch:
            return Watch(module, module.session_of(connection, instrument))

        return watch

    return observe


class ClientWatch:
    """Watches a MongoDB client, which the leases of a pool share, until ``end``."""

    __slots__ = ("_client", "_instrument", "_module")

    def __init__(self, module: Any, client: Any, instrument: Instrument) -> None:
        self._module = module
        self._client = client
        self._instrument = instrument
        module.attach(client, instrument)

    def end(self) -> None:
        self._instrument.is_on = False
        self._module.detach(self._client, self._instrument)


class Watch:
    """Watches one connection of a pool, for its whole life."""

    __slots__ = ("_module", "_session")

    def __init__(self, module: Any, session: Session) -> None:
        self._module = module
        self._session = session

    async def call(self, name: str, original: Any, target: Any, args: Any, kwargs: Any) -> Any:
        if not self._session.watches:
            return await original(target, *args, **kwargs)
        return await self._module.watch(self._session, name, original, target, args, kwargs)

    def began(self, text: Any) -> None:
        if self._session.watches and isinstance(text, str):
            self._session.wrote_in_part(text)

    def cursor(self, made: Any) -> Any:
        return self._module.watched_cursor(made, self._session)

    def statement(self, made: Any, text: Any) -> Any:
        return self._module.watched_statement(made, text, self._session)

    async def settling(self, call: Callable[[], Awaitable[Any]]) -> Any:
        return await (self._session.settling(call) if self._session.watches else call())

    async def was_reset(self) -> None:
        told = self._session.was_reset()
        if told is not None:
            await told
