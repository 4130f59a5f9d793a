"""The query optimizer: a cached result against a floor, and analysis against parsing alone."""

from __future__ import annotations

import itertools
from typing import Any

import sqlglot
import sqlparse

from benchmarks.harness import Contender, compare, main, table, verdict
from bot.core.query_optimizer import QueryOptimizer

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
    await optimizer.cache_query_result(query, immutable)
    await optimizer.cache_query_result(query, ROWS, params=("rows",))
    await optimizer.cache_query_result(query, immutable, params=("tuple",))
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


async def analysis() -> None:
    optimizer = QueryOptimizer()
    await optimizer.enable()
    numbers = itertools.count()
    known = MIDDLING.format(n=0)
    await optimizer.analyze_query(known)

    async def of_known(n: int) -> None:
        for _ in range(n):
            await optimizer.analyze_query(known)

    async def of_new(n: int) -> None:
        for _ in range(n):
            await optimizer.analyze_query(MIDDLING.format(n=next(numbers)))

    async def by_sqlglot(n: int) -> None:
        for _ in range(n):
            sqlglot.parse(MIDDLING.format(n=next(numbers)))

    async def by_sqlparse(n: int) -> None:
        for _ in range(n):
            sqlparse.parse(MIDDLING.format(n=next(numbers)))

    results = await compare(
        [
            Contender("sqlglot, parse alone", by_sqlglot, 300),
            Contender("sqlparse, parse alone", by_sqlparse, 100),
            Contender("analyze_query, new text", of_new, 300),
            Contender("analyze_query, known text", of_known, 5_000),
        ]
    )
    baseline = "sqlglot, parse alone"
    print(table("Analysis of a middling query", results, baseline=baseline))
    new = results["analyze_query, new text"].microseconds / results[baseline].microseconds
    print(verdict("new text, times sqlglot's own parse", new, 2))
    print(verdict("known text, µs", results["analyze_query, known text"].microseconds, 5), "\n")


async def bench() -> None:
    await cached()
    await analysis()


if __name__ == "__main__":
    main(bench)
