"""Whatever a parser makes of a text, the query runs, and nothing stale is left; in bounded time."""

import random
from decimal import Decimal

import pytest

from bot.core.query_optimizer import QueryOptimizer, QueryType, analyses, optimize_query
from bot.core.query_optimizer.analyses import analysis_of, key_of_text

KEPT = "SELECT v FROM kept"


class ErrorOfAParser(Exception):
    pass


FAULTS = (
    UnboundLocalError("cannot access local variable"), RecursionError("maximum recursion depth exceeded"),
    AttributeError("'NoneType' object has no attribute 'this'"), KeyError("x"), AssertionError(),
    ErrorOfAParser("new in the next version"), UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates"),
    ZeroDivisionError(), StopIteration(),
)  # fmt: skip


@pytest.fixture
async def optimizer(clock, monkeypatch):
    monkeypatch.setattr(analyses, "_said", set())
    optimizer = QueryOptimizer(clock=clock)
    await optimizer.enable()
    yield optimizer
    optimizer._invalidation.cache.check_invariants()
    await optimizer.disable()


def broken(monkeypatch, error):
    """Each of the parsers raises it."""

    def parse(*args, **kwargs):
        raise error

    import graphql
    import sqlglot.parser
    import sqlparse

    from bot.core.query_optimizer.mongodb import documents
    from bot.core.query_optimizer.sql import analyzer

    monkeypatch.setattr(analyzer, "statements_of", parse)
    monkeypatch.setattr(sqlglot.parser.Parser, "parse", parse, raising=False)
    monkeypatch.setattr(sqlparse, "parse", parse)
    monkeypatch.setattr(graphql, "parse", parse)
    monkeypatch.setattr(documents, "facts_of", parse)


async def ran(query, params):
    return ["ran"]


@pytest.mark.parametrize("error", FAULTS, ids=lambda error: type(error).__name__)
async def test_what_a_parser_raises_stops_no_query(optimizer, monkeypatch, caplog, error):
    await optimizer.execute(KEPT, None, ran)
    broken(monkeypatch, error)
    texts = ["SELECT a FROM t", "UPDATE t SET a = 1", "SELECT 'open"]
    if not isinstance(error, RecursionError):  # GraphQL that is too deep is refused, as its limits say
        texts += ["{ users { id } }", "mutation { drop }"]
    for query in texts:
        for _ in range(2):
            assert await optimizer.execute(query, None, ran) == ["ran"]
        assert await optimizer.get_cached_result(query) is None, "unknown is not cached"
        assert await optimizer.cache_query_result(query, ["row"]) is False
        found = await optimizer.analyze_query(query)
        assert found.optimized_query == query
        await optimizer.record_execution(query, 1.0)
    assert (await optimizer.get_statistics())["cached_results_count"] == 0, "it may have written"
    assert (await optimizer.analyze_query({"a": 1}, {"collection": "c"})).optimized_query == {"a": 1}
    assert caplog.text.count("The parser failed on a SQL text") <= 1


async def test_the_decorator_runs_what_a_parser_stumbles_over(monkeypatch):
    await QueryOptimizer.get_instance().enable()
    broken(monkeypatch, UnboundLocalError())

    @optimize_query
    async def run(query):
        return [query]

    for query in ("SELECT a FROM another_table", "{ of { graphql } }"):
        assert await run(query) == [query]


async def test_a_commit_that_a_parser_stumbles_over_ends_the_transaction(optimizer, monkeypatch):
    await optimizer.execute("BEGIN", None, ran)
    await optimizer.execute("UPDATE t SET a = 1", None, ran)
    broken(monkeypatch, UnboundLocalError())
    await optimizer.execute("COMMIT /* of a kind */", None, ran)
    assert optimizer._transactions.current() is None


async def test_want_of_memory_is_not_taken_for_a_text_without_sense(optimizer, monkeypatch):
    broken(monkeypatch, MemoryError())
    with pytest.raises(MemoryError):
        await optimizer.execute("SELECT a FROM t", None, ran)


async def test_a_partition_whose_columns_the_parser_does_not_know(optimizer):
    await optimizer.enable(dialect="postgres")
    text = "CREATE TABLE p1 PARTITION OF p (b WITH OPTIONS NOT NULL) FOR VALUES IN ('c')"
    assert await optimizer.execute(text, None, ran) == ["ran"]


# Parameters.


def deep(levels):
    value = 1
    for _ in range(levels):
        value = [value]
    return value


class Odd(dict):
    def items(self):
        raise LookupError("no items today")


def circle():
    value = [1]
    value.append(value)
    return value


@pytest.mark.parametrize(
    "params", [deep(5_000), circle(), Odd(a=1), {"a": object()}, (float("nan"),), ("\ud800",)], ids=range(6)
)
async def test_whatever_the_parameters_the_query_runs(optimizer, params):
    for _ in range(2):
        assert await optimizer.execute(KEPT, params, ran) == ["ran"]
        assert await optimizer.get_cached_result(KEPT, params) in (None, ["ran"])
        await optimizer.cache_query_result(KEPT, ["ran"], params=params)


