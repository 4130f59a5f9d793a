"""What statements that pass through define, and which cached results a later write must drop for it."""

import pytest

from bot.core.query_optimizer.execution.result_scopes import Scope
from bot.core.query_optimizer.service import QueryOptimizer

PG, MY, LITE = "postgres", "mysql", "sqlite"


async def rows(query, params):
    return [(1,)]


async def optimizer_that_saw(dialect, statements, **settings):
    optimizer = QueryOptimizer()
    await optimizer.enable(dialect=dialect, **settings)
    for statement in statements:
        await optimizer.execute(statement, None, rows)
    return optimizer


async def is_kept(optimizer, query):
    return await optimizer.get_cached_result(query) is not None


T_TO_U = "CREATE RULE r AS ON INSERT TO t DO ALSO INSERT INTO u VALUES (new.x)"


@pytest.mark.parametrize(
    ("dialect", "seen", "read", "write"),
    [
        # Views: created, renamed, altered, over views, in other words.
        (PG, ["CREATE VIEW v AS SELECT * FROM t", "ALTER VIEW v RENAME TO w"], "w", "UPDATE t SET x = 2"),
        (PG, ["CREATE VIEW v AS SELECT * FROM t", "ALTER TABLE v RENAME TO w"], "w", "UPDATE t SET x = 2"),
        (PG, ["CREATE VIEW v AS SELECT * FROM t", "ALTER TABLE t RENAME TO t2"], "v", "UPDATE t2 SET x = 2"),
        (PG, ["CREATE VIEW v AS SELECT * FROM t", "ALTER TABLE t RENAME TO t2"], "t2", "UPDATE v SET x = 2"),
        (LITE, ["CREATE VIEW v AS SELECT * FROM t", "ALTER TABLE t RENAME TO t2"], "v", "DELETE FROM t2"),
        (MY, ["CREATE VIEW v AS SELECT * FROM t", "RENAME TABLE t TO t2"], "v", "DELETE FROM t2"),
        (MY, ["CREATE VIEW v AS SELECT * FROM t", "RENAME TABLE a TO b, v TO w"], "w", "DELETE FROM t"),
        (MY, ["CREATE VIEW v AS SELECT * FROM t", "ALTER VIEW v AS SELECT * FROM u"], "v", "DELETE FROM u"),
        (MY, ["ALTER VIEW v AS SELECT * FROM u"], "v", "DELETE FROM u"),
        (MY, ["ALTER DEFINER=CURRENT_USER VIEW v AS SELECT * FROM u"], "v", "DELETE FROM u"),
        (PG, ["CREATE OR REPLACE VIEW v AS SELECT * FROM s.t"], "v", "DELETE FROM t"),
        (PG, ["CREATE VIEW v AS TABLE t"], "v", "DELETE FROM t"),
        (PG, ["CREATE TEMP VIEW v AS SELECT * FROM t"], "v", "DELETE FROM t"),
        (PG, ["CREATE RECURSIVE VIEW v(x) AS SELECT x FROM t"], "v", "DELETE FROM t"),
        (PG, ["CREATE OR REPLACE TEMP RECURSIVE VIEW v(x) AS SELECT x FROM t"], "v", "DELETE FROM t"),
        (PG, ["CREATE VIEW v AS SELECT * FROM t", "CREATE VIEW w AS SELECT * FROM v"], "w", "DELETE FROM t"),
        (PG, ["CREATE VIEW w AS SELECT * FROM v", "CREATE VIEW v AS SELECT * FROM t"], "w", "DELETE FROM t"),
        (PG, ["CREATE VIEW v AS SELECT * FROM t"], "t", "UPDATE v SET x = 2"),
        (PG, ["CREATE MATERIALIZED VIEW v AS SELECT * FROM t"], "v", "REFRESH MATERIALIZED VIEW v"),
        # A view whose definition was not seen: any write may be to what it reads.
        (PG, ["ALTER VIEW v RENAME TO w"], "w", "DELETE FROM t"),
        (PG, ["ALTER TABLE v RENAME TO w"], "w", "DELETE FROM t"),
        (PG, ["DO $$ BEGIN EXECUTE 'create view v as select * from t'; END $$"], "v", "DELETE FROM t"),
        (PG, ["DO $$ BEGIN ALTER TABLE t RENAME TO t2; END $$"], "v", "DELETE FROM t2"),
        (PG, ["CALL migrate()"], "v", "DELETE FROM t"), (MY, ["CALL migrate()"], "v", "DELETE FROM t"),
        (PG, ["SELECT make_views()"], "v", "DELETE FROM t"), (PG, ["EXECUTE p"], "v", "DELETE FROM t"),
        (MY, ["EXECUTE IMMEDIATE 'create view v as select * from t'"], "v", "DELETE FROM t"),
        (PG, ["ALTER VIEW v SET SCHEMA s"], "v", "DELETE FROM t"), (PG, ["FROBNICATE"], "v", "DELETE FROM t"),
        (PG, ["IMPORT FOREIGN SCHEMA s FROM SERVER x INTO public"], "v", "DELETE FROM t"),
        # Partitions and heirs, either way.
        (PG, ["CREATE TABLE p1 PARTITION OF t FOR VALUES FROM (0) TO (9)"], "p1", "INSERT INTO t VALUES (1)"),
        (PG, ["CREATE TABLE p1 PARTITION OF t FOR VALUES FROM (0) TO (9)"], "t", "INSERT INTO p1 VALUES (1)"),
        (PG, ["CREATE TABLE p1 PARTITION OF t (b WITH OPTIONS NOT NULL) FOR VALUES IN ('c')"], "t",
         "DELETE FROM p1"),
        (PG, ["ALTER TABLE t ATTACH PARTITION s.p1 FOR VALUES IN (1)"], "t", "DELETE FROM p1"),
        (PG, ["ALTER TABLE t ATTACH PARTITION p1 DEFAULT"], "p1", "DELETE FROM t"),
        (PG, ["CREATE TABLE h () INHERITS (t, u)"], "u", "DELETE FROM h"),
        (PG, ["CREATE TABLE h (x int) INHERITS (t)"], "h", "UPDATE t SET x = 1"),
        (PG, ["ALTER TABLE h INHERIT t"], "t", "DELETE FROM h"),
        # Keys that pass a change on.
        (PG, ["CREATE TABLE c (x int REFERENCES t (x) ON DELETE CASCADE)"], "c", "DELETE FROM t"),
        (PG, ["CREATE TABLE c (x int, FOREIGN KEY (x) REFERENCES s.t ON UPDATE SET NULL)"], "c",
         "UPDATE t SET x = 1"),
        (PG, ["ALTER TABLE c ADD CONSTRAINT k FOREIGN KEY (x) REFERENCES t (x) ON DELETE SET DEFAULT"],
         "c", "DELETE FROM t"),
        (LITE, ["CREATE TABLE c (x REFERENCES t ON DELETE CASCADE, y REFERENCES u ON DELETE CASCADE)",
                "CREATE TABLE d (x REFERENCES c(x) ON DELETE CASCADE)"], "d", "DELETE FROM t"),
        (PG, ["CREATE TABLE a (x int REFERENCES b ON DELETE CASCADE)",
              "ALTER TABLE b ADD FOREIGN KEY (x) REFERENCES a (x) ON UPDATE CASCADE ON DELETE SET NULL"],
         "b", "DELETE FROM a"),
        # A known table that replaces rows deletes them; and so does REPLACE.
        (LITE, ["CREATE TABLE t (x PRIMARY KEY ON CONFLICT REPLACE)",
                "CREATE TABLE c (x REFERENCES t ON DELETE CASCADE)"], "c", "INSERT INTO t VALUES (1)"),
        (LITE, ["CREATE TABLE t (x PRIMARY KEY)", "CREATE TABLE c (x REFERENCES t ON DELETE CASCADE)"], "c",
         "REPLACE INTO t VALUES (1)"),
        (MY, ["CREATE TABLE t (x int)",
              "CREATE TABLE c (x int, FOREIGN KEY (x) REFERENCES t ON DELETE CASCADE)"], "c",
         "REPLACE INTO t VALUES (1)"),
        # A row of a partition that is updated may be moved, which deletes it there.
        (PG, ["CREATE TABLE t (x int) PARTITION BY RANGE (x)", "CREATE TABLE p PARTITION OF t DEFAULT",
              "CREATE TABLE c (x int REFERENCES t ON DELETE CASCADE)"], "c", "UPDATE t SET x = 1"),
        (PG, ["CREATE TABLE a.t (x int)", "CREATE TABLE c (x int REFERENCES a.t ON DELETE CASCADE)",
              "ALTER TABLE a.t SET SCHEMA b"], "c", "DELETE FROM b.t"),
        # Triggers and rules.
        (PG, ["CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS "
              "$$ BEGIN DELETE FROM u; RETURN NEW; END $$",
              "CREATE TRIGGER g AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()"], "u",
         "INSERT INTO t VALUES (1)"),
        (PG, ["CREATE TRIGGER g AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()",
              "CREATE OR REPLACE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS "
              "$$ BEGIN EXECUTE x; RETURN NEW; END $$"], "u", "INSERT INTO t VALUES (1)"),
        (MY, ["CREATE TRIGGER g AFTER INSERT ON t FOR EACH ROW INSERT INTO u VALUES (new.x)"], "u",
         "INSERT INTO t VALUES (1)"),
        (LITE, ["CREATE TRIGGER g AFTER INSERT ON t BEGIN INSERT INTO u VALUES (new.x); END"], "u",
         "INSERT INTO t VALUES (1)"),
        (LITE, ["CREATE TRIGGER g AFTER UPDATE OF x, y ON t WHEN new.x > 1 BEGIN UPDATE a SET x = 1; "
                "DELETE FROM u; END"], "u", "UPDATE t SET x = 1"),
        (LITE, ["CREATE TEMP TRIGGER IF NOT EXISTS g INSTEAD OF DELETE ON v BEGIN DELETE FROM u; END"], "u",
         "DELETE FROM v"),
        (PG, ["CREATE TRIGGER g AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()"], "u", "DELETE FROM t"),
        (MY, ["CREATE TRIGGER g AFTER INSERT ON t FOR EACH ROW CALL f()"], "u", "INSERT INTO t VALUES (1)"),
        (PG, [T_TO_U], "u", "INSERT INTO t VALUES (1)"),
        # Functions of the user's own that run at each write to a table.
        (PG, ["CREATE TABLE t (x int DEFAULT f())"], "u", "INSERT INTO t DEFAULT VALUES"),
        (PG, ["CREATE TABLE t (x int CHECK (f(x) > 0))"], "u", "UPDATE t SET x = 1"),
        (PG, ["ALTER TABLE t ALTER COLUMN x SET DEFAULT f()"], "u", "INSERT INTO t VALUES (1)"),
        (PG, ["ALTER TABLE t ADD CONSTRAINT c CHECK (f(x))"], "u", "INSERT INTO t VALUES (1)"),
        # Virtual tables: the tables behind them, the rows of another table, or from anywhere.
        (LITE, ["CREATE VIRTUAL TABLE f USING fts5(x, content='t')"], "f", "DELETE FROM t"),
        (LITE, ["CREATE VIRTUAL TABLE f USING fts5(x)"], "f_content", "INSERT INTO f VALUES ('a')"),
        (LITE, ["CREATE VIRTUAL TABLE f USING rtree(id, a, b)"], "f_node", "DELETE FROM f"),
        (LITE, ["CREATE VIRTUAL TABLE f USING csv(filename='t.csv')"], "f", "DELETE FROM a"),
        # Sequences.
        (PG, ["CREATE SEQUENCE q"], "q", "INSERT INTO t VALUES (1)"), (PG, [], "q", "SELECT nextval('q')"),
        (PG, ["SELECT setval('s.q', 1)"], "q", "DELETE FROM t"), (MY, [], "q", "SELECT nextval(q)"),
    ],
)  # fmt: skip
async def test_a_result_is_dropped_by_what_may_change_it(dialect, seen, read, write):
    optimizer = await optimizer_that_saw(dialect, seen)
    query = f"SELECT * FROM {read}"
    await optimizer.execute(query, None, rows)
    await optimizer.execute(write, None, rows)
    assert not await is_kept(optimizer, query)


