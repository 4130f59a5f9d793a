"""What a query asks of one table."""

from __future__ import annotations

from typing import Any


class Wanted:
    """What a query asks of one table."""

    __slots__ = (
        "by_or",
        "conditions",
        "dialect",
        "equal",
        "extreme",
        "joined",
        "patterns",
        "ranged",
        "sorted",
    )

    def __init__(self, dialect: str) -> None:
        self.dialect = dialect
        self.equal: dict[str, str] = {}  # column in lower case -> its name
        self.joined: dict[str, str] = {}
        self.ranged: dict[str, str] = {}
        self.sorted: dict[str, tuple[str, bool]] = {}  # with whether it descends
        self.patterns: set[str] = set()  # of ranged: those compared with LIKE
        self.conditions: list[tuple[str, Any]] = []  # (column, condition) of equal and ranged
        self.by_or = 0  # the number of the side, from 1, if it is one of an OR
        self.extreme = False  # whether only the first or last value of the order is wanted

    def only(self, *, joined: bool = True, ranged: str | None = None, ordered: bool = True) -> Wanted:
        """A part of it: with or without what other tables give, one column by range, the order."""
        part = Wanted(self.dialect)
        part.equal, part.patterns, part.conditions = self.equal, self.patterns, self.conditions
        part.by_or, part.extreme = self.by_or, self.extreme
        part.joined = self.joined if joined else {}
        part.ranged = {} if ranged is None else {ranged: self.ranged[ranged]}
        part.sorted = self.sorted if ordered else {}
        return part

    def note(self, column: Any, where: dict[str, str]) -> None:
        written = column.name
        lowered = written.lower()
        if self.dialect == "postgres":
            written = name_of(column.this, self.dialect)
        where.setdefault(lowered, written)


def name_of(identifier: Any, dialect: str) -> str:
    """The name of an identifier: PostgreSQL folds names without quotes, and DDL may have to quote them."""
    name = str(identifier.name)
    return name.lower() if dialect == "postgres" and not identifier.args.get("quoted") else name
