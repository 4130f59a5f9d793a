"""Random schemas in which a write to one table changes others, and random writes, for real databases."""

from __future__ import annotations

import random
from typing import NamedTuple

ACTIONS = ("CASCADE", "SET NULL", "SET DEFAULT", "NO ACTION", "RESTRICT")


class Schema(NamedTuple):
    """Statements that define it, what can be read, and what can be written."""

    statements: list[str]
    reads: list[str]
    tables: list[str]
    """With the columns id, ref and v."""


def schema_of(dialect: str, random: random.Random) -> Schema:
    """Tables with keys in chains and cycles, triggers, views, and in PostgreSQL partitions and heirs."""
    tables = [f"t{number}" for number in range(5)]
    made: list[str] = []
    later: list[str] = []
    for table in tables:
        other = random.choice(tables)
        key = _key(dialect, random, other)
        known = other in tables[: tables.index(table)] or dialect == "sqlite"
        inline = key if random.random() < 0.7 and known else ""
        conflict = " ON CONFLICT REPLACE" if dialect == "sqlite" and random.random() < 0.2 else ""
        made.append(
            f"CREATE TABLE {table} (id int PRIMARY KEY{conflict}, ref int{_in_table(inline, dialect)})"
        )
        if not inline and dialect != "sqlite" and random.random() < 0.5:
            later.append(f"ALTER TABLE {table} ADD CONSTRAINT k_{table} FOREIGN KEY (ref){key}")
    made += later
    made += [f"CREATE TABLE log{number} (id int, ref int, v int)" for number in range(2)]
    names = [*tables, "log0", "log1"]
    if dialect == "postgres":
        names += _partitions(made, random)
    for number in range(random.randint(0, 3)):
        made += _trigger(dialect, random, number, random.choice(tables), names)
    views = []
    for number in range(3):
        view = f"w{number}"
        one, other = random.choice([*names, *views]), random.choice([*names, *views])
        where = (
            f"SELECT a.id, a.ref, a.v FROM {one} a WHERE EXISTS (SELECT 1 FROM {other} b WHERE b.id >= a.id)"
        )
        made.append(f"CREATE VIEW {view} AS {where}")
        views.append(view)
    return Schema(made, [*names, *views], names)


def _in_table(key: str, dialect: str) -> str:
    # MySQL ignores what stands behind a column.
    return f", v int, FOREIGN KEY (ref){key}" if dialect == "mysql" and key else f"{key}, v int"


def _key(dialect: str, random: random.Random, parent: str) -> str:
    actions = [each for each in ACTIONS if each != "SET DEFAULT" or dialect != "mysql"]
    key = f" REFERENCES {parent} (id)"
    if random.random() < 0.8:
        key += f" ON DELETE {random.choice(actions)}"
    if random.random() < 0.5:
        key += f" ON UPDATE {random.choice(actions)}"
    return key


def _partitions(made: list[str], random: random.Random) -> list[str]:
    made += [
        "CREATE TABLE p (id int, ref int, v int) PARTITION BY RANGE (id)",
        "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (5)",
        "CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (5) TO (100) PARTITION BY RANGE (id)",
        "CREATE TABLE p21 PARTITION OF p2 FOR VALUES FROM (5) TO (10)",
        "CREATE TABLE h (more int) INHERITS (t0)",
    ]
    if random.random() < 0.5:
        made += [
            "CREATE TABLE p22 (id int, ref int, v int)",
            "ALTER TABLE p2 ATTACH PARTITION p22 FOR VALUES FROM (10) TO (100)",
        ]
    else:
        made.append("CREATE TABLE p22 PARTITION OF p2 DEFAULT")
    return ["p", "p1", "p2", "p21", "p22", "h"]


def _trigger(dialect: str, random: random.Random, number: int, table: str, names: list[str]) -> list[str]:
    event = random.choice(("INSERT", "UPDATE", "DELETE"))
    row = "OLD" if event == "DELETE" else "NEW"
    other = random.choice([name for name in names if name != table])
    does = random.choice(
        (
            f"INSERT INTO log{number % 2} VALUES ({row}.id, {row}.ref, {row}.v);",
            f"UPDATE {other} SET v = v + 1 WHERE id = {row}.id;",
            f"DELETE FROM {other} WHERE id = {row}.id;",
        )
    )
    start = f"CREATE TRIGGER g{number} AFTER {event} ON {table} FOR EACH ROW"
    if dialect != "postgres":
        return [f"{start} BEGIN {does} END"]
    return [
        f"CREATE FUNCTION f{number}() RETURNS trigger LANGUAGE plpgsql "
        f"AS $$ BEGIN {does} RETURN {row}; END $$",
        f"{start} EXECUTE FUNCTION f{number}()",
    ]


def write_of(dialect: str, random: random.Random, tables: list[str]) -> str:
    """A write; the database may refuse it."""
    table = random.choice(tables)
    one, other = random.randint(0, 12), random.randint(0, 12)
    upsert = {
        "mysql": f"REPLACE INTO {table} VALUES ({one}, {other}, 1)",
        "sqlite": f"INSERT OR REPLACE INTO {table} VALUES ({one}, {other}, 1)",
        "postgres": f"INSERT INTO {table} (id, ref, v) VALUES ({one}, {other}, 1) "
        "ON CONFLICT (id) DO UPDATE SET ref = excluded.ref",
    }[dialect]
    return random.choice(
        (
            f"INSERT INTO {table} (id, ref, v) VALUES ({one}, NULL, {other})",
            f"INSERT INTO {table} (id, ref, v) VALUES ({one}, {other}, {other})",
            f"UPDATE {table} SET v = v + 1 WHERE id = {one}",
            f"UPDATE {table} SET id = {other} WHERE id = {one}",
            f"UPDATE {table} SET ref = {other} WHERE id = {one}",
            f"DELETE FROM {table} WHERE id = {one}",
            f"DELETE FROM {table} WHERE ref = {one}",
            upsert,
        )
    )
