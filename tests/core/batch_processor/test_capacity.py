"""The bound on pending items, and the line of those who wait for room."""

import asyncio
import random

import pytest

from bot.core._shared.futures import give_result
from bot.core.batch_processor import (
    BatchClosedError,
    BatchItem,
    BatchQueueFullError,
    ResultTimeoutError,
)
from bot.core.batch_processor.backlog import Backlog
from bot.core.batch_processor.capacity import Capacity
from bot.core.batch_processor.queue import PendingQueue
from tests.support.clock import until_idle


async def figures(processor, *names):
    found = await processor.get_statistics()
    return tuple(found[name] for name in names)


async def test_a_full_processor_refuses_at_once_with_the_figures(processor, handler):
    await processor.enable(max_pending=4)
    handler.hold()
    assert all([(await processor.submit_item(n)).success for n in range(4)])
    refused = await processor.submit_item(5)
    assert refused == (False, "", "")
    assert refused.reason == "the batch processor is full: 4 items pending, max_pending = 4"
    assert refused.retry_after > 0
    with pytest.raises(BatchQueueFullError, match="4 items pending"):
        processor.submit(6)
    assert [answer.success for answer in await processor.submit_many(range(2))] == [False, False]
    assert await figures(processor, "refused_items", "submitted_items") == (4, 4)


async def test_many_are_taken_as_far_as_there_is_room_or_all_or_none(processor, handler):
    await processor.enable(max_pending=4)
    handler.hold()
    assert [a.success for a in await processor.submit_many(range(6), all_or_none=True)] == [False] * 6
    assert await figures(processor, "pending_items") == (0,)
    assert [a.success for a in await processor.submit_many(range(6))] == [True] * 4 + [False] * 2


async def test_submit_and_wait_waits_for_room_in_order(processor, handler):
    await processor.enable(max_pending=3)
    handler.hold()
    first = [processor.submit(n) for n in range(3)]
    waiting = [asyncio.ensure_future(processor.submit_and_wait(f"w{n}")) for n in range(3)]
    await until_idle()
    assert await figures(processor, "pending_items") == (3,)
    handler.let_go()
    await until_idle()
    assert [await future for future in (*first, *waiting)] == [
        f"done {d}" for d in (0, 1, 2, "w0", "w1", "w2")
    ]
    assert handler.batches == [[0, 1, 2], ["w0", "w1", "w2"]]


@pytest.mark.parametrize("priority", [0, 1])
async def test_what_was_withdrawn_takes_no_room(processor, handler, priority):
    await processor.enable(max_pending=9, batch_timeout=60.0)
    handler.hold()
    running = [processor.submit(n) for n in range(6)]

    def fill_and_withdraw():
        withdrawn = [processor.submit(n, priority) for n in range(9 - len(running))]
        for future in withdrawn:
            future.cancel()

    await until_idle()
    fill_and_withdraw()
    assert (await processor.submit_item("a")).success
    running.append("a")
    fill_and_withdraw()
    assert not processor.submit("b").done()
    running.append("b")
    fill_and_withdraw()
    assert (await processor.submit_many("c", all_or_none=True))[0].success
    assert not (await processor.submit_item("d")).success
    assert await figures(processor, "pending_items", "cancelled_items") == (9, 6)
    processor.check_invariants()


async def test_who_waits_for_room_gets_that_of_what_was_withdrawn(processor, handler):
    await processor.enable(max_pending=7)
    handler.hold()
    for n in range(6):
        processor.submit(n)
    await until_idle()
    pending = processor.submit("withdrawn")
    waiting = [asyncio.ensure_future(processor.submit_and_wait("first"))]
    await until_idle()
    pending.cancel()
    waiting.append(asyncio.ensure_future(processor.submit_and_wait("second")))
    await until_idle()
    assert await figures(processor, "pending_items", "cancelled_items") == (7, 1)
    assert processor._dispatcher.backlog.queue.normal[0].data == "first"
    handler.let_go()
    await until_idle()
    await processor.flush()
    assert [future.result() for future in waiting] == ["done first", "done second"]


