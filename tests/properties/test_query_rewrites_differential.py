"""A query and its rewritten form, run side by side on SQLite, PostgreSQL and MariaDB.

Schemas, data and queries are generated (``tests/support/sql_differential.py``) over the types that trap a
rewrite. Each query is advised with the tables' DDL known and without; wherever ``optimized_query`` differs,
both run: the rows must be the same (as a multiset, and in the order that ORDER BY determines), so must the
names of the columns; what fails must go on to fail, and nothing else may fail. What findings claim for
certain ("never true", "changes nothing", "cannot have a row in common") is run too, and so are the index
suggestions.

By default 200 queries for each database. A long run, with as many as are wanted::

    PHASE4_TEST_DIFFERENTIAL=10000 pytest tests/properties/test_query_rewrites_differential.py -s

``PHASE4_TEST_DIFFERENTIAL_SEED`` begins with another dataset than 0; a failure tells the dataset and the
query, and ``PHASE4_TEST_DIFFERENTIAL_SEED=<dataset>`` begins with those. MariaDB takes part where
``PHASE4_TEST_MYSQL_URL`` names one, PostgreSQL as ``PHASE4_TEST_POSTGRESQL_URL`` says or by pip.
"""

from __future__ import annotations

import collections
import os
import re
import sqlite3
from urllib.parse import urlsplit

import psycopg

from bot.core.query_optimizer.advice.advisor import advise
from bot.core.query_optimizer.advice.rewrites import REWRITES
from bot.core.query_optimizer.sql.analyzer import read
from bot.core.query_optimizer.sql.schema import Schema
from tests.support.sql_differential import KINDS, Dataset, QueryGenerator

QUERIES = int(os.environ.get("PHASE4_TEST_DIFFERENTIAL", "200"))
FIRST = int(os.environ.get("PHASE4_TEST_DIFFERENTIAL_SEED", "0"))
QUERIES_PER_DATASET = 50

ROOM = f"phase4_differential_{os.getpid()}"
"""The schema, or the database, that a run has for itself."""

DONE = "Done in optimized_query"


def with_names(cursor, rows):
    """The rows, after one of the columns' names: these must stay, too."""
    return [tuple(column[0] for column in cursor.description or ()), *rows]


class Sqlite:
    dialect = "sqlite"

    def __init__(self):
        self.database = None
        self.begin()

    async def rows(self, sql, params=()):
        cursor = self.database.execute(sql, params)
        return with_names(cursor, cursor.fetchall())

    def begin(self):
        self.close()
        self.database = sqlite3.connect(":memory:", isolation_level=None)

    async def start_anew(self):
        self.begin()

    async def try_index(self, ddl, table):
        self.database.execute("SAVEPOINT before")
        try:
            self.database.execute(ddl)
        finally:
            self.database.execute("ROLLBACK TO before")

    def close(self):
        if self.database is not None:
            self.database.close()


class Postgresql:
    dialect = "postgres"

    def __init__(self, url):
        self.connection = psycopg.connect(url, autocommit=True)

    async def rows(self, sql, params=()):
        # Its parameters are $1, and of whatever type the server wants.
        cursor = psycopg.RawCursor(self.connection).execute(sql, [str(each) for each in params] or None)
        return with_names(cursor, cursor.fetchall() if cursor.description else [])

    async def start_anew(self):
        await self.rows(f"DROP SCHEMA IF EXISTS {ROOM} CASCADE")
        await self.rows(f"CREATE SCHEMA {ROOM}")
        await self.rows(f"SET search_path TO {ROOM}, public")
        await self.rows("SET client_min_messages TO error")

    async def try_index(self, ddl, table):
        await self.rows("BEGIN")
        try:
            await self.rows(ddl)
        finally:
            await self.rows("ROLLBACK")

    def close(self):
        self.connection.execute(f"DROP SCHEMA IF EXISTS {ROOM} CASCADE")
        self.connection.close()


