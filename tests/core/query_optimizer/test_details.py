"""What an operator is told of one query shape: all of it, and nothing of a user's."""

import json
import sqlite3
from dataclasses import asdict

import pytest

from bot.core.query_optimizer import QueryOptimizer
from bot.core.query_optimizer.execution.specimens import MAX_SPECIMENS, MAX_TEXT

SECRET = "hunter2"


@pytest.fixture
async def optimizer(clock):
    optimizer = QueryOptimizer(clock=clock)
    await optimizer.enable()
    yield optimizer
    optimizer._recorder.specimens.check_invariants()
    await optimizer.disable()


@pytest.fixture
def database():
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, email TEXT)")
    database.executemany(
        "INSERT INTO users (name, email) VALUES (?, ?)", [(f"n{n}", f"{n}@x") for n in range(500)]
    )
    yield database
    database.close()


def explainer(database):
    async def explain(statements):
        return [database.execute(sql, params or ()).fetchall() for sql, params in statements]

    return explain


async def run_slowly(optimizer, clock, query, params=None):
    async def execute(query, params):
        clock.jump(1.5)
        return [1, 2]

    await optimizer.execute(query, params, execute)


async def test_a_slow_query_with_its_place_advice_index_and_plan(optimizer, clock, database):
    optimizer.explain_with(explainer(database), "sqlite")
    columns = ", ".join(f"name AS column_{number}" for number in range(60))
    query = f"SELECT {columns} FROM users WHERE email = ? AND name LIKE '%{SECRET}%'"
    await run_slowly(optimizer, clock, query, (SECRET,))
    [slow] = await optimizer.get_slow_queries()
    assert len(slow.query) == 500, "a list shows its beginning"
    details = await optimizer.describe_query(slow.fingerprint)
    assert details.query.endswith("WHERE email = ? AND name LIKE ?"), "here it is whole"
    assert (details.executions, details.slow_executions, details.rows) == (1, 1, 2)
    assert details.max_time_ms == pytest.approx(1500)
    assert [site.partition(" in ")[2] for site in details.call_sites] == ["run_slowly"]
    assert "CREATE INDEX idx_users_email ON users (email)" in [
        index.ddl for index in details.index_suggestions
    ]
    assert any(sentence.startswith("EXPLAIN: full scan of users") for sentence in details.evidence)
    assert "Q004" in [finding.code for finding in details.findings], "it takes the query itself to see that"
    assert SECRET not in json.dumps(asdict(details), default=str)


async def test_an_n_plus_one_is_described_though_no_query_of_it_was_slow(optimizer):
    async def fetch(query, params):
        return [params]

    with optimizer.request():
        for number in range(12):
            await optimizer.execute("SELECT email FROM users WHERE name = ?", (f"{SECRET}{number}",), fetch)
    [pattern] = await optimizer.get_n_plus_one_patterns()
    details = await optimizer.describe_query(pattern.fingerprint)
    assert details.n_plus_one == pattern
    assert details.call_sites == pattern.call_sites
    assert details.slow_executions == 0
    assert SECRET not in json.dumps(asdict(details), default=str)


async def test_a_query_recorded_elsewhere_is_described_without_a_plan(optimizer):
    await optimizer.record_execution(f"SELECT * FROM users WHERE name = '{SECRET}'", 2_500.0)
    [slow] = await optimizer.get_slow_queries()
    details = await optimizer.describe_query(slow.fingerprint)
    assert details.query == "SELECT * FROM users WHERE name = ?"
    assert "test_details.py" in details.call_sites[0]
    assert not [sentence for sentence in details.evidence if "EXPLAIN" in sentence]
    assert SECRET not in json.dumps(asdict(details), default=str)


async def test_an_explainer_that_fails_costs_the_plan_only(optimizer, clock):
    async def broken(statements):
        raise sqlite3.OperationalError(SECRET)

    optimizer.explain_with(broken, "sqlite")
    await run_slowly(optimizer, clock, "SELECT id FROM users WHERE name = ?", (SECRET,))
    [slow] = await optimizer.get_slow_queries()
    details = await optimizer.describe_query(slow.fingerprint)
    assert details.index_suggestions
    assert details.evidence == []


@pytest.mark.parametrize("fingerprint", ["", "0123456789abcdef", "é" * 10_000])
async def test_what_is_not_known_is_none(optimizer, fingerprint):
    assert await optimizer.describe_query(fingerprint) is None


async def test_forgotten_with_the_statistics_and_while_it_is_off(optimizer):
    await optimizer.record_execution("SELECT * FROM users", 2_500.0)
    [slow] = await optimizer.get_slow_queries()
    assert await optimizer.describe_query(slow.fingerprint)
    await optimizer.reset_statistics()
    assert await optimizer.describe_query(slow.fingerprint) is None
    await optimizer.record_execution("SELECT * FROM users", 2_500.0)
    await optimizer.disable()
    assert await optimizer.describe_query(slow.fingerprint) is None


@pytest.mark.parametrize(
    "query",
    [
        "not a query '",
        "query { user(id: 5) { name } }",
        "SELECT 1; DROP TABLE users",
        "SELECT '" + "x" * 9_000,
    ],
)
async def test_any_text_is_described(optimizer, query):
    await optimizer.record_execution(query, 2_500.0)
    [slow] = await optimizer.get_slow_queries()
    details = await optimizer.describe_query(slow.fingerprint)
    assert details.slow_executions == 1
    assert len(details.query) <= MAX_TEXT


async def test_what_is_remembered_is_bounded(optimizer, clock):
    specimens = optimizer._recorder.specimens
    for number in range(MAX_SPECIMENS + 20):
        await optimizer.record_execution(f"SELECT a{number} FROM t", 2_500.0)
    assert len(specimens) == MAX_SPECIMENS
    await run_slowly(optimizer, clock, "SELECT b FROM t WHERE c = ?", ("x" * 1_000_000,))
    kept = specimens.get((await optimizer.analyze_query("SELECT b FROM t WHERE c = ?")).fingerprint)
    assert kept.params is None, "a large value is not held for the sake of a plan"


async def test_parameters_are_the_optimizers_own(optimizer, clock):
    params = ["before"]
    await run_slowly(optimizer, clock, "SELECT b FROM t WHERE c = ?", params)
    params[0] = "after"
    [slow] = await optimizer.get_slow_queries()
    assert optimizer._recorder.specimens.get(slow.fingerprint).params == ("before",)
