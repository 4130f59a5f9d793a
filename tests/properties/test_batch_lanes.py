"""Lanes against a naive model: order per lane, one item at a time, nothing lost, whatever happens."""

import asyncio
import math
from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bot.core.batch_processor import BatchProcessor
from bot.core.batch_processor.backlog import Backlog
from bot.core.batch_processor.ids import Ids
from bot.core.batch_processor.models import BatchItem
from tests.support.clock import VirtualClock, until_idle
from tests.support.searching import searching

lanes = st.sampled_from([None, "a", "b", "c", 0, "0"])


class Future:
    """What the backlog asks of a future."""

    def __init__(self):
        self.withdrawn = False

    def done(self):
        return self.withdrawn


class LaneMachine(RuleBasedStateMachine):
    """The model is a list of items per lane, in the order of their submission; the first one may be out."""

    def __init__(self):
        super().__init__()
        self.backlog = Backlog(Future.done)
        self.ids = Ids("x")
        self.time = 0.0
        self.model = defaultdict(list)
        self.free = []
        self.submitted = self.ended = 0

    @rule(lane=lanes, priority=st.integers(-1, 1))
    def submit(self, lane, priority):
        self.time += 1.0
        self.submitted += 1
        item = BatchItem(self.submitted, Future(), self.time, priority=priority, lane=lane)
        self.backlog.push(item)
        (self.free if lane is None else self.model[lane]).append(item)

    @rule(number=st.integers(0, 10**6))
    def cancel(self, number):
        pending = [*self.free, *[item for line in self.model.values() for item in line]]
        running = {item for batch in self.backlog.ready for item in batch.items}
        waiting = [item for item in pending if item not in running]
        if waiting:
            waiting[number % len(waiting)].future.withdrawn = True

    @rule(limit=st.integers(1, 5))
    def form(self, limit):
        queued = len(self.backlog.queue)
        items, withdrawn = self.backlog.take(limit)
        self.ended += withdrawn
        assert len(items) <= limit
        assert items or withdrawn or not queued
        of_lanes = [item.lane for item in items if item.lane is not None]
        assert len(of_lanes) == len(set(of_lanes)), "a batch holds one item of a lane"
        for item in items:
            if item.lane is not None:
                wanted = next(one for one in self.model[item.lane] if not one.future.withdrawn)
                assert item is wanted, "it is the first of its lane that is still wanted"
                busy = [one for batch in self.backlog.ready for one in batch.items if one.lane == item.lane]
                assert not busy, "and no other of it is out"
        if items:
            self.backlog.ready.append(self.backlog.batch_of(items, self.time, self.ids))

    @precondition(lambda self: self.backlog.ready)
    @rule(number=st.integers(0, 10**6))
    def end_a_batch(self, number):
        batch = self.backlog.ready[number % len(self.backlog.ready)]
        self.backlog.ready.remove(batch)
        self.ended += len(batch.items)
        for item in batch.items:
            line = self.free if item.lane is None else self.model[item.lane]
            line.remove(item)
        self.ended += self.backlog.ended(batch.items)

    @precondition(lambda self: any(len(batch.items) > 1 for batch in self.backlog.ready))
    @rule()
    def split(self):
        batch = next(batch for batch in self.backlog.ready if len(batch.items) > 1)
        self.backlog.ready.append(self.backlog.split(batch))

    @rule()
    def sweep(self):
        self.ended += self.backlog.sweep()

    @precondition(lambda self: self.submitted > 3)
    @rule()
    def stop(self):
        held = [item for batch in self.backlog.ready for item in batch.items]
        self.backlog.ready.clear()
        queued, withdrawn = self.backlog.take_all()
        order = [item for item in held + queued if item.lane is not None]
        for lane in {item.lane for item in order}:
            numbers = [item.data for item in order if item.lane == lane]
            assert numbers == sorted(numbers), "in their order, those that were out first"
        assert self.backlog.ended(held + queued) == 0
        self.ended += withdrawn + len(held) + len(queued)
        assert self.backlog.unfinished == 0
        assert len(self.backlog.lanes) == 0
        self.model.clear()
        self.free.clear()

    @invariant()
    def nothing_is_lost(self):
        self.backlog.check_invariants(self.ended)
        assert self.backlog.submitted == self.submitted
        assert self.backlog.unfinished + self.ended == self.submitted
        wanted = [one for one in self.free if not one.future.withdrawn]
        wanted += [one for line in self.model.values() for one in line if not one.future.withdrawn]
        assert self.backlog.unfinished >= len(wanted)
        assert self.backlog.oldest() <= min((one.submitted_at for one in wanted), default=math.inf)


