"""Durable mode on a real Redis: what was taken in outlives processes and the server itself."""

import asyncio
import contextlib
import datetime
import decimal
import itertools
import logging
import signal
import subprocess
import sys
import uuid

import pytest
import redis

from bot.core._shared.errors import InvalidArgumentError, MisuseError
from bot.core.batch_processor import (
    BatchClosedError,
    BatchProcessor,
    BatchQueueFullError,
    DeadLetteredError,
    ItemFailedError,
    LostItemError,
    MissingResultError,
    ResultNotKeptError,
    ResultTimeoutError,
    UnknownItemError,
)
from bot.core.redis_link import RedisLink, RedisUnavailableError
from tests.support.servers import RedisCluster, RedisServer, running

pytestmark = pytest.mark.server

SAFE = ("--appendonly", "yes", "--appendfsync", "always")
names = (f"queue-{number}" for number in itertools.count())


@pytest.fixture
def queue():
    """A queue of the test's own."""
    return f"{next(names)}-{uuid.uuid4().hex[:6]}"


@pytest.fixture(scope="module")
def safe_server():
    """A Redis that writes each change to disk before it answers; for tests that do not stop it."""
    with running(RedisServer(extra=SAFE)) as server:
        yield server


@pytest.fixture
async def instances(safe_server, queue):
    """``await instances(handler, ...)``: one more instance of the same queue; all balance at the end."""
    made = []

    async def make(handler=None, *, url=None, **options):
        processor = BatchProcessor()
        made.append(processor)
        settings = {"max_batch_size": 10, "batch_timeout": 0.02, "lease": 0.4, "retry_base": 0.01} | options
        await processor.enable(handler, redis_url=url or safe_server.url, queue_name=queue, **settings)
        return processor

    yield make
    for processor in made:
        processor.check_invariants()
        assert await processor.disable()
        processor.check_invariants()
        figures = await processor.get_statistics()
        assert figures["pending_items"] == 0
        assert figures["submitted_items"] == (
            figures["total_items_processed"] + figures["failed_items"] + figures["dead_lettered_items"]
        )
    assert not RedisLink._links, "every link was given back"


@pytest.fixture
def start_worker(queue):
    """``start_worker(url)``: a process that handles the queue, to be killed."""
    workers = []

    def start(url, *, lease=0.5, size=10, seconds=0.0):
        worker = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.support.batch_worker",
                url,
                queue,
                str(lease),
                str(size),
                str(seconds),
            ],
            stdout=subprocess.PIPE,
        )
        workers.append(worker)
        assert worker.stdout.readline() == b"ready\n"
        return worker

    yield start
    for worker in workers:
        with contextlib.suppress(ProcessLookupError):
            worker.kill()
        worker.wait()
        worker.stdout.close()


async def echo(items):
    return {item.item_id: item.data for item in items}


