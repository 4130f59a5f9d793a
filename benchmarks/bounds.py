"""What each bound reports against what it takes, filled by hostile input: one process for each row.

Resident growth is the process's (RSS, garbage collected) between the first entry and the last; at least three
times as much is put in as fits. A bound in MB holds if reported and resident agree within 1.5; a bound in
entries if there are no more of them.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import dataclasses
import gc
import json
import os
import random
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from benchmarks.harness import machine, rss_mb

MB = 1_048_576
L1_MB = 50


class Filled(NamedTuple):
    """What came of one row."""

    setting: str
    bound: float
    """MB, or entries."""
    entries: int
    reported_mb: float | None
    """None: the bound counts entries."""
    resident_mb: float
    note: str = ""

    @property
    def holds(self) -> bool:
        if self.reported_mb is None:
            return self.entries <= self.bound
        ratio = self.resident_mb / self.reported_mb
        return 1 / 1.5 <= ratio <= 1.5 and self.reported_mb <= self.bound


def settled_rss() -> float:
    """Resident MB, once garbage is collected and what the allocator need not keep is given back."""
    gc.collect()
    if hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)
    return rss_mb()


class Slotted:
    __slots__ = ("items", "name")

    def __init__(self, number: int) -> None:
        self.name, self.items = f"name {number}", [number, os.urandom(500)]


@dataclasses.dataclass
class Record:
    name: str
    items: list[Any]


def nested(number: int, depth: int = 20) -> Any:
    value: Any = number
    for level in range(depth):
        value = {f"level {level} of {number}": [value, (level + 1000, f"{number}")]}
    return value


Entry = tuple[str, str, Any, tuple[str, ...]]
# What each number is stored as: namespace, key, value, tags.
ENTRIES: dict[str, Callable[[int], Entry]] = {
    "small ints": lambda n: ("d", f"user:{n}", n % 200, ()),
    "profiles": lambda n: ("d", f"user:{n}", {"id": n + 1000, "name": f"name {n}", "roles": [f"{n}"]}, ()),
    "strings of 100 KB": lambda n: ("d", f"user:{n}", f"{n:06}" * 17_000, ()),
    "bytes": lambda n: ("d", f"user:{n}", os.urandom(2000), ()),
    "twenty tags each": lambda n: ("d", f"user:{n}", 1, tuple(f"tag:{n}:{m}" for m in range(20))),
    "tags of 1 KB": lambda n: ("d", f"user:{n}", 1, (f"{n}" + "t" * 1000,)),
    "one tag for all": lambda n: ("d", f"user:{n}", 1, ("all",)),
    "a namespace for each": lambda n: (f"stranger {n}", "k", 1, ()),
    "keys of 1 KB": lambda n: ("d", f"{n}" + "k" * 1000, 1, ()),
    "keys outside ASCII": lambda n: ("d", f"{n}" + "\N{GRINNING FACE}" * 500, 1, ()),
    "objects with slots": lambda n: ("d", f"user:{n}", Slotted(n), ()),
    "dataclasses": lambda n: ("d", f"user:{n}", Record(f"name {n}", [f"{n} {m}" for m in range(10)]), ()),
    "twenty levels": lambda n: ("d", f"user:{n}", nested(n), ()),
    "UUIDs": lambda n: ("d", f"user:{n}", [uuid.uuid4() for _ in range(10)], ()),
    "sets": lambda n: ("d", f"user:{n}", {f"{n} {m}" for m in range(20)}, ()),
}  # fmt: skip


def first_tier(kind: str) -> Callable[[], Coroutine[Any, Any, Filled]]:
    async def fill() -> Filled:
        from bot.core.cache_manager import CacheManager

        cache = CacheManager()
        await cache.enable(l1_max_size_mb=L1_MB, l1_max_entries=10_000_000, redis_url="")
        entry = ENTRIES[kind]
        namespace, key, value, tags = entry(-1)
        await cache.set(key, value, namespace=namespace, tags=tags)
        before = settled_rss()
        figures: dict[str, Any] = {}
        for number in range(2_000_000):
            namespace, key, value, tags = entry(number)
            await cache.set(key, value, ttl=3600, namespace=namespace, tags=tags)
            if number % 500 == 0:
                figures = await cache.get_statistics()
                if figures["l1_evictions"] > 2 * figures["l1_entries"] > 0:
                    break
        namespace, key, value, tags = "", "", None, ()
        figures = await cache.get_statistics()
        grown = settled_rss() - before
        return Filled("CACHE_L1_MAX_SIZE_MB", L1_MB, figures["l1_entries"], figures["l1_memory_mb"], grown)

    return fill


IN_LIST = "SELECT id, name FROM files WHERE user_id = ? AND kind IN (%s)"
Stored = tuple[str, Any, Any]
# What each number is stored as: query, rows, parameters.
RESULTS: dict[str, Callable[[int], Stored]] = {
    "ten dicts": lambda n: (
        "SELECT id, name FROM files WHERE user_id = ?",
        [{"id": n * 10 + m, "name": f"file {n} {m}"} for m in range(10)], (n,)),
    "ten tuples": lambda n: (
        "SELECT a, b FROM t WHERE c = ?", [(n * 10 + m, f"{n} {m}") for m in range(10)], (n,)),
    "rows of sqlite3": lambda n: ("SELECT a, b FROM t WHERE c = ?", sqlite_rows(n), (n,)),
    "no rows": lambda n: ("SELECT a FROM t WHERE b = ?", [], (n,)),
    "one long text": lambda n: (IN_LIST % ", ".join(map(str, range(300))), [(n,)], (n,)),
    "a parameter of 5 KB": lambda n: ("SELECT a FROM t WHERE b = ?", [], (f"{n}" + "x" * 5000,)),
    "300 parameters": lambda n: ("SELECT a FROM t WHERE b = ANY(?)", [], (list(range(n, n + 300)),)),
    "named parameters": lambda n: ("SELECT a FROM t WHERE b = :b AND c = :c", [(n,)], {"b": n, "c": f"{n}"}),
    "bytes": lambda n: ("SELECT a FROM t WHERE b = ?", [(os.urandom(3000),)], (n,)),
}  # fmt: skip


def sqlite_rows(number: int) -> list[Any]:
    import sqlite3

    connection = sqlite3.connect(":memory:")
    connection.row_factory = sqlite3.Row
    try:
        return connection.execute(
            "SELECT ? AS id, ? AS name UNION ALL SELECT ?, ?",
            (number, f"file {number}", number + 1, "b" * 100),
        ).fetchall()
    finally:
        connection.close()


def results(kind: str) -> Callable[[], Coroutine[Any, Any, Filled]]:
    async def fill() -> Filled:
        from bot.core.query_optimizer import QueryOptimizer

        optimizer = QueryOptimizer()
        size = 20
        await optimizer.enable(cache_max_size_mb=size, cache_max_entries=10_000_000)
        make = RESULTS[kind]
        for number in range(
            -12_000 if "each" in kind else -20, 0
        ):  # shapes are remembered besides, up to a bound
            query, rows, parameters = make(number)
            await optimizer.cache_query_result(query, rows, params=parameters, fresh=True)
        await optimizer.clear_cache()
        before = settled_rss()
        store: Any = optimizer._invalidation.cache.store
        already = store.evictions
        for number in range(1, 300_000):
            query, rows, parameters = make(number)
            await optimizer.cache_query_result(query, rows, params=parameters, fresh=True)
            if number % 500 == 0 and store.evictions - already > 2 * len(store):
                break
        query, rows, parameters = "", None, None
        grown = settled_rss() - before
        return Filled("cache_max_size_mb", size, len(store), store.bytes_used / MB, grown)

    return fill


async def shapes() -> Filled:
    """Fingerprints: 12,000 shapes of 2 KB"""
    from bot.core.query_optimizer import QueryOptimizer

    optimizer = QueryOptimizer()
    await optimizer.enable()
    await optimizer.record_execution("SELECT warm FROM t", 1.0)
    before = settled_rss()
    for number in range(12_000):
        await optimizer.record_execution(f"SELECT c{number} FROM t{number} WHERE a = 1 -- " + "x" * 2000, 2.0)
    figures = await optimizer.get_statistics()
    from bot.core.query_optimizer.stats import MAX_FINGERPRINTS

    return Filled(
        "shapes of queries", MAX_FINGERPRINTS, figures["total_unique_queries"], None, settled_rss() - before
    )


async def contexts() -> Filled:
    """N+1: 2,000 shapes, each asked 12 times in one task"""
    from bot.core.query_optimizer import QueryOptimizer
    from bot.core.query_optimizer.execution.n_plus_one import MAX_PATTERNS

    optimizer = QueryOptimizer()
    await optimizer.enable(n_plus_one_threshold=10)
    before = settled_rss()
    for number in range(2_000):
        for value in range(12):
            await optimizer.record_execution(f"SELECT a FROM table_{number} WHERE id = {value}", 0.1)
    kept = len(await optimizer.get_n_plus_one_patterns())
    return Filled("patterns of N+1", MAX_PATTERNS, kept, None, settled_rss() - before)


async def clients() -> Filled:
    """Limiter: 500,000 clients, each refilled within 2 ms"""
    from bot.core.rate_limiter import RateLimitConfig, RateLimiter

    limiter = RateLimiter()
    await limiter.enable()
    config = RateLimitConfig(1000, 2)
    await limiter.is_allowed("warm", config)
    before = settled_rss()
    most = 0
    for number in range(500_000):
        await limiter.is_allowed(f"client:{number}", config)
        if number % 10_000 == 0:
            most = max(most, (await limiter.get_statistics())["active_clients"])
    return Filled("clients whose bucket is not full", 50_000, most, None, settled_rss() - before)


async def limits() -> Filled:
    """Limiter: 8,000 distinct limits"""
    from bot.core.rate_limiter import RateLimitConfig, RateLimiter

    async def seconds(count: int) -> tuple[float, int]:
        limiter = RateLimiter()
        await limiter.enable()
        begun = time.process_time()
        for number in range(count):
            await limiter.is_allowed("client", RateLimitConfig(1 + number / 1000, 5))
        return time.process_time() - begun, (await limiter.get_statistics())["active_clients"]

    await seconds(100)
    before = settled_rss()
    half, _ = await seconds(4000)
    whole, _ = await seconds(8000)
    grown = settled_rss() - before
    # Linear if twice as many take about twice as long; the "entries" are that ratio in percent.
    note = f"4,000 in {half:.2f} s, 8,000 in {whole:.2f} s of processor time"
    return Filled("time of 8,000 limits, % of 4,000's", 300, round(whole / half * 100), None, grown, note)


async def penalties() -> Filled:
    """Limiter: 200,000 clients in backoff, forgiven after a moment"""
    from bot.core.rate_limiter import RateLimitConfig, RateLimiter

    limiter = RateLimiter()
    await limiter.enable(backoff=True, backoff_base=0.01, backoff_max=0.02, backoff_grace=0.0)
    config = RateLimitConfig(1000, 1)
    before = settled_rss()
    most = 0
    for number in range(200_000):
        for _ in range(4):
            await limiter.is_allowed(f"client:{number}", config)
        if number % 5_000 == 0:
            most = max(most, (await limiter.get_statistics())["active_clients"])
    return Filled("clients in backoff", 50_000, most, None, settled_rss() - before)


async def pending() -> Filled:
    """Batches: 30,000 items where 10,000 may wait"""
    from bot.core.batch_processor import BatchProcessor

    async def handle(items: Any) -> dict[str, Any]:
        return {item.item_id: None for item in items}

    processor = BatchProcessor()
    await processor.enable(handle, max_batch_size=100_000, batch_timeout=600, max_pending=10_000)
    before = settled_rss()
    for number in range(30_000):
        await processor.submit_item({"url": f"https://mirror.example/{number}", "user_id": number})
    figures = await processor.get_statistics()
    grown = settled_rss() - before
    await processor.disable()
    return Filled("BATCH_MAX_PENDING", 10_000, figures["pending_items"], None, grown)


async def kept_results() -> Filled:
    """Batches: 60,000 results of 1 KB that nobody asks for"""
    from bot.core.batch_processor import BatchProcessor

    async def handle(items: Any) -> dict[str, Any]:
        return {item.item_id: os.urandom(1000) for item in items}

    processor = BatchProcessor()
    await processor.enable(handle, max_batch_size=100, batch_timeout=0.01)
    before = settled_rss()
    for _ in range(60):
        await processor.submit_many(list(range(1000)))
        await processor.flush()
    kept = processor._dispatcher.outcomes.results
    count, bound = len(kept), kept.limit
    grown = settled_rss() - before
    await processor.disable()
    return Filled("max_results", bound, count, None, grown)


async def letters() -> Filled:
    """Batches: 5,000 dead letters"""
    from bot.core.batch_processor import BatchProcessor

    async def handle(items: Any) -> dict[str, Any]:
        raise RuntimeError("x" * 10_000)

    processor = BatchProcessor()
    await processor.enable(
        handle, max_batch_size=100, batch_timeout=0.01, max_retries=0, max_dead_letters=1000
    )
    before = settled_rss()
    for _ in range(5):
        await processor.submit_many([{"n": number} for number in range(1000)])
        await processor.flush()
    count = len(await processor.dead_letters())
    grown = settled_rss() - before
    await processor.disable()
    return Filled("max_dead_letters", 1000, count, None, grown)


async def sessions() -> Filled:
    """Balancer: 1,000,000 sticky sessions"""
    from bot.core.load_balancer import LoadBalancer
    from bot.core.load_balancer.sticky import SLOTS

    balancer = LoadBalancer()
    await balancer.enable("round_robin")
    for number in range(10):
        await balancer.add_instance(f"i{number}", "127.0.0.1", 9000 + number)
    before = settled_rss()
    for number in range(1_000_000):
        balancer.select_nowait(f"session {number}")
    count = len(balancer._cluster._rotation.sticky)
    grown = settled_rss() - before
    await balancer.disable()
    return Filled("slots of sessions", SLOTS, count, None, grown)


async def waiting_sends() -> Filled:
    """Outbound: 3,000 sends where 1,000 may wait, to a chat each"""
    from bot.core.outbound import Outbound, Request

    outbound = Outbound()
    await outbound.enable(max_pending=1000, max_in_flight=1)
    gate = asyncio.Event()
    before = settled_rss()
    calls = [
        asyncio.create_task(outbound.call(gate.wait, Request("sendMessage", chat=1000 + number)))
        for number in range(3000)
    ]
    for _ in range(3000):
        await asyncio.sleep(0)
    waiting = sum(not call.done() for call in calls)
    grown = settled_rss() - before
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await outbound.disable()
    return Filled("max_pending, and one in flight", 1001, waiting, None, grown)


ROWS: dict[str, Callable[[], Coroutine[Any, Any, Filled]]] = {
    **{f"L1: {kind}": first_tier(kind) for kind in ENTRIES},
    **{f"Results: {kind}": results(kind) for kind in RESULTS},
    **{
        (fill.__doc__ or "").strip(): fill
        for fill in (
            shapes,
            contexts,
            clients,
            limits,
            penalties,
            pending,
            kept_results,
            letters,
            sessions,
            waiting_sends,
        )
    },
}


def shown(name: str, filled: Filled) -> str:
    reported = "" if filled.reported_mb is None else f"{filled.reported_mb:.1f}"
    ratio = "" if filled.reported_mb is None else f"{filled.resident_mb / filled.reported_mb:.2f}"
    verdict = "holds" if filled.holds else "**exceeded**"
    about = f"{name} ({filled.note})" if filled.note else name
    return (
        f"| {about} | {filled.setting} | {filled.bound:,.0f} | {filled.entries:,} | {reported} | "
        f"{filled.resident_mb:.1f} | {ratio} | {verdict} |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bounds", description=__doc__)
    parser.add_argument("row", nargs="?", help="a row's name, or a part of some; all of them without")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        random.seed(1)
        print(json.dumps(asyncio.run(ROWS[arguments.row]())))
        return 0
    print(
        f"{machine()}\n\n| filled with | bound | its value | entries | reported MB | resident MB | ratio | |"
    )
    print("|---|---|---:|---:|---:|---:|---:|---|")
    failed = False
    for name in ROWS:
        if arguments.row is not None and arguments.row not in name:
            continue
        command = [sys.executable, "-m", "benchmarks.bounds", name, "--child"]
        ran = subprocess.run(command, capture_output=True, text=True)  # it warns of N+1, rightly
        if ran.returncode:
            print(ran.stderr, file=sys.stderr)
            return 1
        out = ran.stdout
        filled = Filled(*json.loads(out.splitlines()[-1]))
        failed = failed or not filled.holds
        print(shown(name, filled), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
