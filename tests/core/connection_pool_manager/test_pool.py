"""Single decisions of a pool; histories of them are in tests/properties/test_connection_pool.py."""

from __future__ import annotations

import pytest

from bot.core.connection_pool_manager.pool import (
    BROKEN,
    DISCARDED,
    FAILURE_MEMORY,
    IDLE,
    LIFETIME,
    LOGIN_RETRY_BASE,
    LOGIN_RETRY_CAP,
    OPEN_LIMIT,
    POOL_CLOSED,
    RETRY_CAP,
    TOO_MANY,
    Check,
    Close,
    Grant,
    Leak,
    Open,
    Pool,
    Refuse,
    Reset,
    Returned,
    Verdict,
    Waiter,
)
from tests.support.pools import LIVES, START, Longest, connection, options, pool_of


def figures(pool: Pool) -> dict[str, int]:
    """The counters that are not 0."""
    return {name: value for name, value in vars(pool.counters).items() if name != "waits" and value}


# Taking.


@pytest.mark.parametrize("way", ["take", "take_at_once"])
def test_a_connection_is_leased_and_counted(way):
    pool = pool_of(2)
    slot, other = getattr(pool, way)(START), getattr(pool, way)(START + 0.1)
    assert (slot.leased_at, slot.use_count, other.leased_at) == (START, 2, START + 0.1)
    assert figures(pool) == {"acquired": 2, "peak_active": 2}
    pool.put(slot, START + 0.2)
    assert getattr(pool, way)(START + 0.2) is slot, "the one used last"
    assert figures(pool) == {"acquired": 3, "released": 1, "peak_active": 2}
    pool.check_invariants()


@pytest.mark.parametrize(
    ("now", "way", "leased"),
    [
        (START + 0.5, "take", True),
        (START + 0.6, "take", False),  # it needs a ping
        (START + 0.6, "take_at_once", True),
        (START + LIVES - 1, "take_at_once", True),
        (START + LIVES, "take_at_once", False),
    ],
)
def test_when_an_idle_connection_may_be_leased(now, way, leased):
    assert (getattr(pool_of(1), way)(now) is not None) == leased


def test_a_lifetime_ends_to_the_second():
    pool = pool_of(1, validate_after=LIVES * 2)
    assert pool.take(START + LIVES) is None
    assert pool.take(START + LIVES - 0.001) is not None


@pytest.mark.parametrize("way", ["take", "take_at_once"])
def test_nothing_is_taken_past_those_who_wait_nor_if_it_is_lost(way):
    pool = pool_of(1)
    pool.idle[0].raw.is_open = False
    assert getattr(pool, way)(START) is None
    pool.idle[0].raw.is_open = True
    pool.waiters[Waiter(START)] = None
    assert getattr(pool, way)(START) is None
    assert pool.counters.timed_out == (2 if way == "take_at_once" else 0)


def test_who_does_not_wait_gets_the_next_that_will_do():
    pool = pool_of(4)
    first, second, third, fourth = pool.idle
    fourth.raw.is_open = False
    third.suspect = True
    assert pool.take_at_once(START) is second
    assert pool.idle == [first, third, fourth]
    assert pool.take_at_once(START) is first
    assert pool.take_at_once(START) is None
    pool.close(START)
    assert pool.take_at_once(START) is None
    assert figures(pool) == {"acquired": 2, "peak_active": 2, "timed_out": 2}


def test_what_a_waiter_gets_is_counted_with_its_wait():
    pool = pool_of(1)
    waiter = Waiter(START - 2.0)
    [grant] = pool.request(waiter, START)
    slot = waiter.slot
    assert grant == Grant(waiter, slot)
    assert (slot.leased_at, slot.use_count) == (START, 2)
    assert figures(pool) == {"acquired": 1, "peak_active": 1}
    assert pool.counters.waits.mean() == 2.0