async def test_a_long_queue_is_not_looked_through_at_each_refusal(processor, handler, monkeypatch):
    await processor.enable(max_pending=10_000, max_batch_size=10_000)
    handler.hold()
    for n in range(10_000):
        processor.submit(n)
    await until_idle()
    await processor.enable(max_pending=20_000)
    for n in range(10_000):
        processor.submit(n, priority=n % 2)
    await processor.enable(max_pending=19_000)
    sweeps = []
    sweep = PendingQueue.sweep
    monkeypatch.setattr(PendingQueue, "sweep", lambda queue: sweeps.append(len(queue)) or sweep(queue))
    for _ in range(1_000):
        assert not (await processor.submit_item("more")).success
    assert sum(sweeps) <= 64 * 1_000, "at most so many items for each"


async def test_who_waits_for_room_keeps_its_turn_when_others_are_quicker(processor, handler, clock):
    await processor.enable(max_pending=3, max_concurrent=1)
    handler.hold()
    first = [processor.submit(n) for n in range(3)]
    waiting = [asyncio.ensure_future(processor.submit_and_wait(f"w{n}")) for n in range(4)]

    await until_idle()

    def grab(_):
        for n in range(3):
            processor.submit(f"quick {n}")
        waiting.append(asyncio.ensure_future(processor.submit_and_wait("last")))

    first[0].add_done_callback(grab)  # before those who wait have heard that there is room
    handler.let_go()
    await clock.advance(10)
    assert [future.result() for future in waiting] == [f"done {d}" for d in ("w0", "w1", "w2", "w3", "last")]
    assert handler.batches == [
        [0, 1, 2],
        ["quick 0", "quick 1", "quick 2"],
        ["w0", "w1", "w2"],
        ["w3", "last"],
    ]


async def test_who_comes_when_room_was_given_to_another_waits_behind_it(processor, handler, clock):
    await processor.enable(max_pending=3, max_concurrent=1)
    handler.hold()

    async def twice(data):
        await processor.submit_and_wait(data)
        return await processor.submit_and_wait(f"{data} again")

    first = [asyncio.ensure_future(twice(n)) for n in range(3)]
    await until_idle()
    waiting = [asyncio.ensure_future(processor.submit_and_wait(f"w{n}")) for n in range(2)]
    await until_idle()
    handler.let_go()
    await clock.advance(10)
    assert all(future.done() for future in (*first, *waiting))
    assert handler.batches == [[0, 1, 2], ["w0", "w1", "0 again"], ["1 again", "2 again"]]


async def test_who_is_refused_while_waiting_for_room_keeps_no_place(processor, handler, monkeypatch):
    await processor.enable(max_pending=3)
    handler.hold()
    first = [processor.submit(n) for n in range(3)]
    bad = asyncio.ensure_future(processor.submit_and_wait("bad", priority=5000))
    fails = asyncio.ensure_future(processor.submit_and_wait("no memory"))
    waiting = [asyncio.ensure_future(processor.submit_and_wait(f"w{n}")) for n in range(3)]
    await until_idle()
    assert bad.done(), "it is told at once"
    with pytest.raises(ValueError, match="priority = 5000"):
        bad.result()
    submit = processor._store.submit

    def failing(data, priority=0, lane=None):
        if data == "no memory":
            raise MemoryError
        return submit(data, priority)

    monkeypatch.setattr(processor._store, "submit", failing)
    handler.let_go()
    await until_idle()
    assert [future.result() for future in (*first, *waiting)] == [
        f"done {d}" for d in (0, 1, 2, "w0", "w1", "w2")
    ]
    with pytest.raises(MemoryError):
        await fails


async def test_submit_and_wait_ends_at_its_timeout_and_withdraws_the_item(processor, handler, clock):
    with pytest.raises(ResultTimeoutError, match=r"no result within 0\.01 s"):
        await processor.submit_and_wait("a", timeout=0.01)
    await clock.advance(10)
    assert handler.batches == []
    assert await figures(processor, "failed_items", "cancelled_items", "pending_items") == (1, 1, 0)


# The line by itself.


@pytest.fixture
def backlog():
    return Backlog(asyncio.Future.done)


@pytest.fixture
def capacity(backlog):
    made = Capacity(backlog, lambda withdrawn: None)
    made.max_pending = 2
    return made


