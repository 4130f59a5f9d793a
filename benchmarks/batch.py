"""The batch processor in memory: items per second with a result for each, beside peers; batches of 100."""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks.harness import Contender, compare, main, table, verdict
from bot.core.batch_processor import BatchItem, BatchProcessor

ITEMS = 10_000
SIZE = 100


async def in_order(items: list[BatchItem]) -> list[Any]:
    return [item.data for item in items]


async def by_id(items: list[BatchItem]) -> dict[str, Any]:
    return {item.item_id: item.data for item in items}


async def bench() -> None:
    from aiodataloader import DataLoader

    async def same(keys: list[Any]) -> list[Any]:
        return list(keys)

    async def one(key: Any) -> Any:
        return (await same([key]))[0]

    listed, mapped = BatchProcessor(), BatchProcessor()
    for processor, handler in ((listed, in_order), (mapped, by_id)):
        await processor.enable(handler, max_batch_size=SIZE, batch_timeout=0.01, max_pending=1_000_000)
    loader: DataLoader[int, int] = DataLoader(same, max_batch_size=SIZE, cache=False)

    def futures(submit: Any) -> Any:
        async def run(n: int) -> None:
            for future in [submit(number) for number in range(n)]:
                await future

        return run

    def gathered(submit: Any) -> Any:
        async def run(n: int) -> None:
            await asyncio.gather(*[submit(number) for number in range(n)])

        return run

    contenders = [
        Contender("submit, list answer", futures(listed.submit), ITEMS),
        Contender("submit, dict answer", futures(mapped.submit), ITEMS),
        Contender("aiodataloader", futures(loader.load), ITEMS),
        Contender("await submit_and_wait", gathered(listed.submit_and_wait), ITEMS),
        Contender("one by one, no batches", gathered(one), ITEMS),
    ]
    results = await compare(contenders)
    print(table("An item with its result", results, baseline="aiodataloader"))
    theirs = results["aiodataloader"].microseconds
    for form in ("list", "dict"):
        ours = results[f"submit, {form} answer"].microseconds
        print(verdict(f"share of aiodataloader's items/s, {form}", theirs / ours, 0.9, at_most=False))
    for processor in (listed, mapped):
        await processor.disable()


if __name__ == "__main__":
    main(bench)
