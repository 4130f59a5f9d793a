"""Expressions that an index of PostgreSQL may hold (pure).

An index takes immutable functions only. Whether a function is one depends on the types of its columns, which
a text does not tell: so each expression says what it demands of them.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from sqlglot import exp

Demand = Literal["any", "text", "trigrams", "timestamp", "json", "jsonb", "array", "number", "few"]
"""What a column must be: "timestamp" is the one without a time zone, "few" has few different values."""


class ExpressionKey(NamedTuple):
    """An expression of one table, to be a key of an index."""

    sql: str
    """In PostgreSQL's dialect, without the table's name."""
    demands: tuple[tuple[str, Demand], ...]
    """Its columns, in lower case, with what each must be for the expression to be immutable."""


_DEMANDS: dict[Any, Demand] = {
    exp.Lower: "text", exp.Upper: "text", exp.MD5: "text", exp.Length: "text", exp.Left: "text",
    exp.Trim: "text", exp.TimestampTrunc: "timestamp", exp.Extract: "timestamp", exp.Abs: "number",
    exp.Add: "number", exp.Sub: "number", exp.Mul: "number", exp.JSONExtractScalar: "json",
    exp.JSONBExtractScalar: "json", exp.JSONExtract: "json", exp.Coalesce: "any",
}  # fmt: skip
_LEAVES = (exp.Literal, exp.Identifier, exp.Paren, exp.Neg)
_JSON = (exp.JSONExtractScalar, exp.JSONBExtractScalar)


def expression_key(node: Any, written: str) -> ExpressionKey | None:
    """The expression as a key; None if it is not known to be immutable. ``written`` is the query's text."""
    if node.__class__ not in _DEMANDS and node.__class__ is not exp.Cast:
        return None
    if node.__class__ is exp.JSONExtract:
        return None  # a value of type json cannot be compared
    copy = node.copy()
    demands: dict[str, Demand] = {}
    columns = list(copy.find_all(exp.Column))
    for column in columns:
        demand = _demand(column)
        if demand is None or demands.setdefault(column.name.lower(), demand) != demand:
            return None
    if not columns or (node.__class__ in (exp.Add, exp.Sub, exp.Mul) and len(demands) < 2):
        return None  # a + 1 = 2 is better written as a = 1
    for each in list(copy.walk()):
        if not _is_known(each) or not _unit_is_kept(each, written):
            return None
    for column in columns:
        column.set("table", None)
    return ExpressionKey(copy.sql(dialect="postgres", normalize_functions="lower"), tuple(demands.items()))


def _demand(column: Any) -> Demand | None:
    above = column.parent
    while above.__class__ in (exp.Paren, exp.Neg):
        above = above.parent
    if above.__class__ is exp.Cast:
        return "timestamp" if _is_date(above) else None
    return _DEMANDS.get(above.__class__)


def _is_date(cast: Any) -> bool:
    return bool(cast.to.this == exp.DataType.Type.DATE)


def _is_known(node: Any) -> bool:
    kind = node.__class__
    if kind is exp.Cast:
        return _is_date(node) and node.this.__class__ is exp.Column
    if kind is exp.JSONPath:
        parts = [each for each in node.expressions if each.__class__ is not exp.JSONPathRoot]
        return len(parts) == 1 and str(parts[0].this).isidentifier()
    if kind in (exp.Trim, exp.Length):
        return not any(value for key, value in node.args.items() if key != "this")
    if kind is exp.TimestampTrunc:
        return node.args.get("zone") is None
    return kind in _DEMANDS or kind in _LEAVES or kind in _PARTS or kind is exp.Column


_PARTS = (exp.JSONPathRoot, exp.JSONPathKey, exp.JSONPathSubscript, exp.DataType, exp.Var)


def _unit_is_kept(node: Any, written: str) -> bool:
    """Whether the unit of date_trunc is known as it is written: 'day' and 'DAY' are different constants."""
    if node.__class__ is not exp.TimestampTrunc:
        return True
    unit = node.args.get("unit")
    spellings = {unit.name.lower(), unit.name.upper()} if unit is not None else set()
    found = [each for each in spellings if f"'{each}'" in written]
    if len(found) != 1:
        return False
    node.set("unit", exp.Var(this=found[0]))
    return True