def fill(backlog, count):
    for _ in range(count):
        backlog.queue.push(BatchItem("x"))


async def test_with_room_nobody_waits(capacity):
    await capacity.wait()
    assert not capacity.has_line


async def test_those_who_wait_are_let_in_one_for_each_place_in_their_order(capacity, backlog):
    fill(backlog, 2)
    came = []

    async def come(name):
        await capacity.wait()
        came.append(name)
        fill(backlog, 1)

    tasks = [asyncio.ensure_future(come(name)) for name in "abc"]
    await until_idle()
    assert came == []
    for expected in (["a"], ["a", "b"], ["a", "b", "c"]):
        backlog.queue.take(1)
        capacity.offer_room()
        await until_idle()
        assert came == expected
    await asyncio.gather(*tasks)


async def test_a_place_that_is_not_taken_goes_to_the_next(capacity, backlog):
    fill(backlog, 2)
    first, second = (asyncio.ensure_future(capacity.wait()) for _ in range(2))
    await until_idle()
    backlog.queue.take(1)
    capacity.offer_room()
    first.cancel()
    await until_idle()
    assert second.done()
    assert not capacity.has_line


async def test_closed_everybody_in_the_line_is_told(capacity, backlog):
    fill(backlog, 2)
    waiting = asyncio.ensure_future(capacity.wait())
    await until_idle()
    capacity.close()
    with pytest.raises(BatchClosedError):
        await waiting


async def test_withdrawn_items_make_room(backlog):
    told = []
    capacity = Capacity(backlog, told.append)
    capacity.max_pending = 1
    future = asyncio.get_running_loop().create_future()
    backlog.queue.push(BatchItem("x", future))
    assert capacity.lacks_room()
    future.cancel()
    assert not capacity.lacks_room()
    assert told == [1]


class Line:
    """A processor in which all places were taken, and ``waiting`` callers that wait for one."""

    def __init__(self, places):
        self.backlog = Backlog(asyncio.Future.done)
        self.backlog.in_flight = places
        self.capacity = Capacity(self.backlog, lambda count: None)
        self.capacity.max_pending = places
        self.served = []

    async def caller(self, number):
        await self.capacity.wait()
        self.backlog.in_flight += 1
        self.served.append(number)

    async def join(self, count):
        tasks = [asyncio.ensure_future(self.caller(number)) for number in range(count)]
        await asyncio.sleep(0)
        return tasks

    def free(self, places):
        self.backlog.in_flight -= places
        self.capacity.offer_room()


async def test_each_caller_is_told_once_of_each_place_whoever_gives_up(monkeypatch):
    """500 places become free at once, and every other caller gives up before it takes its own."""
    told = []

    def give(waiter, result):
        told.append(waiter)
        give_result(waiter, result)

    monkeypatch.setattr("bot.core.batch_processor.capacity.give_result", give)
    line = Line(500)
    tasks = await line.join(1_000)
    line.free(500)
    for task in tasks[::-2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert line.served == list(range(0, 1_000, 2))
    assert len(told) <= 1_000
    assert not line.capacity.has_line


@pytest.mark.parametrize("seed", range(20))
async def test_places_are_given_in_the_order_of_arrival(seed):
    """Whoever gives up, and whoever takes places without waiting."""
    chance = random.Random(seed)
    line = Line(6)
    tasks = []
    for number in range(60):
        tasks.append(asyncio.ensure_future(line.caller(number)))
        act = chance.random()
        if act < 0.4 and line.backlog.in_flight:
            line.free(chance.randint(1, min(3, line.backlog.in_flight)))
        if act > 0.7:
            chance.choice(tasks[-6:]).cancel()
        if 0.2 < act < 0.4 and line.capacity.free > 0:
            line.backlog.in_flight += 1  # one that was quicker
        if chance.random() < 0.6:
            await asyncio.sleep(0)
        assert line.backlog.in_flight <= 6
    while not all(task.done() for task in tasks):
        if line.backlog.in_flight:
            line.free(1)
        await asyncio.sleep(0)
    given_up = [number for number, task in enumerate(tasks) if task.cancelled()]
    assert line.served == [number for number in range(60) if number not in given_up]
    assert 0 < len(given_up) < 40
    assert not line.capacity.has_line