class Mariadb:
    dialect = "mysql"

    def __init__(self, connection):
        self.connection = connection

    @classmethod
    async def connected(cls, url):
        import asyncmy

        parts = urlsplit(url)
        connection = await asyncmy.connect(
            host=parts.hostname,
            port=parts.port or 3306,
            user=parts.username or "root",
            password=parts.password or "",
            autocommit=True,
            charset="utf8mb4",
        )
        return cls(connection)

    async def rows(self, sql, params=()):
        async with self.connection.cursor() as cursor:
            await cursor.execute(sql, params or None)
            return with_names(cursor, await cursor.fetchall())

    async def start_anew(self):
        await self.rows(f"DROP DATABASE IF EXISTS {ROOM}")
        await self.rows(f"CREATE DATABASE {ROOM} CHARSET utf8mb4")
        await self.rows(f"USE {ROOM}")
        await self.rows("SET max_error_count = 0")  # the driver logs each warning

    async def try_index(self, ddl, table):
        await self.rows(ddl)
        await self.rows(f"DROP INDEX {ddl.split()[2]} ON `{table}`")

    async def close(self):
        await self.rows(f"DROP DATABASE IF EXISTS {ROOM}")
        await self.connection.ensure_closed()


async def kinds_of(engine):
    """The types that this server has: extensions and collations may be missing."""
    found = []
    await engine.start_anew()
    for kind in KINDS[engine.dialect]:
        try:
            if kind.ddl:
                await engine.rows(kind.ddl)
            await engine.rows(f"CREATE TABLE probe (x {kind.declared})")
            await engine.rows("DROP TABLE probe")
        except Exception as error:
            print(f"{engine.dialect}: no {kind.declared}: {error}")
            continue
        found.append(kind)
    return tuple(found)


LITERAL = re.compile(r"(?<== )(\d{1,8}|'\w*')(?![\w.'])")
MARKS = {"sqlite": "?", "mysql": "%s"}


def parametrised(text, dialect, rng):
    """(the query with some of its literals as parameters, their values)"""
    params = []

    def mark(match):
        if rng.random() < 0.4:
            return match.group()
        literal = match.group()
        params.append(literal[1:-1] if literal[:1] == "'" else int(literal))
        return MARKS.get(dialect) or f"${len(params)}"

    if rng.random() < 0.75 or (dialect == "mysql" and "%" in text):
        return text, ()
    return LITERAL.sub(mark, text), tuple(params)


async def outcome(engine, sql, params=()):
    """(why it failed, its rows in a form that can be compared, its columns' names)"""
    try:
        rows = await engine.rows(sql, params)
    except (sqlite3.Error, psycopg.Error) as error:
        return str(error), [], ()
    except Exception as error:
        if not type(error).__module__.startswith("asyncmy"):
            raise
        return str(error), [], ()
    return "", [tuple(map(repr, row)) for row in rows[1:]], rows[0]


