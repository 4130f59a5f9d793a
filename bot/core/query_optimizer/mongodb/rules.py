"""What the rules find in a MongoDB query (pure)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from bot.core.query_optimizer.models import Finding, QueryType
from bot.core.query_optimizer.mongodb.facts import MAX_DEPTH, Facts, as_list, conditions_in, names_in

MANY_VALUES = 1_000
"""Values in one ``$in`` that are a finding."""

_SCRIPTS = frozenset(("$where", "$function", "$accumulator"))
_NEGATIONS = frozenset(("$ne", "$nin", "$not", "$nor"))
# Stages after which few documents are left, or which choose their own.
_BOUNDS = frozenset(
    ("$limit", "$group", "$count", "$sample", "$out", "$merge", "$bucket", "$facet", "$sortByCount")
)
_STARTS = frozenset(
    ("$match", "$geoNear", "$search", "$limit", "$sample", "$collStats", "$indexStats", "$documents")
)


def findings_of(facts: Facts) -> Iterator[Finding]:
    pieces = [piece for _, condition in facts.filters for piece in conditions_in(condition)]
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
    many = [
        name for name, operator, value in pieces if operator == "$in" and len(as_list(value)) > MANY_VALUES
    ]
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
        operator == "$or" and len({name for part in as_list(value) for name in names_in(part)}) > 1
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
        wanted = names_in(condition)
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