async def until(condition, seconds=20.0):
    """Wait for something that other processes bring about; fails rather than waiting for ever."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


async def length(processor):
    return await processor._store.streams.link.execute("XLEN", processor._store.streams.items)


# One instance.


async def test_items_are_handled_and_leave_nothing_but_their_results(instances):
    p = await instances(echo)
    assert await p.submit_and_wait({"file": 1}) == {"file": 1}
    futures = [p.submit(number) for number in range(100)]
    assert await asyncio.gather(*futures) == list(range(100))
    answers = await p.submit_many(["a", "b"])
    assert [await p.get_result(answer.item_id) for answer in answers] == ["a", "b"]
    assert (await p.get_item_status(answers[0].item_id)).state == "done"
    assert await length(p) == 0
    figures = await p.get_statistics()
    assert figures["durable"]
    assert not figures["degraded"]
    assert figures["enqueued_items"] == figures["submitted_items"] == 103


async def test_data_and_results_come_back_as_what_they_were(instances):
    p = await instances(echo)
    value = {
        1: (2, {3}),
        "big": 2**80,
        "bytes": b"\x00\xff",
        "when": datetime.datetime(2024, 5, 1, tzinfo=datetime.UTC),
        "price": decimal.Decimal("1.10"),
        "id": uuid.UUID(int=5),
        "none": None,
    }
    answer = await p.submit_item(value)
    assert await p.get_result(answer.item_id) == value


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (object(), "data = 'object': expected plain data"),
        ({"open": [print]}, "cannot travel"),
        ("x" * 3_000, "max_item_bytes = 2,000"),
    ],
)
async def test_what_cannot_travel_is_refused_at_the_door(instances, data, message):
    p = await instances(echo, max_item_bytes=2_000)
    for submit in (p.submit_item, p.submit_and_wait):
        with pytest.raises(InvalidArgumentError, match=message):
            await submit(data)
    with pytest.raises(InvalidArgumentError, match=message):
        p.submit(data)
    with pytest.raises(InvalidArgumentError, match=message):
        await p.submit_many(["fine", data])
    assert await length(p) == 0, "all of it was refused"


async def test_a_result_that_cannot_travel_reaches_who_waits_here_and_is_named_elsewhere(instances, caplog):
    thing = object()

    async def handle(items):
        return {item.item_id: thing for item in items}

    p = await instances(handle)
    assert await p.submit_and_wait(1) is thing
    answer = await p.submit_item(2)
    await p.flush()
    with pytest.raises(ResultNotKeptError, match="is done, but the result cannot travel"):
        await p.get_result(answer.item_id)
    assert caplog.text.count("A result is not kept") == 1


async def test_a_key_adds_nothing_while_its_item_is_pending_or_its_result_kept(instances, queue):
    handled = []

    async def handle(items):
        handled.extend(item.item_id for item in items)
        return {item.item_id: item.data for item in items}

    first, second = await instances(), await instances()
    assert (await first.submit_item("one", key="upload-7")).success
    assert (await second.submit_item("another", key="upload-7")).item_id == "upload-7"
    assert await length(first) == 1
    first.process_handler = handle
    assert await second.get_result("upload-7", timeout=10) == "one"
    assert (await second.submit_item("a third", key="upload-7")).success
    await first.flush()
    assert handled == ["upload-7"]
    figures = await second.get_statistics()
    assert (figures["duplicate_items"], figures["enqueued_items"]) == (2, 0)


async def test_after_the_results_time_a_key_is_free_again_and_the_id_unknown(instances):
    p = await instances(echo, result_ttl=0.1)
    await p.submit_item(1, key="k")
    await p.flush()
    await asyncio.sleep(0.15)
    with pytest.raises(UnknownItemError, match="'k'"):
        await p.get_result("k")
    assert await p.get_item_status("k") is None
    await p.submit_item(2, key="k")
    assert await p.get_result("k", timeout=10) == 2


async def test_max_pending_counts_the_items_of_all_instances(instances):
    first, second = await instances(max_pending=3), await instances(max_pending=3)
    assert [one.success for one in await first.submit_many([1, 2], all_or_none=True)] == [True, True]
    assert [one.success for one in await second.submit_many([3, 4], all_or_none=True)] == [False, False]
    assert [one.success for one in await second.submit_many([3, 4])] == [True, False]
    refused = await first.submit_item(5)
    assert not refused.success
    assert "3 items pending in Redis, max_pending = 3" in refused.reason
    with pytest.raises(BatchQueueFullError):
        await first.submit(6)
    waiting = asyncio.ensure_future(first.submit_and_wait(7, timeout=20))
    second.process_handler = echo
    assert await waiting == 7


async def test_higher_priorities_go_first_among_what_was_read(instances):
    order = []

    async def handle(items):
        order.extend(item.data for item in items)
        return [None] * len(items)

    p = await instances(max_batch_size=1, max_concurrent=1, batch_timeout=0.3)
    for number, priority in ((1, 0), (2, 0), (3, 5), (4, -5)):
        await p.submit_item(number, priority)
    p.process_handler = handle
    await p.flush()
    assert sorted(order) == [1, 2, 3, 4]
    assert order.index(3) < order.index(4)


# Handlers that fail.


async def test_each_way_to_fail_ends_an_item_once_and_elsewhere_tells_the_same(instances):
    async def handle(items):
        data = [item.data for item in items]
        if "raise" in data:
            raise OSError("the database is away")
        if "nonsense" in data:
            return "nonsense"
        if "hang" in data:
            await asyncio.Event().wait()
        values = {"fine": 1, "this one": ValueError("this one")}
        return {item.item_id: values[item.data] for item in items if item.data in values}

    here = await instances(handle, max_batch_size=1, max_retries=1, handler_timeout=0.1)
    there = await instances()
    ways = ["fine", "this one", "missing", "raise", "nonsense", "hang"]
    answers = dict(zip(ways, await there.submit_many(ways), strict=True))
    expected = {
        "fine": (None, ""),
        "this one": (ItemFailedError, "ValueError: this one"),
        "missing": (ItemFailedError, "holds nothing for item"),
        "raise": (DeadLetteredError, "2 attempt.*the database is away"),
        "nonsense": (DeadLetteredError, "1 attempt.*answered str"),
        "hang": (DeadLetteredError, "2 attempt.*longer than 0.1 s"),
    }
    for way, (error, message) in expected.items():
        for p in (there, here):
            if error is None:
                assert await p.get_result(answers[way].item_id, timeout=10) == 1
                continue
            with pytest.raises(error, match=message):
                await p.get_result(answers[way].item_id, timeout=10)
    letters = await there.dead_letters()
    assert sorted(letter.data for letter in letters) == ["hang", "nonsense", "raise"]
    assert await length(here) == 0
    with pytest.raises(MissingResultError):  # here the error is the very one
        await here.submit_and_wait("missing")


async def test_a_dead_letter_holds_what_was_submitted_whatever_the_handler_made_of_it(instances):
    tries = []

    async def handle(items):
        tries.append(len(items))
        for item in items:
            item.data["connection"] = object()
        raise OSError("the database is away")

    p = await instances(handle, max_retries=1)
    with pytest.raises(DeadLetteredError, match="the database is away"):
        await p.submit_and_wait({"file": 1}, timeout=10)
    assert tries == [1, 1]
    assert [letter.data for letter in await p.dead_letters()] == [{"file": 1}]
    assert await length(p) == 0


async def test_dead_letters_are_replayed_discarded_and_bounded(instances):
    broken = True

    async def handle(items):
        if broken:
            raise OSError("not now")
        return {item.item_id: item.data for item in items}

    p = await instances(handle, max_batch_size=1, max_retries=0, max_dead_letters=3)
    answers = await p.submit_many([1, 2, 3, 4])
    await p.flush()
    assert len(await p.dead_letters()) == 3, "the oldest went for the newest"
    kept = [letter.item_id for letter in await p.dead_letters()]
    assert await p.discard_dead_letters([kept[0]]) == 1
    broken = False
    assert await p.replay([kept[1], "unknown"]) == 1
    assert await p.get_result(kept[1], timeout=10) in (1, 2, 3, 4)
    assert [letter.item_id for letter in await p.dead_letters()] == [kept[2]]
    assert len(answers) == 4


async def test_an_entry_that_nobody_can_read_goes_to_the_dead_letters(instances):
    p = await instances(echo)
    streams = p._store.streams
    await streams.link.execute("XADD", streams.items, "*", "v", b"\xc1 not a value")
    await streams.link.execute("XADD", streams.items, "*", "other", b"field")
    assert await p.submit_and_wait("after them") == "after them"
    await p.flush()
    assert [letter.error[:25] for letter in await p.dead_letters()] == ["the entry cannot be read:"] * 2


# Several instances.


async def test_who_waits_gets_the_result_of_another_instance(instances):
    asker = await instances()
    await instances(echo)
    assert await asyncio.gather(*[asker.submit(number) for number in range(50)]) == list(range(50))
    answer = await asker.submit_item("x")
    assert await asyncio.gather(*[asker.get_result(answer.item_id) for _ in range(3)]) == ["x"] * 3
    assert asker._dispatcher.outcomes.waiters == {}


async def test_giving_up_the_wait_leaves_the_item_to_be_handled(instances):
    p = await instances()
    answer = await p.submit_item("later")
    with pytest.raises(ResultTimeoutError):
        await p.get_result(answer.item_id, timeout=0.05)
    with pytest.raises(ResultTimeoutError):
        await p.submit_and_wait("later too", timeout=0.05)
    p.submit("nobody waits").cancel()
    p.process_handler = echo
    assert await p.get_result(answer.item_id, timeout=10) == "later"
    await p.flush()
    assert (await p.get_statistics())["total_items_processed"] == 3


async def test_switched_off_it_gives_back_what_it_had_not_begun_at_once(instances):
    gate = asyncio.Event()

    async def held(items):
        await gate.wait()
        return {item.item_id: "the first" for item in items}

    first = await instances(held, max_batch_size=1, max_concurrent=1, lease=3_600)
    await first.submit_many(range(6))
    waiting = first.submit("waited for")
    await until(lambda: first._dispatcher.backlog.unfinished == 2)
    ending = asyncio.ensure_future(first.disable())
    second = await instances(echo, lease=3_600)
    await until(lambda: second._dispatcher.outcomes.counters.done == 6)
    gate.set()
    assert await ending
    (heard,) = await asyncio.gather(waiting, return_exceptions=True)
    if isinstance(heard, Exception):
        assert isinstance(heard, BatchClosedError)
        assert "its items are in Redis" in str(heard)
    else:
        assert heard == "waited for", "the other instance's answer came before this one had ended"
    assert first._dispatcher.outcomes.counters.done == 1
    assert await length(second) == 0
    assert (await second.get_statistics())["redelivered_items"] == 0, "it had not been begun"


async def test_what_is_handled_longer_than_a_lease_stays_with_its_instance(instances):
    runs = []

    async def slow(items):
        runs.append([item.data for item in items])
        await asyncio.sleep(2.5)  # many stalls of a busy machine would fit between two renewals
        return [None] * len(items)

    first, second = await instances(slow, lease=1.0), await instances(slow, lease=1.0)
    await first.submit_item("download")
    await first.flush()
    assert runs == [["download"]]
    assert (await second.get_statistics())["reclaimed_items"] == 0


async def test_what_is_handled_to_its_end_while_switched_off_stays_with_its_instance(instances):
    runs = []

    async def slow(items):
        runs.append([item.data for item in items])
        await asyncio.sleep(2.5)
        return [None] * len(items)

    first = await instances(slow, lease=1.0)
    answer = await first.submit_item("download")
    await until(lambda: runs)
    second = await instances(slow, lease=1.0)
    assert await first.disable()
    assert await second.get_result(answer.item_id, timeout=10) is None
    assert runs == [["download"]]
    assert (await second.get_statistics())["reclaimed_items"] == 0


async def test_an_item_finished_twice_has_one_result_and_is_counted(instances):
    async def handle(items):
        # Its lease is over, as if the process had stood still, and another instance ends it.
        streams = other._store.streams
        await streams.link.execute("XGROUP", "CREATECONSUMER", streams.items, "workers", "thief")
        for item in items:
            assert await streams.settle(
                [other._store.settling.settlement(item, "theirs", dead=False)], 60_000, 10
            )
        return {item.item_id: "ours" for item in items}

    p, other = await instances(handle), await instances()
    answer = await other.submit_item(1)
    await p.flush()
    await until(lambda: p._dispatcher.outcomes.counters.done == 1)
    assert await other.get_result(answer.item_id) == "theirs"
    assert (await p.get_statistics())["settled_elsewhere_items"] == 1


async def test_what_another_instance_has_taken_over_is_let_go(instances):
    p = await instances(echo, max_batch_size=100, batch_timeout=60.0, lease=3_600)
    answers = await p.submit_many(range(5))
    await until(lambda: p._dispatcher.backlog.unfinished == 5)
    taken = p._store._held.entries[0]
    streams = p._store.streams
    await streams.link.execute("XCLAIM", streams.items, "workers", "somebody", 0, taken)
    await p._store.leases.refresh()
    assert p._dispatcher.backlog.unfinished == 4
    p.check_invariants()
    await streams.link.execute("XCLAIM", streams.items, "workers", "given-back", 0, taken, "IDLE", 10**9)
    assert await p.flush(timeout=10)
    assert [await p.get_result(answer.item_id) for answer in answers] == list(range(5))


@pytest.mark.parametrize("turns", [1, 3, 30])
async def test_a_disable_that_is_cancelled_leaves_what_has_not_ended_in_redis(instances, turns):
    async def never(items):
        await asyncio.Event().wait()

    first = await instances(never, max_batch_size=1, max_concurrent=1)
    answers = await first.submit_many(range(4))
    await until(lambda: first._dispatcher.backlog.in_flight)
    ending = asyncio.ensure_future(first.disable())
    for _ in range(turns):
        await asyncio.sleep(0)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert not first.enabled
    assert await first.disable()
    assert await first.dead_letters() == []
    second = await instances(echo)
    assert [await second.get_result(answer.item_id, timeout=10) for answer in answers] == list(range(4))


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 13, 30])
async def test_a_disable_that_is_cancelled_twice_is_finished_by_the_next(instances, turns):
    async def hang(items):
        await asyncio.Event().wait()

    first = await instances(hang, max_batch_size=2)
    answers = await first.submit_many(range(6))
    await until(lambda: first._dispatcher.backlog.in_flight)
    for _ in range(2):
        ending = asyncio.ensure_future(first.disable())
        for _ in range(turns):
            await asyncio.sleep(0)
        ending.cancel()
        await asyncio.wait([ending])
    assert await first.disable()
    assert await first.dead_letters() == [], "all are left to others"
    second = await instances(echo)
    assert [await second.get_result(answer.item_id, timeout=20) for answer in answers] == list(range(6))


# Faults.


async def test_kill_9_in_the_middle_of_a_batch_and_another_process_finishes(
    safe_server, queue, instances, start_worker
):
    asker = await instances(max_pending=1_000)
    database = redis.Redis(port=safe_server.port)
    doomed = start_worker(safe_server.url, seconds=3_600.0)
    answers = await asker.submit_many(range(60))
    await until(lambda: database.hlen(f"handled:{queue}") >= 40)  # four batches of ten are begun
    doomed.send_signal(signal.SIGKILL)
    doomed.wait()
    survivor = start_worker(safe_server.url)
    for number, answer in enumerate(answers):
        assert await asker.get_result(answer.item_id, timeout=20) == ["by", survivor.pid, number]
    counts = {key.decode(): int(value) for key, value in database.hgetall(f"handled:{queue}").items()}
    assert set(counts) == {answer.item_id for answer in answers}, "none is missing"
    twice = {item_id for item_id, count in counts.items() if count > 1}
    told = {key.decode() for key in database.hkeys(f"redelivered:{queue}")}
    assert twice <= told, "an item handled again is told as delivered again"
    assert len(twice) >= 40
    assert await length(asker) == 0
    database.close()


async def test_an_item_that_ends_its_process_is_given_up_and_nothing_else_with_it(
    safe_server, queue, instances, start_worker
):
    asker = await instances(max_pending=1_000)
    answers = await asker.submit_many([1, 2, "poison", 4, 5])
    database = redis.Redis(port=safe_server.port)
    ends = [asyncio.ensure_future(asker.get_result(answer.item_id, timeout=120)) for answer in answers]
    for _ in range(8):
        worker = start_worker(safe_server.url, lease=0.1)
        await until(lambda worker=worker: worker.poll() is not None or all(end.done() for end in ends), 60)
        if worker.poll() is None:
            break
    for number in (0, 1, 3, 4):
        assert (await ends[number])[2] == number + 1
    with pytest.raises(DeadLetteredError, match="given to 5 instances, each of which ended"):
        await ends[2]
    assert int(database.get(f"crashes:{queue}")) == 5
    assert [letter.data for letter in await asker.dead_letters()] == ["poison"]
    database.close()


async def test_redis_killed_and_started_again_loses_nothing(queue, caplog, instances):
    gate = asyncio.Event()
    handled = []

    async def handle(items):
        await gate.wait()
        handled.extend(item.data for item in items)
        return {item.item_id: item.data for item in items}

    server = RedisServer(extra=SAFE)
    server.start()
    try:
        p = await instances(handle, url=server.url, lease=30)
        accepted = await p.submit_many(range(200))
        assert all(one.success for one in accepted)
        await until(lambda: p._dispatcher.backlog.in_flight >= 100)
        with caplog.at_level(logging.WARNING):
            server.kill()
            refused = await p.submit_item("refused")
            assert (refused.success, refused.item_id) == (False, "")
            assert "is away" in refused.reason
            with pytest.raises(RedisUnavailableError):
                await p.submit("refused too")
            gate.set()  # what is handled now can be told to nobody
            await until(lambda: len(handled) >= 100)
            assert (await p.get_statistics())["degraded"]
            asked = asyncio.ensure_future(p.get_result(accepted[0].item_id, timeout=30))
            server.start()
            assert await asked == 0
            assert await p.flush(timeout=30)
        assert [await p.get_result(one.item_id) for one in accepted] == list(range(200))
        assert sorted(handled) == list(range(200)), "each once, for its process lived on"
        figures = await p.get_statistics()
        assert not figures["degraded"]
        assert figures["settled_elsewhere_items"] == 0
        assert caplog.text.count("going on without it") == 1
        assert caplog.text.count("is back") == 1
        await p.disable()
    finally:
        server.close()


async def test_without_redis_it_starts_degraded_and_stops(queue):
    server = RedisServer()
    p = BatchProcessor()
    assert await p.enable(echo, redis_url=server.url, queue_name=queue, batch_timeout=0.02)
    assert (await p.get_statistics())["degraded"]
    assert not (await p.submit_item(1)).success
    server.start()
    try:
        await until(lambda: not p.statistics()["degraded"])
        assert await p.submit_and_wait(2) == 2
        server.kill()
        assert await p.disable()
    finally:
        server.close()


async def test_a_batch_whose_task_is_cancelled_from_outside_is_run_again(instances):
    runs = []

    async def handle(items):
        runs.append(len(items))
        if len(runs) == 1:
            next(iter(p._dispatcher.backlog.running)).task.cancel()
            await asyncio.sleep(60)
        return {item.item_id: item.data for item in items}

    p = await instances(handle)
    assert await p.submit_and_wait("x") == "x"
    assert runs == [1, 1]


@pytest.mark.parametrize("name", ["batch-reader", "batch-keeper", "batch-sender", "batch-results"])
async def test_its_own_tasks_go_on_when_they_are_cancelled_from_outside(instances, name):
    p = await instances(echo)
    other = await instances(lease=3_600)
    future = other.submit("x")
    found: list[asyncio.Task] = []
    while not found:
        found = [task for task in asyncio.all_tasks() if task.get_name() == name]
        await asyncio.sleep(0)
    for task in found:
        task.cancel()
    if name == "batch-keeper":
        await asyncio.wait(found)
        await until(lambda: sum(task.get_name() == name for task in asyncio.all_tasks()) == len(found))
    with contextlib.suppress(BatchClosedError):  # its sender was cut off, and nobody knows
        assert await asyncio.wait_for(future, 10) == "x"
    assert await p.submit_and_wait("y", timeout=10) == "y"


async def test_the_queue_lost_under_way_is_made_anew(instances):
    p = await instances(echo)
    await p.submit_and_wait(1)
    streams = p._store.streams
    await streams.link.execute("DEL", streams.items)
    assert await p.submit_and_wait(2, timeout=20) == 2


# Event loops, settings, cluster.


def test_enabled_used_and_switched_off_under_three_event_loops(safe_server, queue):
    p = BatchProcessor()
    asyncio.run(p.enable(echo, 10, 0.02, redis_url=safe_server.url, queue_name=queue))

    async def use():
        return await p.submit_and_wait("under another", timeout=20)

    assert asyncio.run(use()) == "under another"
    assert asyncio.run(p.disable())
    assert not p.enabled
    assert not RedisLink._links


async def test_where_items_lie_is_not_changed_while_it_is_on(instances):
    p = await instances(echo)
    with pytest.raises(InvalidArgumentError, match="disable the batch processor first"):
        await p.enable(redis_url="")
    with pytest.raises(InvalidArgumentError, match="queue_name = 'a b'"):
        await p.enable(queue_name="a b")
    await p.enable(max_batch_size=5, lease=1.0)
    assert await p.submit_and_wait(1) == 1
    await p.disable()
    await p.enable(redis_url="")
    assert await p.submit_and_wait(2) == 2
    assert not p.statistics()["durable"]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("lease", 0),
        ("max_deliveries", 0),
        ("max_item_bytes", 1),
        ("redis_url", "http://x"),
        ("queue_name", "{}"),
    ],
)
async def test_settings_out_of_bounds_are_named(setting, value):
    p = BatchProcessor()
    with pytest.raises(InvalidArgumentError, match=setting.replace("_url", ".url")):
        await p.enable(echo, **({"redis_url": "redis://127.0.0.1:1"} | {setting: value}))
    assert not p.enabled
    assert not RedisLink._links


async def test_a_full_redis_keeps_no_item_from_being_done(queue, caplog):
    """Memory that dead letters take is what their entries gave back."""
    with running(RedisServer()) as server, redis.Redis(port=server.port) as plain:
        submitter, worker = BatchProcessor(), BatchProcessor()
        await submitter.enable(None, redis_url=server.url, queue_name=queue)
        for number in range(60):
            await submitter.submit_item({"bad": number < 20, "x": "y" * 20_000})
        plain.config_set("maxmemory", plain.info("memory")["used_memory"] - 200_000)
        done = []

        async def handle(items):
            if any(item.data["bad"] for item in items):
                raise RuntimeError("poison")
            done.extend(items)
            return [1] * len(items)

        await worker.enable(
            handle, max_batch_size=5, batch_timeout=0.02, max_concurrent=2, max_retries=0,
            redis_url=server.url, queue_name=queue,
        )  # fmt: skip
        await until(lambda: len(done) == 40)
        await until(lambda: plain.xlen(f"phase4:{{batch:{queue}}}:items") == 0)
        assert len(await worker.dead_letters()) == 20
        refused = await submitter.submit_item({"x": "y" * 900_000})
        assert (refused.success, refused.refusal) == (False, "unavailable")
        assert "not known" not in refused.reason, "Redis refused it, so it was not added"
        assert await worker.disable()
        assert await submitter.disable()


@pytest.mark.parametrize("loss", ["trimmed", "deleted", "renamed"])
async def test_a_key_whose_entry_is_gone_stands_for_nothing(instances, safe_server, queue, loss):
    first = await instances(None)
    assert (await first.submit_item("once", key="daily-7")).success
    stream = f"phase4:{{batch:{queue}}}:items"
    with redis.Redis(port=safe_server.port) as plain:
        if loss == "trimmed":
            plain.xtrim(stream, maxlen=0)
        elif loss == "deleted":
            plain.delete(stream)
        else:
            plain.rename(stream, f"{stream}-elsewhere")
    seen = []

    async def handle(items):
        seen.extend(item.data for item in items)
        return [item.data for item in items]

    first.process_handler = handle
    assert tuple(await first.submit_item("again", key="daily-7")) == (True, "daily-7", "")
    assert await first.get_result("daily-7", timeout=20) == "again"
    assert seen == ["again"]
    assert (await first.submit_item("a third time", key="daily-7")).success
    assert seen == ["again"], "its result is kept, so it adds nothing"


async def test_who_waits_for_an_item_whose_entry_is_lost_is_told(instances, safe_server, queue):
    first = await instances(None)
    item_id = (await first.submit_item("lost")).item_id
    waiting = asyncio.create_task(first.get_result(item_id))
    await asyncio.sleep(0.1)
    with redis.Redis(port=safe_server.port) as plain:
        plain.xtrim(f"phase4:{{batch:{queue}}}:items", maxlen=0)
    with pytest.raises(LostItemError, match=f"item {item_id} was taken, but its entry is gone"):
        async with asyncio.timeout(20):
            await waiting
    assert await first.get_item_status(item_id) is None


async def test_an_entry_trimmed_while_it_is_handled_is_done_all_the_same(instances, safe_server, queue):
    trimmed = asyncio.Event()

    async def handle(items):
        await trimmed.wait()
        return [item.data for item in items]

    first = await instances(handle)
    item_id = (await first.submit_item("x")).item_id
    with redis.Redis(port=safe_server.port) as plain:
        while not (await first.get_statistics())["running_batches"]:
            await asyncio.sleep(0.01)
        plain.xtrim(f"phase4:{{batch:{queue}}}:items", maxlen=0)
    trimmed.set()
    assert await first.get_result(item_id, timeout=20) == "x"


async def test_an_orderly_stop_is_no_failed_delivery(instances):
    """However many deploys a long job sees, it is not given up for them; its handler knows it was begun."""
    submitter = await instances(None, lease=5)
    await submitter.submit_item("a download", key="d1")
    deliveries = []
    begun = asyncio.Event()

    async def long(items):
        deliveries.extend(item.deliveries for item in items)
        begun.set()
        await asyncio.sleep(600)

    for _ in range(4):
        begun.clear()
        worker = await instances(long, drain_timeout=0.05, max_deliveries=1, lease=5)
        async with asyncio.timeout(20):
            await begun.wait()
        await worker.disable()
    assert deliveries == [1, 2, 2, 2], "above 1 its effects may exist already"
    assert await submitter.dead_letters() == []
    last = await instances(echo, max_deliveries=1, lease=5)
    assert await last.get_result("d1", timeout=20) == "a download"


async def test_a_stop_while_redis_is_away_does_not_take_the_whole_drain_time(queue):
    with running(RedisServer(extra=SAFE)) as server:
        handled = asyncio.Event()

        async def handle(items):
            handled.set()
            server.kill()
            return [1] * len(items)

        worker = BatchProcessor()
        await worker.enable(
            handle, batch_timeout=0.01, drain_timeout=3_000, redis_url=server.url, queue_name=queue
        )
        await worker.submit_item("x")
        await handled.wait()
        async with asyncio.timeout(60):  # far from the drain time
            assert await worker.disable()
        server.start()
        again = BatchProcessor()
        await again.enable(echo, batch_timeout=0.01, lease=0.2, redis_url=server.url, queue_name=queue)
        with redis.Redis(port=server.port) as plain:
            await until(lambda: plain.xlen(f"phase4:{{batch:{queue}}}:items") == 0)
        assert await again.disable()


async def test_whether_an_item_was_added_is_known_when_there_was_no_connection(queue):
    with running(RedisServer()) as server:
        processor = BatchProcessor()
        await processor.enable(None, redis_url=server.url, queue_name=queue)
        server.kill()
        for _ in range(3):
            refused = await processor.submit_item("x")
            if refused.refusal == "unavailable":
                break  # the first may have been under way on the connection that was cut
        assert refused.refusal == "unavailable"
        assert "not known" not in refused.reason
        assert await processor.disable()


async def test_under_another_loop_that_runs_beside_its_own_it_says_so(instances):
    processor = await instances(echo)

    async def elsewhere():
        with pytest.raises(MisuseError, match="works under another event loop, which is running"):
            await processor.submit_and_wait("x")
        with pytest.raises(MisuseError):
            await processor.submit_item("x")
        with pytest.raises(MisuseError):
            await processor.get_result("x")

    await asyncio.to_thread(asyncio.run, elsewhere())
    assert await processor.submit_and_wait("x") == "x"


async def test_a_key_of_another_type_is_nobodys(instances, safe_server, queue):
    """What else lies under the keys of items does no harm but to itself."""
    with redis.Redis(port=safe_server.port) as plain:
        plain.rpush(f"phase4:{{batch:{queue}}}:item:mine", "a list")
        first = await instances(echo)
        assert [one.success for one in await first.submit_many("ab", keys=["mine", "other"])] == [True, True]
        assert await first.get_result("mine", timeout=20) == "a"
        assert await first.get_result("other", timeout=20) == "b"


async def test_in_a_cluster(queue):
    cluster = RedisCluster()
    try:
        cluster.start()
        p = BatchProcessor()
        await p.enable(echo, 10, 0.02, redis_url=cluster.url, queue_name=queue, lease=0.4)
        assert await asyncio.gather(*[p.submit(number) for number in range(50)]) == list(range(50))
        answer = await p.submit_item("x", key="any {key}")
        assert await p.get_result(answer.item_id, timeout=10) == "x"
        assert await p.flush(timeout=10)
        assert await p.disable()
    finally:
        cluster.close()


async def test_a_key_that_redis_cannot_hold_is_named_as_what_is_at_fault(instances):
    processor = await instances(echo)
    with pytest.raises(ValueError, match=r"key = .*lone surrogates"):
        await processor.submit_item(1, key="\ud800x")
    assert (await processor.submit_item(1, key="ключ 1")).success
