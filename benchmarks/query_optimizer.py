"""The query optimizer: a cached result against a floor, and analysis against parsing alone."""

from __future__ import annotations

import asyncio
import datetime
import itertools
import subprocess
import sys
from typing import Any

import sqlglot
import sqlparse
from graphql import parse

from benchmarks.harness import Contender, compare, main, rss_mb, table, verdict
from bot.core.query_optimizer import QueryOptimizer
from bot.core.query_optimizer.analyses import Analyses
from bot.core.query_optimizer.execution.n_plus_one import Detector
from bot.core.query_optimizer.graphql.operations import operations

MIDDLING = """
SELECT u.id, u.name, COUNT(d.id) AS downloads, SUM(d.bytes_done) AS bytes
FROM users AS u LEFT JOIN downloads AS d ON d.user_id = u.id
WHERE u.status = 'active' AND u.joined_at > {n} AND d.status IN ('done', 'failed')
GROUP BY u.id, u.name HAVING COUNT(d.id) > 3 ORDER BY bytes DESC LIMIT 20
"""
ROWS = [{"id": n, "name": f"user {n}", "bytes": n * 1000} for n in range(10)]


async def cached() -> None:
    optimizer = QueryOptimizer()
    await optimizer.enable()
    query = MIDDLING.format(n=1)
    immutable = tuple((n, f"user {n}", n * 1000) for n in range(10))
    await optimizer.cache_query_result(query, immutable, fresh=True)
    await optimizer.cache_query_result(query, ROWS, params=("rows",), fresh=True)
    await optimizer.cache_query_result(query, immutable, params=("tuple",), fresh=True)
    plain: dict[str, Any] = {query: immutable}

    async def lookup(key: str) -> Any:
        return plain.get(key)

    def repeat(call: Any, *args: Any) -> Any:
        async def run(n: int) -> None:
            for _ in range(n):
                await call(*args)

        return run

    async def executor(query: str, params: Any) -> Any:
        raise AssertionError("not cached")

    get = optimizer.get_cached_result
    results = await compare(
        [
            Contender("floor: a coroutine with a dict look-up", repeat(lookup, query)),
            Contender("get_cached_result, immutable", repeat(get, query)),
            Contender("get_cached_result, with parameters", repeat(get, query, ("tuple",))),
            Contender("get_cached_result, 10 rows copied", repeat(get, query, ("rows",))),
            Contender("execute, cached", repeat(optimizer.execute, query, ("tuple",), executor)),
        ]
    )  # fmt: skip
    baseline = "floor: a coroutine with a dict look-up"
    print(table("A cached result", results, baseline=baseline))
    ratio = results["get_cached_result, immutable"].microseconds / results[baseline].microseconds
    print(verdict("cached hit, times the floor", ratio, 3), "\n")


async def missed() -> None:
    """What the optimizer adds to a query whose result is not cached: values that nobody asked for before."""
    optimizer = QueryOptimizer()
    await optimizer.enable()
    query = "SELECT id, name, bytes FROM users WHERE id = $1"
    numbers = itertools.count()

    async def executor(query: str, params: Any) -> Any:
        await asyncio.sleep(0)  # a driver gives up the loop at least once
        return [dict(ROWS[0])]

    async def alone(n: int) -> None:
        for _ in range(n):
            await executor(query, (next(numbers),))

    async def through(n: int) -> None:
        for _ in range(n):
            await optimizer.execute(query, (next(numbers),), executor)

    results = await compare(
        [Contender("the executor alone", alone, 2_000), Contender("execute, a miss", through, 2_000)],
        repeats=15,
    )
    baseline = "the executor alone"
    print(table("A result that is not cached", results, baseline=baseline))
    added = results["execute, a miss"].microseconds - results[baseline].microseconds
    print(verdict("a miss, µs added to the query", added, 20), "\n")


