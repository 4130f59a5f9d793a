"""What a pool does when its sizes and times change."""

from __future__ import annotations

import pytest

from bot.core.connection_pool_manager.models import PoolOptions
from bot.core.connection_pool_manager.pool import TOO_MANY, Close, Open, Pool, Reset, Slot, Verdict, Waiter
from tests.support.pools import START, options, pool_of


def test_a_smaller_pool_has_shrunk_also_when_a_connection_could_not_be_opened():
    pool = Pool(PoolOptions(min_size=0, max_size=2))
    first, second = Waiter(0.0), Waiter(0.0)
    actions = pool.request(first, 0.0) + pool.request(second, 0.0)
    assert [type(action) for action in actions] == [Open, Open]

    pool.reconfigure(PoolOptions(min_size=0, max_size=1), 0.0)
    pool.open_failed(ConnectionError("refused"), 0.0)
    slot = Slot(object(), 1)
    pool.opened(slot, 0.0)
    pool.withdraw(second, 0.0)

    assert first.slot is slot
    assert pool.put(slot, 0.0), "the short way of giving back is open again"
    pool.check_invariants()


def test_a_smaller_pool_closes_what_is_idle_first_and_then_what_comes_back():
    pool = pool_of(4)
    leased = [pool.take(START) for _ in range(3)]
    [idle] = pool.idle
    assert pool.reconfigure(options(max_size=2), START) == [Close(idle, TOO_MANY)]
    assert (pool.shrinks_from, pool.is_strict) == (4, True)
    assert pool.closed(idle, START) == []
    assert pool.is_strict
    assert not pool.put(leased[0], START)
    assert pool.release(leased[0], START, Verdict.CLEAN) == [Close(leased[0], TOO_MANY)]
    pool.closed(leased[0], START)
    assert (pool.shrinks_from, pool.is_strict, pool.total) == (0, False, 2)
    assert pool.put(leased[1], START)
    assert pool.put(leased[2], START)


def test_a_smaller_pool_closes_no_more_than_it_must():
    pool = pool_of(3)
    leased = [pool.take(START) for _ in range(3)]
    pool.reconfigure(options(max_size=2), START)
    assert pool.release(leased[0], START, Verdict.CLEAN) == [Close(leased[0], TOO_MANY)]
    assert pool.release(leased[1], START, Verdict.CLEAN) == [], "with the other one it is one of two"
    assert pool.release(leased[2], START, Verdict.RESET) == [Reset(leased[2])]
    assert pool.was_reset(leased[2], True, START) == []
    assert pool.idle == leased[1:]
    assert pool.closed(leased[0], START) == []
    assert not pool.is_strict
    pool.check_invariants()


def test_what_is_reset_while_an_idle_connection_is_closed_for_it_stays():
    pool = pool_of(3)
    leased = [pool.take(START) for _ in range(2)]
    [idle] = pool.idle
    assert pool.reconfigure(options(max_size=2), START) == [Close(idle, TOO_MANY)]
    assert pool.release(leased[0], START, Verdict.RESET) == [Reset(leased[0])]
    assert pool.was_reset(leased[0], True, START) == []
    assert pool.idle == leased[:1]


@pytest.mark.parametrize("size", [1, 2])
def test_a_shrinking_pool_closes_what_was_reset(size):
    pool = pool_of(3)
    slots = [pool.take(START) for _ in range(3)]
    pool.release(slots[0], START, Verdict.RESET)
    pool.reconfigure(options(max_size=size), START)
    assert pool.was_reset(slots[0], True, START) == [Close(slots[0], TOO_MANY)]


def test_a_shorter_lifetime_counts_from_when_a_connection_was_opened():
    pool = pool_of(3)
    pool.take(START)
    pool.release(pool.take(START), START, Verdict.RESET)
    everything = [*pool.idle, *pool.leased, *pool.proving]
    pool.reconfigure(options(max_lifetime=60.0, validate_after=7.0), START + 1)
    assert [slot.expires_at for slot in everything] == [START + 60] * 3
    pool.reconfigure(options(), START + 1)
    assert [slot.expires_at for slot in everything] == [START + 60] * 3, "never longer"
    pool.reconfigure(options(validate_after=7.0), START + 1)
    assert pool.take(START + 7) is not None


@pytest.mark.parametrize(("size", "left"), [(3, 3), (2, 2), (1, 1)])
def test_a_smaller_pool_keeps_what_fits(size, left):
    pool = pool_of(3)
    actions = pool.reconfigure(options(max_size=size), START)
    assert [action.reason for action in actions] == [TOO_MANY] * (3 - left)
    assert len(pool.idle) == left
    assert not pool.is_strict
