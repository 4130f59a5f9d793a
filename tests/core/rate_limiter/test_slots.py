"""Slots in one process: what is in progress is limited, whoever ends it and however."""

import asyncio
import copy
import enum
import gc
import os
import pickle
import random

import pytest
import uvloop

from bot.core.rate_limiter import (
    ConcurrencyLimit,
    ConcurrencyLimitExceeded,
    RateLimitConfig,
    RateLimiter,
    RateLimitExceeded,
)
from bot.core.rate_limiter.slots import MANY_LIMITS
from tests.support.clock import until_idle

TWO = ConcurrencyLimit(2, name="downloads")


@pytest.fixture
async def limiter(clock):
    limiter = RateLimiter(clock=clock)
    await limiter.enable()
    yield limiter
    limiter._slots.check_invariants()
    await limiter.disable()


async def in_flight(limiter, client=1, limit=TWO):
    return (await limiter.slot_status(client, limit)).in_flight


# The limit as a value.


def test_limits_of_the_same_values_are_one():
    assert ConcurrencyLimit(2, name="downloads") is TWO
    assert ConcurrencyLimit(2, "uploads") is not TWO
    for copied in (copy.deepcopy(TWO), pickle.loads(pickle.dumps(TWO))):
        assert copied is TWO
    with pytest.raises(AttributeError, match="cannot be changed"):
        TWO.max_in_flight = 3
    assert repr(TWO) == "ConcurrencyLimit(max_in_flight=2, name='downloads')"


@pytest.mark.parametrize("most", [0, -1, 100_001, True, 1.0, float("nan"), "2", None])
def test_what_is_no_number_of_slots_is_refused(most):
    with pytest.raises(ValueError, match=r"max_in_flight = .*: expected a whole number from 1 to 100,000"):
        ConcurrencyLimit(most)


def test_a_name_is_a_string():
    with pytest.raises(ValueError, match="name = 5"):
        ConcurrencyLimit(1, 5)


# Taking and giving back.


async def test_a_client_has_no_more_slots_than_the_limit_allows(limiter):
    async with limiter.slot(1, TWO), limiter.slot(1, TWO):
        with pytest.raises(RateLimitExceeded, match="downloads reached: 2 of 2 in flight") as refusal:
            async with limiter.slot(1, TWO):
                pytest.fail("a third one")
        async with limiter.slot(2, TWO):
            assert await in_flight(limiter, 2) == 1
    status = refusal.value.status
    assert (status.in_flight, status.max_in_flight, status.waiting, status.degraded) == (2, 2, 0, False)
    assert refusal.value.retry_after == 1.0, "who obeys it does not ask all the time"
    assert pickle.loads(pickle.dumps(refusal.value)).status == status
    assert await in_flight(limiter) == 0


async def test_a_slot_ends_elsewhere_than_where_it_began(limiter):
    slot = await limiter.acquire_slot(1, TWO)
    assert slot.held
    assert await in_flight(limiter) == 1
    slot.release()
    slot.release()
    assert not slot.held
    assert await in_flight(limiter) == 0
    with await limiter.acquire_slot(1, TWO):
        assert await in_flight(limiter) == 1
    assert await in_flight(limiter) == 0


async def test_an_error_in_the_block_gives_the_slot_back(limiter):
    with pytest.raises(KeyError):
        async with limiter.slot(1, TWO):
            raise KeyError
    assert await in_flight(limiter) == 0


async def test_one_object_may_be_entered_by_many_tasks(limiter):
    slots = limiter.slot(1, TWO, timeout=None)
    most = 0

    async def download():
        nonlocal most
        async with slots as slot:
            assert slot.held
            most = max(most, await in_flight(limiter))
            await asyncio.sleep(0)

    await asyncio.gather(*[download() for _ in range(20)])
    assert most == 2
    assert await in_flight(limiter) == 0


async def test_a_slot_that_is_forgotten_is_given_back(limiter):
    slot = await limiter.acquire_slot(1, TWO)
    del slot
    gc.collect()
    await until_idle()
    assert await in_flight(limiter) == 0


async def test_nobody_in_particular_is_one_client(limiter):
    everybody = ConcurrencyLimit(1, "everybody")
    async with limiter.slot(None, everybody):
        with pytest.raises(ConcurrencyLimitExceeded):
            await limiter.acquire_slot(None, everybody)


class Kind(enum.StrEnum):
    USER = "user"


async def test_clients_are_told_apart_as_everywhere(limiter):
    one = ConcurrencyLimit(1)
    a, b = await limiter.acquire_slot(5, one), await limiter.acquire_slot("5", one)
    member = await limiter.acquire_slot(Kind.USER, one)
    with pytest.raises(ConcurrencyLimitExceeded):
        await limiter.acquire_slot("user", one)
    for slot in (a, b, member):
        slot.release()
    for client in (True, 1.0, b"1"):
        with pytest.raises(TypeError, match="client_id = "):
            limiter.slot(client, one)


