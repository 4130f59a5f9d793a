"""Commands as MongoDB drivers send them: what each reads, writes, and is counted as (pure)."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from bson.objectid import ObjectId
from msgspec import Struct
from msgspec.structs import replace

from bot.core.query_optimizer.models import Analysis, QueryType
from bot.core.query_optimizer.mongodb.keys import NotCacheableError
from bot.core.query_optimizer.mongodb.samples import plain_values
from bot.core.query_optimizer.mongodb.shapes import (
    EVERYTHING,
    analysis_of,
    filed_as,
    read_by_pipeline,
    reads_of,
    whole_database,
    written_by_pipeline,
)
from bot.core.query_optimizer.sql.declarations import Declaration
from bot.core.query_optimizer.sql.names import NEVER

MAX_KNOWN = 4096
"""Shapes of commands that are remembered."""

MAX_PARTS = 300
"""Names in a command whose shape is remembered; a larger one is read each time."""

HARMLESS = frozenset(
    (
        "hello isMaster ismaster ping buildInfo buildinfo saslStart saslContinue authenticate logout "
        "getnonce endSessions startSession refreshSessions killSessions killAllSessions killCursors "
        "listCollections listIndexes listDatabases listCommands collStats collstats dbStats dbstats "
        "serverStatus explain connectionStatus getLog getParameter getCmdLineOpts hostInfo validate "
        "currentOp killOp profile top "
        "whatsmyuri features replSetGetStatus replSetGetConfig isdbgrid usersInfo rolesInfo dataSize dbHash "
        "dbhash planCacheListFilters planCacheClear fsync fsyncUnlock lockInfo listShards balancerStatus "
        "getDefaultRWConcern getClusterParameter checkShardingIndex getShardMap getShardVersion analyze "
        "features logRotate setProfilingLevel availableQueryOptions listSearchIndexes"
    ).split()
)
"""Commands that neither read nor write documents, and are not counted."""

_MAINTENANCE = ("admin", "config", "local")
"""Databases whose commands may be about any other."""

_OPTIONS = tuple("filter projection sort skip limit hint collation key pipeline let min max".split())
"""Parts of a command that tell shapes apart, and executions of one shape."""

_COUNTED = {"$group": {"_id": 1, "n": {"$sum": 1}}}
"""The last stage of what the drivers send for ``count_documents``."""


Read = tuple[str, dict[str, Any], Any]
"""What ``_READERS`` find in a command."""


class Seen(Struct, frozen=True):
    """What a command means: the same for every command of its shape."""

    analysis: Analysis
    method: str
    """The driver's method."""
    is_read: bool
    written: frozenset[str] = frozenset()
    """What it writes, as filed: collections, or all of a database."""
    has_cursor: bool = False
    """Whether its time goes on in further batches."""