async def analysis() -> None:
    optimizer = QueryOptimizer()
    await optimizer.enable()
    numbers = itertools.count()
    known = MIDDLING.format(n=0)
    await optimizer.analyze_query(known)
    analyses = Analyses()

    async def of_known(n: int) -> None:
        for _ in range(n):
            await optimizer.analyze_query(known)

    async def of_new(n: int) -> None:
        for _ in range(n):
            await optimizer.analyze_query(MIDDLING.format(n=next(numbers)))

    async def needed_of_new(n: int) -> None:
        for _ in range(n):
            analyses.analyse(MIDDLING.format(n=next(numbers)))

    def new_names() -> str:
        number = next(numbers)
        text = MIDDLING.format(n=number).replace("status", f"status{number}")
        return text.replace("users", f"users{number}")

    async def of_new_names(n: int) -> None:
        for _ in range(n):
            await optimizer.analyze_query(new_names())

    async def needed_of_new_names(n: int) -> None:
        for _ in range(n):
            analyses.analyse(new_names())

    async def by_sqlglot(n: int) -> None:
        for _ in range(n):
            sqlglot.parse(MIDDLING.format(n=next(numbers)))

    async def by_sqlparse(n: int) -> None:
        for _ in range(n):
            sqlparse.parse(MIDDLING.format(n=next(numbers)))

    contenders = [
        Contender("sqlglot, parse alone", by_sqlglot, 400),
        Contender("sqlparse, parse alone", by_sqlparse, 20),
        Contender("what an execution needs of a new text", needed_of_new, 400),
        Contender("what an execution needs of a new text and names", needed_of_new_names, 400),
        Contender("analyze_query, new text", of_new, 400),
        Contender("analyze_query, new text and names", of_new_names, 400),
        Contender("analyze_query, known text", of_known, 5_000),
    ]
    baseline = "sqlglot, parse alone"
    # A syntax tree refers to itself, so a parser leaves it to the collector; analyze_query takes it apart.
    for collecting in (True, False):
        results = await compare(contenders, repeats=15, collecting=collecting)
        state = "on" if collecting else "off"
        print(table(f"Analysis of a middling query, garbage collector {state}", results, baseline=baseline))
        for name in ("new text", "new text and names"):
            new = results[f"analyze_query, {name}"].microseconds / results[baseline].microseconds
            claim = f"{name}, times sqlglot's own parse, collector {state}"
            print(verdict(claim, new, 1.7, why="the advice, and what an execution needs"))
        why = "the normal form, the fingerprint, and the tables that are read"
        for name in ("new text", "new text and names"):
            least = results[f"what an execution needs of a {name}"].microseconds
            needed = least / results[baseline].microseconds
            claim = f"what an execution needs of a {name}, times the parse, collector {state}"
            print(verdict(claim, needed, 1.2, why=why))
        print(verdict("known text, µs", results["analyze_query, known text"].microseconds, 5), "\n")


async def n_plus_one() -> None:
    """What the detection adds to a query that is executed: counted alone, below and past the threshold."""
    detector = Detector()
    sample = ("SELECT 1", None)
    values = itertools.count()

    async def nothing(n: int) -> None:
        for _ in range(n):
            hash(("SELECT 1", next(values)))

    async def in_a_request(n: int) -> None:
        with detector.request():
            for _ in range(n):
                detector.note("shape", hash(("SELECT 1", next(values))), sample, 0.0)

    async def in_a_task(n: int) -> None:
        for _ in range(n):
            value = next(values)
            detector.note("shape", hash(("SELECT 1", value)), sample, float(value))

    results = await compare(
        [
            Contender("floor: the hash of the values", nothing),
            Contender("counted in a request, a pattern", in_a_request),
            Contender("counted in a task, no pattern", in_a_task),
        ]
    )
    print(table("N+1 bookkeeping of one query", results, baseline="floor: the hash of the values"))


