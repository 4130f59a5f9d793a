"""Any text at all gets an answer from the query optimizer: no exception, no crash, and soon."""

from typing import get_args

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from bot.core.phase4_config.query_optimizer import Dialect
from bot.core.query_optimizer import QueryOptimizer
from bot.core.query_optimizer.models import QueryType
from tests.support.searching import searching

DEEP = {
    "parentheses": ("(", "1", ")"),
    "subqueries in FROM": ("SELECT * FROM (", "SELECT 1", ") AS t"),
    "subqueries in IN": ("SELECT a FROM t WHERE a IN (", "SELECT 1", ")"),
    "CASE": ("CASE WHEN a THEN ", "1", " END"),
    "calls": ("SELECT coalesce(", "1", ", 2)"),
    "NOT": ("NOT ", "a", ""),
    "minus": ("- ", "1", ""),
    "arrays": ("ARRAY[", "1", "]"),
    "names of types as calls": ("DATE(", "a", ")"),
    "names of types as calls, MySQL": ("BINARY(1, ", "a", ")"),
    "names of types with brackets": ("BIGSERIAL[", "a", "]"),
    "WITH": ("WITH t AS (", "SELECT 1", ") SELECT * FROM t"),
    "UNION": ("SELECT 1 UNION (", "SELECT 1", ")"),
    "types": ("CAST(a AS ARRAY<", "INT", ">)"),
    "joins": ("SELECT * FROM a JOIN (", "b", ") ON a.id = b.id"),
}

WORDS = (
    "SELECT FROM WHERE AND OR NOT IN EXISTS BETWEEN LIKE IS NULL JOIN LEFT ON USING GROUP ORDER BY HAVING "
    "LIMIT OFFSET UNION ALL DISTINCT WITH AS CASE WHEN THEN ELSE END INSERT INTO VALUES UPDATE SET DELETE "
    "CREATE TABLE INDEX VIEW DROP ALTER TRUNCATE MERGE CAST INTERVAL ARRAY DATE BINARY OVER PARTITION COUNT "
    "MAX BEGIN COMMIT PRAGMA EXPLAIN CALL GRANT COMMENT REPLACE RETURNING ( ) ( ) , , . * = <> < > + - / % "
    "|| :: -> ; ? $1 %s :name @x 'text' \"Name\" `name` [a] "
    "$$ 1 2.5 1e9 0x1F a b t u t.a u.b t.* /* */ -- \n {a} \\ ' \" \x00 é 💥"
).split(" ")
soup = st.lists(st.sampled_from(WORDS), max_size=60).map(" ".join)

QUERIES = (
    "SELECT u.id, COUNT(*) FROM users u LEFT JOIN files f ON f.user_id = u.id WHERE lower(u.name) LIKE '%x' "
    "OR u.id = 1 GROUP BY u.id HAVING u.id > 3 ORDER BY 1 LIMIT 5 OFFSET 10",
    "WITH t AS (SELECT DISTINCT a FROM b WHERE c NOT IN (SELECT d FROM e)) UPDATE f SET g = NULL "
    "FROM t WHERE f.a = t.a",
    "INSERT INTO a (b, c) VALUES (%s, $1), (?, :d) ON CONFLICT (b) DO UPDATE SET c = excluded.c RETURNING *",
    "DELETE FROM a USING b WHERE a.id = b.id AND (SELECT COUNT(*) FROM c WHERE c.id = a.id) > 0",
    "CREATE TABLE a (b INT PRIMARY KEY, c TEXT NOT NULL REFERENCES d (e) ON DELETE CASCADE)",
)


@st.composite
def damaged(draw):
    """A query in which pieces are cut out, repeated or put in."""
    text = draw(st.sampled_from(QUERIES))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 30)))
        text = text[:start] + draw(st.one_of(soup, st.just(text[start:end] * 2), st.just(""))) + text[end:]
    return text


async def answer(text, dialect):
    optimizer = QueryOptimizer()
    await optimizer.enable(dialect=dialect)
    found = await optimizer.analyze_query(text)
    assert found.query == text
    assert found.query_type in QueryType
    assert len(found.fingerprint) == 16
    assert isinstance(found.optimized_query, str)
    if not found.findings:
        assert found.optimized_query == text, "every rewrite is told"
    await optimizer.record_execution(text, 1.0)
    return found


@searching(150, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(damaged(), soup, st.text(max_size=200)), st.sampled_from(get_args(Dialect)))
async def test_any_text_gets_an_answer(text, dialect):
    await answer(text, dialect)


@pytest.mark.parametrize("depth", [5, 30, 99, 1_000, 30_000])
@pytest.mark.parametrize("kind", DEEP)
async def test_however_deep_it_is_nested(kind, depth):
    """A parser that runs out of stack in C takes the process with it: such text does not reach it."""
    before, inside, after = DEEP[kind]
    nested = before * depth + inside + after * depth
    dialect = "mysql" if "MySQL" in kind else "postgres"
    await answer(nested if nested.startswith(("SELECT", "WITH")) else f"SELECT {nested}", dialect)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT a FROM t WHERE " + " AND ".join(["b = 1"] * 20_000),
        "SELECT a FROM t WHERE " + " OR ".join(f"b{n} = {n}" for n in range(20_000)),
        "SELECT a FROM t WHERE b IN (" + ", ".join(map(str, range(150_000))) + ")",
        "INSERT INTO t (a, b) VALUES " + ", ".join(["(1, 'x')"] * 110_000),
        "SELECT 1;" * 110_000,
        "SELECT '" + "x" * 1_000_000,
        "/*" * 500_000,
        "((((((((((" * 100_000,
        "a" * 1_000_000,
        "SELECT " + "a, " * 330_000 + "a FROM t",
        "SET TRANSACTION " + " " * 1_000_000 + ";;",
        "CREATE RULE " + "RULE a ON SELECT " * 60_000,
        "CREATE TRIGGER " + "TRIGGER a " * 100_000,
        "ALTER TABLE a PARTITION " + "TABLE a " * 125_000,
        "CREATE FUNCTION f() RETURNS TRIGGER LANGUAGE plpgsql "
        + " ".join(f"AS $a{n}$" for n in range(90_000)),
    ],
    ids=lambda text: text[:20],
)
async def test_a_megabyte_gets_an_answer(text):
    found = await answer(text, "postgres")
    assert found.optimized_query == text
