"""Why a result is not cached, in which words, and what the functions of a statement declare."""

import pytest

from bot.core.query_optimizer.sql.analyzer import analyze
from bot.core.query_optimizer.sql.functions import Known

PG, MY, LITE = "postgres", "mysql", "sqlite"
NO_TABLE = "it reads from what is no table"
CATALOG = "is a catalog, which changes without a write to it"


@pytest.mark.parametrize(
    ("dialect", "query", "reason"),
    [
        (PG, "SELECT * FROM pg_class", f"pg_class {CATALOG}"),
        (PG, "SELECT * FROM s.pg_x", f"pg_x {CATALOG}"),
        (PG, "SELECT * FROM information_schema.tables", f"tables {CATALOG}"),
        (PG, "SELECT * FROM s.tables", ""), (PG, "SELECT * FROM tables", ""),
        (LITE, "SELECT x FROM a WHERE i IN sqlite_master", "sqlite_master is a catalog"),
        # Words that are functions without parentheses, unless they are quoted or of a schema.
        (PG, "SELECT * FROM current_date", "current_date differs from call to call"),
        (PG, 'SELECT * FROM "current_date"', ""), (PG, "SELECT * FROM s.user", ""),
        # PostgreSQL's word before a name, or a table's name.
        ("", "SELECT * FROM only x", "ONLY may be PostgreSQL's word, and the table what follows"),
        ("", "SELECT * FROM only", ""), ("", "SELECT * FROM a x", ""), (PG, "SELECT * FROM only x", ""),
        # Backslashes mean something in strings that say so.
        (PG, r"SELECT E'\x41'", "a string in it is written with escapes"),
        (PG, r"SELECT '\x41' FROM a", ""), (PG, r"SELECT x FROM a WHERE y = 'C:\dir'", ""),
        (PG, "SELECT $$abc$$", ""), (PG, "SELECT x::text FROM a", ""), (PG, "SELECT 'no', 'w' FROM a", ""),
        ("", r"SELECT U&'\006eow'", "a string in it is written with escapes"),
        (PG, "SELECT x FROM a WHERE y OPERATOR(s.+) 2", "OPERATOR() may be a function of the user's own"),
        (PG, "SELECT x <~ y FROM a", "<~ may be an operator of the user's own"),
        # Strings that are the current time only if they are joined, and dollars within a string.
        (PG, "SELECT 'no', 'w', now FROM a", ""), (PG, "SELECT x || '$$' FROM a", ""),
        (PG, "SELECT 'no' || 'w', now FROM a", "a string in it may be read as the current time"),
        # Sources that are no tables.
        (LITE, "SELECT * FROM ?", NO_TABLE), (PG, "SELECT * FROM $1", NO_TABLE),
        (MY, "SELECT x INTO @v FROM a", "it reads or sets a variable"),
        (LITE, "SELECT x FROM @y", NO_TABLE),
        (PG, "SELECT * FROM (VALUES (1)) v", ""), (MY, "SELECT * FROM only x", ""),
        # SQLite's IN takes a table, a table's function or a parameter without parentheses.
        (LITE, "SELECT x FROM a WHERE i IN generate_series(1, 3)", ""), (LITE, "SELECT i IN ? FROM a", ""),
        (LITE, "SELECT x FROM a WHERE i IN 'names'", NO_TABLE), (LITE, "SELECT i IN b.* FROM a", NO_TABLE),
        # Samples and modifiers that make no difference.
        ("", "SELECT * FROM a TABLESAMPLE SYSTEM (50) REPEATABLE (1)", ""),
        (MY, "SELECT STRAIGHT_JOIN x FROM a", ""),
        (MY, "SELECT HIGH_PRIORITY SQL_CALC_FOUND_ROWS x FROM a", "FOUND_ROWS() depends on its execution"),
        (PG, "SELECT last_value FROM q", "last_value is a sequence's, which changes without a write to it"),
        (MY, "SELECT utc_date FROM a", "utc_date differs from call to call"),
    ],
)  # fmt: skip
def test_why_a_result_is_not_cached(dialect, query, reason):
    assert analyze(query, dialect).not_cacheable == reason


@pytest.mark.parametrize(
    ("dialect", "query", "reason"),
    [
        (PG, "SELECT * FROM pg_class, current_date, users_id_seq", f"pg_class {CATALOG}"),
        (LITE, "SELECT * FROM sqlite_master, ?", f"sqlite_master {CATALOG}"),
        (LITE, "SELECT * FROM sqlite_master WHERE name IN names", f"sqlite_master {CATALOG}"),
    ],
)
def test_the_first_reason_is_told(dialect, query, reason):
    assert analyze(query, dialect).not_cacheable == reason


def test_a_column_may_be_a_call_of_a_function_of_the_users_own():
    known = Known(own=frozenset({"balance"}))
    assert analyze("SELECT u.balance FROM u", PG).not_cacheable == ""
    reason = "balance may be a function of the user's own"
    assert analyze("SELECT u.name, u.balance FROM u", PG, known).not_cacheable == reason
    assert analyze("SELECT u.name, balance FROM u", PG, known).not_cacheable == ""


@pytest.mark.parametrize(
    ("dialect", "query", "declared"),
    [
        # Of a function that nobody knows: in a table's definition it runs at each write to the table.
        (PG, "CREATE TABLE a (x int DEFAULT add_one(1))", {("cascade", "a"), ("table", "a")}),
        (PG, "ALTER TABLE a ADD COLUMN x int DEFAULT add_one(1)", {("cascade", "a")}),
        # In a query it may define anything, once.
        (PG, "CREATE TABLE a AS SELECT add_one(x) FROM b", {("doubt", ""), ("table", "a")}),
        (PG, "CREATE VIEW v AS SELECT add_one(x) FROM b", {("doubt", ""), ("view", "v")}),
        (PG, "CREATE VIEW v AS VALUES (add_one(1))", {("doubt", ""), ("view", "v")}),
        (PG, "SELECT add_one(1), nextval('q')", {("doubt", ""), ("view", "q")}),
        (PG, "CREATE TABLE a (x int) PARTITION BY RANGE (add_one(x))", {("table", "a")}),
        (MY, "SELECT nextval(Q)", {("view", "q")}),
    ],
)  # fmt: skip
def test_what_its_functions_declare(dialect, query, declared):
    assert {(each.kind, each.name) for each in analyze(query, dialect).declares} == declared


def test_a_sequence_that_is_computed_may_be_any():
    for dialect, query in [(PG, "SELECT nextval(q)"), (MY, "SELECT nextval(1)"), (PG, "SELECT nextval('')")]:
        found = analyze(query, dialect)
        assert (found.writes_anything, set(found.writes)) == (True, set())
    both = analyze("SELECT add_one(1), nextval('q')", PG)
    assert both.writes_anything, "whatever else it writes"
