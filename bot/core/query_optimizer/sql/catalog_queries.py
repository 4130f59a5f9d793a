"""What is asked of a database's catalog: one query for each dialect (pure).

Its rows are (what it is, the name as it is quoted, a text); :mod:`catalog` says what they mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

MAX_DEFINITIONS = 20_000
"""Most rows read of a catalog; a larger one is not read."""

_POSTGRES = """
WITH space AS (
    SELECT oid, nspname FROM pg_namespace
    WHERE nspname NOT IN ('pg_catalog', 'information_schema') AND nspname NOT LIKE 'pg\\_toast%'
        AND nspname NOT LIKE 'pg\\_temp%'
), relation AS (
    SELECT c.oid, c.relname, c.relkind, format('%I.%I', s.nspname, c.relname) AS name
    FROM pg_class c JOIN space s ON s.oid = c.relnamespace
), own AS (
    SELECT p.oid, p.proname, p.provolatile, left(p.prosrc, 50001) AS prosrc, l.lanname
    FROM pg_proc p JOIN space s ON s.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
    WHERE NOT EXISTS (
        SELECT 1 FROM pg_depend d
        WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
), runs AS (
    SELECT a.adrelid AS relid, d.refobjid AS function FROM pg_attrdef a
    JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = a.oid
    WHERE d.refclassid = 'pg_proc'::regclass
    UNION
    SELECT k.conrelid, d.refobjid FROM pg_constraint k
    JOIN pg_depend d ON d.classid = 'pg_constraint'::regclass AND d.objid = k.oid
    WHERE d.refclassid = 'pg_proc'::regclass AND k.conrelid <> 0
    UNION
    SELECT c.attrelid, d.refobjid FROM pg_constraint k
    JOIN pg_depend d ON d.classid = 'pg_constraint'::regclass AND d.objid = k.oid
    JOIN pg_attribute c ON c.atttypid = k.contypid
    WHERE d.refclassid = 'pg_proc'::regclass AND k.contypid <> 0
    UNION
    SELECT c.attrelid, d.refobjid FROM pg_type y
    JOIN pg_depend d ON d.classid = 'pg_type'::regclass AND d.objid = y.oid
    JOIN pg_attribute c ON c.atttypid = y.oid
    WHERE d.refclassid = 'pg_proc'::regclass AND y.typtype = 'd'
)
SELECT 'view', name, format('CREATE VIEW %s AS %s', name, pg_get_viewdef(oid))
FROM relation WHERE relkind = 'v'
UNION ALL
SELECT 'heir', h.name, p.name
FROM pg_inherits i JOIN relation h ON h.oid = i.inhrelid JOIN relation p ON p.oid = i.inhparent
WHERE h.relkind IN ('r', 'p', 'f')
UNION ALL
SELECT concat('key',
        CASE WHEN k.confdeltype IN ('c', 'n', 'd') THEN ' delete' END,
        CASE WHEN k.confupdtype IN ('c', 'n', 'd') THEN ' update' END), t.name, p.name
FROM pg_constraint k JOIN relation t ON t.oid = k.conrelid JOIN relation p ON p.oid = k.confrelid
WHERE k.contype = 'f' AND (k.confdeltype IN ('c', 'n', 'd') OR k.confupdtype IN ('c', 'n', 'd'))
UNION ALL
SELECT concat('trigger',
        CASE WHEN g.tgtype & 4 <> 0 THEN ' insert' END, CASE WHEN g.tgtype & 8 <> 0 THEN ' delete' END,
        CASE WHEN g.tgtype & 16 <> 0 THEN ' update' END, CASE WHEN g.tgtype & 32 <> 0 THEN ' truncate' END),
    t.name, concat(coalesce(f.lanname, p.proname), chr(10), f.prosrc)
FROM pg_trigger g JOIN relation t ON t.oid = g.tgrelid JOIN pg_proc p ON p.oid = g.tgfoid
LEFT JOIN own f ON f.oid = g.tgfoid
WHERE NOT g.tgisinternal AND p.pronamespace <> 'pg_catalog'::regnamespace
UNION ALL
SELECT 'trigger', t.name, concat(f.lanname, chr(10), f.prosrc)
FROM runs r JOIN relation t ON t.oid = r.relid JOIN own f ON f.oid = r.function WHERE f.provolatile <> 'i'
UNION ALL
SELECT DISTINCT 'writes', t.name, 'it has a rule' FROM pg_rewrite r JOIN relation t ON t.oid = r.ev_class
WHERE r.ev_type <> '1'
UNION ALL
SELECT 'policy', t.name, pg_get_expr(y.polqual, y.polrelid)
FROM pg_policy y JOIN relation t ON t.oid = y.polrelid WHERE y.polqual IS NOT NULL
UNION ALL
SELECT 'any', name, '' FROM relation WHERE relkind IN ('S', 'f')
UNION ALL
SELECT 'table', name, '' FROM relation WHERE relkind IN ('r', 'p', 'm')
UNION ALL
SELECT 'table', format('%I', t.relname), '' FROM relation t WHERE t.relkind IN ('r', 'p', 'm')
    AND NOT EXISTS (SELECT 1 FROM relation o WHERE o.relname = t.relname AND o.relkind IN ('v', 'f', 'S'))
UNION ALL
SELECT 'function', proname, concat(lanname, chr(10), prosrc) FROM own
"""

_SERVERS_OWN = "('mysql', 'information_schema', 'performance_schema', 'sys')"
_MYSQL = f"""
SELECT 'view' AS kind, CONCAT('`', table_schema, '`.`', table_name, '`') AS name,
    CONCAT('CREATE VIEW `', table_schema, '`.`', table_name, '` AS ', view_definition) AS text
FROM information_schema.views WHERE table_schema NOT IN {_SERVERS_OWN}
UNION ALL
SELECT CONCAT('trigger ', LOWER(event_manipulation)),
    CONCAT('`', event_object_schema, '`.`', event_object_table, '`'),
    CONCAT('mysql', CHAR(10), action_statement)
FROM information_schema.triggers WHERE trigger_schema NOT IN {_SERVERS_OWN}
UNION ALL
SELECT 'writes', CONCAT('`', t.table_schema, '`.`', t.table_name, '`'),
    'to see its triggers the user of the pool needs the privilege TRIGGER'
FROM information_schema.tables AS t
JOIN (
    SELECT CONCAT(CHAR(39), SUBSTRING_INDEX(CURRENT_USER(), '@', 1), CHAR(39), '@', CHAR(39),
        SUBSTRING_INDEX(CURRENT_USER(), '@', -1), CHAR(39)) AS grantee
) AS me
WHERE t.table_type IN ('BASE TABLE', 'SYSTEM VERSIONED') AND t.table_schema NOT IN {_SERVERS_OWN}
    AND NOT EXISTS (SELECT 1 FROM information_schema.user_privileges AS p
        WHERE p.grantee = me.grantee AND p.privilege_type = 'TRIGGER')
    AND NOT EXISTS (SELECT 1 FROM information_schema.schema_privileges AS p
        WHERE p.grantee = me.grantee AND p.privilege_type = 'TRIGGER' AND t.table_schema LIKE p.table_schema)
    AND NOT EXISTS (SELECT 1 FROM information_schema.table_privileges AS p
        WHERE p.grantee = me.grantee AND p.privilege_type = 'TRIGGER' AND p.table_schema = t.table_schema
            AND p.table_name = t.table_name)
UNION ALL
SELECT CONCAT('key', IF(delete_rule IN ('RESTRICT', 'NO ACTION'), '', ' delete'),
        IF(update_rule IN ('RESTRICT', 'NO ACTION'), '', ' update')),
    CONCAT('`', constraint_schema, '`.`', table_name, '`'),
    CONCAT('`', unique_constraint_schema, '`.`', referenced_table_name, '`')
FROM information_schema.referential_constraints
WHERE delete_rule NOT IN ('RESTRICT', 'NO ACTION') OR update_rule NOT IN ('RESTRICT', 'NO ACTION')
UNION ALL
SELECT IF(table_type = 'SEQUENCE', 'any', 'table'), CONCAT('`', table_schema, '`.`', table_name, '`'), ''
FROM information_schema.tables
WHERE table_type IN ('BASE TABLE', 'SYSTEM VERSIONED', 'SEQUENCE') AND table_schema NOT IN {_SERVERS_OWN}
UNION ALL
SELECT 'table', CONCAT('`', table_name, '`'), '' FROM information_schema.tables
WHERE table_schema NOT IN {_SERVERS_OWN}
GROUP BY table_name HAVING SUM(table_type NOT IN ('BASE TABLE', 'SYSTEM VERSIONED')) = 0
UNION ALL
SELECT 'function', routine_name, '' FROM information_schema.routines
WHERE routine_type = 'FUNCTION' AND routine_schema NOT IN {_SERVERS_OWN}
"""  # noqa: S608 - a constant

_SQLITE = """
SELECT CASE WHEN type = 'table' THEN 'defined' ELSE type END, '"' || replace(name, '"', '""') || '"', sql
FROM {schema}.{master} WHERE type IN ('table', 'view', 'trigger') AND sql IS NOT NULL
UNION ALL
SELECT 'key'
        || CASE WHEN k.on_delete IN ('NO ACTION', 'RESTRICT') THEN '' ELSE ' delete' END
        || CASE WHEN k.on_update IN ('NO ACTION', 'RESTRICT') THEN '' ELSE ' update' END,
    '"' || replace(m.name, '"', '""') || '"', '"' || replace(k."table", '"', '""') || '"'
FROM {schema}.{master} AS m JOIN pragma_foreign_key_list(m.name, {literal}) AS k
WHERE m.type = 'table'
    AND NOT (k.on_delete IN ('NO ACTION', 'RESTRICT') AND k.on_update IN ('NO ACTION', 'RESTRICT'))
"""

MAX_SCHEMAS = 20
"""Most databases of a connection to SQLite; it attaches ten at most, unless it is built otherwise."""


def query_of(dialect: str, schemas: Iterable[Sequence[Any]] = ()) -> str:
    """The query for a dialect; for SQLite ``schemas`` are the rows of PRAGMA database_list."""
    if dialect == "sqlite":
        names = ["main", "temp"]
        names += [name for name in (str(row[1]) for row in schemas) if name not in names]
        if len(names) > MAX_SCHEMAS:
            raise OverflowError(f"more than {MAX_SCHEMAS} attached databases")
        query = "UNION ALL".join(_of_sqlite(name) for name in names)
    else:
        query = {"postgres": _POSTGRES, "mysql": _MYSQL}[dialect]
    return f"{query}LIMIT {MAX_DEFINITIONS + 1}"


def _of_sqlite(schema: str) -> str:
    quoted = '"' + schema.replace('"', '""') + '"'
    literal = "'" + schema.replace("'", "''") + "'"
    master = "sqlite_temp_master" if schema == "temp" else "sqlite_master"
    return _SQLITE.format(schema=quoted, master=master, literal=literal)
