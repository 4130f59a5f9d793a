"""Data and queries made from a seed, for proving that rewritten queries give the same rows.

The data is mean: NULLs, duplicates, empty strings, children without parents. The queries are made so
that the optimizer finds something in most of them.
"""

from __future__ import annotations

import random
from typing import NamedTuple

TABLES = {
    "users": (("id", "int"), ("name", "text"), ("age", "int"), ("team_id", "int"), ("city", "text")),
    "teams": (("id", "int"), ("name", "text"), ("size", "int")),
    "files": (("id", "int"), ("user_id", "int"), ("kind", "text"), ("size", "int")),
}
LINKS = {
    ("users", "teams"): "{0}.team_id = {1}.id",
    ("teams", "users"): "{1}.team_id = {0}.id",
    ("users", "files"): "{1}.user_id = {0}.id",
    ("files", "users"): "{0}.user_id = {1}.id",
    ("teams", "files"): "{1}.size = {0}.size",
    ("files", "teams"): "{0}.size = {1}.size",
    ("users", "users"): "{0}.age = {1}.age",
    ("teams", "teams"): "{0}.size = {1}.size",
    ("files", "files"): "{0}.user_id = {1}.user_id",
}
WORDS = ("a", "A", "b", "ab", "", "x y")


def ddl() -> list[str]:
    kinds = {"int": "INTEGER", "text": "TEXT"}
    return [
        f"CREATE TABLE {table} ({', '.join(f'{name} {kinds[kind]}' for name, kind in columns)})"
        for table, columns in TABLES.items()
    ]


def rows(seed: int) -> dict[str, list[tuple[object, ...]]]:
    """Rows of each table; small, so that queries over three of them stay fast."""
    rng = random.Random(seed)
    made: dict[str, list[tuple[object, ...]]] = {}
    for table, columns in TABLES.items():
        found: list[tuple[object, ...]] = []
        for _ in range(rng.randint(0, 14)):
            if found and rng.random() < 0.2:
                found.append(rng.choice(found))
                continue
            found.append(
                tuple(
                    None
                    if rng.random() < 0.2
                    else (rng.randint(0, 5) if kind == "int" else rng.choice(WORDS))
                    for _, kind in columns
                )
            )
        made[table] = found
    return made


class Query(NamedTuple):
    text: str
    order: tuple[int, ...]
    """Positions of the columns it is ordered by."""


