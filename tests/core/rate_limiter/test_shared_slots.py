"""Slots that instances share through a real Redis, and what becomes of them when something dies."""

import asyncio
import contextlib
import itertools
import os
import random
import signal
import struct
import subprocess
import sys
import time

import pytest

from bot.core.rate_limiter import ConcurrencyLimit, ConcurrencyLimitExceeded, RateLimiter
from bot.core.rate_limiter.mirror import slot_channel, slot_key
from bot.core.rate_limiter.shared_slots import BEATS
from bot.core.redis_link import RedisLink
from tests.support.waiting import until

names = itertools.count()
LEASE = 1.0


@pytest.fixture
def limit():
    """A limit of the test's own: the server is shared."""
    return ConcurrencyLimit(3, f"downloads {next(names)} {time.time_ns()}")


@pytest.fixture
async def three(redis_url):
    limiters = [RateLimiter() for _ in range(3)]
    for limiter in limiters:
        await limiter.enable(redis_url=redis_url, slot_lease=LEASE)
    yield limiters
    for limiter in limiters:
        limiter._slots.check_invariants()
        await limiter.disable()
    assert not RedisLink._links


@pytest.fixture
async def own_pair(redis_server):
    """Two instances at a server that the test may kill."""
    limiters = [RateLimiter(), RateLimiter()]
    for limiter in limiters:
        await limiter.enable(redis_url=redis_server.url, slot_lease=LEASE)
    yield limiters
    for limiter in limiters:
        limiter._slots.check_invariants()
        await limiter.disable()
    assert not RedisLink._links


@pytest.fixture
async def raw(redis_url):
    link = RedisLink(redis_url)
    yield link
    await link.close()


async def take(limiter, limit, count, client="u", **arguments):
    return [await limiter.acquire_slot(client, limit, **arguments) for _ in range(count)]


async def keep_for_long(limiters):
    """No renewal comes and no lease ends while the test runs, so neither makes anything good."""
    for limiter in limiters:
        await limiter.enable(slot_lease=300.0)


def status_is(limiter, limit, in_flight, waiting=0, client="u"):
    async def found():
        status = await limiter.slot_status(client, limit)
        return not status.degraded and status[::2] == (in_flight, waiting)

    return found


# What is shared.


async def test_instances_have_their_slots_together(three, limit):
    a, b, c = three
    await keep_for_long(three)
    slots = await take(a, limit, 2) + await take(b, limit, 1)
    for limiter in three:
        with pytest.raises(ConcurrencyLimitExceeded, match="3 of 3 in flight") as refusal:
            await limiter.acquire_slot("u", limit)
        assert (refusal.value.status.degraded, refusal.value.retry_after) == (False, 1.0)
    (other,) = await take(c, limit, 1, client="another")
    slots[0].release()
    await until(status_is(a, limit, 2))  # nobody waits for it to be sent
    slots += await take(c, limit, 1)
    assert await a.slot_status("u", limit) == (3, 3, 0, False)
    assert not any(slot.lost for slot in slots)
    for slot in (*slots, other):
        slot.release()
    await until(status_is(a, limit, 0))


async def test_each_call_is_one_round_trip(three, limit):
    a = three[0]
    slots = await asyncio.gather(*[a.acquire_slot(client, limit) for client in range(30)])
    script = a._slots._shared._script
    assert (script.calls, script.batches) == (30, 1)
    for slot in slots:
        slot.release()
    await script.drain()
    assert (script.calls, script.batches) == (60, 2)


async def test_callers_of_all_instances_wait_in_one_line(three, limit):
    held = await take(three[0], limit, 3)
    order = []

    async def wait(number):
        slot = await three[number % 3].acquire_slot("u", limit, timeout=None)
        order.append(number)
        return slot

    tasks = []
    for number in range(6):
        tasks.append(asyncio.create_task(wait(number)))
        await until(status_is(three[0], limit, 3, waiting=number + 1))
    with pytest.raises(ConcurrencyLimitExceeded):
        await three[1].acquire_slot("u", limit)
    for number in range(6):
        held.pop(0).release()
        held.append(await tasks[number])
    assert order == list(range(6))
    for slot in held:
        slot.release()