async def test_the_kinds_of_limits_are_not_confused(limiter):
    for call in (limiter.is_allowed(1, TWO), limiter.acquire(1, TWO)):
        with pytest.raises(TypeError, match=r"slot\(\) and acquire_slot\(\) take a ConcurrencyLimit"):
            await call
    with pytest.raises(TypeError, match="slot"):
        limiter.check(1, TWO)
    for wrong in (RateLimitConfig(), 2, None, "2"):
        with pytest.raises(TypeError, match="expected a ConcurrencyLimit"):
            limiter.slot(1, wrong)
        with pytest.raises(TypeError, match="expected a ConcurrencyLimit"):
            await limiter.acquire_slot(1, wrong)


@pytest.mark.parametrize("timeout", [True, float("nan"), "1"])
async def test_a_timeout_is_a_number(limiter, timeout):
    with pytest.raises(ValueError, match="timeout = "):
        limiter.slot(1, TWO, timeout)


# Waiting.


async def test_callers_get_their_slots_in_order_of_arrival(limiter):
    held = [await limiter.acquire_slot(1, TWO) for _ in range(2)]
    order = []

    async def wait(number):
        async with limiter.slot(1, TWO, timeout=None):
            order.append(number)
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(wait(number)) for number in range(5)]
    await until_idle()
    assert (await limiter.slot_status(1, TWO)).waiting == 5
    with pytest.raises(ConcurrencyLimitExceeded):
        await limiter.acquire_slot(1, TWO)
    for slot in held:
        slot.release()
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4]


async def test_who_waits_too_long_is_refused_and_leaves_nothing(limiter, clock):
    held = [await limiter.acquire_slot(1, TWO) for _ in range(2)]
    task = asyncio.create_task(limiter.acquire_slot(1, TWO, timeout=5))
    await clock.advance(4.9)
    assert not task.done()
    await clock.advance(0.1)
    with pytest.raises(ConcurrencyLimitExceeded):
        await task
    assert await limiter.slot_status(1, TWO) == (2, 2, 0, False)
    for slot in held:
        slot.release()
    assert await in_flight(limiter) == 0


async def test_a_new_caller_does_not_overtake_those_that_wait(limiter):
    first, _other = [await limiter.acquire_slot(1, TWO) for _ in range(2)]
    waiting = asyncio.create_task(limiter.acquire_slot(1, TWO, timeout=None))
    await until_idle()
    first.release()
    with pytest.raises(ConcurrencyLimitExceeded):
        await limiter.acquire_slot(1, TWO)
    assert (await waiting).held


@pytest.mark.parametrize("is_granted_first", [True, False])
async def test_a_caller_that_is_cancelled_passes_its_slot_on(limiter, is_granted_first):
    one = ConcurrencyLimit(1)
    held = await limiter.acquire_slot(1, one)
    first, second = [asyncio.create_task(limiter.acquire_slot(1, one, timeout=None)) for _ in range(2)]
    await until_idle()
    if is_granted_first:
        held.release()  # the slot is the first caller's, which does not know of it yet
    first.cancel()
    held.release()
    assert (await second).held
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await limiter.slot_status(1, one) == (1, 1, 0, False)


async def test_a_slot_that_comes_as_the_time_ends_is_passed_on(limiter, clock):
    one = ConcurrencyLimit(1)
    held = await limiter.acquire_slot(1, one)
    first = asyncio.create_task(limiter.acquire_slot(1, one, timeout=5))
    second = asyncio.create_task(limiter.acquire_slot(1, one, timeout=None))
    await until_idle()
    clock.call_later(5, held.release, asyncio.get_running_loop())  # after the timer of the first
    await clock.advance(5)
    with pytest.raises(ConcurrencyLimitExceeded):
        await first
    assert (await second).held


async def test_cancelled_callers_at_random_leave_no_slot(limiter):
    rng = random.Random(7)
    most = 0
    count = 0

    async def download():
        nonlocal most, count
        async with limiter.slot(1, TWO, timeout=None):
            count += 1
            most = max(most, count)
            try:
                for _ in range(rng.randrange(4)):
                    await asyncio.sleep(0)
            finally:
                count -= 1

    tasks = []
    for _ in range(400):
        tasks.append(asyncio.create_task(download()))
        if rng.random() < 0.5:
            rng.choice(tasks).cancel()
        for _ in range(rng.randrange(3)):
            await asyncio.sleep(0)
        limiter._slots.check_invariants()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert most == 2
    assert await limiter.slot_status(1, TWO) == (0, 2, 0, False)


# On and off, and other event loops.


async def test_while_off_every_slot_is_free(clock, caplog):
    limiter = RateLimiter(clock=clock)
    slots = [await limiter.acquire_slot(1, TWO) for _ in range(5)]
    async with limiter.slot(1, TWO) as slot:
        assert not slot.held
        assert not slot.lost
    assert await limiter.slot_status(1, TWO) == (0, 2, 0, False)
    assert "is used while it is off" in caplog.text
    for slot in slots:
        slot.release()