def test_an_idle_connection_is_checked_before_it_is_granted_once_for_each_waiter():
    pool = pool_of(3)
    first, second, third = pool.idle
    now = START + 1
    assert pool.request(Waiter(now), now) == [Check(third)]
    assert pool.request(Waiter(now), now) == [Check(second)]
    assert (pool.idle, pool.proving) == ([first], {second, third})
    assert [type(action) for action in pool.checked(third, True, now)] == [Grant]
    assert (pool.idle, pool.proving, third.proved_at) == ([first], {second}, now)
    assert figures(pool) == {"acquired": 1, "checks": 1, "peak_active": 1}


def test_what_is_past_its_lifetime_or_lost_is_closed_when_somebody_waits():
    pool = pool_of(3)
    first, second, third = pool.idle
    third.expires_at = START + 1
    second.raw.is_open = False
    waiter = Waiter(START + 1)
    first.proved_at = START + 1
    assert pool.request(waiter, START + 1) == [
        Close(third, LIFETIME),
        Close(second, BROKEN),
        Grant(waiter, first),
    ]
    assert pool.closing == {second, third}


def test_a_closed_pool_refuses():
    pool = pool_of(1)
    slot, waiter, late = pool.take(START), Waiter(START), Waiter(START)
    pool.options = options(max_size=1)
    assert pool.request(waiter, START) == []
    assert pool.close(START) == [Refuse(waiter)]
    assert pool.request(late, START) == [Refuse(late)]
    assert not pool.waiters
    assert not pool.put(slot, START)
    assert pool.release(slot, START, Verdict.CLEAN) == [Close(slot, POOL_CLOSED)]
    assert pool.closed(slot, START) == []
    assert (pool.total, pool.counters.closed, pool.is_strict) == (0, 1, True)


def test_a_pool_that_is_closed_during_a_reset_or_a_check_keeps_no_connection():
    pool = pool_of(2)
    checked, reset = pool.idle
    assert pool.probe(START) == [Check(checked)]
    assert pool.release(pool.take(START), START, Verdict.RESET) == [Reset(reset)]
    pool.close(START)
    assert pool.was_reset(reset, True, START) == [Close(reset, POOL_CLOSED)]
    assert pool.checked(checked, True, START) == [Close(checked, POOL_CLOSED)]
    assert pool.probe(START) == []


# Giving back.


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (Verdict.DISCARD, lambda slot: Close(slot, DISCARDED)),
        (Verdict.BROKEN, lambda slot: Close(slot, BROKEN)),
        (Verdict.RESET, Reset),
        (Verdict.CLEAN, None),
    ],
)
def test_what_becomes_of_a_connection_when_its_lease_ends(verdict, expected):
    pool = pool_of(1)
    slot = pool.take(START)
    actions = pool.release(slot, START + 1, verdict)
    assert actions == ([expected(slot)] if expected else [])
    assert slot not in pool.leased
    assert (slot in pool.closing) == (verdict in (Verdict.DISCARD, Verdict.BROKEN))
    assert (slot in pool.proving) == (verdict is Verdict.RESET)
    assert (slot in pool.idle) == (verdict is Verdict.CLEAN)
    assert (slot.idle_since, slot.proved_at) == (START + 1, START + 1)
    assert pool.counters.resets == (verdict is Verdict.RESET)
    assert pool.counters.released == 1
    pool.check_invariants()
    with pytest.raises(KeyError):
        pool.release(slot, START + 1, verdict)


def test_a_discarded_connection_makes_room_once_it_is_closed():
    pool = pool_of(1, max_size=1)
    slot, waiter = pool.take(START), Waiter(START)
    assert pool.request(waiter, START) == []
    assert pool.release(slot, START, Verdict.DISCARD) == [Close(slot, DISCARDED)]
    assert pool.closed(slot, START) == [Open(0.0)]
    assert figures(pool) == {
        "acquired": 1, "released": 1, "closed": 1, "peak_active": 1, "peak_connections": 1
    }  # fmt: skip


def test_a_reset_connection_comes_back_or_is_closed():
    pool = pool_of(2)
    good, bad = pool.take(START), pool.take(START)
    for slot in (good, bad):
        pool.release(slot, START, Verdict.RESET)
    assert pool.was_reset(good, True, START + 1) == []
    assert (pool.idle, good.proved_at) == ([good], START + 1)
    assert pool.was_reset(bad, False, START + 1) == [Close(bad, BROKEN)]
    assert pool.total == 2


