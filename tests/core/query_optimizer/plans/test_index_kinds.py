"""Indexes of other kinds than columns alone: what is claimed is what PostgreSQL says once they exist."""

import json

import pytest

from bot.core.query_optimizer import QueryOptimizer
from bot.core.query_optimizer.advice.gin_candidates import trigrams_in
from bot.core.query_optimizer.plans.postgres_catalog import same_form

SCHEMA = "kinds"
TABLES = """
CREATE TABLE users
    (id INT PRIMARY KEY, email TEXT, banned BOOLEAN NOT NULL, deleted_at TIMESTAMP, born TIMESTAMP,
     seen TIMESTAMPTZ, "Nick Name" TEXT, a INT, b INT, state TEXT);
INSERT INTO users SELECT i, 'User' || i || '@mail', i % 50 = 0,
    CASE WHEN i % 40 > 0 THEN timestamp '2026-01-01' END, timestamp '2020-01-01' + i * interval '1 hour',
    timestamptz '2020-01-01' + i * interval '1 hour', 'Nick' || i, i % 700, i % 900,
    CASE WHEN i % 100 = 0 THEN 'queued' ELSE 'done' END
    FROM generate_series(1, 20000) AS i;
CREATE TABLE notes (id INT PRIMARY KEY, owner INT, data JSONB, tags TEXT[], done INT);
INSERT INTO notes SELECT i, i % 300, jsonb_build_object('k', 'v' || i % 2000),
    ARRAY['t' || i % 500, 'u' || i % 3], CASE WHEN i % 3 > 0 THEN i END FROM generate_series(1, 20000) AS i;
VACUUM ANALYZE;
"""


@pytest.fixture
async def optimizer(connection):
    async def explain(statements):
        return [
            [tuple(row) for row in await connection.fetch(sql, *(params or ()))] for sql, params in statements
        ]

    optimizer = QueryOptimizer()
    await optimizer.enable(dialect="postgres")
    optimizer.explain_with(explain, "postgres")
    yield optimizer
    await optimizer.disable()


async def planned(connection, query, params):
    text = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {query}", *params)
    return json.loads(text)[0]["Plan"]["Total Cost"], text


async def created(connection, optimizer, query, params=()):
    """What is suggested, after each suggestion was created, used, and found to save what was claimed."""
    found = await optimizer.analyze_query(query, params)
    before, _ = await planned(connection, query, params)
    for each in found.index_suggestions:
        await connection.execute(each.ddl)
    after, plan = await planned(connection, query, params)
    assert all(f'"{each.ddl.split()[2]}"' in plan for each in found.index_suggestions), plan
    assert found.estimated_improvement == pytest.approx(100 * (1 - after / before), abs=10)
    optimizer._invalidation.plans.forget()
    again = await optimizer.analyze_query(query, params)
    assert [each.ddl for each in again.index_suggestions] == [], "it exists"
    return [each.ddl.partition(" ON ")[2] for each in found.index_suggestions]


