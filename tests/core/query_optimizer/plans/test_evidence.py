"""What was measured, from real databases: plans with and without the index, executions that repeat."""

import asyncio
import dataclasses
import sqlite3
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core.query_optimizer import IndexSuggestion, QueryOptimizer, stats
from bot.core.query_optimizer.plans import evidence, explain, mysql, postgresql, sqlite
from tests.support.searching import searching

BY_OWNER = "SELECT id FROM files WHERE owner = 7"
SORTED = "SELECT id FROM files WHERE owner = 7 AND kind = 'k2' ORDER BY created DESC"
SCHEMA = """
CREATE TABLE files (id INTEGER PRIMARY KEY, owner INTEGER, kind TEXT, created INTEGER);
CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000)
INSERT INTO files SELECT i, i % 100, 'k' || (i / 100 % 4), i FROM n;
CREATE TABLE "Odd Name" (id INTEGER PRIMARY KEY, "order" INTEGER);
INSERT INTO "Odd Name" SELECT id, owner FROM files;
CREATE VIEW seen AS SELECT * FROM files;
INSERT INTO users SELECT id, 'name' || id FROM files WHERE id <= 100;
"""


WORDS = [
    "SELECT", "*", "id", "FROM", "files", "f", "WHERE", "owner", "=", "?", "$1", ":a", "%s", "%(a)s", "JOIN",
    "ON", "(", ")", ",", "WITH", "x", "AS", "ORDER BY", "LIMIT", "1", "'k'", "UNION", "GROUP BY", ";", "IN",
    "EXISTS", '"',
]  # fmt: skip


class Database:
    """SQLite in memory that notes what it was asked."""

    def __init__(self):
        self.connection = sqlite3.connect(":memory:")
        self.connection.executescript(SCHEMA)
        self.asked = []
        self.error = None
        self.block = None

    async def explain(self, statements):
        self.asked += [sql for sql, _ in statements]
        if self.block is not None:
            await self.block.wait()
        if self.error is not None:
            raise self.error
        return [self.connection.execute(sql, params or ()).fetchall() for sql, params in statements]


@pytest.fixture
def database():
    made = Database()
    yield made
    made.connection.close()


@pytest.fixture
async def optimizer(clock):
    made = QueryOptimizer(clock=clock)
    await made.enable(detect_n_plus_one=False)
    yield made
    await made.disable()


async def run(query, params):
    return [(1,)]


# Recorded executions.


async def test_without_evidence_there_is_no_percentage(optimizer):
    found = await optimizer.analyze_query(BY_OWNER)
    assert (found.estimated_improvement, found.evidence) == (0.0, [])


async def test_repetitions_within_the_ttl_are_what_caching_would_have_saved(optimizer):
    await optimizer.record_execution(BY_OWNER, 30.0)
    await optimizer.record_execution(BY_OWNER, 50.0)
    await optimizer.record_execution("SELECT id FROM files WHERE owner = 8", 20.0)
    found = await optimizer.analyze_query(BY_OWNER)
    assert found.estimated_improvement == 50.0
    assert found.evidence == [
        "recorded: 1 of 3 executions repeated text and parameters within the cache's TTL, with no write "
        "between; they took 50.0 of 100.0 ms"
    ]
    await optimizer.reset_statistics()
    assert (await optimizer.analyze_query(BY_OWNER)).estimated_improvement == 0.0


async def test_what_a_cache_would_not_have_answered_is_no_repetition(optimizer, clock):
    await optimizer.record_execution(BY_OWNER, 10.0)
    clock.jump(300.0)
    await optimizer.record_execution(BY_OWNER, 10.0)  # expired by then
    await optimizer.execute("UPDATE files SET kind = 'x'", None, run)
    await optimizer.record_execution(BY_OWNER, 10.0)  # written since
    await optimizer.record_execution("SELECT id FROM files WHERE owner = $1", 10.0)
    await optimizer.record_execution("SELECT id FROM files WHERE owner = $1", 10.0)  # of whom, is not known
    await optimizer.record_execution("SELECT now() FROM files", 10.0)
    await optimizer.record_execution("SELECT now() FROM files", 10.0)  # must not be cached
    for query in (BY_OWNER, "SELECT now() FROM files"):
        assert (await optimizer.analyze_query(query)).estimated_improvement == 0.0


