"""Indexes that would serve a query, from its conditions alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sqlglot import exp

from bot.core.query_optimizer.advice.expression_keys import ExpressionKey, expression_key
from bot.core.query_optimizer.advice.index_ddl import MAX_NAME
from bot.core.query_optimizer.advice.index_keys import WITHOUT_ORDER, declared_type, suggestion_of
from bot.core.query_optimizer.advice.rules.facts import Facts
from bot.core.query_optimizer.advice.wanted import Sorted, Wanted, name_of
from bot.core.query_optimizer.models import IndexSuggestion
from bot.core.query_optimizer.sql.scopes import COMPARISONS, Scope, Source, bare, is_constant, operands


def suggestions_for(facts: Facts) -> list[IndexSuggestion]:
    """At most one index for each table of each SELECT, UPDATE or DELETE; none that is known to exist."""
    found: dict[tuple[str, tuple[str, ...]], IndexSuggestion] = {}
    for scope in facts.scopes:
        for source, wanted in wanted_in(scope, facts.dialect):
            suggestion = suggestion_of(source, wanted, facts)
            if suggestion is not None:
                found.setdefault((suggestion.table, suggestion.columns), suggestion)
    if len(found) < 2:
        return list(found.values())
    # An index whose columns begin another one of the same table is served by that.
    return _named_apart(
        [
            suggestion
            for (table, columns), suggestion in found.items()
            if not any(
                other != columns and of == table and other[: len(columns)] == columns for of, other in found
            )
        ]
    )


def _named_apart(suggestions: list[IndexSuggestion]) -> list[IndexSuggestion]:
    """Rename indexes whose names would be equal: t (a_b) and t_a (b)."""
    names: set[str] = set()
    apart = []
    for suggestion in suggestions:
        name = suggestion.ddl.split(" ON ", 1)[0]
        if name in names:
            digest = hashlib.blake2b(repr((suggestion.table, suggestion.columns)).encode(), digest_size=4)
            other = f"{name[: len('CREATE INDEX ') + MAX_NAME - 9]}_{digest.hexdigest()}"
            suggestion = replace(suggestion, ddl=suggestion.ddl.replace(name, other, 1))
        names.add(name)
        apart.append(suggestion)
    return apart


def wanted_in(scope: Scope, dialect: str, written: str = "") -> list[tuple[Source, Wanted]]:
    """What a SELECT, UPDATE or DELETE asks of each of its tables; of their expressions too, if ``written``
    is the text of the query.
    """
    wanted = {id(source): (source, Wanted(dialect)) for source in scope.sources.values() if source.is_base}
    if not wanted:
        return []
    conditions = scope.conditions()
    by_or: list[tuple[Source, Wanted]] = []
    if len(conditions) == 1 and conditions[0].__class__ is exp.Or:
        by_or = _wanted_by_or(scope, conditions[0], dialect)
    else:
        for condition in conditions:
            _note(condition, scope, wanted, written)
    joins: list[Any] = []
    for join in scope.joins:
        on = join.args.get("on")
        if on is not None:
            for condition in operands(on, exp.And):
                if not _is_join(condition):
                    _note(condition, scope, wanted, written)
                else:
                    joins.append((condition, (join.args.get("side") or "").upper() == "LEFT"))
    joins += [(condition, False) for condition in conditions if _is_join(condition)]
    filtered = {id(source) for source, part in wanted.values() if part.equal or part.ranged}
    filtered |= {id(source) for source, _ in by_or}
    for condition, is_left in joins:
        one, other = bare(condition.this), bare(condition.args["expression"])
        _note_join(one, other, scope, wanted, frozenset() if is_left else frozenset(filtered))
    if not (conditions and conditions[0].__class__ is exp.Or and len(conditions) == 1):
        _note_order(scope, wanted, written)
        return list(wanted.values())
    searched = {id(source) for source, _ in by_or}
    return by_or + [pair for key, pair in wanted.items() if key not in searched]


def _is_join(condition: Any) -> bool:
    return (
        condition.__class__ is exp.EQ
        and bare(condition.this).__class__ is exp.Column
        and bare(condition.args["expression"]).__class__ is exp.Column
    )


def _wanted_by_or(scope: Scope, condition: Any, dialect: str) -> list[tuple[Source, Wanted]]:
    """An OR of conditions on several columns wants an index for each."""
    found = []
    for number, side in enumerate(operands(condition, exp.Or), 1):
        of_side = {id(s): (s, Wanted(dialect)) for s in scope.sources.values() if s.is_base}
        for each in operands(side, exp.And):
            _note(each, scope, of_side)
        fitting = [pair for pair in of_side.values() if pair[1].equal or pair[1].ranged]
        if not fitting:
            return []  # this side reads the whole table, so indexes for the others do not help
        for _, part in fitting:
            part.by_or = number
        found += fitting
    return found


def _note(condition: Any, scope: Scope, wanted: dict[int, tuple[Source, Wanted]], written: str = "") -> None:
    """Note what one condition needs of a column, if an index can serve it."""
    reads = _ASKS.get(condition.__class__)
    if reads is None:
        return
    found = reads(condition, scope, wanted)
    if found is None:
        return
    column, is_equality = found
    if column.__class__ is not exp.Column:
        if written:
            _note_expression(condition, column, scope, wanted, is_equality, written)
        return
    pair = wanted.get(id(scope.source_of(column)))
    if pair is None:
        return
    part = pair[1]
    if _reads_query(condition):
        # What it is compared with is known only when the query runs, as for a join.
        part.note(column, part.joined if is_equality else part.ranged)
        return
    lowered = column.name.lower()
    _note_pattern(condition, lowered, part)
    part.note(column, part.equal if is_equality else part.ranged)
    part.conditions.append((lowered, condition))


def _note_pattern(condition: Any, key: str, part: Wanted) -> None:
    if condition.__class__ is exp.Like:
        if key not in part.ranged:
            part.patterns.add(key)
    else:
        part.patterns.discard(key)


def _note_expression(
    condition: Any,
    expression: Any,
    scope: Scope,
    wanted: dict[int, tuple[Source, Wanted]],
    is_equality: bool,
    written: str,
) -> None:
    pair = wanted.get(id(source_of_expression(expression, scope)))
    key = expression_key(expression, written) if pair is not None else None
    if pair is None or key is None or _reads_query(condition) or condition.__class__ is exp.Is:
        return
    part = pair[1]
    _note_pattern(condition, key.sql, part)
    part.note_expression(key, part.equal if is_equality else part.ranged)
    part.conditions.append((key.sql, condition))


def source_of_expression(expression: Any, scope: Scope) -> Source | None:
    """The table of all its columns; None if it has none, or of several tables."""
    sources = [scope.source_of(column) for column in expression.find_all(exp.Column)]
    return sources[0] if sources and all(each is sources[0] for each in sources) else None


def _reads_query(condition: Any) -> bool:
    return condition.args.get("query") is not None or (
        condition.args.get("expression").__class__ is exp.Subquery or condition.this.__class__ is exp.Subquery
    )


# One function for each class of condition: (the column, whether it is compared for equality), or None.


def _asked_by_comparison(
    condition: Any, scope: Scope, wanted: dict[int, tuple[Source, Wanted]]
) -> tuple[Any, bool] | None:
    one, other = bare(condition.this), bare(condition.args["expression"])
    is_equality = condition.__class__ is exp.EQ
    if one.__class__ is exp.Column and other.__class__ is exp.Column:
        return None  # a join
    if is_constant(one) or _is_query(one):
        one, other = other, one
    return (one, is_equality) if is_constant(other) or _is_query(other) else None


def _asked_by_column(
    condition: Any, scope: Scope, wanted: dict[int, tuple[Source, Wanted]]
) -> tuple[Any, bool] | None:
    """A boolean column alone; only PostgreSQL searches an index for it."""
    pair = wanted.get(id(scope.source_of(condition)))
    return (condition, True) if pair is not None and pair[1].dialect == "postgres" else None


def _asked_by_in(condition: Any, *_: Any) -> tuple[Any, bool] | None:
    if condition.args.get("query") is None and not all(map(is_constant, condition.expressions)):
        return None
    return bare(condition.this), True


def _asked_by_is(
    condition: Any, scope: Scope, wanted: dict[int, tuple[Source, Wanted]]
) -> tuple[Any, bool] | None:
    column = bare(condition.this)
    compared = condition.args["expression"]
    if compared.__class__ is exp.Boolean and compared.this and column.__class__ is exp.Column:
        return None if condition.args.get("negate") else _asked_by_column(column, scope, wanted)
    if condition.args.get("negate") or compared.__class__ is not exp.Null:
        return None
    return (column, True) if _may_compare(column, scope, wanted) else None


def _asked_by_between(condition: Any, *_: Any) -> tuple[Any, bool]:
    return bare(condition.this), False


def _asked_by_like(condition: Any, *_: Any) -> tuple[Any, bool] | None:
    """A pattern that begins with a letter asks for a range."""
    pattern = condition.args["expression"]
    if condition.args.get("negate") or pattern.__class__ is not exp.Literal or not pattern.is_string:
        return None
    return None if pattern.this[:1] in ("%", "_", "") else (bare(condition.this), False)


_ASKS: dict[Any, Callable[..., tuple[Any, bool] | None]] = {
    **dict.fromkeys(COMPARISONS, _asked_by_comparison),
    exp.Column: _asked_by_column,
    exp.In: _asked_by_in,
    exp.Is: _asked_by_is,
    exp.Between: _asked_by_between,
    exp.Like: _asked_by_like,
}


def _may_compare(column: Any, scope: Scope, wanted: dict[int, tuple[Source, Wanted]]) -> bool:
    """Whether a column that is only compared with NULL can be in an index: PostgreSQL has types without
    order.
    """
    source = scope.source_of(column) if column.__class__ is exp.Column else None
    pair = wanted.get(id(source))
    if source is None or pair is None:
        return False
    if pair[1].dialect in ("mysql", "sqlite"):
        return True
    declared = declared_type(source, column.name, scope.schema)
    return declared is not None and declared.kind not in WITHOUT_ORDER and not isinstance(declared.kind, str)


def _is_query(node: Any) -> bool:
    return node.__class__ is exp.Subquery


def _note_join(
    one: Any,
    other: Any,
    scope: Scope,
    wanted: dict[int, tuple[Source, Wanted]],
    filtered: frozenset[int],
) -> None:
    """Of two tables joined by equality, the later one is looked up for each row of the earlier one; but the
    earlier one if only the later one is ``filtered`` (ids of sources) by conditions of its own.
    """
    first, second = scope.source_of(one), scope.source_of(other)
    if first is None or second is None or first is second:
        return
    here = list(scope.sources.values())
    if first not in here or second not in here:
        # One is a column of the outer query: in this query it is a value.
        column, source = (one, first) if first in here else (other, second)
        pair = wanted.get(id(source))
        if pair is not None:
            pair[1].note(column, pair[1].joined if _asks_whether_any(scope.node) else pair[1].equal)
        return
    column, source = (other, second) if here.index(second) > here.index(first) else (one, first)
    if id(source) in filtered and not {id(first), id(second)} <= filtered:
        column, source = (one, first) if source is second else (other, second)
    pair = wanted.get(id(source))
    if pair is not None:
        pair[1].note(column, pair[1].joined)


def _asks_whether_any(query: Any) -> bool:
    return query.parent.__class__ is exp.Exists


def _note_order(scope: Scope, wanted: dict[int, tuple[Source, Wanted]], written: str = "") -> None:
    args = scope.node.args
    order = args.get("order")
    if order is None:
        _note_extreme(scope, wanted)
    if order is None or args.get("group") or args.get("distinct") or scope.node.__class__ is not exp.Select:
        return
    aliases = {item.alias.lower() for item in scope.node.expressions if item.__class__ is exp.Alias}
    found: dict[str, Sorted] = {}
    expressions: list[ExpressionKey] = []
    source = None
    for ordered in order.expressions:
        column = ordered.this
        is_column = column.__class__ is exp.Column
        if is_column and not column.table and column.name.lower() in aliases:
            return
        of = scope.source_of(column) if is_column else source_of_expression(column, scope)
        pair = wanted.get(id(of))
        if of is None or pair is None or (source is not None and of is not source):
            return
        source = of
        nulls = _nulls_of(ordered, pair[1].dialect)
        if nulls is None:
            return
        descends = bool(ordered.args.get("desc"))
        if is_column:
            by = Sorted(name_of(column.this, pair[1].dialect), descends, nulls)
            found.setdefault(column.name.lower(), by)
            continue
        key = expression_key(column, written) if written else None
        if key is None or any(name.lower() in aliases for name, _ in key.demands):
            return
        expressions.append(key)
        found.setdefault(key.sql, Sorted(key.sql, descends, nulls))
    pair = wanted.get(id(source))
    # An index gives the order of the table that is read first.
    if pair is None or source is not next(iter(scope.sources.values())):
        return
    if pair[1].equal or pair[1].ranged or args.get("limit"):
        pair[1].sorted = found
        pair[1].expressions.update({key.sql: key for key in expressions})


def _nulls_of(ordered: Any, dialect: str) -> str | None:
    """Where NULLs come, as a key of an index says it; "" where the order puts them by itself; None if no
    index gives this order.
    """
    first, descends = bool(ordered.args.get("nulls_first")), bool(ordered.args.get("desc"))
    if dialect == "postgres":
        return "" if first == descends else ("FIRST" if first else "LAST")
    return None if dialect == "sqlite" and first == descends else ""


def _note_extreme(scope: Scope, wanted: dict[int, tuple[Source, Wanted]]) -> None:
    """The smallest or largest value of a column is the first or last one of its index."""
    args = scope.node.args
    if len(wanted) != 1 or args.get("group") or args.get("having") or scope.node.__class__ is not exp.Select:
        return
    if len(args["expressions"]) != 1 or args.get("joins"):
        return
    item = args["expressions"][0]
    call = item.this if item.__class__ is exp.Alias else item
    if call.__class__ not in (exp.Min, exp.Max) or call.this.__class__ is not exp.Column or call.expressions:
        return
    pair = wanted.get(id(scope.source_of(call.this)))
    if pair is not None:
        column = call.this
        pair[1].sorted = {column.name.lower(): Sorted(name_of(column.this, pair[1].dialect), False)}
        pair[1].extreme = True
