"""What a database's catalog says about its tables, as the statements that would define them.

Views, partitions and heirs, cascading keys, triggers, rules, sequences, defaults that write, and functions of
the user's own: read once from a pool, they are known as if their definitions had passed through.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from bot.core.query_optimizer.sql.declarations import Declaration
from bot.core.query_optimizer.sql.functions import Known
from bot.core.query_optimizer.sql.names import ANY, NEVER, names_given

MAX_DEFINITIONS = 5_000
"""Most rows read of a catalog; a larger one is not read."""

_POSTGRES = """
WITH space AS (
    SELECT oid, nspname FROM pg_namespace
    WHERE nspname NOT IN ('pg_catalog', 'information_schema') AND nspname NOT LIKE 'pg\\_toast%'
), relation AS (
    SELECT c.oid, c.relname, c.relkind, s.nspname, format('%I.%I', s.nspname, c.relname) AS name
    FROM pg_class c JOIN space s ON s.oid = c.relnamespace
), own AS (
    SELECT p.oid, p.proname, p.provolatile, p.prosrc, l.lanname
    FROM pg_proc p JOIN space s ON s.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
    WHERE NOT EXISTS (
        SELECT 1 FROM pg_depend d
        WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
)
SELECT 'view', name, format('CREATE VIEW %s AS %s', name, pg_get_viewdef(oid))
FROM relation WHERE relkind = 'v'
UNION ALL
SELECT 'materialized', name, format('CREATE MATERIALIZED VIEW %s AS %s', name, pg_get_viewdef(oid))
FROM relation WHERE relkind = 'm'
UNION ALL
SELECT 'heir', h.name, format('ALTER TABLE %s INHERIT %s', h.name, p.name)
FROM pg_inherits i JOIN relation h ON h.oid = i.inhrelid JOIN relation p ON p.oid = i.inhparent
WHERE h.relkind IN ('r', 'p', 'f')
UNION ALL
SELECT 'key', t.name,
    format('ALTER TABLE %s ADD FOREIGN KEY (x) REFERENCES %s (x) ON DELETE CASCADE', t.name, p.name)
FROM pg_constraint k JOIN relation t ON t.oid = k.conrelid JOIN relation p ON p.oid = k.confrelid
WHERE k.contype = 'f' AND (k.confdeltype IN ('c', 'n', 'd') OR k.confupdtype IN ('c', 'n', 'd'))
UNION ALL
SELECT DISTINCT 'writes', t.name, '' FROM pg_trigger g JOIN relation t ON t.oid = g.tgrelid
LEFT JOIN own f ON f.oid = g.tgfoid
WHERE NOT g.tgisinternal AND (
    f.oid IS NULL OR f.lanname <> 'plpgsql'
    OR f.prosrc ~* '(insert|update|delete|merge|truncate|execute|perform|select|call|copy|create|drop|alter)')
UNION ALL
SELECT DISTINCT 'writes', t.name, '' FROM pg_rewrite r JOIN relation t ON t.oid = r.ev_class
WHERE r.ev_type <> '1'
UNION ALL
SELECT DISTINCT 'writes', t.name, '' FROM pg_attrdef a JOIN relation t ON t.oid = a.adrelid
JOIN pg_depend d
    ON d.classid = 'pg_attrdef'::regclass AND d.objid = a.oid AND d.refclassid = 'pg_proc'::regclass
JOIN own f ON f.oid = d.refobjid WHERE f.provolatile <> 'i'
UNION ALL
SELECT 'any', name, '' FROM relation WHERE relkind IN ('S', 'f')
UNION ALL
SELECT 'table', name, '' FROM relation WHERE relkind IN ('r', 'p')
UNION ALL
SELECT 'table', format('%I', t.relname), '' FROM relation t WHERE t.relkind IN ('r', 'p')
    AND NOT EXISTS (
        SELECT 1 FROM relation o WHERE o.relname = t.relname AND o.relkind IN ('v', 'm', 'f', 'S'))
UNION ALL
SELECT DISTINCT 'function', proname, '' FROM own
"""

_MYSQL = """
SELECT 'view', CONCAT('`', table_schema, '`.`', table_name, '`'),
    CONCAT('CREATE VIEW `', table_schema, '`.`', table_name, '` AS ', view_definition)
FROM information_schema.views
WHERE table_schema NOT IN ('mysql', 'information_schema', 'performance_schema', 'sys')
UNION ALL
SELECT 'writes', CONCAT('`', event_object_schema, '`.`', event_object_table, '`'), ''
FROM information_schema.triggers
WHERE trigger_schema NOT IN ('mysql', 'information_schema', 'performance_schema', 'sys')
UNION ALL
SELECT 'key', table_name, CONCAT('ALTER TABLE `', constraint_schema, '`.`', table_name,
    '` ADD FOREIGN KEY (x) REFERENCES `', unique_constraint_schema, '`.`', referenced_table_name,
    '` (x) ON DELETE CASCADE')
FROM information_schema.referential_constraints
WHERE delete_rule NOT IN ('RESTRICT', 'NO ACTION') OR update_rule NOT IN ('RESTRICT', 'NO ACTION')
UNION ALL
SELECT IF(table_type = 'SEQUENCE', 'any', 'table'), CONCAT('`', table_schema, '`.`', table_name, '`'), ''
FROM information_schema.tables
WHERE table_type IN ('BASE TABLE', 'SEQUENCE')
    AND table_schema NOT IN ('mysql', 'information_schema', 'performance_schema', 'sys')
UNION ALL
SELECT 'table', CONCAT('`', table_name, '`'), '' FROM information_schema.tables
WHERE table_schema NOT IN ('mysql', 'information_schema', 'performance_schema', 'sys')
GROUP BY table_name HAVING MIN(table_type) = 'BASE TABLE' AND MAX(table_type) = 'BASE TABLE'
"""

_SQLITE = """
SELECT CASE WHEN type = 'table' THEN 'defined' ELSE type END, name, sql
FROM (SELECT type, name, sql FROM sqlite_master UNION ALL SELECT type, name, sql FROM sqlite_temp_master)
WHERE type IN ('table', 'view', 'trigger') AND sql IS NOT NULL
"""

_LIMIT = f"LIMIT {MAX_DEFINITIONS + 1}"
CATALOGS = {
    "postgres": _POSTGRES + _LIMIT,
    "mysql": _MYSQL + _LIMIT,
    "sqlite": _SQLITE + _LIMIT,
}
"""One query for each dialect: (what it is, its name as it is quoted, a statement that defines it)."""


def learnt(rows: Iterable[Sequence[Any]], dialect: str) -> list[Declaration]:
    """What rows of the catalog declare."""
    from bot.core.query_optimizer.sql.analyzer import analyze

    found: list[Declaration] = []
    rows = [tuple(_text(part) for part in row) for row in rows]
    known = Known(own=frozenset(name.lower() for kind, name, _ in rows if kind == "function"))
    for kind, name, text in rows:
        if kind == "function":
            found.append(Declaration("function", name.lower()))
            continue
        try:
            names = names_given(name, dialect)
        except ValueError:
            continue
        if kind in ("table", "any", "writes"):
            relation = {"table": "table", "any": "view", "writes": "cascade"}[kind]
            others = frozenset(() if kind == "table" else (ANY,))
            found += [Declaration(relation, each, others) for each in names]
            continue
        declared = [each for each in analyze(text, dialect, known).declares if each.kind != "doubt"]
        if kind in ("view", "materialized") and not any(each.kind == "view" for each in declared):
            declared = [Declaration("view", each, frozenset((ANY, NEVER))) for each in names]
        found += declared
    return found


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes | bytearray) else str(value)
