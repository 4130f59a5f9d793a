"""The calls of the batch processor. Every accepted item ends, whoever is cancelled meanwhile."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from typing import Any, ClassVar

from bot.core.batch_processor import (
    BatchClosedError,
    BatchProcessor,
    ItemCancelledError,
    durable_dead_letters,
)
from bot.core.phase4_service import Phase4Service
from tests.cancellation.sweep.worlds import World, scenario


async def switched_on(world: Any) -> None:
    await world.batches.enable(world.handle, **world.settings)


async def one_dead(world: Any) -> None:
    await switched_on(world)
    while not await world.batches.count_dead_letters():
        world.failing = True
        await world.batches.submit_item("bad")
        await world.batches.flush()
    world.failing = False


async def none_dead(world: Any) -> None:
    world.failing = False
    await world.batches.flush(20)
    await world.batches.discard_dead_letters()


async def none_periodic(world: Any) -> None:
    await world.batches.remove_periodic("every")


class BatchWorld(World):
    name = "batches"
    expected = ("given up: ValueError: no",)
    url: ClassVar[str] = ""

    async def start(self) -> None:
        self.batches = Phase4Service._instances[BatchProcessor] = BatchProcessor()
        self.failing = False
        self.numbers = itertools.count()
        self.settings = self.chosen()
        await self.batches.enable(self.handle, **self.settings)

    def chosen(self) -> dict[str, Any]:
        return {
            "max_batch_size": 4, "batch_timeout": 0.002, "max_pending": 8, "max_retries": 0,
            "drain_timeout": 5.0,
        }  # fmt: skip

    async def handle(self, items: list[Any]) -> list[Any]:
        await asyncio.sleep(0)
        if self.failing:
            raise ValueError("no")
        return [item.data for item in items]

    async def stop(self) -> None:
        await self.batches.discard_dead_letters()
        await self.batches.disable()

    async def held(self) -> list[str]:
        self.batches.check_invariants()
        shown = self.batches.statistics()
        found = []
        if shown["pending_items"] or shown["running_batches"] or shown["retrying_batches"]:
            found.append(f"{shown['pending_items']} pending items, {shown['running_batches']} batches")
        ended = shown["total_items_processed"] + shown["failed_items"] + shown["dead_lettered_items"]
        ended += shown["replaced_items"]
        if shown["submitted_items"] != ended + shown["pending_items"]:
            found.append(f"{shown['submitted_items']} accepted, {ended} ended")
        line = self.batches._dispatcher.capacity
        if line.has_line:
            found.append("waits for room")
        return found

    @scenario("BatchProcessor.submit")
    async def submit(self) -> None:
        assert await self.batches.submit("a") == "a"

    @scenario("BatchProcessor.submit_and_wait")
    async def submit_and_wait(self) -> None:
        assert await self.batches.submit_and_wait("a", timeout=10) == "a"

    @scenario("BatchProcessor.submit_and_wait")
    async def submit_and_wait_in_a_lane(self) -> None:
        other = asyncio.ensure_future(self.batches.submit_and_wait("b", lane=7))
        try:
            assert await self.batches.submit_and_wait("a", lane=7) == "a"
        finally:
            assert await asyncio.shield(other) == "b"

    @scenario("BatchProcessor.submit_and_wait")
    async def submit_and_wait_later(self) -> None:
        assert await self.batches.submit_and_wait("a", delay=0.01) == "a"

    @scenario("BatchProcessor.submit_and_wait")
    async def submit_and_wait_for_room(self) -> None:
        others = [asyncio.ensure_future(self.batches.submit_and_wait(n)) for n in range(12)]
        try:
            await asyncio.sleep(0)
            assert await self.batches.submit_and_wait("a") == "a"
        finally:
            assert await asyncio.shield(asyncio.gather(*others)) == list(range(12))

    @scenario("BatchProcessor.submit_item", "BatchProcessor.get_result")
    async def submit_item_and_get_its_result(self) -> None:
        accepted, item_id, _ = await self.batches.submit_item("a")
        assert accepted
        assert await self.batches.get_result(item_id, timeout=10) == "a"

    @scenario("BatchProcessor.submit_item")
    async def submit_item_with_a_key(self) -> None:
        key = f"key {next(self.numbers)}"
        assert (await self.batches.submit_item("a", key=key, lane=1)).success
        assert (await self.batches.submit_item("b", key=key, replace=True)).success
        assert await self.batches.get_result(key) in ("a", "b")

    @scenario("BatchProcessor.submit_many")
    async def submit_many(self) -> None:
        made = await self.batches.submit_many(range(3), all_or_none=True)
        assert all(one.success for one in made)

    @scenario("BatchProcessor.submit_many")
    async def submit_many_later(self) -> None:
        made = await self.batches.submit_many(range(3), delay=0.01)
        assert all(one.success for one in made)

    @scenario("BatchProcessor.get_item_status", "BatchProcessor.get_batch_status")
    async def get_status(self) -> None:
        _, item_id, batch_id = await self.batches.submit_item("a")
        await self.batches.get_item_status(item_id)
        await self.batches.get_batch_status(batch_id)

    @scenario("BatchProcessor.cancel_item")
    async def cancel_item(self) -> None:
        _, item_id, _ = await self.batches.submit_item("a", delay=0.05)
        await self.batches.cancel_item(item_id)
        try:
            await self.batches.get_result(item_id)
        except ItemCancelledError:
            return

    @scenario("BatchProcessor.flush")
    async def flush(self) -> None:
        await self.batches.submit_many(range(5))
        assert await self.batches.flush(10)

    @scenario("BatchProcessor.submit_periodic", "BatchProcessor.list_periodic", after=none_periodic)
    async def submit_periodic(self) -> None:
        await self.batches.submit_periodic("every", "a", 600)
        assert [one.name for one in await self.batches.list_periodic()] == ["every"]

    @scenario(
        "BatchProcessor.remove_periodic",
        before=lambda world: world.batches.submit_periodic("every", "a", 600),
        after=none_periodic,
    )
    async def remove_periodic(self) -> None:
        assert await self.batches.remove_periodic("every")

    @scenario(
        "BatchProcessor.dead_letters",
        "BatchProcessor.iter_dead_letters",
        "BatchProcessor.count_dead_letters",
        "BatchProcessor.get_dead_letter",
        before=one_dead,
        after=none_dead,
    )
    async def dead_letters(self) -> None:
        [letter] = await self.batches.dead_letters()
        assert await self.batches.count_dead_letters() == 1
        assert await self.batches.get_dead_letter(letter.item_id) == letter

    @scenario("BatchProcessor.replay_dead_letters", before=one_dead, after=none_dead)
    async def replay_dead_letters(self) -> None:
        assert (await self.batches.replay_dead_letters()).replayed == 1

    @scenario("BatchProcessor.replay", before=one_dead, after=none_dead)
    async def replay(self) -> None:
        assert await self.batches.replay() == 1

    @scenario("BatchProcessor.discard_dead_letters", before=one_dead, after=none_dead)
    async def discard_dead_letters(self) -> None:
        assert await self.batches.discard_dead_letters() == 1

    @scenario("BatchProcessor.find_warnings")
    async def find_warnings(self) -> None:
        assert await self.batches.find_warnings() == []

    @scenario("BatchProcessor.reset", "BatchProcessor.reset_statistics")
    async def reset(self) -> None:
        await self.batches.reset()

    @scenario("BatchProcessor.disable", before=switched_on, after=switched_on)
    async def disable_with_items(self) -> None:
        futures = [self.batches.submit(n) for n in range(3)]
        try:
            await self.batches.disable()
        finally:
            for future in futures:
                try:
                    await asyncio.shield(future)
                except BatchClosedError:
                    continue

    @scenario("BatchProcessor.enable", before=lambda world: world.batches.disable(), after=switched_on)
    async def enable(self) -> None:
        assert await self.batches.enable(self.handle, **self.settings)

    @scenario("BatchProcessor.enable", before=switched_on)
    async def enable_again(self) -> None:
        assert await self.batches.enable(max_batch_size=4)


class DurableWorld(BatchWorld):
    name = "durable batches"

    def chosen(self) -> dict[str, Any]:
        self.url, self.queue = self.servers.redis, f"swept-{secrets.token_hex(4)}"
        return {
            **super().chosen(),
            "redis_url": self.servers.redis,
            "queue_name": self.queue,
            "lease": 1.0,
            "max_pending": 64,
        }

    async def held(self) -> list[str]:
        # What was cancelled after it was sent is handled all the same.
        return [*await super().held(), *([] if await self.batches.flush(0.5) else ["items in Redis"])]

    @scenario("durable_dead_letters", before=one_dead, after=none_dead)
    async def letters_without_a_processor(self) -> None:
        async with durable_dead_letters(self.url, self.queue) as letters:
            assert await letters.count() == 1
