"""What one more of each thing costs in memory: figures for capacity planning.

Each figure is the growth of a process of its own while many of them are made, divided by how many.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
from typing import Any

from benchmarks.harness import machine, rss_mb

MB = 1_048_576
PROFILE: dict[str, Any] = {
    "_id": 1, "username": "user_1", "tier": "premium", "status": "active", "joined_at": 1_700_000_000,
    "settings": {"language": "en", "notify": True}, "roles": ["uploader", "member"],
}  # fmt: skip


async def cached_profile() -> float:
    """A user's profile (a dict of about 170 bytes as JSON) in the cache's first tier."""
    from bot.core.cache_manager import CacheManager

    cache = CacheManager()
    await cache.enable(l1_max_size_mb=2000, l1_max_entries=10_000_000, redis_url="")
    await cache.set("warm", PROFILE)
    before, count = rss_mb(), 100_000
    for number in range(count):
        await cache.set(f"user:{number}", {**PROFILE, "_id": number}, ttl=3600)
    return (rss_mb() - before) * MB / count


async def cached_answer() -> float:
    """An encoded answer of 1 KB in the cache's first tier."""
    from bot.core.cache_manager import CacheManager

    cache = CacheManager()
    await cache.enable(l1_max_size_mb=2000, l1_max_entries=10_000_000, redis_url="")
    before, count = rss_mb(), 100_000
    for number in range(count):
        await cache.set(f"answer:{number}", os.urandom(1024), ttl=3600)
    return (rss_mb() - before) * MB / count


async def query_result() -> float:
    """A query's result of ten small rows in the query optimizer."""
    from bot.core.query_optimizer import QueryOptimizer

    optimizer = QueryOptimizer()
    await optimizer.enable(cache_max_size_mb=2000, cache_max_entries=10_000_000)
    query = "SELECT id, name, size FROM files WHERE user_id = ?"
    await optimizer.cache_query_result(query, [], params=(-1,), fresh=True)
    before, count = rss_mb(), 20_000
    for number in range(count):
        rows = [{"id": number * 10 + n, "name": f"file {number} {n}", "size": n} for n in range(10)]
        await optimizer.cache_query_result(query, rows, params=(number,), fresh=True)
    return (rss_mb() - before) * MB / count


async def fingerprint() -> float:
    """The statistics of one shape of query (10,000 shapes are kept at most)."""
    from bot.core.query_optimizer import QueryOptimizer

    optimizer = QueryOptimizer()
    await optimizer.enable()
    await optimizer.record_execution("SELECT warm FROM t", 1.0)
    before, count = rss_mb(), 9_000
    for number in range(count):
        await optimizer.record_execution(f"SELECT column_{number} FROM table_{number % 50} WHERE id = 1", 1.0)
    return (rss_mb() - before) * MB / count


async def _clients(times: int) -> float:
    from bot.core.rate_limiter import RateLimitConfig, RateLimiter

    limiter = RateLimiter()
    await limiter.enable()
    config = RateLimitConfig(1 / 3600, 1)
    names = [f"user:{number}" for number in range(200_000)]
    before = rss_mb()
    for name in names:
        for _ in range(times):
            await limiter.is_allowed(name, config)
    return (rss_mb() - before) * MB / len(names)


async def client_bucket() -> float:
    """A client of the rate limiter whose bucket is not full, beyond its name."""
    return await _clients(1)


async def client_in_backoff() -> float:
    """A client of the rate limiter that was refused and came back too early."""
    return await _clients(4)


async def pending_item() -> float:
    """A batch item that waits (a dict with a URL and a user)."""
    from bot.core.batch_processor import BatchProcessor

    async def handle(items: Any) -> dict[str, Any]:
        return {item.item_id: None for item in items}

    processor = BatchProcessor()
    count = 100_000
    await processor.enable(handle, max_batch_size=count + 1, batch_timeout=600, max_pending=count + 1)
    before = rss_mb()
    for number in range(count):
        await processor.submit_item({"url": f"https://mirror.example/{number}", "user_id": number})
    grown = (rss_mb() - before) * MB / count
    await processor.disable()
    return grown


async def _connections(backend: str, url: str, count: int) -> float:
    from bot.core.connection_pool_manager import ConnectionPoolManager

    pools = ConnectionPoolManager()
    await pools.create_pool("warm", backend, min_size=1, max_size=1, url=url)
    before = rss_mb()
    await pools.create_pool("many", backend, min_size=count, max_size=count, url=url)
    leases = [await pools.acquire_connection("many") for _ in range(count)]
    grown = (rss_mb() - before) * MB / count
    for lease in leases:
        await pools.release_connection("many", lease)
    await pools.disable()
    return grown


async def sqlite_connection() -> float:
    """A pooled connection to SQLite (each has a thread)."""
    with tempfile.TemporaryDirectory() as directory:
        return await _connections("sqlite", f"sqlite:///{directory}/a.db", 100)


async def redis_connection() -> float:
    """A pooled connection to Redis."""
    from tests.support.servers import RedisServer, running

    with running(RedisServer()) as server:
        return await _connections("redis", server.url, 200)  # type: ignore[attr-defined]


async def postgresql_connection() -> float:
    """A pooled connection to PostgreSQL, in the bot."""
    from benchmarks.load.service import own_postgresql

    with own_postgresql() as url:
        return await _connections("postgresql", url, 100) if url else float("nan")


async def postgresql_backend() -> float:
    """The same connection in the server: memory of its process that it shares with no other."""
    import asyncpg
    import psutil

    from benchmarks.load.service import own_postgresql

    with own_postgresql() as url:
        if not url:
            return float("nan")
        connections = [await asyncpg.connect(url) for _ in range(20)]
        pids = []
        for connection in connections:
            pids.append(await connection.fetchval("SELECT pg_backend_pid()"))
            await connection.fetchval(
                "SELECT count(*) FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid"
            )
        sizes = [psutil.Process(pid).memory_full_info().uss for pid in pids]
        for connection in connections:
            await connection.close()
        return float(sum(sizes) / len(sizes))


MEASURES = (
    cached_profile, cached_answer, query_result, fingerprint, client_bucket, client_in_backoff, pending_item,
    sqlite_connection, redis_connection, postgresql_connection, postgresql_backend,
)  # fmt: skip


def main() -> int:
    by_name = {measure.__name__: measure for measure in MEASURES}
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity", description=__doc__)
    parser.add_argument("measure", nargs="?", choices=by_name, metavar="MEASURE", help=", ".join(by_name))
    arguments = parser.parse_args()
    if arguments.measure is not None:
        print(asyncio.run(by_name[arguments.measure]()))
        return 0
    print(f"{machine()}\n\n| | bytes each |\n|---|---:|")
    environment = {**os.environ, "PYTHONMALLOC": "pymalloc"}
    for measure in MEASURES:
        command = [sys.executable, "-m", "benchmarks.capacity", measure.__name__]
        shown = subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout
        figure = float(shown.split()[-1])
        about = " ".join((measure.__doc__ or "").split()).rstrip(".")
        print(f"| {about} | {figure:,.0f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