class QueryGenerator:
    """Queries over ``TABLES``, of the kinds that the rewrites look for."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.names = 0

    def query(self) -> Query:
        rng = self.rng
        if rng.random() < 0.25:
            return self._grouped()
        if rng.random() < 0.1:
            left, right = self._plain(columns=2).text, self._plain(columns=2).text
            return Query(f"{left} {rng.choice(('UNION', 'UNION ALL', 'INTERSECT', 'EXCEPT'))} {right}", ())
        return self._plain(columns=rng.randint(1, 3), ordered=True)

    def _alias(self) -> str:
        self.names += 1
        return f"t{self.names}"

    def _column(self, table: str, alias: str, kind: str | None = None) -> str:
        found = [name for name, of in TABLES[table] if kind in (None, of)]
        return f"{alias}.{self.rng.choice(found)}"

    def _literal(self, kind: str) -> str:
        return str(self.rng.randint(0, 5)) if kind == "int" else f"'{self.rng.choice(WORDS)}'"

    def _from(self) -> tuple[str, dict[str, str], list[str]]:
        """(the FROM clause, alias -> table, aliases joined by LEFT JOIN)"""
        rng = self.rng
        first = rng.choice(list(TABLES))
        alias = self._alias()
        text, sources, outer = f"{first} AS {alias}", {alias: first}, []
        for _ in range(rng.choice((0, 0, 1, 1, 2))):
            table, other = rng.choice(list(TABLES)), rng.choice(list(sources))
            joined = self._alias()
            on = LINKS[sources[other], table].format(other, joined)
            if rng.random() < 0.3:
                on += f" AND {self._comparison({joined: table})}"
            kind = rng.choice(("JOIN", "LEFT JOIN", "LEFT JOIN", "LEFT OUTER JOIN", "INNER JOIN"))
            text += f" {kind} {table} AS {joined} ON {on}"
            sources[joined] = table
            if kind.startswith("LEFT"):
                outer.append(joined)
        return text, sources, outer

    def _comparison(self, sources: dict[str, str]) -> str:
        rng = self.rng
        alias = rng.choice(list(sources))
        kind = rng.choice(("int", "text"))
        column = self._column(sources[alias], alias, kind)
        match rng.randint(0, 9):
            case 0:
                return f"{column} IS NULL"
            case 1:
                return f"{column} IS NOT NULL"
            case 2:
                return f"{column} IN ({self._literal(kind)}, {self._literal(kind)})"
            case 3:
                column = self._column(sources[alias], alias, "int")
                return f"{column} BETWEEN {self._literal('int')} AND {self._literal('int')}"
            case 4:
                return f"NOT {column} = {self._literal(kind)}"
            case 5:
                other = rng.choice(list(sources))
                return f"{column} = {self._column(sources[other], other, kind)}"
            case _:
                sign = rng.choice(("=", "=", "=", "<>", "<", ">=", ">", "!="))
                return f"{column} {sign} {self._literal(kind)}"

    def _subquery(self, sources: dict[str, str]) -> str:
        rng = self.rng
        outer = rng.choice(list(sources))
        table = rng.choice(list(TABLES))
        alias = self._alias()
        link = LINKS[sources[outer], table].format(outer, alias)
        where = f"{link} AND {self._condition({alias: table}, 1)}" if rng.random() < 0.6 else link
        match rng.randint(0, 5):
            case 0 | 1:
                sign = rng.choice(("> 0", ">= 1", "= 0", "<> 0", "< 1", "<= 0", "> 1", "!= 0"))
                counted = rng.choice(("*", "1", f"{alias}.size" if table != "users" else f"{alias}.age"))
                return f"(SELECT COUNT({counted}) FROM {table} AS {alias} WHERE {where}) {sign}"
            case 2:
                distinct = rng.choice(("", "DISTINCT "))
                return f"EXISTS (SELECT {distinct}{alias}.id FROM {table} AS {alias} WHERE {where})"
            case 3:
                column = self._column(sources[outer], outer, "int")
                parts = [
                    f"SELECT {self._column(table, alias, 'int')} FROM {table} AS {alias}",
                    rng.choice(("UNION", "UNION ALL")),
                    f"SELECT {self._column(table, alias, 'int')} FROM {table} AS {alias} WHERE {link}",
                ]
                return f"{column} {rng.choice(('IN', 'NOT IN'))} ({' '.join(parts)})"
            case _:
                column, inner = self._column(sources[outer], outer, "int"), self._column(table, alias, "int")
                order = f" ORDER BY {inner}" if rng.random() < 0.5 else ""
                distinct = rng.choice(("", "DISTINCT "))
                negated = rng.choice(("IN", "IN", "NOT IN"))
                return (
                    f"{column} {negated} (SELECT {distinct}{inner} FROM {table} AS {alias} "
                    f"WHERE {self._condition({alias: table}, 1)}{order})"
                )

    def _condition(self, sources: dict[str, str], depth: int) -> str:
        rng = self.rng
        choice = rng.random()
        if depth > 2 or choice < 0.25:
            return self._comparison(sources)
        if choice < 0.4:
            alias = rng.choice(list(sources))
            kind = rng.choice(("int", "text"))
            column = self._column(sources[alias], alias, kind)
            sides = [f"{column} = {self._literal(kind)}" for _ in range(rng.randint(2, 3))]
            if rng.random() < 0.4:
                sides.append(self._comparison(sources))
            rng.shuffle(sides)
            return f"({' OR '.join(sides)})"
        if choice < 0.5:
            return rng.choice(("1 = 1", "TRUE", "1 = 0", "'a' = 'a'"))
        if choice < 0.58:
            same = self._comparison(sources)
            return f"({same} {(word := rng.choice(('AND', 'OR')))} {self._comparison(sources)} {word} {same})"
        if choice < 0.75 and depth < 2:
            return self._subquery(sources)
        if choice < 0.8:
            return f"NOT ({self._condition(sources, depth + 1)})"
        word = rng.choice(("AND", "AND", "OR"))
        sides = [self._condition(sources, depth + 1) for _ in range(rng.randint(2, 3))]
        text = f" {word} ".join(sides)
        return text if word == "AND" and depth == 0 else f"({text})"

    def _where(self, sources: dict[str, str], outer: list[str]) -> str:
        rng = self.rng
        parts = []
        if outer and rng.random() < 0.5:
            alias = rng.choice(outer)
            parts.append(self._comparison({alias: sources[alias]}))
        if rng.random() < 0.8:
            parts.append(self._condition(sources, 0))
        rng.shuffle(parts)
        return " WHERE " + " AND ".join(f"({p})" if " OR " in p else p for p in parts) if parts else ""

    def _plain(self, columns: int, ordered: bool = False) -> Query:
        rng = self.rng
        clause, sources, outer = self._from()
        shown_from = list(sources)[:1] if rng.random() < 0.4 else list(sources)
        kinds = ["int"] * columns if not ordered else [rng.choice(("int", "text")) for _ in range(columns)]
        shown = []
        for kind in kinds:
            alias = rng.choice(shown_from)
            shown.append(self._column(sources[alias], alias, kind))
        distinct = "DISTINCT " if rng.random() < 0.4 else ""
        text = f"SELECT {distinct}{', '.join(shown)} FROM {clause}{self._where(sources, outer)}"
        if ordered and rng.random() < 0.4:
            return Query(f"{text} ORDER BY {shown[0]} {rng.choice(('', 'ASC', 'DESC'))}".rstrip(), (0,))
        return Query(text, ())

    def _grouped(self) -> Query:
        rng = self.rng
        clause, sources, outer = self._from()
        keys = []
        for _ in range(rng.randint(1, 2)):
            alias = rng.choice(list(sources))
            keys.append(self._column(sources[alias], alias))
        alias = rng.choice(list(sources))
        counted = self._column(sources[alias], alias, "int")
        call = rng.choice(
            ("COUNT(*)", f"COUNT({counted})", f"MAX(DISTINCT {counted})", f"MIN({counted})",
             f"SUM(CASE WHEN {counted} > 2 THEN 1 ELSE 0 END)", f"COUNT(DISTINCT {counted})")
        )  # fmt: skip
        shown = [*keys, call] if rng.random() < 0.8 else [keys[0], call]
        having = []
        for key in keys:
            if rng.random() < 0.5:
                kind = dict(TABLES[sources[key.split(".")[0]]])[key.split(".")[1]]
                having.append(f"{key} {rng.choice(('=', '<', '>=', '<>'))} {self._literal(kind)}")
        if rng.random() < 0.4:
            having.append(f"COUNT(*) > {rng.randint(0, 2)}")
        rng.shuffle(having)
        distinct = rng.choice(("DISTINCT ", "", ""))
        text = (
            f"SELECT {distinct}{', '.join(shown)} FROM {clause}{self._where(sources, outer)} "
            f"GROUP BY {', '.join(dict.fromkeys(keys))}"
        )
        if having:
            text += " HAVING " + " AND ".join(having)
        return Query(text, ())