async def test_a_slot_is_handed_over_by_a_message_and_not_by_polling(three, limit):
    a, b, _ = three
    await keep_for_long(three)
    held = await take(a, limit, 3)
    waiting = asyncio.create_task(b.acquire_slot("u", limit, timeout=None))
    await until(status_is(a, limit, 3, waiting=1))
    shared = b._slots._shared

    async def listening():
        return shared._subscription.standing

    await until(listening)
    held.pop().release()
    async with asyncio.timeout(8):
        slot = await waiting
    for each in (slot, *held):
        each.release()


async def test_a_caller_that_is_called_before_it_waits_gets_its_slot(three, limit, monkeypatch):
    a, b, _ = three
    await keep_for_long(three)
    held = await take(a, limit, 3)
    (await take(b, limit, 1, client="another"))[0].release()
    shared = b._slots._shared
    shared._listen()
    await until(lambda: asyncio.sleep(0, shared._subscription.standing))
    call = shared._script.call

    def slow(*arguments):
        return asyncio.ensure_future(answered_late(*arguments))

    async def answered_late(*arguments):
        answer = await call(*arguments)
        monkeypatch.setattr(shared._script, "call", call)
        held.pop().release()  # the message arrives before the answer that it waits
        await until(status_is(a, limit, 3))
        (name,) = shared._holds
        shared._called(name)
        return answer

    monkeypatch.setattr(shared._script, "call", slow)
    async with asyncio.timeout(8):
        slot = await b.acquire_slot("u", limit, timeout=None)
    for each in (slot, *held):
        each.release()


async def test_a_lost_message_costs_a_renewal_at_most(three, limit, monkeypatch):
    a, b, _ = three
    held = await take(a, limit, 3)
    waiting = asyncio.create_task(b.acquire_slot("u", limit, timeout=None))
    await until(status_is(a, limit, 3, waiting=1))
    monkeypatch.setattr(b._slots._shared, "_called", lambda name: None)
    b._slots._shared._subscription._on_message = lambda name: None
    held.pop().release()
    async with asyncio.timeout(LEASE * 8):
        slot = await waiting
    for each in (slot, *held):
        each.release()


async def test_who_waits_too_long_leaves_the_line(three, limit):
    a, b, _ = three
    held = await take(a, limit, 3)
    with pytest.raises(ConcurrencyLimitExceeded):
        await b.acquire_slot("u", limit, timeout=0.05)
    await until(status_is(a, limit, 3, waiting=0))
    for slot in held:
        slot.release()
    await until(status_is(b, limit, 0))