async def graphql() -> None:
    optimizer = QueryOptimizer()
    await optimizer.enable()
    text = (
        "query Top($n: Int!) { users(first: $n, status: ACTIVE) { edges { node { id name ...Files } } } } "
        "fragment Files on User { files(first: 5) { nodes { id name size } } }"
    )
    await optimizer.cache_query_result(text, "result", params={"n": 10}, fresh=True)

    analyses = Analyses()

    async def known(n: int) -> None:
        for _ in range(n):
            analyses.analyse(text)

    async def hit(n: int) -> None:
        for _ in range(n):
            await optimizer.get_cached_result(text, {"n": 10})

    async def new(n: int) -> None:
        for _ in range(n):
            operations(text)

    async def alone(n: int) -> None:
        for _ in range(n):
            parse(text)

    results = await compare(
        [
            Contender("graphql-core, parse alone", alone, 300),
            Contender("a new text", new, 300),
            Contender("a known text", known),
            Contender("a cached result, with variables", hit, 5_000),
        ]
    )
    baseline = "graphql-core, parse alone"
    print(table("GraphQL", results, baseline=baseline))
    print(verdict("known text, µs", results["a known text"].microseconds, 5), "\n")


class Idle:
    """A connection with asyncpg's methods, and no server: what is measured is what the instrument adds."""

    def is_closed(self) -> bool:
        return False

    def is_in_transaction(self) -> bool:
        return False

    async def fetch(self, query: str, *args: Any, timeout: float | None = None) -> Any:
        await asyncio.sleep(0)  # a driver gives up the loop at least once
        return ROWS[:1]

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> Any:
        await asyncio.sleep(0)
        return "UPDATE 1"


async def instrumented() -> None:
    """What an instrument adds to a query: watching, by asyncpg's classes, with and without N+1 patterns."""
    from bot.core.query_optimizer.instruments import of_asyncpg
    from bot.core.query_optimizer.instruments.watching import Instrument, Options, Session

    on, off = QueryOptimizer(), QueryOptimizer()
    await on.enable(dialect="postgres")

    def connection(optimizer: QueryOptimizer) -> Any:
        instrument = Instrument(optimizer, Options())
        instrument.details = {"pool": False}
        made = object.__new__(of_asyncpg.watched_class(Idle, instrument))
        instrument.sessions[made] = Session(instrument, lambda: False)
        return made

    read = "SELECT id, name, bytes FROM users WHERE id = $1"
    write = "UPDATE users SET name = $1 WHERE id = $2"
    numbers = itertools.count()

    def reading(target: Any) -> Any:
        async def run(n: int) -> None:
            for _ in range(n):
                await target.fetch(read, next(numbers) % 5)

        return run

    def reading_many(target: Any) -> Any:
        async def run(n: int) -> None:
            for _ in range(n):
                await target.fetch(read, next(numbers))

        return run

    def writing(target: Any) -> Any:
        async def run(n: int) -> None:
            for _ in range(n):
                await target.execute(write, "ann", next(numbers) % 5)

        return run

    plain, watched, switched_off = Idle(), connection(on), connection(off)
    results = await compare(
        [
            Contender("a read, not instrumented", reading(plain), 2_000),
            Contender("a read, the optimizer off", reading(switched_off), 2_000),
            Contender("a read, watched", reading(watched), 2_000),
            Contender("a read, watched, always another value", reading_many(watched), 2_000),
            Contender("a write, not instrumented", writing(plain), 2_000),
            Contender("a write, watched", writing(watched), 2_000),
        ],
        repeats=15,
    )
    baseline = "a read, not instrumented"
    print(table("An instrumented connection", results, baseline=baseline))
    floor = results[baseline].microseconds
    print(verdict("watching a read, µs added", results["a read, watched"].microseconds - floor, 5))
    other = results["a read, watched, always another value"].microseconds - floor
    print(verdict("watching a read of another value, µs added", other, 5))
    added = results["a write, watched"].microseconds - results["a write, not instrumented"].microseconds
    print(verdict("watching a write, µs added", added, 5))
    print(verdict("off, µs added", results["a read, the optimizer off"].microseconds - floor, 1), "\n")


