"""What a rule may ask besides its node."""

from __future__ import annotations

from typing import Any

from bot.core.query_optimizer.sql.analyzer import Reading
from bot.core.query_optimizer.sql.census import Census
from bot.core.query_optimizer.sql.column_types import exact_family, family_shown
from bot.core.query_optimizer.sql.schema import Schema
from bot.core.query_optimizer.sql.scopes import (
    Scope,
    Scopes,
)


class Facts:
    """What a rule may ask besides its node."""

    __slots__ = ("census", "dialect", "reading", "schema", "scopes")

    def __init__(self, reading: Reading, census: Census, schema: Schema | None) -> None:
        self.reading = reading
        self.dialect = reading.dialect
        self.census = census
        self.scopes = Scopes(census, schema)
        self.schema = schema

    def scope(self, node: Any) -> Scope | None:
        return self.scopes.by_node.get(id(node))

    def is_root(self, node: Any) -> bool:
        return node is self.census.statement

    def family(self, column: Any) -> str:
        """ "whole", "text" and so on, if equal values of the column are known to be one; else empty."""
        return exact_family(column, self.scopes.around(column), self.dialect)

    def shows_exact_values(self, select: Any) -> bool:
        scope = self.scope(select)
        return all(family_shown(item, scope, self.dialect) for item in select.expressions)
