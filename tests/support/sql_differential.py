"""Schemas, data and queries made from a seed, for running a query and its rewritten form side by side.

The types are those that trap a rewrite: equal values that are not the same (case, padding, 1 and 1.0),
literals that a list reads otherwise than a comparison does (float4, cidr, YEAR), types without equality
(json). The queries lean to what some rewrite looks for, with the forms around it that must forbid it:
joins within joins, set operations, windows, LIMIT, DISTINCT ON, divisions, comments.
"""

from __future__ import annotations

import random
from typing import NamedTuple


class Kind(NamedTuple):
    """A column's type."""

    declared: str
    group: str
    """Kinds of one group can be compared with each other."""
    values: tuple[str, ...]
    """Literals that a column holds and is compared with."""
    others: tuple[str, ...] = ()
    """Literals that it is only compared with."""
    exact: bool = False
    """Whether equal values are one; more columns are of such a kind, so that more rewrites are done."""
    ddl: str = ""
    """What must be there before the table."""
    indexed: str = "always"
    """Whether an index takes such a column: "always", "never", or "known" if its type must be."""


_INTEGERS = ("0", "1", "2", "3", "5")
_WORDS = ("'a'", "'A'", "'a '", "'b'", "'B'", "''")
_DATES = ("'2024-01-01'", "'2024-01-02'", "'2023-12-31'")

