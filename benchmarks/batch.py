"""The batch processor in memory: items per second with a result for each, beside peers, in batches of 100;
what lanes cost, in memory and in Redis; and rows per second into SQLite and PostgreSQL, batched against
one by one.

``PHASE4_BENCH_POSTGRESQL_URL`` names the PostgreSQL (a local one otherwise); a schema of its own is
made there, and dropped at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import (
    Contender,
    Result,
    compare,
    main,
    postgresql_server,
    redis_server,
    table,
    verdict,
)
from bot.core.batch_processor import BatchItem, BatchProcessor

ITEMS = 10_000
AWAITED = 5_000
LANES = 1_000
DURABLE_ITEMS = 2_000
ROWS, SINGLE_ROWS = 5_000, 200
SIZE = 100


async def in_order(items: list[BatchItem]) -> list[Any]:
    return [item.data for item in items]


async def by_id(items: list[BatchItem]) -> dict[str, Any]:
    return {item.item_id: item.data for item in items}


async def same(keys: list[Any]) -> list[Any]:
    return list(keys)


async def same_by_key(keys: list[Any]) -> list[Any]:
    """What a loader does whose database answers in an order of its own, as a dict answer may be."""
    found = {key: key for key in keys}
    return [found[key] for key in keys]


def futures(submit: Any) -> Any:
    async def run(n: int) -> None:
        for future in [submit(number) for number in range(n)]:
            await future

    return run


def gathered(submit: Any) -> Any:
    async def run(n: int) -> None:
        await asyncio.gather(*[submit(number) for number in range(n)])

    return run


async def processor_of(handler: Any) -> BatchProcessor:
    made = BatchProcessor()
    await made.enable(handler, max_batch_size=SIZE, batch_timeout=0.01, max_pending=1_000_000)
    return made


async def items_as_futures() -> None:
    from aiodataloader import DataLoader

    listed, mapped = await processor_of(in_order), await processor_of(by_id)
    loader: DataLoader[int, int] = DataLoader(same, max_batch_size=SIZE, cache=False)
    keyed: DataLoader[int, int] = DataLoader(same_by_key, max_batch_size=SIZE, cache=False)
    contenders = [
        Contender("submit, list answer", futures(listed.submit), ITEMS),
        Contender("submit, dict answer", futures(mapped.submit), ITEMS),
        Contender("aiodataloader", futures(loader.load), ITEMS),
        Contender("aiodataloader, by way of a dict", futures(keyed.load), ITEMS),
    ]
    results = await compare(contenders, repeats=201)
    print(table("submit: a future for each item", results, baseline="aiodataloader"))
    for form in ("list", "dict"):
        for peer in ("aiodataloader", "aiodataloader, by way of a dict"):
            share = results[peer].microseconds / results[f"submit, {form} answer"].microseconds
            print(verdict(f"{form} answer, share of the items/s of {peer}", share, 0.9, at_most=False))
    for processor in (listed, mapped):
        await processor.disable()


async def items_awaited() -> None:
    from async_batcher.batcher import AsyncBatcher
    from batched.aio import dynamically

    class Peer(AsyncBatcher[Any, Any]):
        async def process_batch(self, batch: list[Any]) -> list[Any]:
            return list(batch)

    async def one(key: Any) -> Any:
        return (await same([key]))[0]

    ours = await processor_of(in_order)
    peer = Peer(max_batch_size=SIZE, max_queue_time=0.01, concurrency=10)
    contenders = [
        Contender("await submit_and_wait", gathered(ours.submit_and_wait), AWAITED),
        Contender("batched", gathered(dynamically(same, batch_size=SIZE, timeout_ms=10.0)), AWAITED),
        Contender("async-batcher", gathered(peer.process), AWAITED),
        Contender("one by one, no batches", gathered(one), AWAITED),
    ]
    results = await compare(contenders)
    print(table("await submit_and_wait: a task for each item", results, baseline="await submit_and_wait"))
    mine = results["await submit_and_wait"].microseconds
    for name in ("batched", "async-batcher"):
        print(verdict(f"times as fast as {name}", results[name].microseconds / mine, 2.0, at_most=False))
    await peer.stop()
    await ours.disable()


async def lanes() -> None:
    """As many items without a lane and in 1,000 lanes, ten of each one after the other."""

    def by_id_then_flush(lane_of: Callable[[int], int | None]) -> Any:
        async def run(n: int) -> None:
            for number in range(n):
                await processor.submit_item(number, lane=lane_of(number))
            await processor.flush()

        return run

    def many_then_flush(of: BatchProcessor, lane_of: Callable[[int], int | None]) -> Any:
        async def run(n: int) -> None:
            await of.submit_many(range(n), lanes=list(map(lane_of, range(n))))
            await of.flush()

        return run

    def awaited(lane_of: Callable[[int], int | None]) -> Any:
        async def run(n: int) -> None:
            await asyncio.gather(*[processor.submit_and_wait(i, lane=lane_of(i)) for i in range(n)])

        return run

    def none(number: int) -> None:
        return None

    def one_of(number: int) -> int:
        return number % LANES

    processor = await processor_of(in_order)
    for name, run, items, bound in (
        ("submit_item", by_id_then_flush, ITEMS, 0.8),
        ("submit_many", lambda lane_of: many_then_flush(processor, lane_of), ITEMS, 0.8),
        ("submit_and_wait", awaited, ITEMS, 0.8),
    ):
        pair = [Contender("no lanes", run(none), items), Contender("1,000 lanes", run(one_of), items)]
        results = await compare(pair, repeats=31)
        print(table(f"{name}: 10,000 items in 1,000 lanes", results, baseline="no lanes"))
        share = results["no lanes"].microseconds / results["1,000 lanes"].microseconds
        print(verdict(f"{name} in 1,000 lanes, share of the items/s without", share, bound, at_most=False))
    await processor.disable()
    with redis_server() as url:
        durable = BatchProcessor()
        await durable.enable(
            in_order, max_batch_size=SIZE, batch_timeout=0.01, max_pending=1_000_000, redis_url=url,
            queue_name=f"bench-{os.getpid()}",
        )  # fmt: skip
        pair = [
            Contender("no lanes", many_then_flush(durable, none), DURABLE_ITEMS),
            Contender("1,000 lanes", many_then_flush(durable, one_of), DURABLE_ITEMS),
        ]
        results = await compare(pair, repeats=9)
        print(table("submit_many, durable: 2,000 items in 1,000 lanes", results, baseline="no lanes"))
        await durable.disable()


Write = Callable[[list[tuple[int, str]]], Awaitable[Any]]


async def rows_written(database: str, write: Write) -> None:
    """Rows into one table: each in a transaction of its own, or one transaction for each batch."""

    async def handler(items: list[BatchItem]) -> list[None]:
        await write([item.data for item in items])
        return [None] * len(items)

    async def batched(n: int) -> None:
        await asyncio.gather(*[processor.submit((number, "a download")) for number in range(n)])

    async def single(n: int) -> None:
        for number in range(n):
            await write([(number, "a download")])

    processor = BatchProcessor()
    await processor.enable(
        handler, max_batch_size=SIZE, batch_timeout=0.01, max_concurrent=1, max_pending=1_000_000
    )
    contenders = [Contender("batched", batched, ROWS), Contender("one by one", single, SINGLE_ROWS)]
    results: dict[str, Result] = await compare(contenders, repeats=7)
    print(table(f"Rows into {database}", results, baseline="one by one"))
    rates = {name: 1e6 / result.microseconds for name, result in results.items()}
    print(f"rows/s: {rates['batched']:,.0f} batched, {rates['one by one']:,.0f} one by one")
    times = rates["batched"] / rates["one by one"]
    print(verdict(f"times as many rows/s into {database}", times, 10.0, at_most=False))
    await processor.disable()


@contextlib.asynccontextmanager
async def sqlite() -> AsyncIterator[Write]:
    import aiosqlite

    with tempfile.TemporaryDirectory() as directory:
        async with aiosqlite.connect(Path(directory) / "rows.db") as connection:
            await connection.execute("PRAGMA journal_mode = WAL")
            await connection.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, n INTEGER, what TEXT)")

            async def write(rows: list[tuple[int, str]]) -> None:
                await connection.executemany("INSERT INTO rows (n, what) VALUES (?, ?)", rows)
                await connection.commit()

            yield write


@contextlib.asynccontextmanager
async def postgresql(url: str) -> AsyncIterator[Write]:
    import asyncpg

    schema = f"phase4_bench_{os.getpid()}"
    connection = await asyncpg.connect(url, server_settings={"search_path": schema})
    await connection.execute(
        f"CREATE SCHEMA {schema}; CREATE TABLE rows (id BIGSERIAL PRIMARY KEY, n BIGINT, what TEXT)"
    )

    async def write(rows: list[tuple[int, str]]) -> None:
        await connection.executemany("INSERT INTO rows (n, what) VALUES ($1, $2)", rows)

    try:
        yield write
    finally:
        await connection.execute(f"DROP SCHEMA {schema} CASCADE")
        await connection.close()


async def bench() -> None:
    await items_as_futures()
    await items_awaited()
    await lanes()
    async with sqlite() as write:
        await rows_written("SQLite (a file, WAL)", write)
    with postgresql_server() as url:
        if url is None:
            print("PostgreSQL left out: PHASE4_BENCH_POSTGRESQL_URL names none, and none can be started")
            return
        async with postgresql(url) as write:
            await rows_written("PostgreSQL", write)


if __name__ == "__main__":
    main(bench)