async def test_a_cache_filled_once_does_not_stay_filled_for_ever(optimizer, clock):
    for _ in range(4):
        await optimizer.record_execution(
            BY_OWNER, 10.0
        )  # at 0 it is read, at 200 hit, at 400 read, at 600 hit
        clock.jump(200.0)
    assert (await optimizer.analyze_query(BY_OWNER)).estimated_improvement == 50.0


async def test_repetitions_of_execute_are_told_apart_by_their_parameters(optimizer, clock):
    async def slow_run(query, params):
        clock.jump(0.01)
        return [(1,)]

    query = "SELECT id FROM files WHERE owner = ?"
    for owner in (1, 2, 1):
        await optimizer.execute(query, (owner,), slow_run, ttl=1.0)
        clock.jump(2.0)
    assert "1 of 3" in (await optimizer.analyze_query(query)).evidence[0]


# SQLite.


async def test_sqlite_full_scan_against_search(optimizer, database):
    optimizer.explain_with(database.explain, "sqlite")
    found = await optimizer.analyze_query(BY_OWNER)
    assert found.estimated_improvement == 99.0 > 50, "the guide's Step 4"
    assert found.evidence == [
        "EXPLAIN: full scan of files, 4,000 rows",
        "a search on files (owner) would examine about 40 of 4,000 rows",
    ]
    assert [each.columns for each in found.index_suggestions] == [("owner",)]
    await optimizer.execute(found.index_suggestions[0].ddl, None, database_writer(database))
    after = await optimizer.analyze_query(BY_OWNER)
    assert (after.estimated_improvement, after.index_suggestions) == (0.0, [])
    assert after.evidence == ["EXPLAIN: search of files by idx_files_owner"]


def database_writer(database):
    async def write(query, params):
        return database.connection.execute(query).fetchall()

    return write


async def test_sqlite_sort(optimizer, database):
    optimizer.explain_with(database.explain, "sqlite")
    database.connection.execute("CREATE INDEX by_owner ON files (owner, kind)")
    found = await optimizer.analyze_query(SORTED)
    assert "EXPLAIN: rows are sorted, no index gives their order" in found.evidence
    assert [each.columns for each in found.index_suggestions] == [("owner", "kind", "created")]
    database.connection.execute("CREATE INDEX by_all ON files (kind, owner, created)")
    optimizer.explain_with(database.explain, "sqlite")
    assert (await optimizer.analyze_query(SORTED)).index_suggestions == []