KINDS: dict[str, tuple[Kind, ...]] = {
    "sqlite": (
        Kind("INTEGER", "any", _INTEGERS, ("'1'", "1.0", "16777217"), exact=True),
        Kind("TEXT", "any", _WORDS, ("1", "'1.0'"), exact=True),
        Kind("VARCHAR(9)", "any", _WORDS, exact=True),
        Kind("TEXT COLLATE NOCASE", "any", _WORDS),
        Kind("TEXT COLLATE RTRIM", "any", _WORDS),
        Kind("REAL", "any", ("1", "2", "0.1", "16777216", "-0.0"), ("0", "'1'", "1.0")),
        Kind("NUMERIC", "any", ("1", "1.5", "'1'", "'a'", "'1.0'"), ("'1'", "2")),
        Kind("DECIMAL(6, 2)", "any", ("1.10", "1.1", "2", "'x'"), ("'1.1'",)),
        Kind("", "any", ("1", "1.0", "'1'", "'a'", "x'61'", "'A'"), ("2",)),
        Kind("BLOB", "any", ("x'61'", "'a'", "1", "1.0"), ("'A'",)),
        Kind("DATE", "any", _DATES, ("20240101",)),
    ),
    "postgres": (
        Kind("integer", "number", _INTEGERS, ("'1'", "1.5", "16777217"), exact=True),
        Kind("bigint", "number", (*_INTEGERS, "9007199254740993"), ("9007199254740992",), exact=True),
        Kind("smallint", "number", _INTEGERS, ("100000",), exact=True),
        Kind("text", "word", _WORDS, ("'x'",), exact=True),
        Kind("varchar(9)", "word", _WORDS, exact=True),
        Kind("date", "time", _DATES, ("'2024-01-01 00:00'", "'yesterday'"), exact=True),
        Kind("timestamp", "time", _DATES, ("'2024-01-01 00:00'", "'20240101'"), exact=True),
        Kind("uuid", "uuid", ("'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'",),
             ("'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "'x'"), exact=True),
        Kind("boolean", "boolean", ("true", "false", "'t'"), ("'yes'", "'true'"), exact=True),
        Kind("citext", "word", _WORDS, ("'B'",), ddl="CREATE EXTENSION IF NOT EXISTS citext"),
        Kind('text COLLATE "C"', "word", _WORDS),
        Kind("text COLLATE nocase", "word", _WORDS,
             ddl="CREATE COLLATION IF NOT EXISTS nocase "
             "(provider = icu, locale = 'und-u-ks-level2', deterministic = false)"),
        Kind("char(4)", "word", _WORDS, ("'a   '",)),
        Kind("real", "number", ("16777216", "0.1", "1", "'NaN'", "'-0'"), ("16777217", "0.1", "0")),
        Kind("double precision", "number", ("0.1", "1", "'NaN'", "'-0'"), ("0.10000000000000001", "0")),
        Kind("numeric", "number", ("1", "1.0", "1.00", "2.5"), ("'1.000'",)),
        Kind("numeric(6, 2)", "number", ("1", "1.1", "2.5"), ("1.104", "'1.10'")),
        Kind("cidr", "net", ("'10.0.0.0/8'", "'10.1.0.0/16'"), ("'10.0.0.5/8'", "'10/8'")),
        Kind("inet", "net", ("'10.0.0.0/8'", "'10.0.0.5/8'", "'10.0.0.5'"), ("'10.0.0.5/32'",)),
        Kind("bit(3)", "bit", ("B'101'", "B'000'"), ("'101'", "'1'")),
        Kind("jsonb", "jsonb", ("'1'", "'1.0'", "'{\"a\": 1}'"), ("'{\"a\":1}'", "'x'")),
        Kind("json", "json", ("'1'", "'[]'"), indexed="never"),
        Kind("xml", "xml", ("'<a/>'",), indexed="never"),
        Kind("integer[]", "array", ("'{1,2}'", "'{}'"), ("'{ 1, 2 }'", "ARRAY[1,2]")),
        Kind("interval", "interval", ("'1 month'", "'30 days'"), ("'720 hours'",)),
        Kind("mood", "mood", ("'sad'", "'ok'"), ("'nope'",), ddl="CREATE TYPE mood AS ENUM ('sad', 'ok')"),
        Kind("pair", "pair", ("'(1,2)'", "'(1,3)'"), ("ROW(1,2)",), ddl="CREATE TYPE pair AS (a int, b int)"),
    ),
    "mysql": (
        Kind("int", "number", _INTEGERS, ("'1'", "1.5", "'a'", "16777217"), exact=True),
        Kind("bigint unsigned", "number", (*_INTEGERS, "9007199254740993"), ("-1",), exact=True),
        Kind("tinyint(1)", "number", ("0", "1", "2"), ("300", "TRUE"), exact=True),
        Kind("date", "time", _DATES, ("20240101", "240101", "'2024-1-1'"), exact=True),
        Kind("datetime", "time", _DATES, ("20240101", "'2024-01-01 00:00'"), exact=True),
        Kind("varchar(9) COLLATE utf8mb4_general_ci", "word", _WORDS, ("0", "'\u00e4'")),
        Kind("varchar(9) COLLATE utf8mb4_bin", "word", _WORDS, ("0",)),
        Kind("varchar(9)", "word", _WORDS, ("'B'",)),
        Kind("varchar(9) CHARACTER SET latin1", "word", _WORDS, ("'\u0416'",)),
        Kind("char(4)", "word", _WORDS),
        Kind("text", "word", _WORDS, indexed="known"),
        Kind("varbinary(9)", "word", _WORDS),
        Kind("float", "number", ("16777216", "0.1", "1"), ("16777217", "0.1", "0")),
        Kind("double", "number", ("0.1", "1", "-0.0"), ("0.10000000000000001", "0")),
        Kind("decimal(6, 2)", "number", ("1", "1.1", "2.5"), ("1.104", "'1.10'", "'x'")),
        Kind("year", "number", ("1999", "2001", "2024"), ("99", "1", "'99'")),
        Kind("time", "clock", ("'10:00:00'", "'00:00:10'"), ("10", "100000")),
        Kind("timestamp NULL", "time", _DATES, ("'2024-01-01 00:00'",)),
        Kind("enum('a', 'b')", "word", ("'a'", "'b'"), ("1", "'A'", "'x'")),
        Kind("set('a', 'b')", "word", ("'a'", "'a,b'"), ("3", "'b,a'")),
        Kind("bit(3)", "number", ("b'101'", "b'000'"), ("5", "0")),
        Kind("json", "word", ("'1'", "'[]'"), ("'[ ]'",), indexed="known"),
        Kind("inet6", "net", ("'::1'", "'10.0.0.1'"), ("'0::1'",)),
    ),
}  # fmt: skip

_NAMES = ("users", "teams", "files", "order", "Mixed")
_COLUMNS = ("k", "name", "Val", "group", "n", "state", "made")


class Table(NamedTuple):
    name: str
    columns: dict[str, Kind]


class Dataset:
    """A schema with its rows, all from a seed."""

    def __init__(self, dialect: str, seed: int, kinds: tuple[Kind, ...]) -> None:
        self.dialect = dialect
        self.rng = rng = random.Random(f"{dialect} {seed}")
        self.seed = seed
        exact = [kind for kind in kinds if kind.exact]
        self.tables: list[Table] = []
        for name in rng.sample(_NAMES, 3):
            columns = {"id": kinds[0]}
            for column in rng.sample(_COLUMNS, rng.randint(2, 4)):
                columns[column] = rng.choice(exact if rng.random() < 0.5 else kinds)
            self.tables.append(Table(name, columns))

    def quoted(self, name: str) -> str:
        if name.islower() and name not in ("order", "group"):
            return name
        return f"`{name}`" if self.dialect == "mysql" else f'"{name}"'

    def ddl(self) -> list[str]:
        statements = []
        for table in self.tables:
            columns = [
                f"{self.quoted(name)} {kind.declared}".rstrip() for name, kind in table.columns.items()
            ]
            statements.append(f"CREATE TABLE {self.quoted(table.name)} ({', '.join(columns)})")
        return statements

    def inserts(self) -> list[str]:
        rng = self.rng
        made = []
        for table in self.tables:
            rows: list[str] = []
            for _ in range(rng.choice((0, 4, 6, 8, 10))):
                if rows and rng.random() < 0.2:
                    rows.append(rng.choice(rows))
                    continue
                values = [
                    "NULL" if rng.random() < 0.15 else rng.choice(kind.values)
                    for kind in table.columns.values()
                ]
                rows.append(f"({', '.join(values)})")
            if rows:
                made.append(f"INSERT INTO {self.quoted(table.name)} VALUES {', '.join(rows)}")
        return made

    def is_indexable(self, table: str, columns: tuple[str, ...], known: bool) -> bool:
        """Whether an index on these columns can be made, as far as the optimizer may know."""
        kinds = next(t.columns for t in self.tables if t.name.lower() == table.lower())
        lowered = {name.lower(): kind for name, kind in kinds.items()}
        return all(known or lowered[column.lower()].indexed != "known" for column in columns)


class Query(NamedTuple):
    text: str
    order: tuple[int, ...] = ()
    """Positions of the whole numbers that it is ordered by, the first ones."""


Sources = dict[str, Table]


class QueryGenerator:
    """Queries over a dataset."""

    def __init__(self, data: Dataset, seed: int) -> None:
        self.data = data
        self.rng = random.Random(f"{data.dialect} {data.seed} {seed}")
        self.made = 0

    def query(self) -> Query:
        rng = self.rng
        chance = rng.random()
        if chance < 0.25:
            query = self._grouped()
        elif chance < 0.38:
            query = self._united()
        else:
            query = self._plain(rng.randint(1, 3))
        return self._odd(query)

    def never_true(self) -> str:
        """A query with a WHERE of nothing but equalities, of which some may contradict each other."""
        rng = self.rng
        table, alias = rng.choice(self.data.tables), self._alias()
        column = rng.choice(list(table.columns))
        name, kind = f"{alias}.{self.data.quoted(column)}", table.columns[column]
        literals = [*kind.values, *kind.others]
        parts = [f"{name} = {self._literal(kind, literals)}" for _ in range(2)]
        if rng.random() < 0.3:
            parts.append(f"{name} {rng.choice(('=', '<>', '<'))} NULL")
        if rng.random() < 0.3:
            parts.append(self._comparison({alias: table}))
        rng.shuffle(parts)
        return f"SELECT 1 FROM {self.data.quoted(table.name)} AS {alias} WHERE {' AND '.join(parts)}"

    def labelled_union(self) -> tuple[str, str]:
        """Two queries, each of one literal and a column, to be united."""
        rng = self.rng
        table, alias = rng.choice(self.data.tables), self._alias()
        column = f"{alias}.{self.data.quoted(rng.choice(list(table.columns)))}"
        labels = [rng.choice(("'a'", "'A'", "'b'", "'a '", "1", "1.0", "'1'", "2", "'\u00e4'")) for _ in "ab"]
        one, other = (f"SELECT {w}, {column} FROM {self.data.quoted(table.name)} AS {alias}" for w in labels)
        return one, other

    # Parts.

    def _alias(self) -> str:
        self.made += 1
        return f"t{self.made}"

    def _named(self, table: Table, alias: str) -> str:
        return f"{self.data.quoted(table.name)} AS {alias}"

    def _column(self, sources: Sources, group: str | None = None) -> tuple[str, Kind]:
        found = [
            (f"{alias}.{self.data.quoted(name)}", kind)
            for alias, table in sources.items()
            for name, kind in table.columns.items()
            if group in (None, kind.group)
        ]
        exact = [pair for pair in found if pair[1].exact]
        if not found:
            return self._column(sources)
        return self.rng.choice(exact if exact and self.rng.random() < 0.4 else found)

    def _literal(self, kind: Kind, among: list[str] | None = None) -> str:
        rng = self.rng
        if rng.random() < 0.03:
            return rng.choice(("1", "'a'", "'1'", "NULL"))
        if among is None:
            among = [*kind.values, *(kind.others if rng.random() < 0.3 else ())]
        return rng.choice(among)

    def _link(self, sources: Sources, other: Sources) -> str:
        column, kind = self._column(other)
        if self.rng.random() < 0.5:
            column, kind = f"{next(iter(other))}.id", KINDS[self.data.dialect][0]
        return f"{self._column(sources, kind.group)[0]} = {column}"

    def _from(self) -> tuple[str, Sources, list[str]]:
        """(the FROM clause, its sources by alias, aliases that an outer join brings in)"""
        rng, tables = self.rng, self.data.tables
        alias, table = self._alias(), rng.choice(tables)
        text, sources, outer = self._named(table, alias), {alias: table}, []
        for _ in range(rng.choice((0, 0, 1, 1, 1, 2))):
            alias, table = self._alias(), rng.choice(tables)
            own = {alias: table}
            form = rng.random()
            if form < 0.06:
                text += f", {self._named(table, alias)}"
            elif form < 0.14:
                inner, of = self._alias(), rng.choice(tables)
                both = {**own, inner: of}
                join = rng.choice(("JOIN", "LEFT JOIN"))
                first = f"{self._named(table, alias)} {join} {self._named(of, inner)}"
                on, outside = self._link({inner: of}, own), self._link(sources, both)
                if rng.random() < 0.5:
                    text += f" LEFT JOIN {first} ON {on} ON {outside}"
                else:
                    text += f" LEFT JOIN ({first} ON {on}) ON {outside}"
                sources |= both
                outer += both
                continue
            elif form < 0.18:
                text += f" {rng.choice(('', 'LEFT '))}JOIN {self._named(table, alias)} USING (id)"
            elif form < 0.20:
                text += f" NATURAL {rng.choice(('', 'LEFT '))}JOIN {self._named(table, alias)}"
            elif form < 0.23 and self.data.dialect == "postgres":
                text += f" LEFT JOIN LATERAL (SELECT * FROM {self._named(table, 'l')}) AS {alias} ON TRUE"
            elif form < 0.27:
                text += f" CROSS JOIN {self._named(table, alias)}"
            else:
                kinds = ["JOIN", "INNER JOIN", *["LEFT JOIN"] * 4, "LEFT OUTER JOIN"]
                if rng.random() < 0.1:
                    kinds = ["RIGHT JOIN"] if self.data.dialect != "postgres" else ["RIGHT JOIN", "FULL JOIN"]
                kind = rng.choice(kinds)
                on = self._link(sources, own)
                if rng.random() < 0.2:
                    on += f" AND {self._comparison(own)}"
                text += f" {kind} {self._named(table, alias)} ON {on}"
                if kind.startswith("LEFT"):
                    outer.append(alias)
            sources[alias] = table
        return text, sources, outer

    def _comparison(self, sources: Sources) -> str:
        rng = self.rng
        column, kind = self._column(sources)
        match rng.randint(0, 13):
            case 0:
                return f"{column} IS NULL"
            case 1 | 2:
                return f"{column} IS NOT NULL"
            case 3:
                return f"{column} IN ({self._literal(kind)}, {self._literal(kind)})"
            case 4:
                return f"{column} BETWEEN {self._literal(kind)} AND {self._literal(kind)}"
            case 5:
                return f"NOT {column} = {self._literal(kind)}"
            case 6:
                return f"{column} = {self._column(sources, kind.group)[0]}"
            case 7 if rng.random() < 0.3:
                return f"{column} = {self._literal(kind)} IS {rng.choice(('NULL', 'NOT NULL'))}"
            case 8 if kind.group in ("word", "any"):
                pattern = rng.choice(("a%", "A%", "a"))
                return f"{column} LIKE '{pattern}'"
            case 9 if rng.random() < 0.3:
                return rng.choice((f"1 / ({column} - 1) > 0", f"CAST({column} AS CHAR(3)) = '1'", column))
            case _:
                sign = rng.choice(("=", "=", "=", "<>", "<", ">=", ">", "!="))
                return f"{column} {sign} {self._literal(kind)}"

    def _subquery(self, sources: Sources) -> str:
        rng = self.rng
        table, alias = rng.choice(self.data.tables), self._alias()
        own = {alias: table}
        named, link = self._named(table, alias), self._link(sources, own)
        where = f"{link} AND {self._condition(own, 1)}" if rng.random() < 0.5 else link
        inner, kind = self._column(own)
        order = f" ORDER BY {self._column(own)[0] if rng.random() < 0.3 else inner}"
        order = order if rng.random() < 0.4 else ""
        distinct = rng.choice(("", "DISTINCT "))
        match rng.randint(0, 7):
            case 0 | 1:
                sign = rng.choice(("> 0", ">= 1", "= 0", "<> 0", "< 1", "<= 0", "> 1", "!= 0"))
                counted = rng.choice(("*", "1", inner))
                return f"(SELECT COUNT({counted}) FROM {named} WHERE {where}) {sign}"
            case 2 | 3:
                return f"EXISTS (SELECT {distinct}{inner} FROM {named} WHERE {where}{order})"
            case 4:
                other, also = rng.choice(self.data.tables), self._alias()
                second, _ = self._column({also: other}, kind.group)
                united = (
                    f"SELECT {distinct}{inner} FROM {named} {rng.choice(('UNION', 'UNION', 'UNION ALL'))} "
                    f"SELECT {second} FROM {self._named(other, also)}"
                )
                if rng.random() < 0.4:
                    return f"EXISTS ({united})"
                return f"{self._column(sources, kind.group)[0]} {rng.choice(('IN', 'NOT IN'))} ({united})"
            case _:
                column = self._column(sources, kind.group)[0]
                condition = self._condition(own, 1)
                return (
                    f"{column} {rng.choice(('IN', 'IN', 'NOT IN'))} "
                    f"(SELECT {distinct}{inner} FROM {named} WHERE {condition}{order})"
                )

    def _condition(self, sources: Sources, depth: int) -> str:
        rng = self.rng
        chance = rng.random()
        if depth > 2 or chance < 0.2:
            return self._comparison(sources)
        if chance < 0.4:
            column, kind = self._column(sources)
            literals = [*kind.values, *(kind.others if rng.random() < 0.6 else ())]
            sides = [f"{column} = {self._literal(kind, literals)}" for _ in range(rng.randint(2, 3))]
            if rng.random() < 0.3:
                sides.append(self._comparison(sources))
            rng.shuffle(sides)
            return f"({' OR '.join(sides)})"
        if chance < 0.5:
            return rng.choice(("1 = 1", "TRUE", "1 = 0", "'a' = 'a'"))
        if chance < 0.58:
            same, word = self._comparison(sources), rng.choice(("AND", "OR"))
            return f"({same} {word} {self._comparison(sources)} {word} {same})"
        if chance < 0.75 and depth < 2:
            return self._subquery(sources)
        if chance < 0.8:
            return f"NOT ({self._condition(sources, depth + 1)})"
        word = rng.choice(("AND", "AND", "OR"))
        return f"({f' {word} '.join(self._condition(sources, depth + 1) for _ in range(2))})"

    def _where(self, sources: Sources, outer: list[str]) -> str:
        rng = self.rng
        parts = []
        if outer and rng.random() < 0.5:
            alias = rng.choice(outer)
            parts.append(self._comparison({alias: sources[alias]}))
        if rng.random() < 0.6:
            parts.append(self._condition(sources, 0))
        rng.shuffle(parts)
        return f" WHERE {' AND '.join(parts)}" if parts else ""

    def _plain(self, columns: int) -> Query:
        rng = self.rng
        clause, sources, outer = self._from()
        first = next(iter(sources))
        shown_from = {first: sources[first]} if rng.random() < 0.5 else sources
        shown = [self._column(shown_from)[0] for _ in range(columns)]
        ordered = rng.random() < 0.3
        if ordered:
            shown[0] = f"{first}.id"
        distinct = "DISTINCT " if rng.random() < 0.35 else ""
        text = f"SELECT {distinct}{', '.join(shown)} FROM {clause}{self._where(sources, outer)}"
        if not ordered:
            return Query(text)
        return Query(f"{text} ORDER BY {first}.id{rng.choice(('', ' ASC', ' DESC'))}", (0,))

    def _grouped(self) -> Query:
        rng = self.rng
        clause, sources, outer = self._from()
        keys = [self._column(sources) for _ in range(rng.randint(1, 2))]
        counted, _ = self._column(sources)
        call = rng.choice(
            ("COUNT(*)", f"COUNT({counted})", f"MAX(DISTINCT {counted})", f"MIN({counted})",
             f"MIN(DISTINCT {counted})", f"COUNT(DISTINCT {counted})",
             f"SUM(CASE WHEN {counted} IS NULL THEN 1 ELSE 0 END)")
        )  # fmt: skip
        distinct = rng.choice(("DISTINCT ", "", ""))
        if rng.random() < 0.2:
            return Query(f"SELECT {distinct}{call} FROM {clause}{self._where(sources, outer)}")
        names = list(dict.fromkeys(name for name, _ in keys))
        shown = [*names, call] if rng.random() < 0.7 else [names[0], call]
        having = [
            f"{name} {rng.choice(('=', '<', '>=', '<>'))} {self._literal(kind)}"
            for name, kind in keys
            if rng.random() < 0.6
        ]
        if rng.random() < 0.3:
            having.append(f"COUNT(*) > {rng.randint(0, 2)}")
        rng.shuffle(having)
        text = (
            f"SELECT {distinct}{', '.join(shown)} FROM {clause}{self._where(sources, outer)} "
            f"GROUP BY {', '.join(names)}"
        )
        if having:
            text += f" HAVING {' AND '.join(having)}"
        if rng.random() < 0.2:
            text += f" ORDER BY {rng.choice((names[0], f'MAX({counted})'))}"
        return Query(text)

    def _united(self) -> Query:
        rng = self.rng
        parts = []
        group = None
        for _ in range(rng.choice((2, 2, 2, 3))):
            table, alias = rng.choice(self.data.tables), self._alias()
            column, kind = self._column({alias: table}, group)
            group = kind.group
            distinct = rng.choice(("DISTINCT ", "DISTINCT ", ""))
            parts.append(
                f"SELECT {distinct}{column} FROM {self._named(table, alias)}{self._where({alias: table}, [])}"
            )
        text = parts[0]
        for part in parts[1:]:
            text += f" {rng.choice(('UNION', 'UNION', 'UNION', 'UNION ALL', 'INTERSECT', 'EXCEPT'))} {part}"
        return Query(text)

    def _odd(self, query: Query) -> Query:
        """The query with something about it that must not be touched, or, mostly, as it is."""
        rng = self.rng
        text = query.text
        match rng.randint(0, 39):
            case 0:
                return Query(f"/* route:/start */ {text} -- end", query.order)
            case 1:
                return Query(text.replace(" FROM ", " /* from */ FROM ", 1), query.order)
            case 2:
                return Query(f"{text} LIMIT 2", query.order)
            case 3 if text.startswith("SELECT DISTINCT ") and self.data.dialect == "postgres":
                return Query(text.replace("DISTINCT ", "DISTINCT ON (1) ", 1))
            case 4:
                return Query(text.replace("SELECT ", "SELECT ROW_NUMBER() OVER (ORDER BY 1), ", 1))
            case 5:
                return Query(f"{text} FOR UPDATE" if self.data.dialect != "sqlite" else text, query.order)
            case 6:
                return Query(f"WITH w AS ({text}) SELECT COUNT(*) FROM w")
            case 7:
                return Query(text.replace(" AS t1", "").replace("t1.", f"{self._first_table(text)}."))
            case 9 if self.data.dialect == "postgres":
                return Query(text.replace(" AS t1", " AS t1 (n, k, id)", 1), query.order)
            case 8:
                return Query(text.lower() if "'" not in text and '"' not in text else text, query.order)
            case _:
                return query

    def _first_table(self, text: str) -> str:
        return text.partition(" AS t1")[0].rpartition(" ")[2]