@pytest.mark.parametrize(
    ("query", "params", "suggested"),
    [
        # Expressions.
        ("SELECT * FROM users WHERE lower(email) = $1", ("user7@mail",), "users ((lower(email)))"),
        ("SELECT * FROM users u WHERE $1 = LOWER(u.Email)", ("user7@mail",), "users ((lower(Email)))"),
        ("SELECT * FROM users WHERE lower(email) LIKE 'user77%'", (),
         "users ((lower(email)) text_pattern_ops)"),
        ("SELECT * FROM users WHERE date_trunc('day', born) = '2020-03-01'", (),
         "users ((date_trunc('day', born)))"),
        ("SELECT * FROM users WHERE DATE_TRUNC('DAY', born) = '2020-03-01'", (),
         "users ((date_trunc('DAY', born)))"),
        ("SELECT * FROM users WHERE born::date = '2020-03-01'", (), "users ((CAST(born AS DATE)))"),
        ('SELECT * FROM users WHERE upper("Nick Name") = \'NICK7\'', (), 'users ((upper("Nick Name")))'),
        ("SELECT * FROM notes WHERE data->>'k' = 'v7'", (), "notes ((data ->> 'k'))"),
        ("SELECT * FROM notes WHERE owner = 7 AND data->>'k' = 'v7'", (), "notes (owner, (data ->> 'k'))"),
        ("SELECT * FROM users ORDER BY lower(email) LIMIT 5", (), "users ((lower(email)))"),
        ("SELECT * FROM users WHERE a + b = 7", (), "users ((a + b))"),
        # Of some rows.
        ("SELECT * FROM users WHERE banned", (), "users (banned) WHERE banned"),
        ("SELECT id FROM users WHERE banned = true", (), "users (id) WHERE banned = TRUE"),
        ("SELECT * FROM users u WHERE u.deleted_at IS NULL AND u.a = 7", (),
         "users (a) WHERE deleted_at IS NULL"),
        ("SELECT * FROM users WHERE state = 'queued' ORDER BY born LIMIT 5", (),
         "users (born) WHERE state = 'queued'"),
        ("SELECT * FROM users WHERE state = $1 ORDER BY born LIMIT 5", ("queued",), "users (state, born)"),
        ("SELECT * FROM users WHERE NOT banned AND a = 7", (), "users (a)"),
        # With what is read.
        ("SELECT sum(done) FROM notes WHERE owner < 100", (), "notes (owner) INCLUDE (done)"),
        # The order of NULLs.
        ("SELECT * FROM notes ORDER BY done DESC NULLS LAST LIMIT 5", (), "notes (done DESC NULLS LAST)"),
        ("SELECT * FROM notes ORDER BY done DESC LIMIT 5", (), "notes (done)"),
        # What a document or an array contains.
        ("SELECT * FROM notes WHERE data @> '{\"k\": \"v7\"}'", (),
         "notes USING gin (data jsonb_path_ops)"),
        ("SELECT * FROM notes WHERE tags @> ARRAY['t7']", (), "notes USING gin (tags)"),
        ("SELECT * FROM notes WHERE tags && $1", (["t7", "t8"],), "notes USING gin (tags)"),
        # Statements that write.
        ("DELETE FROM users WHERE lower(email) = 'user7@mail'", (), "users ((lower(email)))"),
        ("UPDATE notes SET done = 1 WHERE owner = 7 RETURNING id", (), "notes (owner)"),
    ],
)  # fmt: skip
async def test_the_planner_uses_it_and_saves_what_is_claimed(connection, optimizer, query, params, suggested):
    assert await created(connection, optimizer, query, params) == [suggested]


@pytest.mark.parametrize(
    "query",
    [
        # Not immutable: the result depends on the session's time zone.
        "SELECT * FROM users WHERE date_trunc('day', seen) = '2020-03-01'",
        "SELECT * FROM users WHERE seen::date = '2020-03-01'",
        # Inserting a row whose value is no number would fail.
        "SELECT * FROM notes WHERE (data->>'k')::int = 7",
        # No index of an array serves it.
        "SELECT * FROM notes WHERE 't7' = ANY(tags)",
        # Every row is found.
        "SELECT * FROM notes WHERE data @> '{}'",
        # Most rows are found.
        "SELECT * FROM users WHERE state = 'done'",
        "SELECT * FROM users WHERE deleted_at IS NOT NULL",
        # No three letters.
        "SELECT * FROM users WHERE email LIKE '%x%'",
    ],
)
async def test_no_index_is_suggested_that_the_planner_would_not_use(optimizer, query):
    found = await optimizer.analyze_query(query)
    assert ([each.ddl for each in found.index_suggestions], found.estimated_improvement) == ([], 0.0)


