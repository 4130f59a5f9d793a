"""Whatever happens to it, every item ends in exactly one state, and the ledger balances."""

import asyncio
import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from bot.core.batch_processor import (
    BatchClosedError,
    BatchProcessor,
    BatchQueueFullError,
    DeadLetteredError,
    MissingResultError,
)
from bot.core.rate_limiter import RateLimitExceeded
from tests.support.clock import VirtualClock, until_idle
from tests.support.searching import searching

actions = st.one_of(
    st.tuples(st.just("submit"), st.integers(-2, 2), st.integers(1, 5)),
    st.tuples(st.just("submit by id"), st.integers(-2, 2), st.integers(1, 5)),
    st.tuples(st.just("submit and wait"), st.integers(-2, 2), st.integers(1, 5)),
    st.tuples(st.just("delayed"), st.integers(0, 12), st.integers(1, 3)),
    st.tuples(st.just("delayed and waited for"), st.integers(0, 12), st.integers(1, 3)),
    st.tuples(st.just("last wins"), st.integers(0, 2), st.integers(0, 6)),
    st.tuples(st.just("take back"), st.integers(0, 10**6), st.just(0)),
    st.tuples(st.just("periodic"), st.integers(1, 9), st.integers(0, 1)),
    st.tuples(st.just("cancel"), st.integers(0, 10**6), st.just(0)),
    st.tuples(st.just("time"), st.integers(0, 8), st.just(0)),
    st.tuples(st.just("flush"), st.just(0), st.just(0)),
    st.tuples(st.just("kill a batch"), st.integers(0, 10**6), st.just(0)),
    st.tuples(st.just("replay"), st.just(0), st.just(0)),
    st.tuples(st.just("reconfigure"), st.integers(1, 6), st.integers(1, 3)),
    st.tuples(st.just("off and on"), st.just(0), st.just(0)),
)