@pytest.mark.parametrize(
    ("query", "params", "improvement"),
    [
        ("SELECT id FROM files WHERE owner = ?", None, 99.0),
        ("SELECT id FROM files WHERE owner = ?", (5,), 99.0),
        ("SELECT id FROM files AS f WHERE f.owner = :owner AND kind = :kind", None, 99.75),
        ("SELECT id FROM files WHERE owner = ?1 OR owner = ?1", None, 0.0),
        ("SELECT id FROM files WHERE id = 5", None, 0.0),
        ("SELECT * FROM files", None, 0.0),
        ("SELECT * FROM files WHERE name LIKE '%x'", None, 0.0),
        ("SELECT id FROM files WHERE owner = 7 LIMIT 1", None, 0.0),
        ("WITH files AS (SELECT 1 AS owner) SELECT * FROM files WHERE owner = 1", None, 0.0),
        ("SELECT u.name FROM users u JOIN files f ON f.id = u.id WHERE u.name = 'name7'", None, 99.0),
        ("SELECT * FROM nowhere WHERE a = 1", None, 0.0),
        ("SELECT id FROM main.files WHERE owner = 7", None, 99.0),
        ('SELECT id FROM "Odd Name" WHERE "order" = 7', None, 99.0),
        ('SELECT o.id FROM "Odd Name" o WHERE o."order" = 7', None, 99.0),
        ("SELECT * FROM files ORDER BY created DESC LIMIT 10", None, 99.75),
        ("SELECT * FROM files ORDER BY created DESC LIMIT 10 OFFSET 1990", None, 50.0),
        ("SELECT * FROM files ORDER BY created DESC", None, 0.0),
        ("SELECT * FROM files ORDER BY created DESC LIMIT ?", None, 0.0),
        ("SELECT * FROM files ORDER BY id DESC LIMIT 10", None, 0.0),
    ],
)
async def test_sqlite_queries(optimizer, database, query, params, improvement):
    optimizer.explain_with(database.explain, "sqlite")
    assert (await optimizer.analyze_query(query, params)).estimated_improvement == improvement


async def test_sizes_of_analyzed_tables_are_the_planners(optimizer, database):
    database.connection.execute("INSERT INTO files SELECT id + 5000, 7, kind, id FROM files")
    database.connection.execute("INSERT INTO files SELECT id + 10000, 7, kind, id FROM files")
    optimizer.explain_with(database.explain, "sqlite")
    assert "10,000 or more rows" in (await optimizer.analyze_query(BY_OWNER)).evidence[0]
    database.connection.execute("CREATE INDEX by_kind ON files (kind)")
    database.connection.execute("ANALYZE")
    optimizer.explain_with(database.explain, "sqlite")
    assert "16,000 rows" in (await optimizer.analyze_query(BY_OWNER)).evidence[0]


async def test_a_view_gets_no_index(optimizer, database):
    query = "SELECT id FROM seen WHERE owner = 7"
    assert len((await optimizer.analyze_query(query)).index_suggestions) == 1, "a text does not tell"
    optimizer.explain_with(database.explain, "sqlite")
    assert (await optimizer.analyze_query(query)).index_suggestions == []


@pytest.mark.parametrize("dialect", ["sqlite", "mysql", "postgres", ""])
async def test_names_that_are_reserved_words_are_quoted(optimizer, database, dialect):
    await optimizer.enable(dialect=dialect)
    mark = "`" if dialect == "mysql" else '"'
    found = await optimizer.analyze_query(f"SELECT id FROM files WHERE {mark}order{mark} = 7")
    assert found.index_suggestions[0].ddl == f"CREATE INDEX idx_files_order ON files ({mark}order{mark})"


# What is asked, and when.


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM files WHERE owner = 7",
        "SELECT 1; DELETE FROM files",
        "WITH gone AS (DELETE FROM files RETURNING id) SELECT * FROM gone",
        "EXPLAIN ANALYZE SELECT 1",
        "BEGIN",
        "SELECT FROM WHERE",
        "query { files { id } }",
        "ANALYZE DELETE FROM files",
        f"SELECT id FROM files WHERE owner IN ({', '.join(['1'] * 10_000)})",
    ],
)
async def test_only_single_selects_are_explained(optimizer, database, query):
    optimizer.explain_with(database.explain, "sqlite")
    await optimizer.analyze_query(query)
    assert database.asked == []


async def test_nothing_is_executed_but_explain_and_bounded_counts(optimizer, database):
    optimizer.explain_with(database.explain, "sqlite")
    await optimizer.analyze_query(BY_OWNER)
    explained, *others = database.asked
    assert explained == f"EXPLAIN QUERY PLAN {BY_OWNER}"
    for sql in others:
        assert "sqlite_master" in sql or "LIMIT 10000" in sql
        assert "7" not in sql.replace("WHERE (owner = 7)", ""), "the query's own condition, on the sample"


