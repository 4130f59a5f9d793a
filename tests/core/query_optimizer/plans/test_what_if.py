"""What is claimed of an index is what PostgreSQL's planner says once the index exists."""

import json

import pytest

from bot.core.query_optimizer import QueryOptimizer
from bot.core.query_optimizer.plans.plan_costs import Plan
from bot.core.query_optimizer.plans.postgres_costs import Prices, workers_for
from bot.core.query_optimizer.plans.what_if import MAX_NODES, best_indexes

SCHEMA = "what_if"
TABLES = """
CREATE TABLE users
    (id BIGINT PRIMARY KEY, name TEXT, lang TEXT, banned BOOLEAN, referrer BIGINT, balance INT);
INSERT INTO users SELECT i, 'user' || i, (ARRAY['en', 'ru', 'de', 'fa'])[1 + i % 4], i % 50 = 0,
    CASE WHEN i % 3 = 0 THEN i * 7919 % 15000 END, i * 31 % 1000 FROM generate_series(1, 15000) AS i;
CREATE TABLE downloads
    (id BIGINT PRIMARY KEY, user_id BIGINT, status TEXT, size BIGINT, created INT, gid TEXT);
INSERT INTO downloads SELECT i, i::bigint * 7919 % 15000, CASE WHEN i % 500 = 0 THEN 'active' ELSE 'done' END,
    i::bigint * 104729 % 1000003, i::bigint * 15485863 % 60000, md5(i::text)
    FROM generate_series(1, 60000) AS i;
CREATE INDEX ON downloads (gid);
VACUUM ANALYZE;
"""


@pytest.fixture
def asked():
    """The statements that the optimizer ran."""
    return []


@pytest.fixture
async def optimizer(connection, asked):
    async def explain(statements):
        asked.extend(sql for sql, _ in statements)
        return [
            [tuple(row) for row in await connection.fetch(sql, *(params or ()))] for sql, params in statements
        ]

    optimizer = QueryOptimizer()
    await optimizer.enable(dialect="postgres")
    optimizer.explain_with(explain, "postgres")
    yield optimizer
    await optimizer.disable()


