"""The columns of an index in their order, from what a query asks of a table.

A B-tree serves columns that are compared for equality, in any order, and after them either one that is
compared by range, or those by which the result is sorted. So equality comes first, then range, then sort; the
last two together only if they are the same column. (Winand, "SQL Performance Explained", chapters 2 and 6.)
"""

from __future__ import annotations

from sqlglot import exp

from bot.core.query_optimizer.advice.index_ddl import create_index, index_name, listed_column
from bot.core.query_optimizer.advice.rules.facts import Facts
from bot.core.query_optimizer.advice.wanted import Sorted, Wanted, name_of
from bot.core.query_optimizer.models import IndexSuggestion
from bot.core.query_optimizer.sql.schema import DeclaredType, Schema
from bot.core.query_optimizer.sql.scopes import Source

_D = exp.DataType.Type
_MAX_COLUMNS = 4

# Columns that a database adds to each table, and that cannot be in an index.
_SYSTEM = {
    "sqlite": frozenset(("rowid", "oid", "_rowid_")),
    "postgres": frozenset(("ctid", "xmin", "xmax", "cmin", "cmax", "tableoid")),
    "mysql": frozenset(()),
    "": frozenset(("rowid", "_rowid_", "ctid")),
}  # fmt: skip

WITHOUT_ORDER = frozenset((_D.JSON, _D.XML, _D.POINT, _D.GEOMETRY, _D.GEOGRAPHY, _D.NULL, _D.UNKNOWN))
_LONG = frozenset(
    (_D.TEXT, _D.TINYTEXT, _D.MEDIUMTEXT, _D.LONGTEXT, _D.BLOB, _D.TINYBLOB, _D.MEDIUMBLOB, _D.LONGBLOB)
)
_STRINGS = frozenset((_D.VARCHAR, _D.CHAR, _D.NVARCHAR, _D.NCHAR, _D.VARBINARY, _D.BINARY))
_PREFIX = 190
"""Characters of a long column in an index of MySQL: four such columns fill its 3,072 bytes."""


def declared_type(source: Source, column: str, schema: Schema | None) -> DeclaredType | None:
    return None if schema is None else schema.types.get(source.name.lower(), {}).get(column.lower())


class _Key:
    """The columns of an index in their order, and what each is for."""

    __slots__ = ("columns", "descends", "equal", "for_order", "names", "nulls", "roles")

    def __init__(self, equal: dict[str, str]) -> None:
        self.columns = list(equal)  # in lower case, so that none comes twice
        self.names = list(equal.values())
        self.equal = len(equal)  # so many of the first ones are compared for equality
        self.roles = [f"= on {', '.join(self.names)}"] if equal else []
        self.for_order: list[str] = []
        self.descends: dict[str, bool] = {}  # only where the directions differ
        self.nulls: dict[str, str] = {}

    def add(self, column: str, name: str) -> None:
        if column not in self.columns:
            self.columns.append(column)
            self.names.append(name)


def _key_for(wanted: Wanted, system: frozenset[str], *, alone: bool) -> _Key | None:
    """The index that serves what a query asks of a table; ``system`` are columns that no index takes;
    ``alone`` whether an index that begins with the column id would be another primary key.
    """
    equal = wanted.equal
    if wanted.joined and (equal or not wanted.ranged):
        # A range alone goes first: behind a column that other tables give, it would not start a search.
        equal = {**equal, **wanted.joined}
    if "id" in equal or not system.isdisjoint(equal):
        return None  # by convention the primary key, which leaves one row
    key = _Key(equal)
    sorted_by = wanted.sorted if system.isdisjoint(wanted.sorted) else {}
    if not wanted.patterns.isdisjoint(sorted_by):
        sorted_by = {}  # an index for LIKE has another order
    if wanted.ranged or sorted_by:
        ranged = {c: name for c, name in wanted.ranged.items() if c not in equal and c not in system}
        _add_range_or_order(key, ranged, {c: s for c, s in sorted_by.items() if c not in equal})
    del key.columns[_MAX_COLUMNS:], key.names[_MAX_COLUMNS:]
    return None if not key.columns or (alone and key.columns[0] == "id") else key


