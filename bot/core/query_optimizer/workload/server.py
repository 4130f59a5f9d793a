"""What a server tells about a workload, whatever its kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from bot.core.query_optimizer.plans.prepare import Statement
from bot.core.query_optimizer.sql.schema import DeclaredType, Schema
from bot.core.query_optimizer.workload.executions import Execution
from bot.core.query_optimizer.workload.existing import ExistingIndex, IndexUse


class Observed(NamedTuple):
    """What a server's statistics say about statements."""

    executions: list[Execution]
    begins: float | None
    """Unix seconds since when they are counted; None if it is not known."""
    ends: float | None
    notes: tuple[str, ...] = ()
    hidden_seconds: float = 0.0
    """What statements took whose text is not shown, or not kept."""


class Table(NamedTuple):
    """A column of a table."""

    schema: str
    table: str
    column: str
    not_null: bool
    kind: str
    """Its type, as the database writes it."""


class Server(Protocol):
    """A server that can be asked."""

    dialect: str

    async def statements(self, database: str, user: str) -> Observed: ...
    async def tables(self) -> list[Table]: ...
    async def indexes(self) -> IndexUse: ...
    async def explain(self, statements: Sequence[Statement]) -> list[list[Sequence[Any]]]: ...
    async def close(self) -> None: ...


def schema_of(tables: Sequence[Table], indexes: Sequence[ExistingIndex], dialect: str) -> Schema:
    """What rules and suggestions need to know. Tables of one name are taken for one."""
    from sqlglot import exp
    from sqlglot.errors import SqlglotError

    schema = Schema()
    owners: dict[str, set[str]] = {}
    kinds: dict[str, Any] = {}
    for each in tables:
        table, column = each.table.lower(), each.column.lower()
        owners.setdefault(table, set()).add(each.schema)
        schema.columns.setdefault(table, set()).add(column)
        if each.not_null:
            schema.not_null.setdefault(table, set()).add(column)
        if each.kind not in kinds:
            try:
                kind = exp.DataType.build(each.kind, dialect=dialect)
            except (SqlglotError, ValueError):
                kind = None
            kinds[each.kind] = kind
        if (kind := kinds[each.kind]) is not None:
            size = kind.expressions[0].name if len(kind.expressions) == 1 else ""
            declared = DeclaredType(kind.this, int(size) if size.isdigit() else None, False)
            schema.types.setdefault(table, {})[column] = declared
    for index in indexes:
        # A partial index, or one of another method, serves some queries only.
        if not index.valid or index.predicate or index.method.lower() != "btree":
            continue
        names = tuple(key.text.strip('"').lower() for key in index.keys)
        schema.indexes.setdefault(index.table.lower(), []).append(names)
        if index.unique and all(name.isidentifier() for name in names):
            schema.unique.setdefault(index.table.lower(), []).append(frozenset(names))
    for table, schemas in owners.items():
        if len(schemas) > 1:  # of one of them it may not be true
            schema.not_null.pop(table, None)
            schema.unique.pop(table, None)
            schema.types.pop(table, None)
    return schema