SKEWED = """
CREATE TABLE jobs (id INTEGER PRIMARY KEY, state TEXT, kind INTEGER);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000)
INSERT INTO jobs SELECT i, CASE WHEN i % 10 > 0 THEN 'done' WHEN i % 200 > 0 THEN 'failed' ELSE 'new' END,
    CASE WHEN i < 10000 THEN 1 ELSE i END FROM n;
CREATE TABLE pairs (a TEXT, b TEXT, PRIMARY KEY (a, b)) WITHOUT ROWID;
INSERT INTO pairs SELECT kind || state, id FROM jobs;
"""


@pytest.mark.parametrize(
    ("query", "params", "improvement"),
    [
        # The value's own share, and not the average of all values.
        ("SELECT id FROM jobs WHERE state = 'done'", None, 10.0),
        ("SELECT id FROM jobs WHERE state = 'failed'", None, 90.5),
        ("SELECT id FROM jobs WHERE state = 'new'", None, 99.5),
        ("SELECT id FROM jobs WHERE state IN ('new', 'failed')", None, 90.0),
        ("SELECT id FROM jobs WHERE state = 'it''s 100%'", None, 100.0),
        # Of a value that is not known, what the most frequent one would save: no other saves less.
        ("SELECT id FROM jobs WHERE state = ?", ("new",), 10.0),
        # The first rows differ from the last ones: what share the value has of all is not known.
        ("SELECT id FROM jobs WHERE kind = 1", None, 0.0),
        # Its rows have no number to read the last ones by.
        ("SELECT a FROM pairs WHERE b = '7'", None, 0.0),
    ],
)
async def test_what_is_claimed_is_the_share_of_the_value(optimizer, database, query, params, improvement):
    database.connection.executescript(SKEWED)
    optimizer.explain_with(database.explain, "sqlite")
    found = await optimizer.analyze_query(query, params)
    assert found.estimated_improvement == pytest.approx(improvement, abs=0.01)
    assert len(found.index_suggestions) == 1


async def test_a_plan_is_remembered_for_the_query(optimizer, database, clock):
    optimizer.explain_with(database.explain, "sqlite")
    first = await optimizer.analyze_query(BY_OWNER)
    times = len(database.asked)
    assert (await optimizer.analyze_query(BY_OWNER)).evidence == first.evidence
    assert len(database.asked) == times
    clock.jump(301.0)
    await optimizer.analyze_query(BY_OWNER)
    assert len(database.asked) == 2 * times


@pytest.mark.parametrize("params", [None, (10,), {"count": 10}])
async def test_other_values_of_a_shape_are_judged_anew(optimizer, database, params):
    optimizer.explain_with(database.explain, "sqlite")
    few = "SELECT id FROM files ORDER BY created LIMIT 10"
    many = "SELECT id FROM files ORDER BY created LIMIT 3000"
    if params is None:
        assert (await optimizer.analyze_query(few)).estimated_improvement == 99.75
        assert (await optimizer.analyze_query(many)).estimated_improvement == 25.0
    text = "SELECT id FROM files WHERE owner = " + (":count" if isinstance(params, dict) else "?")
    await optimizer.analyze_query(text, params)
    times = len(database.asked)
    await optimizer.analyze_query(text, {"count": 11} if isinstance(params, dict) else (11,))
    assert len(database.asked) > times


async def test_the_values_of_a_shape_that_are_asked_about_are_bounded(optimizer, database, clock):
    optimizer.explain_with(database.explain, "sqlite")
    for number in range(explain.VALUES_PER_SHAPE):
        query = f"SELECT id FROM files WHERE owner = {number}"
        assert (await optimizer.analyze_query(query)).estimated_improvement == 99.0
    times = len(database.asked)
    one_more = await optimizer.analyze_query("SELECT id FROM files WHERE owner = 7777")
    assert (one_more.estimated_improvement, one_more.evidence, len(database.asked)) == (0.0, [], times)
    assert (await optimizer.analyze_query(query)).estimated_improvement == 99.0, "it is remembered"
    clock.jump(301.0)
    assert (await optimizer.analyze_query(query)).estimated_improvement == 99.0, "its time is over"