def _add_range_or_order(key: _Key, ranged: dict[str, str], sorted_by: dict[str, Sorted]) -> None:
    first_sorted = next(iter(sorted_by), None)
    if ranged and first_sorted is not None and first_sorted not in ranged:
        # Either the range or the order, and the range wins: rows that are not read need no sorting.
        sorted_by = {}
    if ranged:
        best = first_sorted if first_sorted in ranged else next(iter(ranged))
        key.add(best, ranged[best])
        key.roles.append(f"range on {ranged[best]}")
    if sorted_by:
        for column, by in sorted_by.items():
            key.add(column, by.name)
        key.roles.append("ORDER BY " + ", ".join(by.name for by in sorted_by.values()))
        key.nulls = {column: by.nulls for column, by in sorted_by.items() if by.nulls}
        if key.nulls or len({by.descends for by in sorted_by.values()}) > 1:
            key.descends = {column: by.descends for column, by in sorted_by.items()}
    key.for_order = [column for column in sorted_by if column not in ranged]


def suggestion_of(
    source: Source, wanted: Wanted, facts: Facts, *, predicate: str = "", include: tuple[str, ...] = ()
) -> IndexSuggestion | None:
    """The index, or None if there is nothing to search or it is known to exist. ``predicate`` (SQL) makes it
    a partial one, ``include`` are further columns that it holds.
    """
    dialect, schema = facts.dialect, facts.schema
    key = _key_for(wanted, _SYSTEM[dialect], alone=not (predicate or include))
    if key is None:
        return None
    names = tuple(key.names)
    if schema is not None and schema.serves(source.name, names, min(key.equal, 4)):
        return None
    lengths: list[int | None] = [None] * len(names)
    if dialect == "mysql" and schema is not None:
        kinds = [declared_type(source, column, schema) for column in key.columns]
        if any(kind is not None and kind.kind in WITHOUT_ORDER for kind in kinds):
            return None  # JSON
        lengths = [_PREFIX if _is_long(kind) else None for kind in kinds]
    within, table = owner_and_name(source, dialect)
    # In other collations than C, only this order of characters serves LIKE; it serves = as well.
    patterns = wanted.patterns if dialect == "postgres" else set()
    by_pattern = patterns.intersection(key.columns[key.equal :])
    listed = [
        listed_column(
            name,
            dialect,
            length,
            descends=key.descends.get(column, False),
            nulls=key.nulls.get(column, ""),
            expression=column in wanted.expressions,
        )
        + (" text_pattern_ops" if column in by_pattern else "")
        for name, column, length in zip(names, key.columns, lengths, strict=True)
    ]
    roles = key.roles
    if predicate:
        roles = [*roles, f"of the rows with {predicate}"]
    if include:
        roles = [*roles, f"holds {', '.join(include)}, so that the table need not be read"]
    return IndexSuggestion(
        table=f"{within}.{table}" if within else table,
        columns=names,
        ddl=create_index(
            index_name(source.name, names, predicate=predicate, include=include),
            within, table, listed, dialect, include=include, predicate=predicate,
        ),
        reason=f"{table}: {'; '.join(roles)}",
        equality_columns=names[: key.equal],
        sort_columns=tuple([n for c, n in zip(key.columns, names, strict=True) if c in key.for_order]),
        expressions=tuple([column for column in key.columns if column in wanted.expressions]),
        predicate=predicate,
        include=include,
        operator_class="text_pattern_ops" if by_pattern else "",
    )  # fmt: skip


def owner_and_name(source: Source, dialect: str) -> tuple[str, str]:
    """The schema that the query names for a table, or "", and the table's name."""
    owner = source.node.args.get("db")
    return name_of(owner, dialect) if owner is not None else "", name_of(source.node.this, dialect)


def _is_long(declared: DeclaredType | None) -> bool:
    if declared is None:
        return False
    return declared.kind in _LONG or (declared.kind in _STRINGS and (declared.length or 0) > _PREFIX)