class Fuzz:
    """One engine put to the test."""

    def __init__(self, engine):
        self.engine = engine
        self.figures = collections.Counter()
        self.indexes = set()
        self.data = None
        self.schema = None

    def told(self, number, *lines):
        return "\n".join(
            [
                f"dataset {self.data.seed}, query {number}, {self.engine.dialect}",
                *self.data.ddl(),
                *(str(line) for line in lines),
            ]
        )

    async def run(self, queries):
        kinds = await kinds_of(self.engine)
        for dataset in range(FIRST, FIRST + queries // QUERIES_PER_DATASET):
            await self.engine.start_anew()
            for kind in kinds:
                if kind.ddl:
                    await self.engine.rows(kind.ddl)
            self.data = Dataset(self.engine.dialect, dataset, kinds)
            self.indexes.clear()
            self.schema = Schema()
            for statement in self.data.ddl():
                await self.engine.rows(statement)
                for census in read(statement, self.engine.dialect).censuses:
                    self.schema.learn(census)
            for statement in self.data.inserts():
                await outcome(self.engine, statement)
            for number in range(QUERIES_PER_DATASET):
                await self.query(number)
                if number % 2:
                    await self.claims(number)
        print(f"\n{self.engine.dialect}: {dict(sorted(self.figures.items()))}")
        return self.figures

    async def query(self, number):
        generator = QueryGenerator(self.data, number)
        query = generator.query()
        text, params = parametrised(query.text, self.engine.dialect, generator.rng)
        self.figures["queries"] += 1
        changed = False
        before = None
        reading = read(text, self.engine.dialect)
        for schema in (None, self.schema):
            advice = advise(reading, schema)
            before = await self.suggestions(number, text, params, advice, schema, before)
            optimized = advice.optimized_query
            if optimized == text:
                continue
            changed = True
            if schema is None:
                self.figures["changed without a schema"] += 1
            if before is None:
                before = await outcome(self.engine, text, params)
            after = await outcome(self.engine, optimized, params)
            told = self.told(number, f"schema known: {schema is not None}", params, text, optimized)
            assert bool(before[0]) == bool(after[0]), f"{told}\n{before[0]}\n{after[0]}"
            assert sorted(before[1]) == sorted(after[1]), f"{told}\n{before[1]}\n{after[1]}"
            assert before[2] == after[2], told
            for position in query.order:
                assert [row[position] for row in before[1]] == [row[position] for row in after[1]], told
            for code in {finding.code for finding in advice.findings if DONE in finding.fix}:
                self.figures[code] += 1
            if "/*" in text:
                assert "/* route:/start */" in optimized, told
        self.figures["changed"] += changed
        if changed:
            self.figures["changed, with parameters"] += bool(params)
            self.figures["changed, fails before and after"] += bool(before[0])
            self.figures["changed, with rows"] += bool(before[1])

    async def suggestions(self, number, text, params, advice, schema, before):
        """Each suggested index can be made, if the query runs at all."""
        for suggestion in advice.index_suggestions:
            known = schema is not None and suggestion.table.lower() in schema.types
            if (suggestion.ddl, known) in self.indexes:
                continue
            self.indexes.add((suggestion.ddl, known))
            if before is None:
                before = await outcome(self.engine, text, params)
            if before[0] or not self.data.is_indexable(suggestion.table, suggestion.columns, known):
                continue
            self.figures["indexes made"] += 1
            try:
                await self.engine.try_index(suggestion.ddl, suggestion.table)
            except Exception as error:
                raise AssertionError(self.told(number, text, suggestion.ddl, error)) from error
        return before

    async def claims(self, number):
        """What a finding says for certain is so."""
        dialect, generator = self.engine.dialect, QueryGenerator(self.data, number)
        text = generator.never_true()
        reading = read(text, dialect)
        for schema in (None, self.schema):
            findings = advise(reading, schema).findings
            if {"Q030", "Q013"} & {finding.code for finding in findings}:
                self.figures["never true"] += 1
                assert (await outcome(self.engine, text))[1] == [], self.told(number, text, findings)
        one, other = generator.labelled_union()
        union = f"{one} UNION {other}"
        findings = advise(read(union, dialect), self.schema).findings
        if any("cannot have a row in common" in finding.message for finding in findings):
            failed, rows, _ = await outcome(self.engine, f"SELECT COUNT(*) FROM ({union}) AS u")
            if not failed:
                self.figures["nothing in common"] += 1
                parts = [
                    await outcome(self.engine, f"SELECT COUNT(*) FROM (SELECT DISTINCT {part[7:]}) AS u")
                    for part in (one, other)
                ]
                together = sum(int(part[1][0][0]) for part in parts)
                assert int(rows[0][0]) == together, self.told(number, union)
        text = generator.query().text
        if text.count("DISTINCT ") != 1 or "DISTINCT ON" in text:
            return
        reading = read(text, dialect)
        for schema in (None, self.schema):
            findings = advise(reading, schema).findings
            if any("DISTINCT changes nothing" in finding.message for finding in findings):
                self.figures["distinct changes nothing"] += 1
                before = await outcome(self.engine, text)
                after = await outcome(self.engine, text.replace("DISTINCT ", ""))
                told = self.told(number, text)
                assert before[0] or len(before[1]) == len(after[1]), told


def assert_worth(figures):
    """It was a test: many queries were changed, by every rewrite, and gave rows."""
    assert figures["changed"] > figures["queries"] * 0.15, figures
    assert figures["changed, with rows"] > figures["changed"] * 0.15, figures
    assert figures["changed, fails before and after"] < figures["changed"] * 0.3, figures
    if QUERIES >= 1000:
        assert all(figures[code] for code in REWRITES), figures


async def test_on_sqlite():
    engine = Sqlite()
    try:
        assert_worth(await Fuzz(engine).run(QUERIES))
    finally:
        engine.close()


async def test_on_postgresql(postgresql_url):
    engine = Postgresql(postgresql_url)
    try:
        assert_worth(await Fuzz(engine).run(QUERIES))
    finally:
        engine.close()


async def test_on_mariadb(mysql_url):
    engine = await Mariadb.connected(mysql_url)
    try:
        assert_worth(await Fuzz(engine).run(QUERIES))
    finally:
        await engine.close()
