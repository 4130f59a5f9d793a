"""What MongoDB filters, pipelines and commands mean, as dicts and lists, and advice on them (pure).

Indexes are suggested in MongoDB's order: equality, then sort, then range (ESR). Nothing is executed;
values never show up in a fingerprint, a shape or a finding.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from bot.core.query_optimizer.models import Advice, Analysis, Finding, IndexSuggestion, QueryType

MAX_DEPTH = 100
"""Levels beyond which a document is not followed; MongoDB's own limit of nesting."""

MANY_VALUES = 1_000
"""Values in one ``$in`` that are a finding."""

_RANGES = frozenset(("$gt", "$gte", "$lt", "$lte", "$regex", "$type"))
_SCRIPTS = frozenset(("$where", "$function", "$accumulator"))
_NEGATIONS = frozenset(("$ne", "$nin", "$not", "$nor"))
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
# Stages after which few documents are left, or which choose their own.
_BOUNDS = frozenset(
    ("$limit", "$group", "$count", "$sample", "$out", "$merge", "$bucket", "$facet", "$sortByCount")
)
_STARTS = frozenset(
    ("$match", "$geoNear", "$search", "$limit", "$sample", "$collStats", "$indexStats", "$documents")
)


@dataclass
class _Facts:
    kind: QueryType
    collection: str = "collection"
    filters: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    """(stage, condition); the first is what an index of the collection could serve."""
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


def advise_mongo(query: Mapping[str, Any] | Sequence[Any], options: Any = None) -> Advice:
    """Type, fingerprint, collections, fields per stage, indexes and findings of a MongoDB query.

    ``query`` is a filter, a pipeline, or a command as the server takes it (``{"find": "users",
    "filter": {...}}``); ``options`` of the first two may be a dict with ``collection``, ``sort``,
    ``limit``, ``skip`` and ``projection``. Any document gets an answer.
    """
    facts = _facts(query, options if isinstance(options, Mapping) else {})
    shape = json.dumps(
        [facts.kind.value, facts.collection, _shape(query, 0), [name for name, _ in facts.sort]]
    )
    findings = list(_findings(facts))
    indexes = list(_indexes(facts))
    columns = {
        stage: tuple(
            dict.fromkeys(
                name for at, condition in facts.filters if at == stage for name in _names(condition)
            )
        )
        for stage in dict.fromkeys(at for at, _ in facts.filters)
    }
    for stage, body in facts.stages:
        names = (
            tuple(str(name) for name in body)
            if isinstance(body, Mapping) and stage in ("$group", "$project", "$set", "$addFields")
            else ()
        )
        if names:
            columns[stage] = tuple(dict.fromkeys((*columns.get(stage, ()), *names)))
    if facts.sort:
        columns["sort"] = tuple(name for name, _ in facts.sort)
    analysis = Analysis(
        query_type=facts.kind,
        fingerprint=hashlib.blake2b(shape.encode("utf-8", "replace"), digest_size=8).hexdigest(),
        normal_form=shape[:2000],
        reads=frozenset(facts.reads),
        writes=frozenset(facts.writes),
        writes_anything=False,
        not_cacheable="MongoDB documents are analysed, not executed, by the optimizer",
    )
    return Advice(
        query=query,
        analysis=analysis,
        optimized_query=query,
        findings=tuple(findings),
        recommendations=tuple(map(str, findings)),
        index_suggestions=tuple(indexes),
        columns=columns,
    )


def _facts(query: Any, options: Mapping[str, Any]) -> _Facts:
    if not isinstance(query, Mapping):
        return _pipeline(query, _named(options.get("collection")))
    command = next(iter(query), None)
    if command in _COMMANDS and isinstance(query[command], str):
        return _command(command, query)
    facts = _Facts(QueryType.FIND, _named(options.get("collection")), [("filter", query)])
    facts.reads.add(facts.collection)
    _take_options(facts, options)
    facts.options_known = bool(options.keys() & {"sort", "limit", "skip", "projection"})
    return facts


def _named(name: Any) -> str:
    return name if isinstance(name, str) and name else "collection"


def _command(command: str, query: Mapping[str, Any]) -> _Facts:
    collection = _named(query[command])
    if command == "aggregate":
        return _pipeline(query.get("pipeline"), collection)
    facts = _Facts(_COMMANDS[command], collection)
    condition = query.get("filter", query.get("query", {}))
    if command in ("update", "delete"):
        for item in _list(query.get("updates" if command == "update" else "deletes")):
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


