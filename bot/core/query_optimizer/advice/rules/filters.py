"""Rules about conditions that no index serves, or that probably mean something else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlglot import exp

from bot.core.query_optimizer.advice.rules.facts import Facts
from bot.core.query_optimizer.advice.rules.nodes import (
    in_where_or_on,
    is_null,
    unaliased,
)
from bot.core.query_optimizer.advice.rules.registry import Remark
from bot.core.query_optimizer.advice.rules.rule import rule
from bot.core.query_optimizer.sql.census import functions_among
from bot.core.query_optimizer.sql.scopes import (
    COMPARISONS,
    ColumnKey,
    bare,
    in_filter,
    is_constant,
    is_plain_constant,
    key_of,
    operands,
    select_in,
    written,
)


@rule("Q004", "leading-wildcard", "warning", exp.Like, exp.ILike)
def _leading_wildcard(node: Any, facts: Facts) -> Remark | None:
    pattern = _beginning_of(node.args["expression"])
    if pattern.__class__ is not exp.Literal or not pattern.is_string or pattern.this[:1] not in ("%", "_"):
        return None
    is_whole = pattern is bare(node.args["expression"])
    if node.parent.__class__ is exp.Not or node.args.get("negate") or not in_filter(node):
        return None
    column = node.this.find(exp.Column)
    if column is None or (is_whole and not pattern.this.strip("%")):
        return None
    # Not what is looked for, which may be about a person, and stand in a log.
    shown = f"'{pattern.this[0]}...'" if is_whole else f"'{pattern.this[0]}...' || ..."
    return (
        f"LIKE {shown} begins with a wildcard: no index on {written(column)} can serve it.",
        _SEARCHES.get(facts.dialect, "Use a full-text or trigram index."),
    )


_SEARCHES = {
    "postgres": "Use a trigram index (pg_trgm) or full-text search.",
    "mysql": "Use a FULLTEXT index and MATCH ... AGAINST.",
    "sqlite": "Use an FTS5 table.",
}


def _beginning_of(pattern: Any) -> Any:
    """The first part of a text that ``||`` or CONCAT puts together."""
    pattern = bare(pattern)
    while True:
        if pattern.__class__ is exp.DPipe:
            pattern = bare(pattern.this)
        elif pattern.__class__ is exp.Concat and pattern.expressions:
            pattern = bare(pattern.expressions[0])
        else:
            return pattern


@rule("Q040", "regex-filter", "warning", exp.RegexpLike, exp.RegexpILike)
def _regex_filter(node: Any, facts: Facts) -> Remark | None:
    column = node.this.find(exp.Column)
    if column is None or node.parent.__class__ is exp.Not or not in_filter(node):
        return None
    scope = facts.scopes.around(node)
    source = scope.source_of(column) if scope is not None else None
    if source is not None and not source.is_base:
        return None
    pattern = bare(node.args["expression"])
    if facts.dialect not in ("mysql", "sqlite"):
        # PostgreSQL can use an index for what an anchored pattern begins with. A parameter may be one.
        if pattern.__class__ is not exp.Literal:
            return None
        if node.__class__ is exp.RegexpLike and pattern.this.startswith(("^", "\\A")):
            return None
    return (
        f"A regular expression on {written(column)}: every row is tested, no index serves it.",
        _SEARCHES.get(facts.dialect, "Use a full-text or trigram index."),
    )


_NEVER_ON_COLUMN = (
    exp.AggFunc, exp.Connector, exp.SubqueryPredicate,
    # Only an index on the expression would serve these, whatever they are compared with.
    exp.JSONExtract, exp.JSONExtractScalar, exp.JSONBExtract, exp.JSONBExtractScalar, exp.Case, exp.If,
    exp.Array, exp.ArrayContains, exp.Rand, exp.Exists,
)  # fmt: skip
_NEVER_A_CALL = frozenset((exp.Column, exp.Literal, exp.Placeholder, exp.Parameter, exp.Subquery))


def _may_be_on_column(kinds: frozenset[type]) -> bool:
    """Whether there is a call that Q005 may report."""
    return any(not issubclass(kind, _NEVER_ON_COLUMN) for kind in functions_among(tuple(kinds)))


@rule(
    "Q005", "function-on-column", "warning", *COMPARISONS, exp.In, exp.Between, exp.Like, exp.ILike,
    needs=_may_be_on_column,
)  # fmt: skip
def _function_on_column(node: Any, facts: Facts) -> Remark | None:
    if node.__class__ in COMPARISONS:
        pairs = [(node.this, node.args["expression"]), (node.args["expression"], node.this)]
    else:
        pairs = [(node.this, None)]
    for side, other in pairs:
        call = bare(side)
        if call.__class__ in _NEVER_A_CALL or not isinstance(call, exp.Func):
            continue
        if isinstance(call, _NEVER_ON_COLUMN) or not in_filter(node):
            continue
        if call.find(exp.Select, exp.AggFunc, exp.Window):
            continue
        if other is not None and not is_constant(other) and bare(other).__class__ is not exp.Column:
            continue
        columns = list(call.find_all(exp.Column))
        if len({key_of(column) for column in columns}) != 1 or not in_where_or_on(node):
            continue
        scope = facts.scopes.around(node)
        source = scope.source_of(columns[0]) if scope is not None else None
        if source is not None and not source.is_base:
            continue
        return _remark_on_function(call, columns[0])
    return None


_DATES = (
    exp.Date, exp.TsOrDsToDate, exp.DateTrunc, exp.TimestampTrunc, exp.Year, exp.Month, exp.Extract,
    exp.TimeToStr, exp.Day, exp.Timestamp,
)  # fmt: skip


def _remark_on_function(call: Any, column: Any) -> Remark:
    name = written(column)
    is_cast = call.__class__ in (exp.Cast, exp.TryCast)
    function = "CAST" if is_cast else str(call.name if call.__class__ is exp.Anonymous else call.sql_name())
    what = f"{function.upper()}() on {name}: an index on {name} cannot serve the comparison."
    if call.__class__ in _DATES or (is_cast and call.args["to"].is_type("date", "timestamp", "datetime")):
        return what, f"Compare {name} itself with a range: {name} >= start AND {name} < end."
    if call.__class__ is exp.Coalesce:
        return what, f"Compare {name} itself and test {name} IS NULL apart."
    if call.__class__ in (exp.Lower, exp.Upper):
        return what, "Index the expression, or use a case-insensitive collation."
    return what, "Apply it to the other side of the comparison, or index the expression."


_ARITHMETIC = (exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod, exp.DPipe)


@rule("Q019", "arithmetic-on-column", "warning", *COMPARISONS, exp.Between, exp.In, needs=_ARITHMETIC)
def _arithmetic_on_column(node: Any, facts: Facts) -> Remark | None:
    if node.__class__ in COMPARISONS:
        pairs = [(node.this, node.args["expression"]), (node.args["expression"], node.this)]
    else:
        pairs = [(node.this, None)]
    for side, other in pairs:
        sum_ = bare(side)
        if sum_.__class__ not in _ARITHMETIC:
            continue
        if not in_where_or_on(node) or sum_.find(exp.Select, exp.AggFunc):
            continue
        if any(call.find(exp.Column) for call in sum_.find_all(exp.Func)):
            continue  # Q005
        columns = list(sum_.find_all(exp.Column))
        if len(columns) != 1 or (other is not None and not is_constant(other)):
            continue
        name = written(columns[0])
        return (
            f"Arithmetic on {name}: an index on {name} cannot serve the comparison.",
            "Index the expression."
            if sum_.__class__ in (exp.Mod, exp.DPipe)
            else f"Move it to the other side, so that {name} stands alone.",
        )
    return None


@rule("Q008", "not-in-nullable", "warning", exp.In, needs=(exp.Subquery,))
def _not_in_nullable(node: Any, facts: Facts) -> Remark | None:
    query = node.args.get("query")
    if query is None or (node.parent.__class__ is not exp.Not and not node.args.get("negate")):
        return None
    select = select_in(query)
    if select.__class__ is not exp.Select or len(select.expressions) != 1:
        return None
    column = unaliased(select.expressions[0])
    if column.__class__ is not exp.Column or column.this.__class__ is exp.Star:
        return None
    scope = facts.scope(select)
    source = scope.source_of(column) if scope is not None else None
    if column.name.lower() == "id" or scope is None:
        return None  # by convention the primary key
    if facts.schema is not None and source is not None and facts.schema.is_not_null(source.name, column.name):
        return None
    key = key_of(column)
    for condition in scope.conditions():
        if condition.__class__ is exp.Or:
            continue
        if any(key_of(found) == key for found in _columns_not_null(condition)):
            return None
    return (
        f"NOT IN over {written(column)}: if it is NULL in one row, the condition is true for none.",
        f"Use NOT EXISTS, or add {written(column)} IS NOT NULL to the subquery.",
    )


def _columns_not_null(condition: Any) -> Iterator[Any]:
    """Columns that cannot be NULL where the condition is true."""
    kind = condition.__class__
    if kind is exp.Not:
        inner = bare(condition.this)
        if is_null(inner):
            yield from inner.this.find_all(exp.Column)
    elif kind is exp.Is:
        if condition.args.get("negate") and condition.args["expression"].__class__ is exp.Null:
            yield from condition.this.find_all(exp.Column)
    elif kind in (*COMPARISONS, exp.NEQ, exp.In, exp.Between, exp.Like):
        for side in (condition.this, condition.args.get("expression")):
            if bare(side).__class__ is exp.Column:
                yield bare(side)


@rule("Q009", "or-across-columns", "info", exp.Where, needs=(exp.Or,))
def _or_across_columns(node: Any, facts: Facts) -> Remark | None:
    condition = bare(node.this)
    if condition.__class__ is not exp.Or:
        return None
    names: dict[ColumnKey, str] = {}
    for side in operands(condition, exp.Or):
        if side.__class__ not in (*COMPARISONS, exp.In, exp.Between):
            return None
        column = bare(side.this)
        if column.__class__ is not exp.Column:
            return None
        names[key_of(column)] = written(column)
    if len(names) < 2:
        return None
    listed = ", ".join(names.values())
    return (
        f"OR across {listed}: no single index serves it.",
        f"Index each of {listed}, or write one query for each and UNION them.",
    )


@rule("Q013", "compared-with-null", "error", *COMPARISONS, exp.NEQ, exp.In, needs=(exp.Null,))
def _compared_with_null(node: Any, facts: Facts) -> Remark | None:
    if node.__class__ is exp.In:
        if not any(item.__class__ is exp.Null for item in node.expressions) or not in_filter(node):
            return None
        if node.parent.__class__ is exp.Not or node.args.get("negate"):
            return "NOT IN with NULL in its list is true for no row.", "Leave NULL out; test IS NOT NULL."
        return "NULL in an IN list matches nothing.", "Test IS NULL apart."
    if exp.Null not in (bare(node.this).__class__, bare(node.args["expression"]).__class__):
        return None
    if not in_filter(node):
        return None  # SET x = NULL looks the same
    return "A comparison with NULL is true for no row.", "Use IS NULL or IS NOT NULL."


@rule("Q016", "having-without-aggregate", "info", exp.Having)
def _having(node: Any, facts: Facts) -> Remark | None:
    movable = conditions_for_where(node)
    if not movable:
        return None
    names = ", ".join(dict.fromkeys(written(c) for m in movable for c in m.find_all(exp.Column)))
    return f"HAVING on {names} filters after all rows were grouped.", "Put that condition into WHERE."


def conditions_for_where(having: Any) -> list[Any]:
    """The conditions of a HAVING that compare plain columns of GROUP BY with constants."""
    select = having.parent
    group = select.args.get("group")
    if group is None or any(group.args.get(n) for n in ("cube", "rollup", "grouping_sets", "totals", "all")):
        return []
    plain = []
    for condition in operands(having.this, exp.And):
        if condition.__class__ in (*COMPARISONS, exp.NEQ):
            column = bare(condition.this)
            if column.__class__ is exp.Column and is_plain_constant(condition.args["expression"]):
                plain.append((condition, column))
    if not plain:
        return []
    keys = {key_of(key) for key in group.expressions if key.__class__ is exp.Column}
    aliases = {item.alias.lower() for item in select.expressions if item.__class__ is exp.Alias}
    return [
        condition
        for condition, column in plain
        if key_of(column) in keys and column.name.lower() not in aliases
    ]


@rule("Q017", "count-to-test-existence", "warning", *COMPARISONS, exp.NEQ, needs=(exp.Subquery,))
def _count_to_test_existence(node: Any, facts: Facts) -> Remark | None:
    exists = count_as_existence(node)
    if exists is None:
        return None
    return (
        "COUNT(*) counts every row, only to tell whether there is one.",
        f"Use {'EXISTS' if exists[0] else 'NOT EXISTS'} (SELECT 1 ...): it stops at the first.",
    )


_AS_EXISTENCE = {
    (exp.GT, "0"): True, (exp.GTE, "1"): True, (exp.NEQ, "0"): True,
    (exp.EQ, "0"): False, (exp.LT, "1"): False, (exp.LTE, "0"): False,
}  # fmt: skip
_MIRRORED = {exp.GT: exp.LT, exp.LT: exp.GT, exp.GTE: exp.LTE, exp.LTE: exp.GTE}


def count_as_existence(comparison: Any) -> tuple[bool, Any] | None:
    """(whether it asks for a row or for none, the SELECT) of ``(SELECT COUNT(*) ...) > 0``."""
    kind = comparison.__class__
    query, value = comparison.this, comparison.args["expression"]
    if query.__class__ is exp.Literal:
        query, value, kind = value, query, _MIRRORED.get(kind, kind)
    if query.__class__ is not exp.Subquery or value.__class__ is not exp.Literal or value.is_string:
        return None
    wanted = _AS_EXISTENCE.get((kind, value.this))
    select = select_in(query)
    if wanted is None or select.__class__ is not exp.Select or len(select.expressions) != 1:
        return None
    count = unaliased(select.expressions[0])
    counted = count.this if count.__class__ is exp.Count else None
    if not (counted.__class__ is exp.Star or (counted.__class__ is exp.Literal and not counted.is_string)):
        return None
    args = select.args
    if any(args.get(n) for n in ("group", "having", "distinct", "limit", "offset", "qualify", "with_")):
        return None
    return (wanted, select) if args.get("from_") else None
