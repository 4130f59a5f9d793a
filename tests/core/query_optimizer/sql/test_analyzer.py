"""What SQL texts mean: type, tables read and written, and whether a result may be kept."""

import pytest

from bot.core.query_optimizer.models import QueryType as T
from bot.core.query_optimizer.sql.analyzer import analyze


@pytest.mark.parametrize(
    ("query", "kind", "reads", "writes"),
    [
        ("SELECT * FROM users", T.SELECT, {"users"}, set()),
        (
            "select a from Public.Users u join files f on f.u = u.id",
            T.SELECT,
            {"public.users", "files"},
            set(),
        ),
        ("WITH t AS (SELECT * FROM a) SELECT * FROM t JOIN b USING (id)", T.SELECT, {"a", "b"}, set()),
        ("WITH a AS (SELECT 1) SELECT * FROM s.a", T.SELECT, {"s.a"}, set()),
        (
            "SELECT (SELECT max(x) FROM a) FROM b WHERE id IN (SELECT id FROM c)",
            T.SELECT,
            {"a", "b", "c"},
            set(),
        ),
        ("SELECT * FROM a UNION SELECT * FROM b", T.SELECT, {"a", "b"}, set()),
        ("INSERT INTO a (x) VALUES (1)", T.INSERT, set(), {"a"}),
        ("INSERT INTO a SELECT * FROM b", T.INSERT, {"b"}, {"a"}),
        ("REPLACE INTO a (x) VALUES (1)", T.INSERT, set(), {"a"}),
        ("UPDATE a SET x = 1 WHERE id IN (SELECT id FROM b)", T.UPDATE, {"b"}, {"a"}),
        ("DELETE FROM a WHERE x = 1", T.DELETE, set(), {"a"}),
        ("MERGE INTO a USING b ON a.i = b.i WHEN MATCHED THEN UPDATE SET x = 1", T.MERGE, {"b"}, {"a"}),
        ("TRUNCATE TABLE a", T.DDL, set(), {"a"}),
        ("DROP TABLE a", T.DDL, set(), {"a"}),
        ("ALTER TABLE a ADD COLUMN x INT", T.DDL, set(), {"a"}),
        ("CREATE TABLE a (x INT)", T.DDL, set(), {"a"}),
        ("CREATE TABLE a AS SELECT * FROM b", T.DDL, {"b"}, {"a"}),
        ("WITH gone AS (DELETE FROM a RETURNING *) SELECT * FROM gone", T.SELECT, set(), {"a"}),
        ("UPDATE a SET x = 1; DELETE FROM b", T.SCRIPT, set(), {"a", "b"}),
        ("BEGIN", T.TRANSACTION, set(), set()),
    ],
)
def test_types_and_tables(query, kind, reads, writes):
    found = analyze(query, "postgres" if "RETURNING" in query or "MERGE" in query else "")
    assert found.query_type is kind
    assert found.reads == reads
    assert found.writes == writes
    assert not found.writes_anything
    assert found.is_write is bool(writes)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM users WHERE id = ?",
        "SELECT count(*), max(x), upper(y) FROM a GROUP BY z",
        "SELECT json_extract(x, '$.a'), instr(y, 'b') FROM a",
        "SELECT date(joined_at) FROM users",
        "SELECT 1",
        "VALUES (1)",
    ],
)
def test_plain_reads_may_be_cached(query):
    assert analyze(query, "sqlite").not_cacheable == ""


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("SELECT now()", "differs from call to call"),
        ("SELECT * FROM a WHERE t > CURRENT_TIMESTAMP", "differs"),
        ("SELECT * FROM a ORDER BY random()", "differs"),
        ("SELECT * FROM a ORDER BY RAND()", "differs"),
        ("SELECT gen_random_uuid()", "differs"),
        ("SELECT nextval('s')", "differs"),
        ("SELECT last_insert_rowid()", "differs"),
        ("SELECT date('now')", "current time"),
        ("SELECT datetime('now', '-1 day')", "current time"),
        ("SELECT my_own(x) FROM a", "not known to depend on its arguments"),
        ("SELECT * FROM a FOR UPDATE", "locks"),
        ("SELECT * FROM a FOR SHARE", "locks"),
        ("SELECT * INTO b FROM a", "writes"),
        ("INSERT INTO a VALUES (1)", "insert is no read"),
        ("SELECT 1; SELECT 2", "several statements"),
        ("SELECT * FROM generate_rows(3)", "not known to depend"),
        ("PRAGMA table_info(a)", "no read"),
        ("SELEC * FORM a", ""),
    ],
)
def test_what_must_not_be_cached_is_not(query, word):
    found = analyze(query, "")
    assert not found.cacheable
    assert word in found.not_cacheable