async def test_switching_off_lets_those_that_wait_go_on(limiter):
    held = [await limiter.acquire_slot(1, TWO) for _ in range(2)]
    waiting = asyncio.create_task(limiter.acquire_slot(1, TWO, timeout=None))
    await until_idle()
    await limiter.disable()
    slot = await waiting
    assert not slot.held
    assert not held[0].held
    await limiter.enable()
    fresh = [await limiter.acquire_slot(1, TWO) for _ in range(2)]
    for old in (*held, slot):
        old.release()  # of the time before: it frees nothing now
    assert await in_flight(limiter) == 2
    assert all(slot.held for slot in fresh)


async def test_configuring_again_keeps_the_slots(limiter):
    slot = await limiter.acquire_slot(1, TWO)
    await limiter.enable(RateLimitConfig(5.0, 5))
    assert slot.held
    assert await in_flight(limiter) == 1


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_slot_may_end_under_another_event_loop(run):
    limiter = RateLimiter()
    kept = []

    async def begin():
        await limiter.enable()
        kept.extend([await limiter.acquire_slot(1, TWO) for _ in range(2)])
        kept.append(asyncio.create_task(limiter.acquire_slot(1, TWO, timeout=None)))
        await asyncio.sleep(0)  # it waits, and is cancelled as the loop ends

    async def end():
        assert await limiter.slot_status(1, TWO) == (2, 2, 0, False)
        kept[0].release()
        kept[1].release()
        assert await limiter.slot_status(1, TWO) == (0, 2, 0, False)
        await limiter.disable()

    run(begin())
    run(end())


def test_who_waited_under_a_loop_that_was_closed_gets_no_slot():
    limiter, one = RateLimiter(), ConcurrencyLimit(1)

    async def begin():
        await limiter.enable()
        return await limiter.acquire_slot(1, one)

    abandoned = asyncio.new_event_loop()
    held = abandoned.run_until_complete(begin())
    task = abandoned.create_task(limiter.acquire_slot(1, one, timeout=None))
    abandoned.run_until_complete(asyncio.sleep(0))
    abandoned.close()

    async def end():
        held.release()
        async with limiter.slot(1, one) as slot:
            assert slot.held
        await limiter.disable()

    asyncio.run(end())
    task._log_destroy_pending = False


def test_a_child_process_has_none_of_its_parents_slots():
    limiter, one = RateLimiter(), ConcurrencyLimit(1)

    async def begin():
        await limiter.enable()
        return await limiter.acquire_slot(1, one)

    held = asyncio.run(begin())
    child = os.fork()
    if not child:
        result = 1
        try:

            async def work():
                async with limiter.slot(1, one) as slot:
                    held.release()
                    return slot.held and (await limiter.slot_status(1, one)).in_flight == 1

            result = 0 if asyncio.run(work()) else 2
        finally:
            os._exit(result)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert held.held


# Figures and memory.


async def test_figures_by_limit(limiter, clock):
    async with limiter.slot(1, TWO), limiter.slot(1, TWO):
        waiting = asyncio.create_task(limiter.acquire_slot(1, TWO, timeout=1))
        with pytest.raises(ConcurrencyLimitExceeded):
            await limiter.acquire_slot(1, ConcurrencyLimit(2, "downloads"))
        await until_idle()
        assert (await limiter.get_statistics())["slots"] == {
            "downloads": {
                "max_in_flight": 2, "in_flight": 2, "waiting": 1, "granted": 2, "refused": 1, "lost": 0,
            }
        }  # fmt: skip
    (await waiting).release()
    async with limiter.slot(1, ConcurrencyLimit(3, "downloads")):
        assert set((await limiter.get_statistics())["slots"]) == {"downloads", "downloads (3 in flight)"}
    await limiter.reset_statistics()
    slots = (await limiter.get_statistics())["slots"]
    assert (slots["downloads"]["granted"], slots["downloads"]["refused"]) == (0, 0)


async def test_nothing_is_kept_of_what_has_ended(limiter):
    for number in range(3 * MANY_LIMITS):
        async with limiter.slot(number, ConcurrencyLimit(1, f"limit {number}")):
            pass
    assert len(limiter._slots._flights) <= MANY_LIMITS
    for client in range(5_000):
        async with limiter.slot(client, TWO):
            pass
    assert limiter._slots._flights[TWO].is_idle
    slots = (await limiter.get_statistics())["slots"]
    assert sum(limit["granted"] for limit in slots.values()) == 3 * MANY_LIMITS + 5_000


async def test_a_limiter_without_slots_has_no_figures_of_them(limiter):
    await limiter.is_allowed(1)
    assert (await limiter.get_statistics())["slots"] == {}