def test_a_lease_may_outlive_its_connection():
    pool = pool_of(1)
    slot = pool.take(START)
    end = START + LIVES
    assert not pool.put(slot, end)
    assert pool.hand_over(slot, end) is None
    assert pool.release(slot, end, Verdict.CLEAN) == [Close(slot, LIFETIME)]
    pool = pool_of(1)
    slot = pool.take(START)
    assert pool.put(slot, end - 0.001)
    assert (pool.counters.released, slot.idle_since, slot.proved_at) == (1, end - 0.001, end - 0.001)


def test_a_connection_is_handed_over_to_who_has_waited_longest():
    pool = pool_of(1, max_size=1)
    slot = pool.take(START)
    assert pool.hand_over(slot, START) is None, "nobody waits"
    first, second = Waiter(START), Waiter(START)
    pool.request(first, START)
    pool.request(second, START)
    assert not pool.put(slot, START + 3), "somebody waits"
    assert pool.hand_over(slot, START + 3) is first
    assert (first.slot, slot.leased_at, slot.proved_at, slot.use_count) == (slot, START + 3, START + 3, 3)
    assert figures(pool) == {"acquired": 2, "released": 1, "peak_active": 1}
    assert pool.counters.waits.mean() == 3.0
    slot.reported = True
    assert pool.hand_over(slot, START + 3) is None


@pytest.mark.parametrize("why", ["lifetime", "shrinking", "reported"])
def test_what_must_not_be_leased_again_is_not_handed_over(why):
    pool = pool_of(1, max_size=1)
    slot = pool.take(START)
    pool.request(Waiter(START), START)
    slot.reported = why == "reported"
    pool.is_strict = why == "shrinking"
    now = START + LIVES if why == "lifetime" else START
    assert pool.hand_over(slot, now) is None
    assert not pool.put(slot, now)
    assert (len(pool.waiters), pool.leased) == (1, {slot})
    slot.reported = pool.is_strict = False
    assert pool.hand_over(slot, START + LIVES - 0.001) is not None


def test_who_gives_up_is_counted_and_gives_back_what_it_was_granted():
    pool = pool_of(1)
    granted, waiting = Waiter(START), Waiter(START)
    pool.request(granted, START)
    pool.options = options(max_size=1)
    pool.request(waiting, START)
    assert pool.withdraw(waiting, START) == []
    assert not pool.waiters
    slot = granted.slot
    assert pool.withdraw(granted, START + 1, cancelled=True) == []
    assert (granted.slot, pool.idle, slot.idle_since) == (None, [slot], START + 1)
    assert (pool.counters.timed_out, pool.counters.cancelled) == (1, 1)


# Opening.


def test_so_many_are_opened_at_once_and_at_most():
    pool = pool_of(0, max_size=20)
    actions = [action for number in range(30) for action in pool.request(Waiter(START), START)]
    assert actions == [Open(0.0)] * OPEN_LIMIT
    assert (pool.opening, pool.counters.peak_connections) == (8, 8)
    assert sum(isinstance(action, Open) for action in pool.opened(connection(), START)) == 1
    assert (pool.counters.opened, pool.counters.peak_connections) == (1, 9)


def test_a_pool_fills_to_its_minimum():
    pool = pool_of(0, min_size=3)
    assert pool.tick(START) == [Open(0.0)] * 3
    for number in range(3):
        assert pool.opened(connection(number), START) == []
    assert len(pool.idle) == 3
    slot = pool.take(START)
    assert pool.tick(START) == [], "what is leased counts"
    pool.release(slot, START, Verdict.RESET)
    assert pool.tick(START) == [], "and what is being reset"
    assert pool.was_reset(slot, False, START) == [Close(slot, BROKEN), Open(0.0)]


@pytest.mark.parametrize(("at", "seconds"), [(0.0, LIVES), (1.0, LIVES * 0.9)])
def test_a_lifetime_is_shortened_by_a_tenth_at_most(at, seconds):
    pool = pool_of(1, rng=Longest(at))
    assert pool.idle[0].expires_at == pytest.approx(START + seconds)
    assert pool.idle[0].opened_at == START


