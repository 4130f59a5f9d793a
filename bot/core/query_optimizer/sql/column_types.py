"""Columns whose equal values are identical, as far as declarations tell.

'a' and 'A' are equal in a case-insensitive column, 'a' and 'a ' in one that pads, 1 and 1.0 in one without a
type: which of them a DISTINCT, a GROUP BY or a MIN returns depends on the plan, and a comparison of that one
with a value of another type may give another result than a comparison of the others. So a rewrite that
touches any of these must know that equal values are identical. A type that is not known here (citext, char,
float, decimal, enum, types of extensions) gives no such guarantee.
"""

from __future__ import annotations

from typing import Any

from sqlglot import exp

from bot.core.query_optimizer.sql.scopes import Scope

_D = exp.DataType.Type

_WHOLE = frozenset(
    (_D.TINYINT, _D.SMALLINT, _D.MEDIUMINT, _D.INT, _D.BIGINT, _D.UTINYINT, _D.USMALLINT, _D.UMEDIUMINT,
     _D.UINT, _D.UBIGINT, _D.SERIAL, _D.SMALLSERIAL, _D.BIGSERIAL)
)  # fmt: skip
_FAMILIES: dict[str, dict[Any, str]] = {
    # The default collation of a PostgreSQL database tells any two strings apart; SQLite's is BINARY.
    "postgres": {
        _D.TEXT: "text", _D.VARCHAR: "text", _D.DATE: "date", _D.TIMESTAMP: "timestamp",
        _D.TIMESTAMPTZ: "timestamptz", _D.BOOLEAN: "boolean", _D.UUID: "uuid",
    },
    "sqlite": {_D.TEXT: "text", _D.VARCHAR: "text"},
    # Strings are missing: collations ignore case, or at least trailing spaces, unless declared otherwise.
    "mysql": {_D.DATE: "date", _D.DATETIME: "timestamp", _D.BOOLEAN: "whole"},
    "": {},
}  # fmt: skip


def exact_family(column: Any, scope: Scope | None, dialect: str) -> str:
    """ "whole", "text" and so on for a column whose equal values are identical; empty if that is unknown."""
    if scope is None or scope.schema is None or column.__class__ is not exp.Column:
        return ""
    name = column.name.lower()
    if not column.table and scope.node.__class__ is exp.Select:
        for item in scope.node.expressions:
            if item.__class__ is exp.Alias and item.alias.lower() == name:
                return ""  # GROUP BY and ORDER BY may mean that
    source = scope.source_of(column)
    if source is None or not source.is_base or source.node.args.get("db") is not None:
        return ""
    declared = scope.schema.types.get(source.name.lower(), {}).get(name)
    if declared is None or not declared.is_plain:
        return ""
    return "whole" if declared.kind in _WHOLE else _FAMILIES[dialect].get(declared.kind, "")


def family_shown(item: Any, scope: Scope | None, dialect: str) -> str:
    """As :func:`exact_family`, for any expression that a SELECT lists."""
    node = item.this if item.__class__ is exp.Alias else item
    while node.__class__ is exp.Paren:
        node = node.this
    kind = node.__class__
    if kind is exp.Column:
        return exact_family(node, scope, dialect)
    if kind is exp.Literal:
        if not node.is_string:
            return "whole" if node.this.isdigit() else ""
        return "text" if dialect in ("postgres", "sqlite") else ""
    if kind is exp.Count:
        return "whole"
    if kind in (exp.Min, exp.Max):
        inner = node.this
        if inner.__class__ is exp.Distinct and len(inner.expressions) == 1:
            inner = inner.expressions[0]
        return exact_family(inner, scope, dialect)
    return ""
