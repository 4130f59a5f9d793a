"""GIN indexes: patterns within a text (pg_trgm), JSON documents and arrays that contain something."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from sqlglot import exp

from bot.core.query_optimizer.advice.expression_keys import Demand
from bot.core.query_optimizer.advice.index_ddl import create_index, index_name, listed_column
from bot.core.query_optimizer.advice.index_keys import owner_and_name
from bot.core.query_optimizer.advice.wanted import name_of
from bot.core.query_optimizer.models import IndexSuggestion
from bot.core.query_optimizer.sql.scopes import Scope, Source, bare, is_constant

TRIGRAMS = "gin_trgm_ops"
_KEYS_UNKNOWN = 3
"""Keys supposed of a constant that cannot be read: each costs a few pages."""


class GinSearch(NamedTuple):
    """An index for one condition."""

    suggestion: IndexSuggestion
    condition: Any
    column: str
    """In lower case."""
    demand: Demand
    entries: int
    """Keys that are looked up."""


def gin_searches(scope: Scope, source: Source) -> Iterator[GinSearch]:
    """An index for each condition on the table that a B-tree does not serve and a GIN index does."""
    for condition in scope.conditions():
        reads = _READS.get(condition.__class__)
        found = reads(condition) if reads is not None else None
        if found is None:
            continue
        column, kinds = found
        if column.__class__ is not exp.Column or scope.source_of(column) is not source:
            continue
        for demand, operators, entries in kinds:
            if not entries:
                continue  # every row is found
            yield GinSearch(
                _suggestion(source, column, operators), condition, column.name.lower(), demand, entries
            )


Kinds = list[tuple[Demand, str, int]]
"""(what the column must be, the operator class, the keys that are looked up)"""


def _by_pattern(condition: Any) -> tuple[Any, Kinds] | None:
    """LIKE and ILIKE with three letters or digits in a row."""
    pattern = condition.args["expression"]
    if condition.args.get("negate") or pattern.__class__ is not exp.Literal or not pattern.is_string:
        return None
    if condition.__class__ is exp.Like and pattern.this[:1] not in ("%", "_"):
        return None  # a B-tree serves its beginning, and is smaller and quicker to write
    entries = trigrams_in(pattern.this)
    return (bare(condition.this), [("trigrams", TRIGRAMS, entries)]) if entries else None


def _by_containing(condition: Any) -> tuple[Any, Kinds] | None:
    one, other = bare(condition.this), bare(condition.args["expression"])
    if not is_constant(other):
        return None
    return one, [("jsonb", "jsonb_path_ops", _leaves(other)), ("array", "", _elements(other))]


def _by_contained(condition: Any) -> tuple[Any, Kinds] | None:
    """constant <@ column"""
    one, other = bare(condition.this), bare(condition.args["expression"])
    if not is_constant(one) or other.__class__ is not exp.Column:
        return None
    return other, [("jsonb", "jsonb_path_ops", _leaves(one)), ("array", "", _elements(one))]


def _by_overlap(condition: Any) -> tuple[Any, Kinds] | None:
    one, other = bare(condition.this), bare(condition.args["expression"])
    return (one, [("array", "", _elements(other))]) if is_constant(other) else None


def _by_key(condition: Any) -> tuple[Any, Kinds] | None:
    if not is_constant(condition.args["expression"]):
        return None
    return bare(condition.this), [("jsonb", "jsonb_ops", 1)]


_READS: dict[Any, Any] = {
    exp.Like: _by_pattern,
    exp.ILike: _by_pattern,
    exp.ArrayContainsAll: _by_containing,
    exp.ArrayContainedBy: _by_contained,
    exp.ArrayOverlaps: _by_overlap,
    exp.JSONBContains: _by_key,
    exp.JSONBContainsTopKey: _by_key,
}


def trigrams_in(pattern: str) -> int:
    """Trigrams that a search for the pattern looks up; 0 if it has none, so that no index serves it.

    As in pg_trgm's ``generate_wildcard_trgm``: two blanks before a word and one behind it count, but not
    where a wildcard may continue the word.
    """
    if "\\" in pattern:
        return 0  # an escape: what it stands for depends on a setting
    found: set[str] = set()
    for match in re.finditer(r"[^\W_]+", pattern.lower()):
        word = match.group()
        before, after = pattern[: match.start()][-1:], pattern[match.end() :][:1]
        padded = ("" if before in ("%", "_") and before else "  ") + word
        padded += "" if after in ("%", "_") and after else " "
        found.update(padded[i : i + 3] for i in range(len(padded) - 2))
    return len(found)


def _leaves(constant: Any) -> int:
    """Values of a JSON document, as far as the text shows it."""
    inner = constant.this if constant.__class__ is exp.Cast else constant
    if inner.__class__ is not exp.Literal or not inner.is_string:
        return _KEYS_UNKNOWN
    try:
        document = json.loads(inner.this)
    except ValueError:
        return _KEYS_UNKNOWN
    stack, leaves = [document], 0
    while stack:
        each = stack.pop()
        if isinstance(each, dict):
            stack += each.values()
        elif isinstance(each, list):
            stack += each
        else:
            leaves += 1
    return leaves  # none in an empty document, which every one contains


def _elements(constant: Any) -> int:
    inner = constant.this if constant.__class__ is exp.Cast else constant
    if inner.__class__ is exp.Array:
        return len(inner.expressions)
    if inner.__class__ is exp.Literal and inner.is_string:
        return 0 if inner.this.strip() == "{}" else inner.this.count(",") + 1
    return _KEYS_UNKNOWN


def _suggestion(source: Source, column: Any, operators: str) -> IndexSuggestion:
    within, table = owner_and_name(source, "postgres")
    name = name_of(column.this, "postgres")
    listed = listed_column(name, "postgres") + (f" {operators}" if operators else "")
    what = "patterns within" if operators == TRIGRAMS else "what is contained in"
    return IndexSuggestion(
        table=f"{within}.{table}" if within else table,
        columns=(name,),
        ddl=create_index(
            index_name(source.name, (name,), method="trgm" if operators == TRIGRAMS else "gin"),
            within, table, [listed], "postgres", method="gin",
        ),
        reason=f"{table}: {what} {name}",
        method="gin",
        operator_class=operators,
    )  # fmt: skip
