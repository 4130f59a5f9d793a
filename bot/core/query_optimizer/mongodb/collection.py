"""A collection of a MongoDB driver whose reads are answered from the cache."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

from bot.core._shared.errors import invalid
from bot.core.query_optimizer.mongodb.cursors import CachedAggregation, CachedCursor
from bot.core.query_optimizer.mongodb.results import CollectionResults, MongoResults
from bot.core.query_optimizer.mongodb.sessions import session_in
from bot.core.query_optimizer.mongodb.shapes import filed_as

_FIND = ("filter", "projection", "skip", "limit", "no_cursor_timeout", "cursor_type", "sort")
_POSITIONS = {
    "find": _FIND,
    "find_one": _FIND,
    "count_documents": ("filter", "session", "comment"),
    "distinct": ("key", "filter", "session", "comment", "hint"),
    "aggregate": ("pipeline", "session", "let", "comment"),
}
_WRITES = frozenset(
    (
        "insert_one insert_many update_one update_many replace_one delete_one delete_many bulk_write "
        "find_one_and_update find_one_and_replace find_one_and_delete drop rename"
    ).split()
)
_WITHOUT_FILTER = frozenset(("insert_one", "insert_many", "bulk_write", "drop", "rename"))


def cached(
    shared: MongoResults,
    driver: Any,
    ttl: float | None,
    view_of: Collection[str],
    change_streams: bool | None,
) -> CachedCollection:
    """Raises InvalidArgumentError for what is no async collection, or no names."""
    if type(driver) is CachedCollection and driver._results.shared is shared:
        driver = driver._driver  # wrapped already: each read is counted once
    if not (hasattr(type(driver), "count_documents") and hasattr(type(driver), "find_one")):
        raise invalid("collection", driver, "a collection of PyMongo's AsyncMongoClient or of motor")
    is_async = asyncio.iscoroutinefunction(driver.find_one) or type(driver).__module__.startswith("motor.")
    if not is_async:
        raise invalid("collection", type(driver), "a collection of PyMongo's AsyncMongoClient or of motor")
    if isinstance(view_of, str) or not all(isinstance(name, str) and name for name in view_of):
        raise invalid("view_of", view_of, "a list of names of collections")
    if change_streams is not None and not isinstance(change_streams, bool):
        raise invalid("change_streams", change_streams, "True, False or None")
    results = CollectionResults(shared, driver, ttl, change_streams=change_streams)
    if view_of:
        shared.declare_view(results.filed, frozenset(filed_as(results.database, name) for name in view_of))
    return CachedCollection(results)


class CachedCollection:
    """A collection whose reads are answered from the cache, and whose writes drop what read it.

    ``find_one``, ``find(...).to_list()``, ``count_documents``, ``distinct`` and
    ``aggregate(...).to_list()`` are kept; everything else is the driver's own.
    """

    __slots__ = ("_driver", "_results")

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """The driver's class: GridFS and mappers of documents look for it."""
        return type(self._driver)

    def __init__(self, results: CollectionResults) -> None:
        self._results = results
        self._driver = results.driver

    async def find_one(self, *args: Any, **options: Any) -> Any:
        arguments = self._named("find_one", args, options)
        driver = self._driver
        return await self._results.answer("find_one", arguments, lambda: driver.find_one(*args, **options))

    async def count_documents(self, *args: Any, **options: Any) -> Any:
        arguments = self._named("count_documents", args, options)
        driver = self._driver
        return await self._results.answer(
            "count_documents", arguments, lambda: driver.count_documents(*args, **options)
        )

    async def distinct(self, *args: Any, **options: Any) -> Any:
        arguments = self._named("distinct", args, options)
        driver = self._driver
        return await self._results.answer("distinct", arguments, lambda: driver.distinct(*args, **options))

    def find(self, *args: Any, **options: Any) -> CachedCursor:
        cursor = self._driver.find(*args, **options)
        return CachedCursor(self._results, cursor, self._named("find", args, options))

    def aggregate(self, *args: Any, **options: Any) -> CachedAggregation:
        """The cursor of a pipeline: ``await`` it as in PyMongo, or use it at once as in motor.

        A pipeline whose result may be kept runs when it is first read from.
        """
        driver = self._driver
        arguments = self._named("aggregate", args, options)
        return CachedAggregation(self._results, lambda: driver.aggregate(*args, **options), arguments)

    def _named(self, method: str, args: tuple[Any, ...], options: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a read by name; those whose name is unknown as ``?``, which is never cached."""
        names = _POSITIONS[method]
        arguments: dict[str, Any] = dict(zip(names, args, strict=False))
        if len(args) > len(names):
            arguments["?"] = args[len(names) :]
        arguments.update(options)
        session = session_in(args, options, self._results.client)
        if session is not None:
            arguments["session"] = session
        return arguments

    def _writer(self, method: str) -> Callable[..., Awaitable[Any]]:
        operation = getattr(self._driver, method)
        results = self._results

        async def write(*args: Any, **options: Any) -> Any:
            names = {results.filed}
            arguments = {}
            if method not in _WITHOUT_FILTER:
                arguments["filter"] = args[0] if args else options.get("filter")
            if method == "rename":
                new = args[0] if args else options.get("new_name")
                names.add(filed_as(results.database, str(new)))
            session = session_in(args, options, results.client)
            return await results.write(
                method, lambda: operation(*args, **options), frozenset(names), session, arguments
            )

        return write

    def with_options(self, *args: Any, **options: Any) -> CachedCollection:
        return CachedCollection(self._results.of(self._driver.with_options(*args, **options)))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("_driver", "_results"):
            raise AttributeError(name)
        if name in _WRITES:
            return self._writer(name)
        found = getattr(self._driver, name)
        # A collection within the name of another: db.shop.orders.
        return CachedCollection(self._results.of(found)) if type(found) is type(self._driver) else found

    def __getitem__(self, name: str) -> CachedCollection:
        return CachedCollection(self._results.of(self._driver[name]))

    def __eq__(self, other: object) -> bool:
        return bool(self._driver == (other._driver if type(other) is CachedCollection else other))

    def __hash__(self) -> int:
        return hash(self._results.filed)

    def __repr__(self) -> str:
        return f"CachedCollection({self._driver!r})"