@pytest.mark.parametrize(
    "text",
    ["", ";", "   ", "SELEC * FORM", "'", '"', "SELECT '", "/* open", "\x00", "💥", "(((",
     "SELECT " + "(" * 5000, "SELECT 1" + " + 1" * 20_000, "é" * 1_000_000,
     "SELECT " + ", ".join(["x"] * 400_000), "a JOIN " * 20_000, "CASE WHEN " * 15_000, "ARRAY<" * 30_000,
     "FROM " * 30_000, "IF " * 50_000, "SELECT " + "f(" * 50_000, "x IN (SELECT " * 10_000,
     "/* a */ " * 1000 + "1"],
    ids=lambda text: repr(text[:12]),
)  # fmt: skip
def test_any_text_gets_an_answer(text):
    found = analyze(text, "")
    assert len(found.fingerprint) == 16
    assert found.query_type in T


def test_what_cannot_be_read_is_taken_to_write_anything():
    assert analyze("FROBNICATE THE users", "").writes_anything
    assert analyze("COMMIT", "").transaction == "commit", "what a transaction wrote shows only now"
    assert analyze("COMMIT -- '" + "x" * 300_000, "").transaction == "commit"
    assert not analyze("SHOW server_version", "postgres").is_write


def test_the_first_word_of_what_cannot_be_read_stands_after_its_comments():
    assert analyze("/* a */ -- b\n/* c; */ UPDATE a SET x = ; broken", "").query_type is T.UPDATE
    assert analyze("/* a */ /* UPDATE", "").query_type is T.UNKNOWN


def test_what_people_write_is_not_too_deep():
    values = ", ".join(f"({n}, -{n}, 'x')" for n in range(2_000))
    assert analyze(f"INSERT INTO a VALUES {values}", "").writes == {"a"}
    nested = "SELECT * FROM (" * 40 + "SELECT 1 FROM a" + ") AS t" * 40
    assert analyze(nested, "").reads == {"a"}
    joins = " ".join(f"JOIN t{n} ON t{n}.id = a.id" for n in range(200))
    assert len(analyze(f"SELECT * FROM a {joins}", "").reads) == 201


@pytest.mark.parametrize("dialect", ["", "postgres", "mysql", "sqlite"])
@pytest.mark.parametrize(
    "query",
    [
        "SELECT a FROM t WHERE b = %s AND c LIKE '%s'",
        "SELECT a FROM t WHERE b = %(name)s",
        "SELECT a FROM t WHERE b = ?1 AND c = ?2",
        "SELECT a FROM t WHERE b = :name AND c = ?",
        "SELECT a % s FROM t WHERE b = $1",
    ],
)
def test_parameters_as_any_driver_writes_them(query, dialect):
    found = analyze(query, dialect)
    assert (found.query_type, found.reads, found.not_cacheable) == (T.SELECT, {"t"}, "")


def test_a_comment_after_the_last_semicolon_is_no_statement():
    found = analyze("SELECT a FROM t; -- the end", "postgres")
    assert (found.query_type, found.not_cacheable) == (T.SELECT, "")