def _take_options(facts: _Facts, options: Mapping[str, Any]) -> None:
    facts.sort = _sort(options.get("sort"))
    limit, skip = options.get("limit"), options.get("skip")
    facts.limit = limit if isinstance(limit, int) and limit else None
    facts.skip = skip if isinstance(skip, int) else 0
    facts.projected = bool(options.get("projection"))


def _sort(given: Any) -> list[tuple[str, int]]:
    items: Any = given.items() if isinstance(given, Mapping) else _list(given)
    return [
        (str(i[0]), -1 if i[1] == -1 else 1) for i in items if isinstance(i, tuple | list) and len(i) == 2
    ]


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


def _pipeline(stages: Any, collection: str) -> _Facts:
    facts = _Facts(QueryType.AGGREGATE, collection)
    facts.reads.add(collection)
    queue = [(stages, 0)]
    while queue:
        inner, depth = queue.pop()
        for stage in _list(inner):
            if not isinstance(stage, Mapping) or len(stage) != 1:
                continue
            name, body = next(iter(stage.items()))
            name = str(name)
            if depth == 0:
                facts.stages.append((name, body))
            if name == "$match" and isinstance(body, Mapping):
                facts.filters.append(("$match", body))
            elif name in ("$lookup", "$graphLookup", "$unionWith"):
                source = (
                    body
                    if isinstance(body, str)
                    else body.get("from", body.get("coll"))
                    if isinstance(body, Mapping)
                    else None
                )
                if isinstance(source, str):
                    facts.reads.add(source)
                if isinstance(body, Mapping) and depth < MAX_DEPTH:
                    queue.append((body.get("pipeline"), depth + 1))
            elif name in ("$out", "$merge"):
                target = (
                    body
                    if isinstance(body, str)
                    else (body.get("into", body.get("coll")) if isinstance(body, Mapping) else None)
                )
                if isinstance(target, Mapping):
                    target = target.get("coll")
                facts.writes.add(_named(target))
            elif name == "$facet" and isinstance(body, Mapping) and depth < MAX_DEPTH:
                queue += [(part, depth + 1) for part in body.values()]
    # A $sort can use an index only where nothing before it changed the documents.
    for name, body in facts.stages:
        if name == "$sort":
            facts.sort = _sort(body)
        if name not in ("$match", "$limit"):
            break
    return facts