async def test_never_above_the_limit_and_nothing_left_behind(three, limit):
    """A hundred tasks in three instances, some of which are cancelled at any moment."""
    rng = random.Random(11)
    count = most = served = 0
    await keep_for_long(three)

    async def download(limiter):
        nonlocal count, most, served
        async with limiter.slot("u", limit, timeout=None):
            count += 1
            most = max(most, count)
            try:
                await asyncio.sleep(rng.random() * 0.01)
                served += 1
            finally:
                count -= 1

    tasks = [asyncio.create_task(download(three[number % 3])) for number in range(100)]
    for task in rng.sample(tasks, 30):
        await asyncio.sleep(rng.random() * 0.01)
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    cancelled = sum(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    assert most == 3
    assert served + cancelled >= 100
    assert {type(outcome) for outcome in outcomes} <= {type(None), asyncio.CancelledError}
    await until(status_is(three[0], limit, 0))


@pytest.mark.parametrize("turns", range(12))
async def test_cancelled_after_any_number_of_turns_it_leaves_no_slot(three, limit, turns):
    a, b, _ = three
    await keep_for_long(three)
    (first,) = await take(a, limit, 1)
    task = asyncio.create_task(a.acquire_slot("u", limit, timeout=None))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    outcome = (await asyncio.gather(task, return_exceptions=True))[0]
    if not isinstance(outcome, asyncio.CancelledError):
        outcome.release()
    await until(status_is(b, limit, 1))
    first.release()
    await until(status_is(b, limit, 0))


async def test_switching_off_gives_all_back(three, limit):
    a, b, _ = three
    slots = await take(a, limit, 3)
    waiting = asyncio.create_task(a.acquire_slot("u", limit, timeout=None))
    await until(status_is(b, limit, 3, waiting=1))
    await a.disable()
    assert not (await waiting).held
    assert not any(slot.held or slot.lost for slot in slots)
    assert await b.slot_status("u", limit) == (0, 3, 0, False)


async def test_no_task_without_a_slot(three, limit):
    a = three[0]
    assert a._slots._shared is None
    with pytest.raises(ConcurrencyLimitExceeded):
        async with a.slot("u", limit), a.slot("u", limit), a.slot("u", limit), a.slot("u", limit):
            pass

    async def ended():
        return a._slots._shared._beating.done()

    await until(ended)


def test_a_slot_goes_on_under_the_next_event_loop(redis_url, limit):
    limiter = RateLimiter()
    kept = []

    async def begin():
        await limiter.enable(redis_url=redis_url, slot_lease=LEASE)
        kept.extend(await take(limiter, limit, 2))

    async def go_on():
        await until(status_is(limiter, limit, 2))
        hold = kept[0]._hold
        before = hold.renewed

        async def renewed():
            return hold.renewed > before

        await until(renewed)
        kept[0].release()
        await until(status_is(limiter, limit, 1))

    async def end():
        await limiter.disable()
        other = RateLimiter()
        await other.enable(redis_url=redis_url)
        assert (await other.slot_status("u", limit)).in_flight == 0
        await other.disable()

    asyncio.run(begin())
    asyncio.run(go_on())
    asyncio.run(end())


# Processes that die.


@pytest.fixture
def start_worker():
    workers = []

    def start(url, count, most=4, lease=LEASE):
        command = [sys.executable, "-m", "tests.support.slot_worker", url, str(lease), str(most), str(count)]
        worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        workers.append(worker)
        return worker

    yield start
    for worker in workers:
        worker.kill()
        worker.communicate()


def says(worker):
    return asyncio.to_thread(worker.stdout.readline)


async def test_slots_of_killed_processes_are_free_when_their_leases_end(redis_server, start_worker):
    limiter, limit = RateLimiter(), ConcurrencyLimit(4, "downloads")
    await limiter.enable(redis_url=redis_server.url, slot_lease=LEASE)
    workers = [start_worker(redis_server.url, 2) for _ in range(2)]
    for worker in workers:
        assert await says(worker) == "held\n"
    with pytest.raises(ConcurrencyLimitExceeded, match="4 of 4 in flight"):
        await limiter.acquire_slot("mirror", limit)
    await asyncio.sleep(LEASE * 1.5)
    assert await limiter.slot_status("mirror", limit) == (4, 4, 0, False), "renewed while they live"
    for worker in workers:
        worker.kill()
    # Who waits has one when the leases have ended, and the next renewal has come.
    slots = await asyncio.gather(*[limiter.acquire_slot("mirror", limit, timeout=30) for _ in range(4)])
    assert all(slot.held for slot in slots)
    assert await limiter.slot_status("mirror", limit) == (4, 4, 0, False)
    await limiter.disable()


async def test_a_process_that_was_frozen_is_told_that_its_slots_are_lost(redis_server, start_worker):
    limiter, limit = RateLimiter(), ConcurrencyLimit(4, "downloads")
    await limiter.enable(redis_url=redis_server.url, slot_lease=LEASE)
    worker = start_worker(redis_server.url, 4)
    assert await says(worker) == "held\n"
    worker.send_signal(signal.SIGSTOP)
    slots = await take(limiter, limit, 4, client="mirror", timeout=30)
    worker.send_signal(signal.SIGCONT)
    worker.stdin.write("\n")
    worker.stdin.flush()
    assert await says(worker) == "4\n"
    # They are in progress, so they count: nobody else begins before there is room for all.
    await until(status_is(limiter, limit, 8, client="mirror"))
    for slot in slots:
        slot.release()
    await until(status_is(limiter, limit, 4, client="mirror"))
    with pytest.raises(ConcurrencyLimitExceeded):
        await limiter.acquire_slot("mirror", limit)
    await limiter.disable()


# Redis that goes and comes back.


async def test_while_redis_is_away_each_instance_limits_and_then_all_is_registered(
    own_pair, redis_server, limit, caplog
):
    a, b = own_pair
    slots = await take(a, limit, 2)
    redis_server.kill()
    slots += await take(a, limit, 1)
    with pytest.raises(ConcurrencyLimitExceeded) as refusal:
        await a.acquire_slot("u", limit)
    assert refusal.value.status == (3, 3, 0, True)
    others = await take(b, limit, 2)
    waiting = asyncio.create_task(a.acquire_slot("u", limit, timeout=None))
    await asyncio.sleep(0)
    slots.pop().release()
    slots.append(await waiting)  # passed on in this process
    redis_server.start()
    await until(status_is(a, limit, 5))
    with pytest.raises(ConcurrencyLimitExceeded, match="5 of 3 in flight"):
        await b.acquire_slot("u", limit)
    for slot in (*slots, *others):
        slot.release()
    await until(status_is(b, limit, 0))
    assert (await a.acquire_slot("u", limit)).held
    assert caplog.text.count("cannot be reached") <= 2, "each limiter's link says it once"


async def test_who_waits_goes_on_waiting_over_an_outage(own_pair, redis_server, limit):
    a, b = own_pair
    held = await take(a, limit, 3)
    waiting = [asyncio.create_task(limiter.acquire_slot("u", limit, timeout=None)) for limiter in own_pair]
    await until(status_is(a, limit, 3, waiting=2))
    redis_server.kill()
    # The instance that has no slot knows of none: its caller goes on.
    async with asyncio.timeout(20):
        second = await waiting[1]
    assert not waiting[0].done()
    redis_server.start()
    await until(status_is(b, limit, 4, waiting=1))
    for slot in held:
        slot.release()
    async with asyncio.timeout(20):
        first = await waiting[0]
    for slot in (first, second):
        assert not slot.lost
        slot.release()
    await until(status_is(b, limit, 0))


async def test_a_slot_is_lost_while_redis_is_away_for_longer_than_its_lease(own_pair, redis_server, limit):
    a, _ = own_pair
    (slot,) = await take(a, limit, 1)
    redis_server.kill()
    (alone,) = await take(a, limit, 1)

    async def lost():
        return slot.lost

    await until(lost)
    assert slot.held
    assert not alone.lost, "it never had a lease"

    async def counted():
        return (await a.get_statistics())["slots"][limit.name]["lost"] == 1

    await until(counted)
    redis_server.start()

    async def kept():
        return not slot.lost

    await until(kept)  # nobody took its place
    await until(status_is(a, limit, 2))
    slot.release()
    alone.release()


async def test_a_frozen_redis_holds_nobody_up_for_long(own_pair, redis_server, limit):
    a, _ = own_pair
    slots = await take(a, limit, 1)
    redis_server.freeze()
    async with asyncio.timeout(20):
        slots += await take(a, limit, 2)
    redis_server.thaw()
    await until(status_is(a, limit, 3))
    for slot in slots:
        slot.release()
    await until(status_is(a, limit, 0))


async def test_a_redis_that_lost_its_memory_hears_of_all_again(own_pair, redis_server, limit):
    a, b = own_pair
    slots = await take(a, limit, 2)
    waiting = asyncio.create_task(take(b, limit, 2, timeout=None))
    await until(status_is(a, limit, 3, waiting=1))
    await asyncio.to_thread(redis_server.execute, "FLUSHALL")
    await until(status_is(a, limit, 3, waiting=1))
    slots.pop().release()
    slots += await waiting
    await until(status_is(a, limit, 3))
    for slot in slots:
        slot.release()


# What stands in Redis.


@pytest.mark.parametrize(
    "command",
    [("SET", "x"), ("HSET", "a", "1"), ("RPUSH", "a"), ("ZADD", "1e300", "far"), ("ZADD", "inf", "for ever")],
)
@pytest.mark.parametrize("suffix", [b"", b":w", b":x"])
async def test_what_is_not_ours_is_as_if_it_were_not_there(three, raw, limit, command, suffix):
    a, b, _ = three
    await raw.execute(command[0], slot_key(limit.limit_id, "u") + suffix, *command[1:])
    slots = await take(a, limit, 3)
    waiting = asyncio.create_task(b.acquire_slot("u", limit, timeout=None))
    await until(status_is(a, limit, 3, waiting=1))
    slots.pop().release()
    slots.append(await waiting)
    for slot in slots:
        slot.release()


async def test_keys_end_by_themselves(three, raw, limit):
    slots = await take(three[0], limit, 1)
    assert 0 < await raw.execute("PTTL", slot_key(limit.limit_id, "u")) <= 300_000
    slots[0].release()
    await until(status_is(three[0], limit, 0))
    assert not await raw.execute("EXISTS", slot_key(limit.limit_id, "u"))


@pytest.mark.parametrize(
    "answer",
    [b"", b"x", 5, None, [1], struct.pack("<3d", 7, 0, 0), struct.pack("<3d", float("nan"), 0, 0),
     struct.pack("<3d", 1, float("inf"), 0), struct.pack("<3d", 1, -1, 0), struct.pack("<6d", *[1] * 6)],
)  # fmt: skip
async def test_nonsense_from_redis_lets_this_process_decide(three, limit, answer, monkeypatch):
    a = three[0]
    first = await take(a, limit, 1)
    script = a._slots._shared._script
    decode = script._decode
    monkeypatch.setattr(script, "_decode", lambda _, calls: decode(answer, calls))
    slots = await take(a, limit, 2)
    with pytest.raises(ConcurrencyLimitExceeded) as refusal:
        await a.acquire_slot("u", limit)
    assert refusal.value.status.degraded
    for slot in (*first, *slots):
        slot.release()


async def test_messages_of_strangers_wake_nobody(three, raw, limit):
    a, b, _ = three
    held = await take(a, limit, 3)
    waiting = asyncio.create_task(b.acquire_slot("u", limit, timeout=None))
    await until(status_is(a, limit, 3, waiting=1))
    shared = b._slots._shared
    await until(lambda: asyncio.sleep(0, shared._subscription.standing))
    for message in (b"", b"x" * 1000, b"\xff", *shared._holds):
        await raw.execute("PUBLISH", slot_channel(shared._instance), message)
    await asyncio.sleep(LEASE / BEATS)
    assert not waiting.done()
    for slot in held:
        slot.release()
    (await waiting).release()


@pytest.mark.parametrize("client", [None, "", "{", "}{", "a" * 1000, "\ud800", 10**600, "имя", "a:w"])
async def test_any_name_of_a_client(three, limit, client):
    a, b, _ = three
    slots = await take(a, limit, 3, client=client)
    with pytest.raises(ConcurrencyLimitExceeded):
        await b.acquire_slot(client, limit)
    waiting = asyncio.create_task(b.acquire_slot(client, limit, timeout=None))
    await until(status_is(a, limit, 3, waiting=1, client=client))
    slots.pop().release()
    for slot in (*slots, await waiting):
        slot.release()
    await until(status_is(a, limit, 0, client=client))


def test_a_child_process_renews_nothing_of_its_parents(redis_url, limit):
    limiter = RateLimiter()
    kept = []

    async def begin():
        await limiter.enable(redis_url=redis_url, slot_lease=LEASE)
        kept.extend(await take(limiter, limit, 2))

    asyncio.run(begin())
    read, write = os.pipe()
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):

            async def work():
                await limiter.is_allowed("u")  # the link, and all that lives on it, starts again here
                mine = await limiter.acquire_slot("u", limit)
                for slot in kept:
                    slot.release()  # the parent's: nothing happens
                os.write(write, b"1" if mine.held and not any(slot.held for slot in kept) else b"0")
                await asyncio.sleep(60)

            asyncio.run(work())
        os._exit(1)

    async def go_on():
        assert await asyncio.to_thread(os.read, read, 1) == b"1"
        await until(status_is(limiter, limit, 3))
        for slot in kept:
            slot.release()
        await until(status_is(limiter, limit, 1))
        await asyncio.sleep(LEASE)  # two renewals of the child, and more
        assert await limiter.slot_status("u", limit) == (1, 3, 0, False)
        os.kill(child, signal.SIGKILL)
        await until(status_is(limiter, limit, 0))
        await limiter.disable()

    try:
        asyncio.run(go_on())
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(read)
        os.close(write)