async def test_plans_are_bounded(optimizer, database):
    optimizer.explain_with(database.explain, "sqlite")
    reader = optimizer._invalidation.plans
    for number in range(explain.REMEMBERED_PLANS + 10):
        reader._known[str(number)] = 1e9, None
    assert len(reader._known) == explain.REMEMBERED_PLANS


async def test_callers_at_once_ask_once(optimizer, database):
    database.block = asyncio.Event()
    optimizer.explain_with(database.explain, "sqlite")
    callers = [asyncio.create_task(optimizer.analyze_query(BY_OWNER)) for _ in range(20)]
    for _ in range(5):
        await asyncio.sleep(0)
    callers[0].cancel()
    database.block.set()
    answers = await asyncio.gather(*callers[1:])
    assert {answer.estimated_improvement for answer in answers} == {99.0}
    assert sum(sql.startswith("EXPLAIN") for sql in database.asked) == 1


async def test_a_database_that_fails_costs_the_evidence_only(optimizer, database, clock, caplog):
    optimizer.explain_with(database.explain, "sqlite")
    database.error = ConnectionError("no route to postgres://bot:secret@db/x")
    for query in (BY_OWNER, SORTED, "SELECT id FROM files WHERE kind = 'k1'"):
        found = await optimizer.analyze_query(query)
        assert (found.estimated_improvement, found.evidence) == (0.0, [])
        assert len(found.index_suggestions) == 1, "advice is there all the same"
    assert len(database.asked) == 3, "and the database that is away is asked once"
    assert len(caplog.records) == 1
    assert "secret" not in caplog.text
    database.error = None
    clock.jump(31.0)
    assert (await optimizer.analyze_query(BY_OWNER)).estimated_improvement == 99.0


async def test_a_query_that_the_database_refuses_does_not_stop_the_others(optimizer, database, caplog):
    optimizer.explain_with(database.explain, "sqlite")
    for _ in range(3):
        assert (await optimizer.analyze_query("SELECT secret FROM nowhere WHERE a = 'x'")).evidence == []
    assert len(database.asked) == 3, "once"
    assert (await optimizer.analyze_query(BY_OWNER)).estimated_improvement == 99.0
    assert len(caplog.records) == 1
    assert "OperationalError" in caplog.text
    assert "WHERE a = ?" in caplog.text.replace("`", "").replace('"', ""), (
        "the shape, without what users wrote"
    )
    assert "'x'" not in caplog.text
    assert (await optimizer.analyze_query("SELECT secret FROM elsewhere")).evidence == []
    assert len(caplog.records) == 1, "refusals are logged once"


async def test_a_database_that_hangs_is_waited_for_no_longer_than_the_timeout(optimizer, database):
    database.block = asyncio.Event()
    optimizer.explain_with(database.explain, "sqlite", timeout=0.02)
    assert (await optimizer.analyze_query(BY_OWNER)).evidence == []


async def test_a_dialect_without_explain_is_refused(optimizer, database):
    with pytest.raises(ValueError, match="dialect = 'oracle'"):
        optimizer.explain_with(database.explain, "oracle")
    optimizer.explain_with(database.explain, "sqlite")
    optimizer.explain_with(None)
    await optimizer.analyze_query(BY_OWNER)
    assert database.asked == []


async def test_what_is_not_explained_is_not_looked_at_again(optimizer, postgres_that_is_away, monkeypatch):
    optimizer.explain_with(postgres_that_is_away, "postgres")
    looked = []
    prepare = explain.prepare
    monkeypatch.setattr(explain, "prepare", lambda *given: looked.append(given) or prepare(*given))
    for _ in range(3):
        await optimizer.analyze_query("SELECT id FROM files WHERE owner = $1")
    assert len(looked) == 1
    await optimizer.analyze_query("SELECT id FROM files WHERE owner = $1", (1,))
    assert len(looked) == 2