@pytest.mark.parametrize(
    ("dialect", "seen", "read", "write"),
    [
        (PG, ["CREATE VIEW v AS SELECT * FROM t", "ALTER VIEW v RENAME TO w"], "w", "UPDATE u SET x = 2"),
        # Other events than those that a key or a trigger passes on, of tables whose definition was seen.
        (PG, ["CREATE TABLE t (x int)", "CREATE TABLE c (x int REFERENCES t ON DELETE CASCADE)"], "c",
         "UPDATE t SET x = 2"),
        (PG, ["CREATE TABLE t (x int)", "CREATE TABLE c (x int REFERENCES t ON UPDATE CASCADE)"], "c",
         "INSERT INTO t VALUES (1); DELETE FROM t"),
        (LITE, ["CREATE TABLE t (x)", "CREATE TRIGGER g AFTER DELETE ON t BEGIN DELETE FROM u; END"], "u",
         "UPDATE t SET x = 2"),
        (PG, ["CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS "
              "$$ BEGIN DELETE FROM v; RETURN NEW; END $$",
              "CREATE TRIGGER g AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()"], "u",
         "INSERT INTO t VALUES (1)"),
        (MY, ["CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW SET NEW.x = UPPER(NEW.x)"], "u",
         "INSERT INTO t VALUES (1)"),
        (PG, ["CREATE MATERIALIZED VIEW v AS SELECT * FROM t"], "v", "DELETE FROM t"),
        (PG, ["CREATE TABLE t (x int) PARTITION BY RANGE (x)"], "u", "INSERT INTO t VALUES (1)"),
        (PG, ["CREATE TABLE t (x uuid DEFAULT uuid_generate_v4(), y timestamptz DEFAULT now(), z int DEFAULT "
              "nextval('t_z_seq'), w text CHECK (length(w) < 9))"], "u", "INSERT INTO t DEFAULT VALUES"),
        (MY, ["CREATE TABLE t (x char(36) DEFAULT (uuid()), y datetime DEFAULT now())"], "u",
         "INSERT INTO t VALUES ()"),
        (PG, ["CREATE TABLE t (x int)", "ALTER TABLE t RENAME TO u"], "u", "DELETE FROM a"),
        (LITE, ["CREATE TABLE new (x)", "DROP TABLE t", "ALTER TABLE new RENAME TO t"], "t", "DELETE FROM a"),
        (LITE, ["ALTER TABLE new RENAME TO t"], "t", "DELETE FROM a"),
        (MY, ["ALTER VIEW v AS SELECT * FROM u"], "v", "DELETE FROM a"),
        (PG, ["CREATE TABLE p1 PARTITION OF t DEFAULT"], "p1", "INSERT INTO a VALUES (1)"),
        (PG, ["CREATE TABLE c (x int REFERENCES t (x))"], "c", "DELETE FROM t"),
        (LITE, ["CREATE TRIGGER g AFTER INSERT ON t BEGIN INSERT INTO u VALUES (new.x); END"], "a",
         "INSERT INTO t VALUES (1)"),
        (PG, ["CREATE TRIGGER g AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()"], "u", "DELETE FROM a"),
        # What cannot define a view leaves no doubt behind.
        (PG, ["DO $$ BEGIN CREATE TYPE m AS ENUM ('a'); EXCEPTION WHEN duplicate_object THEN null; END $$"],
         "t", "DELETE FROM a"),
        (PG, ["DO $$ BEGIN IF NOT EXISTS (SELECT 1 FROM pg_type) THEN CREATE ROLE bob; END IF; END $$"],
         "t", "DELETE FROM a"),
        (PG, ["CREATE EXTENSION IF NOT EXISTS citext", "CREATE ROLE bob"], "t", "DELETE FROM a"),
        (MY, ["SELECT own(1)"], "t", "DELETE FROM a"), (LITE, ["SELECT own(1)"], "t", "DELETE FROM a"),
        (PG, ["ALTER TABLE x DISABLE TRIGGER ALL"], "t", "DELETE FROM a"),
        (LITE, ["CREATE VIRTUAL TABLE f USING fts5(x)"], "f", "DELETE FROM a"),
        # Nor does doubt touch what was seen to be created as a table.
        (PG, ["CALL migrate()", "CREATE TABLE IF NOT EXISTS t (x int)", "CREATE TABLE a (x int)"], "t",
         "DELETE FROM a"),
    ],
)  # fmt: skip
async def test_a_result_is_not_dropped_by_what_cannot_change_it(dialect, seen, read, write):
    optimizer = await optimizer_that_saw(dialect, seen)
    query = f"SELECT * FROM {read}"
    await optimizer.execute(query, None, rows)
    await optimizer.execute(write, None, rows)
    assert await is_kept(optimizer, query)


