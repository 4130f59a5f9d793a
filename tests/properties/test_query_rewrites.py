"""Rewritten queries give the same rows as the original, on SQLite and on PostgreSQL.

1,000 rewritten queries on each; ``PHASE4_TEST_REWRITES`` sets another number, for a long run.
"""

import os
import re
import sqlite3

import asyncpg

from bot.core.query_optimizer.advice.advisor import advise
from bot.core.query_optimizer.advice.rewrites import REWRITES
from bot.core.query_optimizer.sql.analyzer import read
from bot.core.query_optimizer.sql.schema import Schema
from tests.support.searching import cases
from tests.support.sql_generator import QueryGenerator, ddl, rows

REWRITTEN = int(os.environ.get("PHASE4_TEST_REWRITES") or cases(1000))
DATASETS = 12


def schema(dialect):
    known = Schema()
    for statement in ddl():
        for census in read(statement, dialect).censuses:
            known.learn(census)
    return known


def rewritten(dialect, first_seed):
    """Queries that the optimizer changes, each with its seed, its new form and what was done."""
    found = 0
    known = schema(dialect)
    for seed in range(first_seed, first_seed + REWRITTEN * 10):
        if found == REWRITTEN:
            return
        query = QueryGenerator(seed).query()
        advice = advise(read(query.text, dialect), known)
        if advice.optimized_query != query.text:
            found += 1
            done = {f.code for f in advice.findings if "Done in optimized_query" in f.fix}
            yield seed, query, advice.optimized_query, done
    raise AssertionError(f"only {found} queries of {REWRITTEN * 10} were rewritten")


def comparable(row):
    return tuple((value is None, str(value), type(value).__name__) for value in row)


def assert_same(before, after, query, optimized):
    told = f"\n{query.text}\n{optimized}"
    assert sorted(map(comparable, before)) == sorted(map(comparable, after)), told
    for position in query.order:
        assert [row[position] for row in before] == [row[position] for row in after], told


def test_on_sqlite():
    databases = []
    for dataset in range(DATASETS):
        database = sqlite3.connect(":memory:")
        for statement in ddl():
            database.execute(statement)
        for table, made in rows(dataset).items():
            for row in made:
                database.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
        databases.append(database)
    codes, answered = set(), 0
    for seed, query, optimized, done in rewritten("sqlite", 0):
        database = databases[seed % DATASETS]
        before = database.execute(query.text).fetchall()
        assert_same(before, database.execute(optimized).fetchall(), query, optimized)
        codes |= done
        answered += bool(before)
    assert codes == set(REWRITES), "every rewrite was put to the test"
    assert answered > REWRITTEN * 0.25, "and on data that gives rows"
    for database in databases:
        database.close()


async def test_on_postgresql(postgresql_url):
    connection = await asyncpg.connect(postgresql_url)
    schemas = [f"rewrites_{dataset}" for dataset in range(DATASETS)]
    try:
        for dataset, schema in enumerate(schemas):
            await connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE; CREATE SCHEMA {schema}")
            await connection.execute(f"SET search_path TO {schema}; {'; '.join(ddl())}")
            for table, made in rows(dataset).items():
                await connection.copy_records_to_table(table, records=made, schema_name=schema)
        codes, answered = set(), 0
        current = None
        for seed, query, optimized, done in rewritten("postgres", 1_000_000):
            if current != (current := schemas[seed // 50 % DATASETS]):
                await connection.execute(f"SET search_path TO {current}")
            before = await connection.fetch(query.text)
            assert_same(before, await connection.fetch(optimized), query, optimized)
            codes |= done
            answered += bool(before)
        assert codes == set(REWRITES)
        assert answered > REWRITTEN * 0.25
    finally:
        for schema in schemas:
            await connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
        await connection.close()


def test_positional_parameters_keep_their_number_and_order():
    database = sqlite3.connect(":memory:")
    for statement in ddl():
        database.execute(statement)
    for table, made in rows(3).items():
        for row in made:
            database.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
    changed = 0
    known = schema("sqlite")
    for seed in range(200):
        query = QueryGenerator(seed).query()
        given = [int(number) for number in re.findall(r"= (\d)(?![\d'])", query.text)]
        text = re.sub(r"= (\d)(?![\d'])", "= ?", query.text)
        optimized = advise(read(text, "sqlite"), known).optimized_query
        changed += optimized != text
        before = database.execute(text, given).fetchall()
        assert_same(before, database.execute(optimized, given).fetchall(), query, optimized)
    database.close()
    assert changed > 20