async def planned(connection, query, params, ddl=()):
    """(cost, plan as text) with indexes that are rolled back."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        for each in ddl:
            await connection.execute(each)
        text = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {query}", *params)
    finally:
        await transaction.rollback()
    return json.loads(text)[0]["Plan"]["Total Cost"], text


SUGGESTED = [
    ("SELECT id FROM downloads WHERE user_id = 7", (), ["downloads (user_id)"]),
    ("SELECT id FROM downloads WHERE $2 = user_id AND status = $1", ("active", 7),
     ["downloads (user_id, status)"]),
    # Only a part of the conditions is served.
    ("SELECT id FROM users WHERE lang = 'ru' AND balance <> 7", (), ["users (lang)"]),
    ("SELECT id, name FROM users WHERE lang = 'ru'", (), ["users (lang)"]),
    # Every column is in the index.
    ("SELECT count(*) FROM users WHERE lang = 'ru'", (), ["users (lang)"]),
    ("SELECT id FROM users WHERE banned", (), ["users (id) WHERE banned"]),
    ("SELECT id FROM users WHERE name LIKE 'user99%'", (), ["users (name text_pattern_ops) INCLUDE (id)"]),
    # The better one of two ranges.
    ("SELECT id FROM downloads WHERE size > 1000 AND created < 50", (), ["downloads (created)"]),
    ("SELECT id FROM downloads WHERE status = 'active' ORDER BY created DESC LIMIT 5", (),
     ["downloads (created) WHERE status = 'active'"]),
    ("SELECT id FROM downloads ORDER BY size LIMIT 5", (), ["downloads (size)"]),
    ("SELECT max(created) FROM downloads WHERE user_id = 7", (), ["downloads (user_id, created)"]),
    ("SELECT min(size) FROM downloads", (), ["downloads (size)"]),
    # An order by the primary key, whose index is read backwards without it.
    ("SELECT id FROM downloads WHERE user_id = 7 ORDER BY id DESC LIMIT 50", (), ["downloads (user_id, id)"]),
    # Joins.
    ("SELECT d.id FROM users u JOIN downloads d ON d.user_id = u.id WHERE u.id = 42", (),
     ["downloads (user_id)"]),
    ("SELECT d.id FROM users u JOIN downloads d ON d.user_id = u.id WHERE u.name = 'user42'", (),
     ["downloads (user_id)", "users (name)"]),
    ("SELECT u.name FROM users u JOIN downloads d ON d.user_id = u.id WHERE d.size > 1000000", (),
     ["downloads (size)"]),
    ("SELECT u.name FROM users u WHERE EXISTS (SELECT 1 FROM downloads d WHERE d.user_id = u.id"
     " AND d.size > 1000000)", (), ["downloads (size)"]),
    ("SELECT u.id FROM users u LEFT JOIN downloads d ON d.user_id = u.id WHERE d.id IS NULL AND u.id < 9", (),
     ["downloads (user_id)"]),
    ("SELECT u.id, (SELECT count(*) FROM downloads d WHERE d.user_id = u.id) FROM users u WHERE u.id < 9", (),
     ["downloads (user_id)"]),
    # Two searches for an OR; one of the indexes is there.
    ("SELECT id FROM downloads WHERE gid = 'a' OR user_id = 7", (), ["downloads (user_id)"]),
    # One table, two SELECTs.
    ("SELECT id FROM downloads WHERE user_id = 7 UNION ALL SELECT id FROM downloads WHERE created = 7", (),
     ["downloads (created)", "downloads (user_id)"]),
]  # fmt: skip


@pytest.mark.parametrize(("query", "params", "suggested"), SUGGESTED)
async def test_the_planner_uses_the_index_and_saves_what_is_claimed(
    connection, optimizer, query, params, suggested
):
    found = await optimizer.analyze_query(query, params)
    ddl = [each.ddl for each in found.index_suggestions]
    assert sorted(each.partition(" ON ")[2] for each in ddl) == suggested
    before, _ = await planned(connection, query, params)
    after, plan = await planned(connection, query, params, ddl)
    assert all(f'"{each.split()[2]}"' in plan for each in ddl)
    assert found.estimated_improvement == pytest.approx(100 * (1 - after / before), abs=10)
    assert found.evidence[-1].endswith("with the suggested index (by the planner's cost model)")


@pytest.mark.parametrize(
    "query",
    [
        "SELECT id FROM downloads WHERE status = 'done'",
        "SELECT size FROM downloads WHERE created > 500",
        "SELECT id FROM users WHERE banned = false AND balance <> 5",
    ],
)
async def test_no_index_is_suggested_that_the_planner_would_not_use(connection, optimizer, query):
    plain = QueryOptimizer()
    await plain.enable(dialect="postgres")
    advised = [each.ddl for each in (await plain.analyze_query(query)).index_suggestions]
    await plain.disable()
    assert advised
    before, _ = await planned(connection, query, ())
    after, _ = await planned(connection, query, (), advised)
    assert after == pytest.approx(before, rel=0.01)
    found = await optimizer.analyze_query(query)
    assert (found.index_suggestions, found.estimated_improvement) == ([], 0.0)
    assert found.evidence[-1] == "EXPLAIN: the planner would not use the index, or gain nothing by it"


async def test_queries_of_one_shape_that_ask_for_different_indexes_are_told_apart(optimizer):
    anywhere = await optimizer.analyze_query("SELECT id FROM users WHERE name LIKE '%42'")
    assert (anywhere.index_suggestions, anywhere.estimated_improvement) == ([], 0.0)
    beginning = await optimizer.analyze_query("SELECT id FROM users WHERE name LIKE 'user42%'")
    assert [each.columns for each in beginning.index_suggestions] == [("name",)]
    assert beginning.fingerprint == anywhere.fingerprint


async def test_of_a_table_that_was_never_analyzed_nothing_is_claimed(optimizer, connection):
    await connection.execute("CREATE TABLE what_if.fresh (id INT, owner INT)")
    found = await optimizer.analyze_query("SELECT id FROM fresh WHERE owner = 7")
    assert found.estimated_improvement == 0.0, "it was never analyzed"
    assert [each.columns for each in found.index_suggestions] == [("owner",)]


async def test_quoted_names(optimizer, connection):
    await connection.execute(
        'CREATE TABLE "Odd Name" (id INT, "User" INT);'
        'INSERT INTO "Odd Name" SELECT i, i FROM generate_series(1, 9000) AS i; ANALYZE "Odd Name"'
    )
    found = await optimizer.analyze_query('SELECT "T".id FROM "Odd Name" AS "T" WHERE "T"."User" = 7')
    assert [each.columns for each in found.index_suggestions] == [("User",)]
    assert found.estimated_improvement > 90


async def test_nothing_is_executed_but_explain_and_look_ups_in_the_catalog(optimizer, asked):
    for query, params, _ in SUGGESTED:
        await optimizer.analyze_query(query, params)
    for sql in asked:
        assert sql.startswith("EXPLAIN (FORMAT JSON) SELECT ") or "pg_catalog." in sql, sql


def test_a_plan_that_is_too_large_is_not_priced():
    node = {"Node Type": "Result", "Startup Cost": 0, "Total Cost": 1, "Plan Rows": 1}
    top = {**node, "Plans": [dict(node) for _ in range(MAX_NODES)]}
    assert best_indexes(Plan(top, {}, Prices()), [], []) is None
    assert best_indexes(Plan({**top, "Plans": top["Plans"][1:]}, {}, Prices()), [], []) == ([], 1)


@pytest.mark.parametrize(("pages", "workers"), [(0, 0), (63, 0), (64, 1), (191, 1), (192, 2), (576, 3)])
def test_workers_grow_with_the_logarithm_of_the_pages(pages, workers):
    assert workers_for(pages, 64) == workers