@pytest.fixture
def postgres_that_is_away():
    async def ask(statements):
        raise ConnectionRefusedError("refused")

    return ask


@pytest.mark.parametrize("dialect", explain.DIALECTS)
@given(st.text(max_size=60) | st.lists(st.sampled_from(WORDS), max_size=15).map(" ".join))
@searching(150)
def test_any_text_gets_an_answer(dialect, text):
    async def ask(statements):
        raise ValueError("no database")

    async def analyse():
        optimizer = QueryOptimizer()
        await optimizer.enable()
        optimizer.explain_with(ask, dialect)
        assert (await optimizer.analyze_query(text)).evidence == []
        assert (await optimizer.analyze_query(text, {"a": 1})).evidence == []

    asyncio.run(analyse())


def test_the_memory_of_repetitions_is_bounded(monkeypatch):
    monkeypatch.setattr(stats, "MAX_FINGERPRINTS", 10)
    found = stats.ExecutionStatistics()
    for number in range(100):
        analysis = SimpleNamespace(
            fingerprint=str(number), normal_form="SELECT ?", reads=frozenset("t"), writes=frozenset()
        )
        for _ in range(2):
            shape = found.record(analysis, 1.0, 1, False, 0.0)
            found.note_repeat(shape, number, 1.0, version=0, now=0.0, ttl=1.0)
    assert set(found.repeated) == set(found._shapes) == {str(number) for number in range(90, 100)}
    shape.repeats = 0
    for number in range(stats.MAX_KEYS + 100):
        found.note_repeat(shape, 1_000 + number, 1.0, version=0, now=0.0, ttl=1.0)
    assert len(found._last) + len(found._before) <= stats.MAX_KEYS
    assert shape.repeats == 0
    for number in range(stats.MAX_KEYS // 2):  # the latest are remembered for certain
        found.note_repeat(shape, 1_000 + stats.MAX_KEYS + 99 - number, 1.0, version=0, now=0.5, ttl=1.0)
    assert shape.repeats == stats.MAX_KEYS // 2


# PostgreSQL and MariaDB.


@pytest.fixture
async def postgres(own_database):
    import asyncpg

    connection = await asyncpg.connect(own_database)
    await connection.execute("CREATE SCHEMA evidence")
    await connection.execute("SET search_path = evidence, public")
    await connection.execute(
        "CREATE TABLE files (id INTEGER PRIMARY KEY, owner INTEGER, kind TEXT, created INTEGER);"
        "INSERT INTO files SELECT i, i % 100, 'k' || (i / 100 % 4), i FROM generate_series(1, 20000) AS i;"
        "ANALYZE files"
    )

    async def ask(statements):
        return [
            [tuple(row) for row in await connection.fetch(sql, *(params or ()))] for sql, params in statements
        ]

    yield connection, ask
    await connection.execute("DROP SCHEMA evidence CASCADE")
    await connection.close()


async def test_postgresql_full_scan_against_search(optimizer, postgres):
    connection, ask = postgres
    optimizer.explain_with(ask, "postgres")
    found = await optimizer.analyze_query(BY_OWNER)
    # Of the cost, not of the rows: 200 of 20,000 are on every page of the table.
    assert 50 < found.estimated_improvement < 80
    assert found.evidence[0].startswith("EXPLAIN: full scan of files, 20,000 rows, ")
    assert any(each.startswith("EXPLAIN: cost ") for each in found.evidence)
    assert [each.columns for each in found.index_suggestions] == [("owner",)]

    async def write(query, params):
        await connection.execute(query)

    await optimizer.execute(found.index_suggestions[0].ddl, None, write)
    after = await optimizer.analyze_query(BY_OWNER)
    assert (after.estimated_improvement, after.index_suggestions) == (0.0, [])
    assert after.evidence[0].startswith("EXPLAIN: search of files by idx_files_owner, ")


@pytest.mark.parametrize("params", [(7, "k2"), [7, "k2"]])
async def test_postgresql_parameters(optimizer, postgres, params):
    _, ask = postgres
    optimizer.explain_with(ask, "postgres")
    query = "SELECT id FROM files WHERE owner = $1 AND kind = $2 ORDER BY created"
    assert (await optimizer.analyze_query(query)).evidence == [], "its plan depends on them"
    found = await optimizer.analyze_query(query, params)
    assert 50 < found.estimated_improvement < 90
    assert "EXPLAIN: rows are sorted, no index gives their order" in found.evidence


async def test_postgresql_small_table_whose_index_exists(optimizer, postgres):
    connection, ask = postgres
    await connection.execute("CREATE TABLE few (id INTEGER, owner INTEGER); INSERT INTO few VALUES (1, 2)")
    await connection.execute("CREATE INDEX few_owner ON few (owner); ANALYZE few")
    optimizer.explain_with(ask, "postgres")
    found = await optimizer.analyze_query("SELECT id FROM few WHERE owner = 2")
    assert found.evidence[0].startswith("EXPLAIN: full scan of few")
    assert (found.index_suggestions, found.estimated_improvement) == ([], 0.0)


async def test_postgresql_hypothetical_index(optimizer, postgres):
    connection, ask = postgres
    available = "SELECT 1 FROM pg_available_extensions WHERE name = 'hypopg'"
    if not await connection.fetchval(available):
        pytest.skip("this PostgreSQL has no HypoPG")
    await connection.execute("CREATE EXTENSION hypopg SCHEMA evidence")
    optimizer.explain_with(ask, "postgres")
    found = await optimizer.analyze_query(BY_OWNER)
    assert 50 < found.estimated_improvement < 99
    assert found.evidence[-1].endswith("(HypoPG)")
    assert "HypoPG" in found.evidence[-1]
    assert await connection.fetchval("SELECT count(*) FROM hypopg_list_indexes") == 0


async def test_mariadb_full_scan_against_search(optimizer, mysql_url):
    import asyncmy

    parts = urlsplit(mysql_url)
    connection = await asyncmy.connect(
        host=parts.hostname, port=parts.port or 3306, user=parts.username or "root",
        password=parts.password or "", db=parts.path.strip("/"), autocommit=True,
    )  # fmt: skip

    async def ask(statements):
        return [await rows(sql, params) for sql, params in statements]

    async def rows(sql, params):
        async with connection.cursor() as cursor:
            await cursor.execute(sql, params)
            return list(await cursor.fetchall())

    query = "SELECT id FROM evidence_files WHERE owner = 7"
    await rows("DROP TABLE IF EXISTS evidence_files", None)
    await rows("CREATE TABLE evidence_files (id INT PRIMARY KEY, owner INT, kind VARCHAR(9))", None)
    values = ", ".join(f"({i}, {i % 100}, 'k{i % 4}')" for i in range(1, 4001))
    await rows(f"INSERT INTO evidence_files VALUES {values}", None)
    try:
        optimizer.explain_with(ask, "mysql")
        found = await optimizer.analyze_query(query)
        assert found.estimated_improvement == 99.0
        assert found.evidence[0].startswith("EXPLAIN: full scan of evidence_files")
        given = await optimizer.analyze_query("SELECT id FROM evidence_files WHERE kind = %s", ("k1",))
        assert given.estimated_improvement == 75.0
        await optimizer.execute(found.index_suggestions[0].ddl, None, rows)
        after = await optimizer.analyze_query(query)
        assert (after.estimated_improvement, after.index_suggestions) == (0.0, [])
        assert "EXPLAIN: search of evidence_files by idx_evidence_files_owner" in after.evidence[0]
    finally:
        await rows("DROP TABLE IF EXISTS evidence_files", None)
        await connection.ensure_closed()


# Plans of servers that the tests do not have.


def test_plan_of_mysql_8():
    document = """{"query_block": {"select_id": 1, "cost_info": {"query_cost": "403.75"},
      "ordering_operation": {"using_filesort": true, "nested_loop": [{"table": {"table_name": "f",
        "access_type": "ALL", "rows_examined_per_scan": 3997, "filtered": "10.00"}}]}}}"""
    plan = mysql.plan_of_mysql(document, {"f": "files"})
    assert plan == evidence.Plan(
        (evidence.Access("files", full_scan=True, expected=3997.0),), sorts=True, cost=403.75
    )


def test_a_join_by_a_buffer_reads_a_table_once_for_many_searches():
    for document in (
        '{"query_block": {"nested_loop": [{"table": {"table_name": "f", "access_type": "ALL", '
        '"rows_examined_per_scan": 9, "using_join_buffer": "hash join"}}]}}',
        '{"query_block": {"nested_loop": [{"block-nl-join": {"table": {"table_name": "f", '
        '"access_type": "ALL", "rows": 9}, "buffer_type": "flat", "join_type": "BNL"}}]}}',
    ):
        (access,) = mysql.plan_of_mysql(document, {"f": "files"}).accesses
        assert access.buffered
    suggestion = IndexSuggestion("files", ("owner",), "CREATE INDEX ...", "", ("owner",))
    figures = {"files": evidence.TableFigures(9, selected={"CREATE INDEX ...": 0.1})}
    assert evidence.judge(evidence.Plan((access,)), [suggestion], figures).improvement == 0.0


def test_a_parallel_scan_counts_all_its_processes():
    scan = {"Node Type": "Seq Scan", "Parallel Aware": True, "Relation Name": "t", "Plan Rows": 100}
    top = {"Node Type": "Gather", "Workers Planned": 2, "Total Cost": 5.0, "Plans": [scan]}
    (access,) = postgresql.plan_of_postgres([{"Plan": top}]).accesses
    assert access.expected == pytest.approx(240)


@pytest.mark.parametrize(
    ("detail", "full_scan", "columns"),
    [
        ("SCAN files", True, set()),
        ("SCAN TABLE files", True, set()),
        ("SCAN TABLE files AS f", True, set()),
        ("SCAN f", True, set()),
        ("SCAN files USING COVERING INDEX by_owner", False, set()),
        ("SEARCH f USING INDEX by_owner (owner=? AND created>?)", False, {"owner", "created"}),
        ("SEARCH f USING COVERING INDEX by_owner (owner=?)", False, {"owner"}),
        ("SEARCH files USING INTEGER PRIMARY KEY (rowid=?)", False, {"rowid"}),
        ("SEARCH f USING AUTOMATIC COVERING INDEX (owner=?)", True, set()),
        ("SEARCH f USING AUTOMATIC PARTIAL COVERING INDEX (owner=?)", True, set()),
    ],
)
def test_plan_of_sqlite(detail, full_scan, columns):
    plan = sqlite.plan_of_sqlite([(1, 0, 0, detail)], {"files": "files", "f": "files"})
    (access,) = plan.accesses
    assert (access.table, access.full_scan, access.columns) == ("files", full_scan, columns)


async def test_every_answer_is_complete_and_its_own(optimizer):
    one, other = await optimizer.analyze_query(SORTED), await optimizer.analyze_query(SORTED)
    assert one == other == dataclasses.replace(one)
    assert {field.name for field in dataclasses.fields(one)} == set(vars(one))
    for name, value in vars(one).items():
        assert not isinstance(value, list | dict) or value is not getattr(other, name), name
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.estimated_improvement = 100.0
