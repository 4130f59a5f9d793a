"""A processor under a virtual clock, and handlers that remember what they were given."""

import asyncio

import pytest

from bot.core.batch_processor import BatchProcessor


class Recorder:
    """A handler: remembers its batches, fails as told, and may be held until let go."""

    def __init__(self):
        self.batches = []
        self.failures = []
        self.at_once = 0
        self.most_at_once = 0
        self.gate = None

    async def __call__(self, items):
        self.batches.append([item.data for item in items])
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if self.gate is not None:
                await self.gate.wait()
            if self.failures:
                failure = self.failures.pop(0)
                if failure is not None:
                    raise failure
            return {item.item_id: f"done {item.data}" for item in items}
        finally:
            self.at_once -= 1

    def hold(self):
        self.gate = asyncio.Event()

    def let_go(self):
        self.gate.set()


@pytest.fixture
def handler():
    return Recorder()


@pytest.fixture
async def processor(clock, handler):
    processor = BatchProcessor(clock=clock)
    await processor.enable(handler, max_batch_size=3, batch_timeout=5.0, max_concurrent=2, retry_base=1.0)
    yield processor
    processor.check_invariants()
    if handler.gate is not None:
        handler.let_go()
    ending = asyncio.ensure_future(processor.disable())
    for _ in range(20):
        await clock.advance(10)
        if ending.done():
            break
    assert await ending
    processor.check_invariants()
    figures = await processor.get_statistics()
    assert figures["pending_items"] == 0
    assert figures["submitted_items"] == (
        figures["total_items_processed"]
        + figures["failed_items"]
        + figures["dead_lettered_items"]
        + figures["replaced_items"]
    )