async def test_a_number_without_a_hash_is_a_parameter_like_any_other(optimizer):
    assert await optimizer.execute(KEPT, (Decimal("sNaN"),), ran) == ["ran"]
    assert await optimizer.cache_query_result(KEPT, ["ran"], params=(Decimal("sNaN"),), fresh=True) is False


# Long texts.

N = 5_000
ROWS = {
    "postgres": "INSERT INTO t (a, b) VALUES " + ",".join(f"(${2 * n + 1},${2 * n + 2})" for n in range(N)),
    "mysql": "INSERT INTO t (a, b) VALUES " + ", ".join("(%s, %s)" for _ in range(N)),
    "sqlite": "INSERT INTO t (a, b) VALUES " + ", ".join(f"({n}, 'it''s {n}')" for n in range(N)),
}


@pytest.mark.parametrize("dialect", ROWS)
async def test_an_insert_of_many_rows_drops_what_read_its_table_and_no_more(optimizer, dialect):
    await optimizer.enable(dialect=dialect)
    for query in (KEPT, "SELECT a FROM t"):
        await optimizer.execute(query, None, ran)
    await optimizer.execute(ROWS[dialect], [1] * (2 * N), ran)
    assert await optimizer.get_cached_result("SELECT a FROM t") is None
    assert await optimizer.get_cached_result(KEPT) is not None
    assert optimizer._analyses._analyses.size < 10_000, "the text itself is not remembered"


@pytest.mark.parametrize(
    "query",
    [
        "SELECT a FROM t WHERE " + " OR ".join(f"a = {n}" for n in range(900)),
        f"SELECT a FROM t WHERE a IN ({', '.join(map(str, range(N)))})",
        "SELECT a FROM t WHERE (a, b) IN (" + ", ".join(f"({n}, {n})" for n in range(N)) + ")",
        "SELECT CASE a " + " ".join(f"WHEN {n} THEN 'x{n}'" for n in range(N)) + " END FROM t",
    ],
    ids=["or", "in", "pairs", "case"],
)
async def test_a_long_list_of_values_is_cached_and_dropped_like_a_short_one(optimizer, query):
    await optimizer.execute(query, None, ran)
    await optimizer.execute(KEPT, None, ran)
    assert await optimizer.get_cached_result(query) == ["ran"]
    await optimizer.execute("UPDATE t SET a = 1", None, ran)
    assert await optimizer.get_cached_result(query) is None
    assert await optimizer.get_cached_result(KEPT) is not None


async def test_what_a_long_list_hides_is_found(optimizer):
    values = ", ".join(map(str, range(N)))
    for hidden in (
        f"SELECT a FROM t WHERE a IN ({values}, (SELECT max(b) FROM other))",
        f"SELECT a FROM t WHERE a IN ({values}) OR b IN (SELECT b FROM other)",
        f"SELECT a FROM t WHERE a IN ({values}) UNION SELECT a FROM other",
    ):
        found = analysis_of(hidden, "postgres")
        assert "other" in found.reads or not found.cacheable, hidden[-60:]
    for hidden in (
        f"SELECT a FROM t WHERE a IN ({values}, write_all())",
        f"SELECT a FROM t WHERE a IN ({values}); DELETE FROM other",
        f"SELECT a FROM t WHERE a IN ({values}) /* ' */ OR write_all() /* ' */",
        f"SELECT a FROM t WHERE a IN ({values}) -- '\n OR write_all() -- '",
        f"SELECT a FROM t WHERE a IN ('{values}' || write_all() || '{values}')",
        f"INSERT INTO t VALUES {', '.join(['(1)'] * N)}, (write_all())",
        f"INSERT INTO t VALUES {', '.join(['(1)'] * N)} RETURNING write_all()",
    ):
        found = analysis_of(hidden, "postgres")
        assert found.writes_anything or "other" in found.writes, hidden[-60:]
    for moment in ("now", "TODAY"):
        found = analysis_of(f"SELECT a FROM t WHERE a IN ({values}, '{moment}')", "postgres")
        assert not found.cacheable


async def test_a_text_too_long_to_be_read_runs_and_what_its_words_tell_is_used(optimizer):
    select = " UNION ALL ".join(f"SELECT a{n} + {n} FROM t{n}" for n in range(2_000))
    insert = "INSERT INTO t (a, b) VALUES " + ", ".join(f"({n} + 1, lower('x'))" for n in range(N))
    call = "SELECT " + ", ".join(f"mine({n})" for n in range(N))
    for query, left in ((select, 1), (insert, 1), (call, 0), ("VACUUM " + "x, " * 9_000, 1)):
        await optimizer.execute(KEPT, None, ran)
        assert await optimizer.execute(query, None, ran) == ["ran"]
        assert (await optimizer.get_statistics())["cached_results_count"] == left, query[:20]
        assert await optimizer.cache_query_result(query, [], fresh=True) is False
        found = await optimizer.analyze_query(query)
        assert found.optimized_query == query
        assert len(found.fingerprint) == 16