TestLaneMachine = LaneMachine.TestCase
TestLaneMachine.settings = searching(100, stateful_step_count=40)


script = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), lanes, st.integers(-1, 1)),
        st.tuples(st.just("time"), st.integers(0, 6), st.just(0)),
        st.tuples(st.just("cancel"), st.integers(0, 99), st.just(0)),
        st.tuples(st.just("kill"), st.integers(0, 99), st.just(0)),
        st.tuples(st.just("replay"), st.just(0), st.just(0)),
        st.tuples(st.just("settings"), st.integers(1, 4), st.integers(1, 3)),
        st.tuples(st.just("off and on"), st.just(0), st.just(0)),
    ),
    max_size=40,
)


@searching(100)
@given(script=script, fates=st.lists(st.integers(0, 9), min_size=1, max_size=20))
def test_the_processor_handles_each_lane_in_order_and_one_at_a_time(script, fates):
    async def live():
        clock = VirtualClock()
        processor = BatchProcessor(clock=clock)
        running, ends, turn = set(), defaultdict(list), 0

        async def handle(items):
            nonlocal turn
            turn += 1
            fate = fates[turn % len(fates)]
            mine = [item.lane for item in items if item.lane is not None]
            assert not running.intersection(mine), "two of a lane at the same time"
            assert len(mine) == len(set(mine))
            running.update(mine)
            try:
                await clock.sleep(fate % 3)
                if fate == 9:
                    raise OSError("away")
            finally:
                running.difference_update(mine)
            for item in items:
                ends[item.lane].append(item.data)
            return [ValueError() if fate == 8 and item.data % 2 else item.data for item in items]

        await processor.enable(
            handle, max_batch_size=3, batch_timeout=2.0, max_concurrent=3, max_retries=1, retry_base=1.0,
            isolate=True, drain_timeout=50.0, max_pending=1_000,
        )  # fmt: skip
        futures, expected, replayed = [], defaultdict(list), False
        for what, first, second in script:
            if what == "submit":
                expected[first].append(len(futures))
                futures.append(processor.submit(len(futures), second, lane=first))
            elif what == "time":
                await clock.advance(first)
            elif what == "cancel" and futures:
                futures[first % len(futures)].cancel()
            elif what == "kill":
                tasks = [batch.task for batch in processor._dispatcher.backlog.running]
                if tasks:
                    tasks[first % len(tasks)].cancel()
            elif what == "replay":
                replayed = bool(await processor.replay()) or replayed
            elif what == "settings":
                await processor.enable(max_batch_size=first, max_concurrent=second)
            elif what == "off and on":
                ending = asyncio.ensure_future(processor.disable())
                await clock.advance(100)
                assert await ending
                await processor.enable()
            await until_idle(3)
            processor.check_invariants()
        ending = asyncio.ensure_future(processor.disable())
        for _ in range(20):
            await clock.advance(20)
        assert await ending
        processor.check_invariants()
        assert all(future.done() for future in futures), "nobody waits for ever"
        assert len(processor._dispatcher.backlog.lanes) == 0
        if not replayed:
            for lane, data in ends.items():
                if lane is not None:
                    once = list(dict.fromkeys(data))
                    assert once == [one for one in expected[lane] if one in once], "in their order"

    asyncio.run(live())