@pytest.mark.parametrize(
    ("index", "query"),
    [
        ("((lower(email)))", "SELECT * FROM users WHERE lower(email) = 'user7@mail'"),
        (
            "(born) WHERE state = 'queued'",
            "SELECT * FROM users WHERE state = 'queued' AND born < '2020-02-1'",
        ),
        ("(a) WHERE (deleted_at IS NULL)", "SELECT * FROM users WHERE a = 7 AND deleted_at IS NULL"),
        ("(date_trunc('day', born))", "SELECT * FROM users WHERE date_trunc('day', born) = '2020-03-01'"),
    ],
)
async def test_an_index_that_exists_is_not_suggested(connection, optimizer, index, query):
    assert (await optimizer.analyze_query(query)).index_suggestions
    optimizer._invalidation.plans.forget()
    await connection.execute(f"CREATE INDEX other_name ON users {index}")
    assert (await optimizer.analyze_query(query)).index_suggestions == []


async def test_an_index_of_another_method_does_not_serve_an_order(connection, optimizer):
    await connection.execute(
        "CREATE INDEX by_tags ON notes USING gin (tags); CREATE INDEX h ON notes USING hash (done)"
    )
    query = "SELECT * FROM notes ORDER BY done LIMIT 5"
    assert await created(connection, optimizer, query) == ["notes (done)"]


async def test_patterns_within_a_text(connection, optimizer):
    query = "SELECT * FROM users WHERE email ILIKE '%ser777%'"
    if not await connection.fetchval("SELECT 1 FROM pg_available_extensions WHERE name = 'pg_trgm'"):
        assert (await optimizer.analyze_query(query)).index_suggestions == []
        pytest.skip("this PostgreSQL has no pg_trgm")
    await connection.execute("DROP EXTENSION IF EXISTS pg_trgm")
    (needed,) = (await optimizer.analyze_query(query)).index_suggestions
    assert (needed.extension, needed.method, needed.columns) == ("pg_trgm", "gin", ("email",))
    assert needed.reason.endswith("needs CREATE EXTENSION pg_trgm")
    optimizer._invalidation.plans.forget()
    await connection.execute('CREATE SCHEMA "Ext Here"; CREATE EXTENSION pg_trgm SCHEMA "Ext Here"')
    found = await created(connection, optimizer, query)
    assert found == ['users USING gin (email "Ext Here".gin_trgm_ops)']


async def test_a_statement_that_writes_says_what_its_cost_leaves_out(connection, optimizer):
    query = "UPDATE users SET a = 1 WHERE a = 7 AND b = 7"
    found = await optimizer.analyze_query(query)
    assert [each.columns for each in found.index_suggestions] == [("a", "b")]
    assert found.evidence[-1] == (
        "not in this cost: INSERTs into users, UPDATEs of its columns write the index; "
        "this UPDATE does, since it sets a"
    )
    assert await connection.fetchval("SELECT count(*) FROM users WHERE a = 1 AND b = 7") == 0, "not executed"


async def test_a_description_of_the_index(optimizer):
    (found,) = (
        await optimizer.analyze_query("SELECT * FROM users WHERE banned AND lower(email) = 'x'")
    ).index_suggestions
    assert (found.columns, found.expressions, found.predicate) == (
        ("lower(email)",), ("lower(email)",), "banned"
    )  # fmt: skip
    assert (found.method, found.include, found.equality_columns) == ("btree", (), ("lower(email)",))


@pytest.mark.parametrize(
    ("pattern", "trigrams"),
    [("%abc%", 1), ("%abcd%", 2), ("abc%", 3), ("%ab%", 0), ("%ab", 1), ("%a%b%", 0), ("%a bc%", 2), ("%", 0),
     ("%100\\%%", 0), ("", 0), ("%a_b%", 0)],
)  # fmt: skip
def test_trigrams_of_a_pattern(pattern, trigrams):
    assert trigrams_in(pattern) == trigrams


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("lower(email)", "LOWER(u.email)"),
        ("(status = 'active'::text)", "status = 'active'"),
        ("date_trunc('day'::text, born)", "date_trunc('day', born)"),
        ("((data ->> 'k'::text))", "data->>'k'"),
        ("(((a + b) * 2))", "(a + b) * 2"),
        ("(deleted_at IS NULL)", "deleted_at is null"),
    ],
)
def test_an_expression_has_one_form(one, other):
    assert same_form(one) == same_form(other)


def test_different_expressions_have_different_forms():
    assert same_form("(a + b) * 2") != same_form("a + b * 2")