@pytest.mark.parametrize("body", ["SELECT now()", "SELECT own(x) FROM t", "SELECT * FROM pg_stat_activity"])
async def test_a_view_that_changes_without_a_write_is_never_cached(body):
    optimizer = await optimizer_that_saw(PG, [f"CREATE VIEW v AS {body}", "SELECT * FROM v"])
    assert not await is_kept(optimizer, "SELECT * FROM v")
    scope = Scope(database="shop")
    await optimizer.execute("SELECT * FROM v", None, rows, scope=scope)
    assert await optimizer.get_cached_result("SELECT * FROM v", scope=scope) is None


async def test_a_function_seen_to_be_created_under_a_built_ins_name_is_the_users():
    optimizer = await optimizer_that_saw(PG, ["SELECT upper(x) FROM t", "SELECT u.total FROM u"])
    assert await is_kept(optimizer, "SELECT upper(x) FROM t")
    create = "CREATE OR REPLACE FUNCTION s.{}(u) RETURNS int LANGUAGE sql AS 'select 1'"
    for name in ("upper", "total"):
        await optimizer.execute(create.format(name), None, rows)
    for query in ("SELECT upper(x) FROM t", "SELECT u.total FROM u"):
        await optimizer.execute(query, None, rows)
        assert not await is_kept(optimizer, query)


