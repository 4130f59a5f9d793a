"""Queries that look like one that is rewritten, and would lose or gain rows by it: they stay as they are."""

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