def test_after_a_failure_one_attempt_at_a_time_is_made_and_each_a_little_later():
    pool = pool_of(0, rng=Longest())
    for _ in range(3):
        pool.request(Waiter(START), START)
    error = ConnectionError("refused")
    assert pool.open_failed(error, START) == []
    assert pool.open_failed(error, START) == []
    delays = [pool.open_failed(error, START)]
    assert (pool.failures, pool.last_error, pool.failed_at, pool.opening) == (3, error, START, 1)
    delays += [pool.open_failed(error, START) for _ in range(4)]
    assert delays == [[Open(seconds)] for seconds in (0.2, 0.4, 0.8, 1.0, 1.0)]
    assert figures(pool) == {"open_failures": 7, "peak_connections": 3}
    assert pool.open_failed(None, START) == [Open(1.0)], "given up: no failure"
    assert (pool.failures, pool.last_error) == (7, error)
    assert [type(action) for action in pool.opened(connection(), START)] == [Grant, Open, Open]
    assert (pool.failures, pool.last_error, pool.login_refused) == (0, None, False)


@pytest.mark.parametrize(("at", "spread"), [(0.0, 1.0), (1.0, 1.2)])
def test_a_login_that_was_refused_is_tried_again_rarely(at, spread):
    pool = pool_of(0, rng=Longest(at), max_size=1)
    pool.request(Waiter(START), START)
    error = PermissionError("no")
    delays = [pool.open_failed(error, START, login_refused=True)[0].delay for _ in range(12)]
    longest = LOGIN_RETRY_CAP / 1.2 * spread
    assert delays[:3] == [pytest.approx(LOGIN_RETRY_BASE * times * spread) for times in (1, 2, 4)]
    assert delays[3:] == [pytest.approx(longest)] * 9
    assert pool.login_refused
    assert pool.open_failed(ConnectionError(), START)[0].delay <= RETRY_CAP
    assert not pool.login_refused


def test_an_old_error_does_not_stay():
    pool = pool_of(1)
    pool.take(START)
    pool.request(Waiter(START), START)
    pool.withdraw(next(iter(pool.waiters)), START)
    pool.open_failed(PermissionError("no"), START, login_refused=True)
    pool.tick(START + FAILURE_MEMORY)
    assert (pool.failures, str(pool.last_error), pool.login_refused) == (1, "no", True)
    pool.opening = 1
    pool.tick(START + FAILURE_MEMORY + 0.1)
    assert pool.failures == 1, "an attempt is under way"
    pool.opening = 0
    pool.tick(START + FAILURE_MEMORY + 0.1)
    assert (pool.failures, pool.last_error, pool.login_refused) == (0, None, False)


def test_a_connection_that_comes_too_late_is_closed():
    pool = pool_of(0, max_size=2)
    pool.request(Waiter(START), START)
    pool.close(START)
    slot = connection()
    assert pool.opened(slot, START) == [Close(slot, POOL_CLOSED)]
    assert pool.closing == {slot}
    pool = pool_of(0, max_size=2)
    for _ in range(2):
        pool.request(Waiter(START), START)
    pool.reconfigure(options(max_size=1), START)
    assert pool.opened(slot, START) == [Close(slot, TOO_MANY)]


def test_a_pool_serves_while_its_connections_work():
    pool = pool_of(2)
    assert pool.is_serving(START)
    leased, idle = pool.take(START), pool.idle[0]
    pool.failures, pool.failed_at = 1, START + RETRY_CAP
    assert not pool.is_serving(START), "none was seen to work since the failure"
    leased.proved_at = START + 0.1
    assert pool.is_serving(START)
    leased.raw.is_open = False
    assert not pool.is_serving(START)
    idle.proved_at = START + 0.1
    assert pool.is_serving(START)
    pool.demoted_since = START
    assert not pool.is_serving(START)
    pool.demoted_since = None
    pool.close(START)
    assert not pool.is_serving(START)


# Checking.


