"""What a MongoDB filter, pipeline or command asks for (pure)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bot.core._shared.errors import invalid
from bot.core.query_optimizer.models import QueryType

MAX_DEPTH = 100
"""Levels beyond which a document is not followed; MongoDB's own limit of nesting."""

MAX_CONTAINERS = 100_000

_COMMANDS = {
    "find": QueryType.FIND,
    "count": QueryType.FIND,
    "distinct": QueryType.FIND,
    "aggregate": QueryType.AGGREGATE,
    "insert": QueryType.INSERT,
    "update": QueryType.UPDATE,
    "delete": QueryType.DELETE,
    "findAndModify": QueryType.UPDATE,
}


@dataclass
class Facts:
    kind: QueryType
    collection: str = "collection"
    filters: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    """(stage, condition); an index of the collection could serve the first."""
    stages: list[tuple[str, Any]] = field(default_factory=list)
    sort: list[tuple[str, int]] = field(default_factory=list)
    limit: int | None = None
    skip: int = 0
    options_known: bool = False
    """Whether a missing limit or projection means that there is none."""
    projected: bool = False
    every_document: bool = False
    """A write to all documents that match."""
    reads: set[str] = field(default_factory=set)
    writes: set[str] = field(default_factory=set)


def check_parts(query: Any) -> None:
    """Raise InvalidArgumentError for too many documents and arrays, each counted wherever it stands."""
    waiting = [query]
    left = MAX_CONTAINERS
    while waiting:
        one = waiting.pop()
        left -= 1
        if left < 0:
            expected = f"at most {MAX_CONTAINERS:,} documents and arrays, none of which contains itself"
            raise invalid("query", query, expected)
        parts = one.values() if isinstance(one, Mapping) else one
        waiting += [part for part in parts if isinstance(part, Mapping | list | tuple)]


def facts_of(query: Any, options: Mapping[str, Any]) -> Facts:
    if not isinstance(query, Mapping):
        return _pipeline(query, _named(options.get("collection")))
    command = next(iter(query), None)
    if command in _COMMANDS and isinstance(query[command], str):
        return _command(command, query)
    facts = Facts(QueryType.FIND, _named(options.get("collection")), [("filter", query)])
    facts.reads.add(facts.collection)
    _take_options(facts, options)
    facts.options_known = bool(options.keys() & {"sort", "limit", "skip", "projection"})
    return facts


def _named(name: Any) -> str:
    return name if isinstance(name, str) and name else "collection"


def _command(command: str, query: Mapping[str, Any]) -> Facts:
    collection = _named(query[command])
    if command == "aggregate":
        return _pipeline(query.get("pipeline"), collection)
    facts = Facts(_COMMANDS[command], collection)
    condition = query.get("filter", query.get("query", {}))
    if command in ("update", "delete"):
        for item in as_list(query.get("updates" if command == "update" else "deletes")):
            if isinstance(item, Mapping):
                condition = item.get("q")
                facts.filters.append(("filter", condition if isinstance(condition, Mapping) else {}))
                every = item.get("multi") if command == "update" else item.get("limit") == 0
                facts.every_document = facts.every_document or (bool(every) and not condition)
    elif command != "insert" and isinstance(condition, Mapping):
        facts.filters.append(("filter", condition))
    (
        facts.writes if facts.kind in (QueryType.INSERT, QueryType.UPDATE, QueryType.DELETE) else facts.reads
    ).add(collection)
    _take_options(facts, query)
    facts.options_known = command == "find"
    return facts


def _take_options(facts: Facts, options: Mapping[str, Any]) -> None:
    facts.sort = _sort(options.get("sort"))
    limit, skip = options.get("limit"), options.get("skip")
    facts.limit = limit if isinstance(limit, int) and limit else None
    facts.skip = skip if isinstance(skip, int) else 0
    facts.projected = bool(options.get("projection"))


def _sort(given: Any) -> list[tuple[str, int]]:
    items: Any = given.items() if isinstance(given, Mapping) else as_list(given)
    return [
        (str(i[0]), -1 if i[1] == -1 else 1) for i in items if isinstance(i, tuple | list) and len(i) == 2
    ]


def as_list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


