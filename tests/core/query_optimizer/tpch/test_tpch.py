"""Every query of TPC-H, as it was and as it is rewritten, gives the same rows on SQLite and on PostgreSQL."""

import sqlite3

import asyncpg
import pytest

from bot.core.query_optimizer.advice.report import analyse_scripts
from tests.core.query_optimizer.tpch.data import ddl, rows
from tests.core.query_optimizer.tpch.queries import CLUMSY, QUERIES, TABLES

SEEDS = (1, 2)


def advised(query, dialect):
    """Advice on the query, whose tables the script creates."""
    script = ";\n".join([*ddl(), query])
    return analyse_scripts([script], dialect)[0][-1].advice


def every_query():
    yield from ((str(number), text.strip()) for number, text in QUERIES.items())
    yield from ((name, text.strip()) for name, text in CLUMSY.items())


def same(before, after):
    """Every query sorts by what tells its rows apart, so their order counts too."""
    return list(map(comparable, before)) == list(map(comparable, after))


def comparable(row):
    return [(type(value), value) for value in row]


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
@pytest.mark.parametrize("number", QUERIES)
def test_every_query_is_understood(number, dialect):
    advice = advised(QUERIES[number].strip(), dialect)
    assert "Q000" not in {finding.code for finding in advice.findings}
    assert sorted(advice.analysis.reads) == TABLES[number].split()
    assert advice.analysis.cacheable
    qualified = [column for column in advice.columns.get("where", ()) if "." in column]
    assert {column.partition(".")[0] for column in qualified} <= set(TABLES[number].split())
    assert {suggestion.table for suggestion in advice.index_suggestions} <= set(TABLES[number].split())


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
@pytest.mark.parametrize("name", CLUMSY)
def test_what_is_clumsy_is_rewritten(name, dialect):
    assert advised(CLUMSY[name].strip(), dialect).optimized_query != CLUMSY[name].strip()


@pytest.mark.parametrize("seed", SEEDS)
def test_on_sqlite(seed):
    database = sqlite3.connect(":memory:")
    for statement in ddl():
        database.execute(statement)
    for table, made in rows(seed).items():
        database.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(made[0]))})", made)
    empty = []
    for name, query in every_query():
        before = database.execute(query).fetchall()
        after = database.execute(advised(query, "sqlite").optimized_query).fetchall()
        assert same(before, after), name
        if not before or before == [(None,)]:
            empty.append(name)
    database.close()
    assert empty == [], "on data that gives rows"


async def test_on_postgresql(postgresql_url):
    for seed in SEEDS:
        connection = await asyncpg.connect(postgresql_url)
        try:
            for statement in ddl():
                await connection.execute(statement.replace("CREATE TABLE", "CREATE TEMP TABLE"))
            for table, made in rows(seed).items():
                await connection.copy_records_to_table(table, records=made)
            await connection.execute("ANALYZE")
            for name, query in every_query():
                before = await connection.fetch(query)
                after = await connection.fetch(advised(query, "postgres").optimized_query)
                assert before, name
                assert same(map(tuple, before), map(tuple, after)), name
        finally:
            await connection.close()