async def test_what_is_defined_in_one_instance_is_known_in_the_others():
    here, there = await optimizer_that_saw(PG, []), await optimizer_that_saw(PG, [])

    async def told(tables):
        there.written_elsewhere(tables)

    here.after_write(told)
    for statement in ("CREATE VIEW v AS SELECT * FROM t", "ALTER VIEW v RENAME TO w"):
        await here.execute(statement, None, rows)
    for query in ("SELECT * FROM w", "SELECT * FROM a"):
        await there.execute(query, None, rows)
    await there.execute("UPDATE t SET x = 1", None, rows)
    assert not await is_kept(there, "SELECT * FROM w")
    assert await is_kept(there, "SELECT * FROM a")
    await here.execute("CALL migrate()", None, rows)
    await there.execute("SELECT * FROM b", None, rows)
    await there.execute("UPDATE t SET x = 1", None, rows)
    assert not await is_kept(there, "SELECT * FROM b")


@pytest.mark.parametrize(
    "text",
    ["", "[]", '["view"]', '["x", "v", []]', '["view", "v", 1]', "[" * 9_000, "é" * 21_000],
)
async def test_a_message_that_is_none_of_ours_leaves_a_doubt_and_no_error(text):
    optimizer = await optimizer_that_saw(PG, [])
    optimizer.written_elsewhere(["t", f"(declares) {text}"])
    await optimizer.execute("SELECT * FROM a", None, rows)
    await optimizer.execute("DELETE FROM b", None, rows)
    assert not await is_kept(optimizer, "SELECT * FROM a")