def _pipeline(stages: Any, collection: str) -> Facts:
    facts = Facts(QueryType.AGGREGATE, collection)
    facts.reads.add(collection)
    queue = [(stages, 0)]  # pipelines with their depth
    while queue:
        inner, depth = queue.pop()
        for stage in as_list(inner):
            if not isinstance(stage, Mapping) or len(stage) != 1:
                continue
            name, body = next(iter(stage.items()))
            if depth == 0:
                facts.stages.append((str(name), body))
            take = _STAGES.get(str(name))
            if take is not None:
                pipelines = take(facts, body)
                queue += [(each, depth + 1) for each in pipelines if depth < MAX_DEPTH]
    # A $sort can use an index only where nothing before it changed the documents.
    for name, body in facts.stages:
        if name == "$sort":
            facts.sort = _sort(body)
        if name not in ("$match", "$limit"):
            break
    return facts


# One function for each kind of stage: it notes the stage, and returns the pipelines within it.


def _match(facts: Facts, body: Any) -> Sequence[Any]:
    if isinstance(body, Mapping):
        facts.filters.append(("$match", body))
    return ()


def _read_from(facts: Facts, body: Any) -> Sequence[Any]:
    """$lookup, $graphLookup and $unionWith."""
    source = body.get("from", body.get("coll")) if isinstance(body, Mapping) else body
    if isinstance(source, str):
        facts.reads.add(source)
    return (body.get("pipeline"),) if isinstance(body, Mapping) else ()


def _write_to(facts: Facts, body: Any) -> Sequence[Any]:
    """$out and $merge: a name, or a document that names the collection, perhaps within a database."""
    target = body.get("into", body.get("coll")) if isinstance(body, Mapping) else body
    if isinstance(target, Mapping):
        target = target.get("coll")
    facts.writes.add(_named(target))
    return ()


def _facet(facts: Facts, body: Any) -> Sequence[Any]:
    return tuple(body.values()) if isinstance(body, Mapping) else ()


_STAGES: dict[str, Callable[[Facts, Any], Sequence[Any]]] = {
    "$match": _match,
    "$lookup": _read_from,
    "$graphLookup": _read_from,
    "$unionWith": _read_from,
    "$out": _write_to,
    "$merge": _write_to,
    "$facet": _facet,
}


def conditions_in(condition: Any, depth: int = 0) -> Iterator[tuple[str, str, Any]]:
    """(field, operator, value) of every comparison; "$eq" for a plain value."""
    if not isinstance(condition, Mapping) or depth > MAX_DEPTH:
        return
    for name, value in condition.items():
        name = str(name)
        if name in ("$and", "$or", "$nor"):
            yield "", name, value
            for part in as_list(value):
                yield from conditions_in(part, depth + 1)
        elif name.startswith("$"):
            yield "", name, value
        elif isinstance(value, Mapping) and value and all(str(key).startswith("$") for key in value):
            for operator, operand in value.items():
                yield name, str(operator), operand
                if operator == "$not" and isinstance(operand, Mapping):
                    yield from ((name, str(key), item) for key, item in operand.items())
                elif operator == "$elemMatch" and isinstance(operand, Mapping):
                    yield from _conditions_on_element(name, operand, depth + 1)
        else:
            yield name, "$regex" if is_pattern(value) else "$eq", value


def _conditions_on_element(
    name: str, operand: Mapping[str, Any], depth: int
) -> Iterator[tuple[str, str, Any]]:
    """The conditions of $elemMatch: on the fields of an array's documents, or on its values themselves."""
    if operand and all(str(key).startswith("$") for key in operand) and not _CONNECTORS & operand.keys():
        yield from conditions_in({name: operand}, depth)
        return
    for field_name, operator, value in conditions_in(operand, depth):
        yield f"{name}.{field_name}" if field_name else "", operator, value


_CONNECTORS = frozenset(("$and", "$or", "$nor"))


def is_pattern(value: Any) -> bool:
    """Whether it is a regular expression of Python or of bson."""
    return isinstance(value, re.Pattern) or (hasattr(value, "pattern") and hasattr(value, "flags"))


def names_in(condition: Any) -> list[str]:
    return list(dict.fromkeys(name for name, _, _ in conditions_in(condition) if name))
