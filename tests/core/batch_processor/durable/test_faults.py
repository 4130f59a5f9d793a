"""Processes and servers that are killed: nothing is lost."""

import asyncio
import contextlib
import itertools
import logging
import signal

import pytest
import redis

from bot.core.batch_processor import (
    BatchClosedError,
    BatchProcessor,
    DeadLetteredError,
)
from bot.core.redis_link import RedisUnavailableError
from tests.core.batch_processor.durable.helpers import SAFE, echo, length, until
from tests.support.servers import RedisServer, running

pytestmark = pytest.mark.server

names = (f"queue-{number}" for number in itertools.count())


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


REFUSALS = {
    "no replica": ("CONFIG", "SET", "min-replicas-to-write", "1"),
    "no primary": ("REPLICAOF", "127.0.0.1", "1"),
    "another type": (
        "EVAL",
        "for _, key in ipairs(redis.call('KEYS', '*')) do redis.call('SET', key, 'x') end",
        "0",
    ),
}


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_stop_while_redis_refuses_results_does_not_take_the_whole_drain_time(queue, refusal, caplog):
    with running(RedisServer(extra=SAFE)) as server:
        handled = 0

        async def handle(items):
            nonlocal handled
            handled += len(items)
            server.execute(*REFUSALS[refusal])
            return [1] * len(items)

        worker = BatchProcessor()
        await worker.enable(
            handle, batch_timeout=0.01, drain_timeout=3_000, redis_url=server.url, queue_name=queue
        )
        await worker.submit_item("x")
        await until(lambda: handled)
        async with asyncio.timeout(60):  # far from the drain time
            assert await worker.disable()
        assert handled == 1
    assert caplog.text.count("could not be returned to Redis") == 1, "the log says what was given up"


async def test_retries_that_no_handler_can_take_do_not_hold_a_stop(queue):
    """One place for batches, taken by one whose result Redis cannot hear; another waits for it."""
    with running(RedisServer(extra=SAFE)) as server:
        handled = []

        async def handle(items):
            handled.append([item.data for item in items])
            if len(handled) == 1:
                raise ValueError("at the second try")
            server.kill()
            return [1] * len(items)

        worker = BatchProcessor()
        await worker.enable(
            handle, max_batch_size=1, batch_timeout=0.01, max_concurrent=1, retry_base=0.3, retry_max=0.3,
            drain_timeout=3_000, redis_url=server.url, queue_name=queue,
        )  # fmt: skip
        await worker.submit_many(["fails", "is done"])
        await until(lambda: len(handled) == 2)
        async with asyncio.timeout(60):
            assert await worker.disable()
        assert len(handled) == 2