def _shape(value: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        return "..."
    if isinstance(value, Mapping):
        items = [(str(name), _shape(item, depth + 1)) for name, item in value.items()]
        return dict(sorted(items) if depth else items)
    if isinstance(value, list | tuple):
        if not any(isinstance(item, Mapping | list | tuple) for item in value):
            return ["?"]
        return [_shape(item, depth + 1) for item in value]
    return "?"


def _conditions(condition: Any, depth: int = 0) -> Iterator[tuple[str, str, Any]]:
    """(field, operator, value) of every comparison; "$eq" for a plain value."""
    if not isinstance(condition, Mapping) or depth > MAX_DEPTH:
        return
    for name, value in condition.items():
        name = str(name)
        if name in ("$and", "$or", "$nor"):
            yield "", name, value
            for part in _list(value):
                yield from _conditions(part, depth + 1)
        elif name.startswith("$"):
            yield "", name, value
        elif isinstance(value, Mapping) and value and all(str(key).startswith("$") for key in value):
            for operator, operand in value.items():
                yield name, str(operator), operand
                if operator == "$not" and isinstance(operand, Mapping):
                    yield from ((name, str(key), item) for key, item in operand.items())
        else:
            yield name, "$regex" if isinstance(value, re.Pattern) else "$eq", value


def _names(condition: Any) -> list[str]:
    return list(dict.fromkeys(name for name, _, _ in _conditions(condition) if name))


def _branches(condition: Mapping[str, Any]) -> list[dict[str, list[str]]]:
    """By which fields an index would be used: one set of {field: operators} for each branch of an $or."""
    common: dict[str, list[str]] = {}
    branches: list[dict[str, list[str]]] = []
    queue: list[Any] = [condition]
    for part in queue:
        if not isinstance(part, Mapping) or len(queue) > 1000:
            continue
        for name, value in part.items():
            if name == "$and":
                queue += _list(value)
            elif name == "$or":
                for item in _list(value):
                    found: dict[str, list[str]] = {}
                    for key, operator, _ in _conditions(item):
                        if key:
                            found.setdefault(key, []).append(operator)
                    branches.append(found)
            elif not str(name).startswith("$"):
                for key, operator, _ in _conditions({name: value}):
                    common.setdefault(key, []).append(operator)
    return [{**common, **branch} for branch in branches] or [common]


def _indexes(facts: _Facts) -> Iterator[IndexSuggestion]:
    if facts.kind is QueryType.AGGREGATE and (
        not facts.stages or facts.stages[0][0] not in ("$match", "$sort")
    ):
        return
    condition = (
        facts.filters[0][1] if facts.filters and (not facts.stages or facts.stages[0][0] == "$match") else {}
    )
    seen: set[tuple[str, ...]] = set()
    for branch in _branches(condition):
        equal = [name for name, ops in branch.items() if set(ops) & {"$eq", "$in", "$all", "$elemMatch"}]
        ranged = [name for name, ops in branch.items() if name not in equal and set(ops) & _RANGES]
        if "_id" in equal:
            continue  # _id has its index, and one document is left
        order = [(name, 1) for name in equal]
        order += [(name, way) for name, way in facts.sort if name not in equal]
        known = {name for name, _ in order}
        order += [(name, 1) for name in ranged if name not in known]
        names = tuple(name for name, _ in order)
        if not names or names == ("_id",) or names in seen:
            continue
        seen.add(names)
        keys = ", ".join(f"{json.dumps(name)}: {way}" for name, way in order)
        target = (
            facts.collection
            if re.fullmatch(r"\w+", facts.collection)
            else f"getCollection({json.dumps(facts.collection)})"
        )
        yield IndexSuggestion(
            table=facts.collection,
            columns=names,
            ddl=f"db.{target}.createIndex({{ {keys} }})",
            reason="equality, then sort, then range: found in order, and none is read in vain",
        )


def _findings(facts: _Facts) -> Iterator[Finding]:
    pieces = [piece for _, condition in facts.filters for piece in _conditions(condition)]
    operators = {operator for _, operator, _ in pieces} | {name for name, _ in facts.stages}

    def fields(*wanted: str) -> str:
        return ", ".join(
            dict.fromkeys(name or operator for name, operator, _ in pieces if operator in wanted)
        )

    if operators & _SCRIPTS or _has_script(facts.stages):
        yield Finding(
            "M001",
            "javascript",
            "error",
            "JavaScript runs for every document ($where, $function).",
            "Use query operators or $expr.",
        )
    loose = [name for name, operator, value in pieces if operator == "$regex" and not _anchored(value)]
    if loose or any(operator == "$options" and "i" in str(value) for _, operator, value in pieces):
        yield Finding(
            "M002",
            "unanchored_regex",
            "warning",
            f"The pattern on {', '.join(loose) or fields('$options')} cannot use an index's order.",
            "Anchor it with ^ and case, keep a lower-case copy of the field, or use a text index.",
        )
    if operators & _NEGATIONS:
        yield Finding(
            "M003",
            "negation",
            "info",
            f"{fields(*_NEGATIONS)}: what is not equal is found by reading nearly all.",
            "Ask for the values that are wanted, with $in.",
        )
    skip = facts.skip or next((body for name, body in facts.stages if name == "$skip"), 0)
    if isinstance(skip, int) and skip > 0:
        yield Finding(
            "M004",
            "skip_paging",
            "warning",
            "skip reads and throws away every document before the page.",
            "Continue after the last key seen: {field: {$gt: last}} with the same sort.",
        )
    names = [name for name, _ in facts.stages]
    by_id = any(name == "_id" and operator in ("$eq", "$in") for name, operator, _ in pieces)
    bounded = facts.limit is not None or by_id or bool(_BOUNDS & set(names))
    if not bounded and (facts.options_known or (facts.kind is QueryType.AGGREGATE and facts.stages)):
        yield Finding(
            "M005",
            "unbounded_result",
            "warning",
            "Nothing bounds how many documents come back.",
            "Give a limit.",
        )
    for stage in _late(facts.stages):
        yield Finding(
            "M006",
            "late_match",
            "warning",
            f"A $match after {stage} asks for fields known before it.",
            f"Move it before {stage}, so that fewer documents pass through.",
        )
    empty = all(not condition for _, condition in facts.filters)
    if facts.kind is QueryType.AGGREGATE:
        scans = bool(names) and (names[0] not in _STARTS or (names[0] == "$match" and not facts.stages[0][1]))
    else:
        scans = facts.kind is QueryType.FIND and empty and facts.limit is None
    if scans:
        yield Finding(
            "M007",
            "collection_scan",
            "warning",
            "Every document of the collection is read.",
            "Begin with a condition on an indexed field, or with a limit.",
        )
    if "$lookup" in names and not {"$match", "$limit", "$group"} & set(names[: names.index("$lookup")]):
        yield Finding(
            "M008",
            "lookup_of_everything",
            "warning",
            "$lookup runs once for every document of the collection.",
            "Put $match or $limit before it.",
        )
    if "$sort" in names and "$limit" not in names and not facts.sort:
        yield Finding(
            "M009",
            "sort_in_memory",
            "warning",
            "A $sort without index and $limit holds all in memory (100 MB at most).",
            "Sort before the documents are changed, or add $limit after it.",
        )
    many = [name for name, operator, value in pieces if operator == "$in" and len(_list(value)) > MANY_VALUES]
    if many:
        yield Finding(
            "M010",
            "many_values",
            "warning",
            f"$in of more than {MANY_VALUES:,} values on {', '.join(many)}.",
            "Ask in portions, or join with $lookup.",
        )
    if any(operator == "$exists" and not value for _, operator, value in pieces):
        yield Finding(
            "M011",
            "exists_false",
            "info",
            "$exists: false finds what a sparse index leaves out.",
            "Store null and compare with it, or use a partial index.",
        )
    if any(
        operator == "$or" and len({name for part in _list(value) for name in _names(part)}) > 1
        for _, operator, value in pieces
    ):
        yield Finding(
            "M012",
            "or_of_fields",
            "info",
            "$or over several fields scans if only one of them has no index.",
            "Give each branch its index.",
        )
    if any(
        operator in ("$in", "$or") and isinstance(value, list | tuple) and not value
        for _, operator, value in pieces
    ):
        yield Finding(
            "M013",
            "never_true",
            "warning",
            "An empty list of alternatives matches nothing.",
            "Do not send the query.",
        )
    if facts.every_document:
        yield Finding(
            "M014",
            "write_without_filter",
            "error",
            "Every document of the collection is written.",
            "Give a filter.",
        )
    if "$size" in operators:
        yield Finding(
            "M015",
            "size_of_array",
            "info",
            f"$size on {fields('$size')} cannot use an index.",
            "Keep the number in a field of its own.",
        )
    if facts.options_known and not facts.projected:
        yield Finding(
            "M016",
            "whole_documents",
            "info",
            "Whole documents are fetched.",
            "Name the fields that are used in a projection.",
        )


def _has_script(value: Any) -> bool:
    queue = [(value, 0)]
    while queue:
        item, depth = queue.pop()
        if depth > MAX_DEPTH:
            continue
        if isinstance(item, Mapping):
            if not _SCRIPTS.isdisjoint(item):
                return True
            queue += [(part, depth + 1) for part in item.values()]
        elif isinstance(item, list | tuple):
            queue += [(part, depth + 1) for part in item if isinstance(part, Mapping | list | tuple)]
    return False


def _anchored(value: Any) -> bool:
    if isinstance(value, re.Pattern):
        return not value.flags & re.IGNORECASE and str(value.pattern).startswith("^")
    pattern = getattr(value, "pattern", value)  # bson's Regex
    return str(pattern).startswith("^")


def _late(stages: list[tuple[str, Any]]) -> Iterator[str]:
    """Stages right after which a $match stands that could stand before them."""
    for (name, body), (following, condition) in pairwise(stages):
        if following != "$match" or not isinstance(condition, Mapping):
            continue
        wanted = _names(condition)
        if not wanted or any(str(key).startswith("$") for key in condition):
            continue
        if name == "$sort":
            yield name
        elif name == "$unwind":
            path = body.get("path") if isinstance(body, Mapping) else body
            index = body.get("includeArrayIndex") if isinstance(body, Mapping) else None
            made = {str(path).lstrip("$"), str(index)}
            if not any(_within(field, made) for field in wanted):
                yield name
        elif name == "$lookup" and isinstance(body, Mapping):
            if not any(_within(field, {str(body.get("as"))}) for field in wanted):
                yield name
        elif name == "$group" and all(_within(field, {"_id"}) for field in wanted):
            yield name


def _within(field_name: str, paths: set[str]) -> bool:
    return any(field_name == path or field_name.startswith(f"{path}.") for path in paths)
