"""Which queries are rewritten, and which look alike, would lose or gain rows by it, and stay as they are."""

import sqlite3

import pytest

from bot.core.query_optimizer.advice import advise
from bot.core.query_optimizer.analyzer import read


@pytest.mark.parametrize("dialect", ["", "postgres", "mysql", "sqlite"])
@pytest.mark.parametrize(
    "query",
    [
        "SELECT u.id FROM u LEFT JOIN o ON o.uid = u.id WHERE NOT (o.uid IS NOT NULL)",
        "SELECT u.id FROM u LEFT JOIN o ON o.uid = u.id WHERE NOT (NOT (o.uid IS NOT NULL) AND u.id = 1)",
    ],
)
def test_a_double_negation_keeps_the_rows_without_a_match(dialect, query):
    assert advise(read(query, dialect)).optimized_query == query


@pytest.fixture
def schemas():
    """Two schemas with a table of the same name."""
    database = sqlite3.connect(":memory:")
    database.executescript(
        "ATTACH ':memory:' AS r; CREATE TABLE r.t (id, x); INSERT INTO r.t VALUES (1, 1), (2, 2);"
        "ATTACH ':memory:' AS s; CREATE TABLE s.t (id, x); INSERT INTO s.t VALUES (1, 5), (1, 2);"
        "CREATE TABLE a (id); INSERT INTO a VALUES (1), (2), (3)"
    )
    yield database
    database.close()


@pytest.mark.parametrize("dialect", ["", "postgres", "mysql", "sqlite"])
@pytest.mark.parametrize(
    "query",
    [
        "SELECT a.id, s.t.x FROM a LEFT JOIN r.t ON r.t.id = a.id LEFT JOIN s.t ON s.t.id = a.id "
        "WHERE r.t.x > 0",
        "SELECT r.t.id FROM r.t CROSS JOIN s.t WHERE r.t.x = 1 OR s.t.x = 5",
        "SELECT DISTINCT r.t.id FROM r.t CROSS JOIN s.t GROUP BY r.t.id, s.t.x",
        "SELECT r.t.id FROM r.t CROSS JOIN s.t WHERE r.t.x = 2 OR r.t.x = s.t.x OR s.t.x = 2",
        "SELECT t.id FROM r.t WHERE t.x = 2 OR r.t.x = 1",
    ],
)
def test_tables_of_one_name_in_two_schemas_are_two(schemas, dialect, query):
    optimized = advise(read(query, dialect)).optimized_query
    assert sorted(schemas.execute(optimized)) == sorted(schemas.execute(query))


def test_of_very_many_joins_each_that_nobody_uses_is_left_out():
    joins = " ".join(f"LEFT JOIN t{n} ON t{n}.id = t{n - 1}.id" for n in range(1, 1000))
    read_all = read(f"SELECT DISTINCT t0.a FROM t0 {joins}", "")
    assert advise(read_all).optimized_query == "SELECT DISTINCT t0.a FROM t0"
    used = read(f"SELECT DISTINCT t0.a FROM t0 {joins} WHERE t500.a IS NULL", "")
    assert advise(used).optimized_query.count("LEFT JOIN") == 500


@pytest.mark.parametrize(
    ("query", "optimized"),
    [
        ("SELECT DISTINCT a.x FROM a LEFT JOIN b ON b.id = a.id LEFT JOIN c ON c.id = b.id",
         "SELECT DISTINCT a.x FROM a"),
        ("SELECT DISTINCT c.x FROM a LEFT JOIN b ON b.id = a.id LEFT JOIN c ON c.id = b.id "
         "LEFT JOIN d ON d.id = c.id",
         "SELECT DISTINCT c.x FROM a LEFT JOIN b ON b.id = a.id LEFT JOIN c ON c.id = b.id"),
        ("SELECT DISTINCT a.x FROM a LEFT JOIN b ON b.id = a.id LEFT JOIN c ON c.id = a.id AND y = 1",
         "SELECT DISTINCT a.x FROM a"),
        ("SELECT DISTINCT a.x FROM a LEFT JOIN b ON b.id = z LEFT JOIN c ON c.id = a.id AND y = 1", None),
        ("SELECT DISTINCT a.x FROM a LEFT JOIN b ON b.id = a.id "
         "WHERE EXISTS (SELECT 1 FROM d WHERE d.id = b.id)", None),
        ("SELECT DISTINCT a.x FROM a LEFT JOIN b ON b.id = (SELECT MAX(d.id) FROM d)", None),
    ],
)  # fmt: skip
def test_joins_that_are_left_out(query, optimized):
    assert advise(read(query, "postgres")).optimized_query == (optimized or query)