async def listened() -> None:
    """What a command listener adds to a command of MongoDB, with the events that PyMongo would make of it."""
    from pymongo.monitoring import CommandStartedEvent, CommandSucceededEvent

    on, off = QueryOptimizer(), QueryOptimizer()
    await on.enable()
    took, address = datetime.timedelta(microseconds=300), ("127.0.0.1", 27017)

    def events(command: dict[str, Any], reply: dict[str, Any], number: int) -> tuple[Any, Any]:
        name = next(iter(command))
        sent = {**command, "lsid": {"id": bytes(16)}, "$db": "bot"}
        return (
            CommandStartedEvent(sent, "bot", number, address, number, server_connection_id=1),
            CommandSucceededEvent(took, reply, name, number, address, number, server_connection_id=1),
        )

    def reading(n: int, value: int) -> tuple[Any, Any]:
        command = {"find": "users", "filter": {"_id": value}, "limit": 1, "singleBatch": True}
        return events(command, {"cursor": {"firstBatch": [{"_id": value}], "id": 0}, "ok": 1.0}, n)

    def writing(n: int, value: int) -> tuple[Any, Any]:
        update = {"q": {"_id": value}, "u": {"$set": {"name": "ann"}}, "multi": False, "upsert": False}
        return events({"update": "users", "updates": [update]}, {"n": 1, "nModified": 1, "ok": 1.0}, n)

    def heard(optimizer: QueryOptimizer | None, pairs: list[tuple[Any, Any]]) -> Any:
        listener = None if optimizer is None else optimizer.mongodb_listener()
        following = itertools.cycle(pairs)

        async def run(n: int) -> None:
            for started, succeeded in itertools.islice(following, n):
                if listener is not None:
                    listener.started(started)
                    listener.succeeded(succeeded)

        return run

    few = [reading(n, n % 5) for n in range(2_000)]
    many = [reading(n, n) for n in range(20_000)]
    writes = [writing(n, n % 5) for n in range(2_000)]
    baseline = "no listener"
    results = await compare(
        [
            Contender(baseline, heard(None, few), 2_000),
            Contender("a read, the optimizer off", heard(off, few), 2_000),
            Contender("a read", heard(on, few), 2_000),
            Contender("a read, always another value", heard(on, many), 2_000),
            Contender("a write", heard(on, writes), 2_000),
        ],
        repeats=15,
    )
    print(table("A listener of MongoDB", results, baseline=baseline))
    floor = results[baseline].microseconds
    for name in ("a read", "a read, always another value", "a write"):
        print(verdict(f"hearing {name}, µs added", results[name].microseconds - floor, 5))
    print(verdict("off, µs added", results["a read, the optimizer off"].microseconds - floor, 1), "\n")


async def fill() -> str:
    optimizer = QueryOptimizer()
    await optimizer.enable()
    await optimizer.record_execution("SELECT a FROM t", 1)
    before = rss_mb()
    for number in range(100_000):
        await optimizer.record_execution(f"SELECT column_{number} FROM t WHERE id = {number}", 1)
        if number == 9_999:
            at_bound = rss_mb()
    kept = (await optimizer.get_statistics())["total_unique_queries"]
    return f"first 10,000: {at_bound - before:.1f} MB; 100,000: {rss_mb() - before:.1f} MB, {kept:,} kept"


def memory() -> None:
    """Of 100,000 shapes seen, the bound keeps 10,000; all of them run through every structure.

    In a process of its own: in this one there are pages that other benchmarks freed.
    """
    command = [sys.executable, "-m", "benchmarks.query_optimizer", "--fill"]
    print("### Memory of 100,000 fingerprints\n")
    print(subprocess.check_output(command, text=True).strip(), "\n")


async def bench() -> None:
    await cached()
    await missed()
    await instrumented()
    await listened()
    await analysis()
    await n_plus_one()
    await graphql()
    memory()


if __name__ == "__main__":
    if sys.argv[1:] == ["--fill"]:
        print(asyncio.run(fill()))
    elif sys.argv[1:] == ["--instruments"]:
        asyncio.run(instrumented())
        asyncio.run(listened())
    else:
        main(bench)
