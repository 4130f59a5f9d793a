"""What the rules find in a MongoDB query (pure)."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import pairwise
from typing import Any

from bot.core.query_optimizer.advice.rules.registry import Remark, Rule, register
from bot.core.query_optimizer.models import Finding, QueryType, Severity
from bot.core.query_optimizer.mongodb.facts import (
    MAX_DEPTH,
    Facts,
    as_list,
    conditions_in,
    is_pattern,
    names_in,
)

MANY_VALUES = 1_000
"""Values in one ``$in`` from which there is a finding."""

_SCRIPTS = frozenset(("$where", "$function", "$accumulator"))
_NEGATIONS = frozenset(("$ne", "$nin", "$not", "$nor"))
# Stages after which few documents are left, or which select documents themselves.
_BOUNDS = frozenset(
    ("$limit", "$group", "$count", "$sample", "$out", "$merge", "$bucket", "$facet", "$sortByCount")
)
_STARTS = frozenset(
    ("$match", "$geoNear", "$search", "$limit", "$sample", "$collStats", "$indexStats", "$documents")
)


class Query:
    """A query as the rules see it."""

    __slots__ = ("conditions", "facts", "operators", "stages")

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.conditions = [each for _, condition in facts.filters for each in conditions_in(condition)]
        """(field, operator, value)"""
        self.stages = [name for name, _ in facts.stages]
        self.operators = {operator for _, operator, _ in self.conditions} | set(self.stages)
        """Those of conditions, and the stages."""

    def fields_with(self, operators: Collection[str]) -> str:
        """The fields that are compared by one of these, listed."""
        named = [name or operator for name, operator, _ in self.conditions if operator in operators]
        return ", ".join(dict.fromkeys(named))


Check = Callable[[Query], Iterator[Remark]]

_CHECKS: list[tuple[Rule, Check]] = []


def rule(code: str, name: str, severity: Severity) -> Callable[[Check], Check]:
    known = register(code, name, severity)

    def decorated(check: Check) -> Check:
        _CHECKS.append((known, check))
        return check

    return decorated


def findings_of(facts: Facts) -> Iterator[Finding]:
    """What the rules find, in the order of their codes."""
    query = Query(facts)
    for known, check in _CHECKS:
        for remark in check(query):
            yield known.finding(remark)


@rule("M001", "javascript", "error")
def _javascript(query: Query) -> Iterator[Remark]:
    if query.operators & _SCRIPTS or _has_script(query.facts.stages):
        yield "JavaScript runs for every document ($where, $function).", "Use query operators or $expr."


@rule("M002", "unanchored_regex", "warning")
def _unanchored_regex(query: Query) -> Iterator[Remark]:
    loose = [
        name
        for name, operator, value in query.conditions
        if (operator == "$regex" and not _anchored(value))
        or (operator in ("$in", "$all") and not all(_anchored(v) for v in as_list(value) if is_pattern(v)))
    ]
    if loose or any(operator == "$options" and "i" in str(value) for _, operator, value in query.conditions):
        fields = ", ".join(loose) or query.fields_with(["$options"])
        yield (
            f"The pattern on {fields} cannot use an index's order.",
            "Anchor it with ^ and case, keep a lower-case copy of the field, or use a text index.",
        )


@rule("M003", "negation", "info")
def _negation(query: Query) -> Iterator[Remark]:
    if query.operators & _NEGATIONS:
        yield (
            f"{query.fields_with(_NEGATIONS)}: what is not equal is found by reading nearly all.",
            "Ask for the values that are wanted, with $in.",
        )


@rule("M004", "skip_paging", "warning")
def _skip_paging(query: Query) -> Iterator[Remark]:
    skip = query.facts.skip or next((body for name, body in query.facts.stages if name == "$skip"), 0)
    if isinstance(skip, int) and skip > 0:
        yield (
            "skip reads and throws away every document before the page.",
            "Continue after the last key seen: {field: {$gt: last}} with the same sort.",
        )


@rule("M005", "unbounded_result", "warning")
def _unbounded_result(query: Query) -> Iterator[Remark]:
    facts = query.facts
    by_id = any(name == "_id" and operator in ("$eq", "$in") for name, operator, _ in query.conditions)
    bounded = facts.limit is not None or by_id or not _BOUNDS.isdisjoint(query.stages)
    if not bounded and (facts.options_known or (facts.kind is QueryType.AGGREGATE and facts.stages)):
        yield "Nothing bounds how many documents come back.", "Give a limit."


@rule("M006", "late_match", "warning")
def _late_match(query: Query) -> Iterator[Remark]:
    for stage in _late(query.facts.stages):
        yield (
            f"A $match after {stage} asks for fields known before it.",
            f"Move it before {stage}, so that fewer documents pass through.",
        )


@rule("M007", "collection_scan", "warning")
def _collection_scan(query: Query) -> Iterator[Remark]:
    facts = query.facts
    if facts.kind is QueryType.AGGREGATE:
        first = query.stages[0] if query.stages else ""
        scans = bool(first) and (first not in _STARTS or (first == "$match" and not facts.stages[0][1]))
    else:
        empty = all(not condition for _, condition in facts.filters)
        scans = facts.kind is QueryType.FIND and empty and facts.limit is None
    if scans:
        yield (
            "Every document of the collection is read.",
            "Begin with a condition on an indexed field, or with a limit.",
        )


@rule("M008", "lookup_of_everything", "warning")
def _lookup_of_everything(query: Query) -> Iterator[Remark]:
    stages = query.stages
    if "$lookup" in stages and not {"$match", "$limit", "$group"} & set(stages[: stages.index("$lookup")]):
        yield "$lookup runs once for every document of the collection.", "Put $match or $limit before it."


@rule("M009", "sort_in_memory", "warning")
def _sort_in_memory(query: Query) -> Iterator[Remark]:
    if "$sort" in query.stages and "$limit" not in query.stages and not query.facts.sort:
        yield (
            "A $sort without index and $limit holds all in memory (100 MB at most).",
            "Sort before the documents are changed, or add $limit after it.",
        )


@rule("M010", "many_values", "warning")
def _many_values(query: Query) -> Iterator[Remark]:
    many = [
        name
        for name, operator, value in query.conditions
        if operator == "$in" and len(as_list(value)) > MANY_VALUES
    ]
    if many:
        yield (
            f"$in of more than {MANY_VALUES:,} values on {', '.join(many)}.",
            "Ask in portions, or join with $lookup.",
        )


@rule("M011", "exists_false", "info")
def _exists_false(query: Query) -> Iterator[Remark]:
    if any(operator == "$exists" and not value for _, operator, value in query.conditions):
        yield (
            "$exists: false finds what a sparse index leaves out.",
            "Store null and compare with it, or use a partial index.",
        )


@rule("M012", "or_of_fields", "info")
def _or_of_fields(query: Query) -> Iterator[Remark]:
    if any(
        operator == "$or" and len({name for part in as_list(value) for name in names_in(part)}) > 1
        for _, operator, value in query.conditions
    ):
        yield "$or over several fields scans if only one of them has no index.", "Give each branch its index."


@rule("M013", "never_true", "warning")
def _never_true(query: Query) -> Iterator[Remark]:
    if any(
        operator in ("$in", "$or") and isinstance(value, list | tuple) and not value
        for _, operator, value in query.conditions
    ):
        yield "An empty list of alternatives matches nothing.", "Do not send the query."


@rule("M014", "write_without_filter", "error")
def _write_without_filter(query: Query) -> Iterator[Remark]:
    if query.facts.every_document:
        yield "Every document of the collection is written.", "Give a filter."


@rule("M015", "size_of_array", "info")
def _size_of_array(query: Query) -> Iterator[Remark]:
    if "$size" in query.operators:
        yield (
            f"$size on {query.fields_with(['$size'])} cannot use an index.",
            "Keep the number in a field of its own.",
        )


@rule("M016", "whole_documents", "info")
def _whole_documents(query: Query) -> Iterator[Remark]:
    if query.facts.options_known and not query.facts.projected:
        yield "Whole documents are fetched.", "Name the fields that are used in a projection."


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
    """Whether what a pattern begins with can be searched for in an index."""
    flags = getattr(value, "flags", 0)
    if isinstance(flags, int) and flags & (re.IGNORECASE | re.MULTILINE):
        return False
    pattern = getattr(value, "pattern", value)
    text = pattern.decode("utf-8", "replace") if isinstance(pattern, bytes) else str(pattern)
    return text.startswith(("^", "\\A")) and not text.startswith("^.*")


def _late(stages: list[tuple[str, Any]]) -> Iterator[str]:
    """Stages that are followed by a $match which could stand before them."""
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