async def test_a_long_script_that_ends_its_transaction_leaves_none_open(optimizer):
    script = "BEGIN; " + "UPDATE t SET a = a + 1; " * 1_000 + "COMMIT;"
    await optimizer.execute(script, None, ran)
    assert optimizer._transactions.current() is None


def test_long_texts_are_told_apart_by_digest():
    texts = ["x" * 4_001, "x" * 4_002, "y" * 4_001, "\ud800" * 4_001, "x"]
    assert len({key_of_text(text) for text in texts}) == len(texts)
    assert max(map(len, map(key_of_text, texts))) < 60


async def test_texts_that_are_remembered_are_bounded_in_bytes(optimizer):
    for n in range(300):
        columns = ", ".join(f"column_{n}_{m}" for m in range(250))
        await optimizer.execute(f"SELECT {columns} FROM t", None, ran)
    await optimizer.enable(cache_max_size_mb=1)
    for n in range(200):
        await optimizer.execute(KEPT, ("x" * 100_000, n), ran)
    figures = await optimizer.get_statistics()
    assert figures["cached_results_count"] < 11, "parameters count"
    assert optimizer._analyses._analyses.size <= analyses_limit()


def analyses_limit():
    from bot.core.query_optimizer.analyses import ANALYSES_CHARACTERS

    return ANALYSES_CHARACTERS


# Whatever it is.

SEEDS = [
    "SELECT a, b AS c FROM t JOIN u ON t.id = u.id WHERE a = 1 AND b IN (1, 2) OR c LIKE 'x%' LIMIT 5",
    "INSERT INTO t (a) VALUES (1), ($2) ON CONFLICT (a) DO UPDATE SET a = EXCLUDED.a RETURNING *",
    "WITH RECURSIVE w AS (SELECT 1 UNION ALL SELECT n + 1 FROM w) UPDATE t SET a = ARRAY[1, 2][1]",
    "CREATE TABLE p1 PARTITION OF p (b WITH OPTIONS NOT NULL) FOR VALUES IN ('c')",
    "CREATE VIEW v AS SELECT CASE WHEN a THEN b ELSE c END::int[] FROM t WINDOW w AS (PARTITION BY x)",
    "MERGE INTO t USING s ON t.id = s.id WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (1)",
    "DO $$ BEGIN PERFORM 1; END $$ LANGUAGE plpgsql; COMMIT AND CHAIN; SET LOCAL x = 'y'; PRAGMA a(b)",
    'query Q($a: Int = 3) { users(first: $a, q: "x") @include(if: true) { ...F } } fragment F on U { id }',
    "ALTER TABLE t ADD COLUMN x int DEFAULT now(), DROP y CASCADE; GRANT ALL ON t TO u; EXPLAIN ANALYZE t",
    "SELECT x -> 'a' ->> 'b' #>> '{c}' @> '[1]', INTERVAL '1 day' AT TIME ZONE 'utc', `q`, [w] /*! c */ -- d",
]
MARKS = list(
    "()[]{}<>.,;:'\"`$@#%?!*/+-=|&^~\\ \n\t0aZ\u0000\u00e9\u0416\u202e\ufeff\U0001f600\ud800\u2028\u01c2"
)


def mutated(chance):
    """A text that nearly is one."""
    pieces = chance.choice(SEEDS).split(" ")
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(pieces))
        how = chance.randrange(6)
        if how == 0:
            del pieces[at : at + chance.randrange(1, 4)]
            pieces = pieces or ["SELECT"]
        elif how == 1:
            pieces[at:at] = chance.choice(SEEDS).split(" ")[: chance.randrange(1, 9)]
        elif how == 2:
            pieces[at] = pieces[at][: chance.randrange(len(pieces[at]) + 1)] + chance.choice(MARKS)
        elif how == 3:
            pieces[at] = chance.choice(MARKS) * chance.choice((1, 2, 150))
        elif how == 4:
            pieces[at:at] = [pieces[at]] * chance.choice((2, 20))
        else:
            other = chance.randrange(len(pieces))
            pieces[at], pieces[other] = pieces[other], pieces[at]
    return " ".join(pieces)


@pytest.mark.parametrize("dialect", ["", "postgres", "mysql", "sqlite"])
async def test_no_text_stops_its_execution(optimizer, dialect):
    await optimizer.enable(dialect=dialect, detect_n_plus_one=True)
    chance = random.Random(dialect)
    for _ in range(150):
        query = mutated(chance)
        assert await optimizer.execute(query, None, ran) == ["ran"], query
        await optimizer.get_cached_result(query)
        await optimizer.cache_query_result(query, ["row"])
        found = await optimizer.analyze_query(query)
        assert isinstance(found.query_type, QueryType)


async def test_advice_has_an_end(optimizer):
    few = "SELECT * FROM t WHERE " + " OR ".join(f"a = {n}" for n in range(200))
    many = "SELECT * FROM t WHERE " + " OR ".join(f"a = {n}" for n in range(600))
    assert (await optimizer.analyze_query(few)).findings
    found = await optimizer.analyze_query(many)
    assert (found.findings, found.tables, found.optimized_query) == ([], ["t"], many)