def test_what_was_idle_as_long_as_a_dead_connection_is_dead_too():
    pool = pool_of(3)
    first, second, third = pool.idle
    second.proved_at = START + 0.1
    [check] = pool.probe(START + 1)
    assert check == Check(first)
    assert pool.probe(START + 1) == [], "one at a time"
    assert pool.checked(first, False, START + 1) == [Close(third, BROKEN), Close(first, BROKEN)]
    assert pool.idle == [second]
    assert (pool.proving, pool.counters.checks) == (set(), 1)


def test_what_was_seen_to_work_since_then_is_not_probed():
    pool = pool_of(2)
    first, second = pool.idle
    first.proved_at = START + 1
    assert pool.probe(START + 0.5) == [Check(second)]
    assert pool.idle == [first]
    pool.checked(second, True, START + 1)
    assert pool.probe(START + 0.999) == []
    assert pool.probe(START + 1) != []
    pool.close(START)
    assert pool.probe(START + 9) == []


def test_a_connection_that_was_checked_stands_where_its_idleness_puts_it():
    pool = pool_of(3)
    first, second, third = pool.idle
    first.idle_since, second.idle_since, third.idle_since = START, START + 1, START + 2
    pool.probe(START)
    pool.checked(first, True, START + 3)
    assert pool.idle == [first, second, third]
    assert (first.idle_since, first.proved_at) == (START, START + 3)


# Time.


def test_an_idle_connection_is_closed_after_its_time_down_to_the_minimum():
    pool = pool_of(3, min_size=1)
    first, second, third = pool.idle
    for slot in pool.idle:
        slot.proved_at = START + 120
    assert pool.tick(START + 119.9) == []
    assert pool.tick(START + 120) == [Close(first, IDLE), Close(second, IDLE)]
    assert pool.idle == [third]
    assert pool.tick(START + 120) == [], "those that are being closed are no longer counted"


def test_what_lived_out_its_time_or_is_lost_leaves_before_what_is_only_idle():
    pool = pool_of(3, min_size=1, validate_after=1000.0)
    first, second, third = pool.idle
    first.expires_at = START + 120
    second.raw.is_open = False
    third.proved_at = START + 120
    assert pool.tick(START + 120) == [Close(first, LIFETIME), Close(second, BROKEN)]
    assert pool.idle == [third], "it is the minimum"


@pytest.mark.parametrize("reason", [LIFETIME, BROKEN])
def test_what_leaves_for_another_reason_makes_one_idle_connection_less_to_close(reason):
    pool = pool_of(4, min_size=2)
    first, second, third, fourth = pool.idle
    first.expires_at = START + 120 if reason == LIFETIME else START + LIVES
    first.raw.is_open = reason == LIFETIME
    third.proved_at = fourth.proved_at = START + 120
    assert pool.tick(START + 120) == [Close(first, reason), Close(second, IDLE)]
    assert pool.idle == [third, fourth]


def test_one_in_four_is_pinged_at_a_time():
    pool = pool_of(9, max_size=9, idle_timeout=500.0)
    slots = list(pool.idle)
    assert pool.tick(START + 59.9) == []
    assert pool.tick(START + 60) == [Check(slots[0]), Check(slots[1])]
    assert (pool.idle, pool.proving) == (slots[2:], set(slots[:2]))
    pool = pool_of(3, idle_timeout=500.0)
    first = pool.idle[0]
    assert pool.tick(START + 60) == [Check(first)], "one at least"


def test_a_leak_is_reported_once_and_so_is_its_return():
    pool = pool_of(2)
    slot, other = pool.take(START), pool.take(START + 0.4)
    assert pool.tick(START + 29.9) == []
    assert pool.tick(START + 30) == [Leak(slot, 30.0)]
    assert pool.tick(START + 30) == []
    assert pool.counters.leaked == 1
    assert not pool.put(slot, START + 31)
    assert pool.release(slot, START + 31, Verdict.CLEAN) == [Returned(slot, 31.0)]
    assert (slot.reported, pool.idle) == (False, [slot])
    assert pool.release(other, START + 31, Verdict.CLEAN) == []
    pool = pool_of(1, leak_threshold=0.0)
    pool.take(START)
    assert pool.tick(START + 1e6) == []
    pool.close(START)
    pool.options = options()
    assert pool.tick(START + 1e6) == [], "it is closed"
