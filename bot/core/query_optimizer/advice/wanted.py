"""What a query asks of one table."""

from __future__ import annotations

from typing import Any, NamedTuple

from bot.core.query_optimizer.advice.expression_keys import ExpressionKey


class Sorted(NamedTuple):
    """A key by which a result is sorted."""

    name: str
    descends: bool
    nulls: str = ""
    """"FIRST" or "LAST", where it is not where the order puts them by itself."""


class Wanted:
    """What a query asks of one table. A key is a column in lower case or, if ``expressions`` has it, SQL."""

    __slots__ = (
        "by_or",
        "conditions",
        "dialect",
        "equal",
        "expressions",
        "extreme",
        "joined",
        "patterns",
        "ranged",
        "sorted",
    )

    def __init__(self, dialect: str) -> None:
        self.dialect = dialect
        self.equal: dict[str, str] = {}  # key -> its name
        self.joined: dict[str, str] = {}
        self.ranged: dict[str, str] = {}
        self.sorted: dict[str, Sorted] = {}
        self.patterns: set[str] = set()  # of ranged: those compared with LIKE
        self.conditions: list[tuple[str, Any]] = []  # (key, condition) of equal and ranged
        self.expressions: dict[str, ExpressionKey] = {}
        self.by_or = 0  # the number of the side, from 1, if it is one of an OR
        self.extreme = False  # whether only the first or last value of the order is wanted

    def only(self, *, joined: bool = True, ranged: str | None = None, ordered: bool = True) -> Wanted:
        """A part of it: with or without what other tables give, one key by range, the order."""
        part = Wanted(self.dialect)
        part.equal, part.patterns, part.conditions = self.equal, self.patterns, self.conditions
        part.by_or, part.extreme, part.expressions = self.by_or, self.extreme, self.expressions
        part.joined = self.joined if joined else {}
        part.ranged = {} if ranged is None else {ranged: self.ranged[ranged]}
        part.sorted = self.sorted if ordered else {}
        return part

    def without(self, left_out: Any) -> Wanted:
        """The same without one condition, which something else serves."""
        part = self._copied([each for each in self.conditions if each[1] is not left_out])
        still = {key for key, _ in part.conditions}
        for key, condition in self.conditions:
            if condition is left_out and key not in still:
                part.equal.pop(key, None)
                part.ranged.pop(key, None)
                part.sorted.pop(key, None)  # the same value in each row
        return part

    def of_columns(self) -> Wanted:
        """The same without expressions."""
        part = self._copied([each for each in self.conditions if each[0] not in self.expressions])
        for key in self.expressions:
            part.equal.pop(key, None)
            part.ranged.pop(key, None)
        if not self.expressions.keys().isdisjoint(self.sorted):
            part.sorted = {}
        part.expressions = {}
        return part

    def _copied(self, conditions: list[tuple[str, Any]]) -> Wanted:
        part = Wanted(self.dialect)
        part.equal, part.joined, part.ranged = dict(self.equal), self.joined, dict(self.ranged)
        part.sorted, part.patterns, part.conditions = dict(self.sorted), self.patterns, conditions
        part.by_or, part.extreme, part.expressions = self.by_or, self.extreme, self.expressions
        return part

    def note(self, column: Any, where: dict[str, str]) -> None:
        written = column.name
        lowered = written.lower()
        if self.dialect == "postgres":
            written = name_of(column.this, self.dialect)
        where.setdefault(lowered, written)

    def note_expression(self, key: ExpressionKey, where: dict[str, str]) -> None:
        self.expressions[key.sql] = key
        where.setdefault(key.sql, key.sql)


def name_of(identifier: Any, dialect: str) -> str:
    """The name of an identifier: PostgreSQL folds names without quotes, and DDL may have to quote them."""
    name = str(identifier.name)
    return name.lower() if dialect == "postgres" and not identifier.args.get("quoted") else name