class Commands:
    """Reads commands; a shape that was read before is remembered. For threads, too: only whole values are
    stored, and a lost one is read again.
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, Seen] = {}
        # The same for one filter by plain values, whose names are all that its form depends on.
        self._plain: dict[Hashable, Seen] = {}

    def read(self, name: str, command: Mapping[str, Any], database: str) -> tuple[Seen | None, Any, Hashable]:
        """(what the command means; None if it is none to be counted, and changes nothing,
        what tells it apart from others of its shape, as the arguments of the driver's method; None: nothing,
        :func:`values_of` these, if they are at hand; else None)
        """
        reader = _READERS.get(name)
        if reader is None:
            return (None if name in HARMLESS else _unreadable(name, database)), None, None
        try:
            method, arguments, condition = reader(command)
            if condition is not None and (values := plain_values(condition)) is not None:
                # Most are of these: of all that the meaning depends on, this is what differs among them.
                key: tuple[Hashable, ...] = (method, command[name], database, *condition)
                seen = self._plain.get(key)
                if seen is None:
                    seen = _meaning(name, method, command, arguments, database)
                    if len(values) <= MAX_PARTS:
                        _remember(self._plain, key, seen)
                return seen, arguments if method in _TOLD_APART else None, values
            if not method:
                return None, None, None
            if name not in _REMEMBERED:
                return _meaning(name, method, command, arguments, database), None, None
            left = [MAX_PARTS]
            key = name, method, database, command[name], command.get("tailable")
            for each, value in arguments.items():
                key += each, _signature(value, left, names=each in _NAMED)
            seen = self._known.get(key) if left[0] >= 0 else None
            if seen is None:
                seen = _meaning(name, method, command, arguments, database)
                if left[0] >= 0:
                    _remember(self._known, key, seen)
        except (TypeError, ValueError, AttributeError, KeyError):  # a command that the driver let pass
            return _unreadable(name, database), None, None
        return seen, arguments if method in _TOLD_APART else None, None


def _remember(known: dict[Hashable, Seen], key: Hashable, seen: Seen) -> None:
    if len(known) >= MAX_KNOWN:
        known.clear()
    known[key] = seen


_REMEMBERED = frozenset("find aggregate count distinct insert update delete findAndModify drop".split())
"""Commands whose meaning follows from their method, their collection and the names in their arguments."""

_NAMED = frozenset(("pipeline", "sort", "projection", "hint", "key"))
"""Arguments in which strings are names of fields or collections."""

_NAMING = frozenset("from coll into db $lookup $unionWith $out $merge $count $unset path as".split())
"""Parts of a pipeline whose strings are names."""


_PLAIN = frozenset((str, int, float, bool, bytes, type(None), ObjectId, datetime.datetime))


def _signature(value: Any, left: list[int], *, names: bool) -> Hashable:
    """What the form of a command depends on: the names in it, and no value of a filter.

    ``left`` is how many parts may follow, in all; below 0 there were more. ``names`` says whether strings may
    be names of fields and collections here.
    """
    kind = value.__class__
    if kind is dict and not names and _PLAIN.issuperset(map(type, value.values())):
        left[0] -= len(value)
        return tuple(value)
    if kind is dict or isinstance(value, Mapping):
        parts: list[Hashable] = []
        left[0] -= len(value)
        if left[0] < 0:
            return None
        for name, item in value.items():
            parts.append(name)
            kind = item.__class__
            if kind is int:
                continue
            if kind is str:
                if names and name in _NAMING:
                    parts.append((item,))
            elif kind is dict or kind is list or isinstance(item, Mapping | list | tuple):
                parts.append(_signature(item, left, names=names and name != "$match"))
        return tuple(parts)
    if kind is not list and kind is not tuple:
        return (value,) if names and kind is str else None
    left[0] -= len(value)
    if left[0] < 0:
        return None
    return "[]", *[
        _signature(item, left, names=names)
        for item in value
        if isinstance(item, Mapping | list | tuple) or (names and isinstance(item, str))
    ]


# The driver's method of a command ("": not to be counted), its arguments, and the filter or document that is
# all of these; None if there is more.


def _options(command: Mapping[str, Any]) -> dict[str, Any]:
    return {name: command[name] for name in _OPTIONS if name in command}


_RARE = frozenset((*_OPTIONS, "tailable")) - {"filter", "limit"}


def _find(command: Mapping[str, Any]) -> Read:
    if _RARE.isdisjoint(command):
        limit = command.get("limit")
        is_one = limit == 1 and command.get("singleBatch")
        if is_one or limit is None:
            condition = command["filter"]
            return "find_one" if is_one else "find", {"filter": condition}, condition
    arguments = _options(command)
    if arguments.get("limit") == 1 and command.get("singleBatch"):
        del arguments["limit"]
        return "find_one", arguments, None
    return "find", arguments, None


def _aggregate(command: Mapping[str, Any]) -> Read:
    arguments = _options(command)
    stages = arguments.get("pipeline")
    if isinstance(stages, list) and stages:
        if isinstance(stages[0], Mapping) and "$changeStream" in stages[0]:
            return "", {}, None  # it waits for what others write
        if stages[-1] == _COUNTED and isinstance(stages[0], Mapping) and list(stages[0]) == ["$match"]:
            counted: dict[str, Any] = {"filter": stages[0]["$match"]}
            for stage in stages[1:-1]:
                counted |= {name.lstrip("$"): value for name, value in stage.items()}
            return "count_documents", counted, None
    return "aggregate", arguments, None


def _with_query(method: str) -> Callable[[Mapping[str, Any]], Read]:
    def read(command: Mapping[str, Any]) -> Read:
        arguments = _options(command)
        if "query" in command:
            arguments["filter"] = command["query"]
        return method, arguments, None

    return read


def _insert(command: Mapping[str, Any]) -> Read:
    documents: Any = command.get("documents") or ()
    if len(documents) != 1:
        return "insert_many", {}, None
    [document] = documents
    is_document = document.__class__ is dict or isinstance(document, Mapping)
    named = {"_id": document.get("_id") if is_document else None}
    return "insert_one", {"document": named}, named


def _update(command: Mapping[str, Any]) -> Read:
    updates: Any = command.get("updates") or ()
    if len(updates) != 1:
        return "bulk_write", {}, None
    [update] = updates
    condition = update["q"]
    if update.get("multi"):
        method = "update_many"
    else:
        method = "update_one" if _has_operators(update["u"]) else "replace_one"
    return method, {"filter": condition}, condition


def _delete(command: Mapping[str, Any]) -> Read:
    deletes: Any = command.get("deletes") or ()
    if len(deletes) != 1:
        return "bulk_write", {}, None
    [delete] = deletes
    condition = delete["q"]
    return "delete_one" if delete.get("limit") else "delete_many", {"filter": condition}, condition


def _find_and_modify(command: Mapping[str, Any]) -> Read:
    condition = command.get("query") or {}
    if command.get("remove"):
        method = "find_one_and_delete"
    else:
        is_update = _has_operators(command.get("update"))
        method = "find_one_and_update" if is_update else "find_one_and_replace"
    return method, {"filter": condition}, condition


def _has_operators(update: Any) -> bool:
    """Whether an update changes a document, instead of being the new one."""
    if update.__class__ is dict or isinstance(update, Mapping):
        return str(next(iter(update), "")).startswith("$")
    return isinstance(update, list | tuple)


def _as(method: str) -> Callable[[Mapping[str, Any]], Read]:
    return lambda command: (method, {}, None)


_READERS: dict[str, Callable[[Mapping[str, Any]], Read]] = {
    "find": _find,
    "aggregate": _aggregate,
    "count": _with_query("count"),
    "distinct": _with_query("distinct"),
    "insert": _insert,
    "update": _update,
    "delete": _delete,
    "findAndModify": _find_and_modify,
    "mapReduce": _with_query("map_reduce"),
    "bulkWrite": _as("bulk_write"),
    "create": _as("create_collection"),
    "collMod": _as("coll_mod"),
    "createIndexes": _as("create_indexes"),
    "dropIndexes": _as("drop_indexes"),
    "drop": _as("drop"),
    "renameCollection": _as("rename"),
    "dropDatabase": _as("drop_database"),
}

_TOLD_APART = frozenset(
    (
        "find find_one aggregate count count_documents distinct insert_one update_one replace_one delete_one "
        "find_one_and_update find_one_and_replace find_one_and_delete"
    ).split()
)
"""Methods whose repetition with other values is an N+1 pattern."""


# What a command means.


def _meaning(
    name: str, method: str, command: Mapping[str, Any], arguments: Mapping[str, Any], database: str
) -> Seen:
    collection = command[name]
    if name in ("find", "count", "distinct") or (name == "aggregate" and collection == 1):
        return _read(name, method, command, arguments, database)
    if name == "aggregate":
        written = written_by_pipeline(command.get("pipeline"), database)
        if not written:
            return _read(name, method, command, arguments, database)
    elif name == "mapReduce":
        written = _map_reduced(command.get("out"), database)
        if not written:
            return _read(name, method, command, arguments, database)
    elif name == "bulkWrite":
        written = frozenset(_namespace(each["ns"]) for each in command["nsInfo"])
    elif name == "renameCollection":
        written = frozenset((_namespace(collection), _namespace(command["to"])))
    elif name == "dropDatabase":
        written = frozenset((whole_database(database),))
    else:
        written = frozenset((_named(database, collection),))
    if name in ("renameCollection", "bulkWrite", "dropDatabase"):
        collection = ""
    analysis = analysis_of(method, database, collection, arguments, writes=written)
    if name in ("create", "collMod", "createIndexes", "dropIndexes"):
        declares = tuple(_declared(name, command, database))
        analysis = replace(analysis, query_type=QueryType.DDL, declares=declares)
    return Seen(analysis, method, is_read=False, written=written)


def _read(
    name: str, method: str, command: Mapping[str, Any], arguments: Mapping[str, Any], database: str
) -> Seen:
    collection = command[name] if isinstance(command[name], str) else "$cmd"
    why_not, reads = "", reads_of(database, collection)
    if name == "aggregate":
        try:
            reads |= read_by_pipeline(command.get("pipeline"), database)
        except NotCacheableError as error:
            why_not = str(error)
    analysis = analysis_of(method, database, collection, arguments, reads=reads, not_cacheable=why_not)
    has_cursor = name in ("find", "aggregate") and not command.get("tailable")
    return Seen(analysis, method, is_read=True, has_cursor=has_cursor)


def _named(database: str, collection: Any) -> str:
    return filed_as(database, collection) if isinstance(collection, str) else whole_database(database)


def _namespace(name: str) -> str:
    database, _, collection = name.partition(".")
    return filed_as(database, collection)


def _map_reduced(out: Any, database: str) -> frozenset[str]:
    if isinstance(out, str):
        return frozenset((filed_as(database, out),))
    if not isinstance(out, Mapping) or "inline" in out:
        return frozenset()
    for how in ("replace", "merge", "reduce"):
        if how in out:
            return frozenset((filed_as(str(out.get("db") or database), str(out[how])),))
    return frozenset((EVERYTHING,))


def _declared(name: str, command: Mapping[str, Any], database: str) -> list[Declaration]:
    """What a definition says: a view, or a collection whose documents go without a write."""
    filed = _named(database, command[name])
    if isinstance(command.get("viewOn"), str):
        try:
            behind = read_by_pipeline(command.get("pipeline") or [], database)
            behind |= {filed_as(database, command["viewOn"])}
        except NotCacheableError:
            behind = frozenset((NEVER,))
        return [Declaration("view", filed, behind)]
    parts = [command, *(command.get("indexes") or ()), command.get("index") or {}]
    if command.get("capped") or any(
        isinstance(each, Mapping) and "expireAfterSeconds" in each for each in parts
    ):
        return [Declaration("view", filed, frozenset((NEVER,)))]
    return []


def _unreadable(name: str, database: str) -> Seen:
    """A command that may have written anything in its database."""
    written = frozenset((EVERYTHING if database in _MAINTENANCE else whole_database(database),))
    known = name[:60] if name.isidentifier() else "?"
    analysis = analysis_of(f"command_{known}", database, "", {}, writes=written)
    analysis = replace(analysis, query_type=QueryType.OTHER)
    return Seen(analysis, "command", is_read=False, written=written)