class World:
    """A processor, a handler that does as chance has it, and everything that was submitted."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.clock = VirtualClock()
        self.processor = BatchProcessor(clock=self.clock)
        self.futures: list[asyncio.Future] = []
        self.ids: list[str] = []
        self.keyed = False
        self.not_before: dict[int, float] = {}
        self.refused = 0
        self.numbers = 0

    async def handle(self, items):
        for item in items:
            assert self.clock.monotonic() >= self.not_before.get(item.data, 0.0), "not before its time"
        await self.clock.sleep(self.rng.choice([0, 0, 1, 3]))
        turn = self.rng.random()
        if turn < 0.15:
            raise OSError("the database is away")
        if turn < 0.2:
            raise asyncio.CancelledError
        if turn < 0.25:
            return "nonsense"
        answer = {}
        for item in items:
            fate = self.rng.random()
            if fate < 0.03:
                answer[item.item_id] = RateLimitExceeded(self.rng.choice([2.0, 7.0, 1e9]))
            elif fate < 0.1:
                answer[item.item_id] = ValueError("this one")
            elif fate > 0.1:
                answer[item.item_id] = item.data
        if turn < 0.5:
            return answer
        return [item.data for item in items]

    async def do(self, action):
        what, first, second = action
        p = self.processor
        if what == "submit":
            for _ in range(second):
                self.numbers += 1
                try:
                    self.futures.append(p.submit(self.numbers, first))
                except BatchQueueFullError:
                    self.refused += 1
        elif what == "submit by id":
            for _ in range(second):
                self.numbers += 1
                answer = await p.submit_item(self.numbers, first)
                self.ids += [answer.item_id] if answer.success else []
                self.refused += not answer.success
        elif what == "submit and wait":
            for _ in range(second):
                self.numbers += 1
                self.futures.append(asyncio.ensure_future(p.submit_and_wait(self.numbers, first)))
        elif what == "delayed":
            for _ in range(second):
                self.numbers += 1
                self.not_before[self.numbers] = self.clock.monotonic() + first
                answer = await p.submit_item(self.numbers, delay=first, lane=self.rng.choice([None, 1, 2]))
                self.ids += [answer.item_id] if answer.success else []
                self.refused += not answer.success
        elif what == "delayed and waited for":
            for _ in range(second):
                self.numbers += 1
                self.not_before[self.numbers] = self.clock.monotonic() + first
                waiting = p.submit_and_wait(self.numbers, not_before=self.clock.time() + first)
                self.futures.append(asyncio.ensure_future(waiting))
        elif what == "last wins":
            self.keyed = True
            number = -1 - self.rng.randrange(10**9)
            self.not_before[number] = self.clock.monotonic() + second // 2
            lane = self.rng.choice([None, 1])
            await p.submit_item(number, key=f"key {first}", replace=True, delay=second // 2, lane=lane)
        elif what == "take back" and (self.ids or self.keyed):
            some = [*self.ids, "key 0", "key 1", "nothing"]
            item_id = some[first % len(some)]
            before = await p.get_item_status(item_id)
            if await p.cancel_item(item_id):
                assert before.state == "pending"
        elif what == "periodic":
            self.keyed = True
            if second:
                await p.submit_periodic("tick", 0, first)
            else:
                await p.remove_periodic("tick")
        elif what == "cancel" and self.futures:
            self.futures[first % len(self.futures)].cancel()
        elif what == "time":
            await self.clock.advance(first)
        elif what == "flush":
            flush = asyncio.ensure_future(p.flush())
            await self.clock.advance(100)
            assert flush.done()
        elif what == "kill a batch":
            running = [batch.task for batch in p._dispatcher.backlog.running]
            if running:
                running[first % len(running)].cancel()
        elif what == "replay":
            await p.replay()
        elif what == "reconfigure":
            await p.enable(max_batch_size=first, max_concurrent=second, isolate=self.rng.random() < 0.5)
        elif what == "off and on":
            ending = asyncio.ensure_future(p.disable())
            await self.clock.advance(30)
            assert await ending
            assert not p._dispatcher.backlog.unfinished
            await p.enable()
        await until_idle(3)
        p.check_invariants()

    async def live(self, script):
        await self.processor.enable(
            self.handle, max_batch_size=4, batch_timeout=5.0, max_concurrent=2, max_pending=12,
            max_retries=1, retry_base=1.0, retry_after_max=2.0, drain_timeout=20.0, result_ttl=1e6,
        )  # fmt: skip
        for action in script:
            await self.do(action)
        ending = asyncio.ensure_future(self.processor.disable())
        await self.clock.advance(60)
        assert await ending
        await until_idle()
        await self.judge()

    async def judge(self):
        ends = Counter()
        for future in self.futures:
            assert future.done(), "everybody who waited was told"
            if future.cancelled():
                ends["cancelled"] += 1
            elif (error := future.exception()) is None:
                ends["done"] += 1
            else:
                kinds = (
                    ValueError, MissingResultError, DeadLetteredError, BatchClosedError, RateLimitExceeded,
                )  # fmt: skip
                assert isinstance(error, kinds), error
                ends["failed"] += 1
        dead = {letter.item_id for letter in await self.processor.dead_letters()}
        for item_id in self.ids:
            status = await self.processor.get_item_status(item_id)
            assert status is not None
            assert status.state in ("done", "failed", "dead_lettered", "cancelled")
            assert (status.state == "dead_lettered") == (item_id in dead)
            ends[status.state] += 1
        shown = self.processor.statistics()
        assert shown["pending_items"] == 0
        assert shown["submitted_items"] == (
            shown["total_items_processed"] + shown["failed_items"] + shown["dead_lettered_items"]
            + shown["replaced_items"]
        )  # fmt: skip
        if not self.keyed:  # of one key there is one dead letter, however often it died
            assert shown["dead_lettered_items"] == len(dead)
        assert sum(ends.values()) == self.numbers - self.refused


@searching(150)
@given(seed=st.integers(0, 2**32), script=st.lists(actions, max_size=25))
def test_every_item_ends_in_exactly_one_state(seed, script):
    asyncio.run(World(seed).live(script))
