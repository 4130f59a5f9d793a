"""What a pool does when its server is no longer the primary."""

from __future__ import annotations

from bot.core.connection_pool_manager.pool import (
    BROKEN,
    DEMOTED,
    LIFETIME,
    SEARCH_INTERVAL,
    Check,
    Close,
    Open,
    Pool,
    Slot,
    Verdict,
)
from tests.support.pools import LIVES, START, connection, pool_of


def demoted(connections: int = 3) -> tuple[Pool, Slot]:
    """A pool whose server has just refused a write, and the connection that was given up for it."""
    pool = pool_of(connections, max_size=connections)
    slot = pool.take(START)
    assert pool.release(slot, START + 1, Verdict.CLEAN, demoted=True) == [Close(slot, DEMOTED)]
    return pool, slot


def test_a_demoted_server_is_left_by_one_connection_at_a_time():
    pool, slot = demoted()
    assert (pool.demoted_since, pool.refused_at, pool.is_searching) == (START + 1, START + 1, True)
    soon = START + 1 + SEARCH_INTERVAL
    other = pool.take(START)
    assert pool.release(other, soon - 0.01, Verdict.CLEAN, demoted=True) == [], "it stays in use"
    assert pool.closed(slot, soon) == [Open(0.0)]
    pool.opened(connection(), soon, is_primary=False)
    assert (pool.is_searching, pool.demoted_since) == (False, START + 1)
    other = pool.take(soon)
    assert Close(other, DEMOTED) in pool.release(other, soon, Verdict.CLEAN, demoted=True)
    assert (pool.demoted_since, pool.refused_at, pool.searched_at) == (START + 1, soon, soon)
    assert pool.counters.refused_as_demoted == 3


def test_where_a_primary_may_be_on_other_hosts_all_connections_are_asked():
    pool = pool_of(3, max_size=3)
    pool.has_other_hosts = True
    slot, leased = pool.take(START), pool.take(START)
    [idle] = pool.idle
    assert pool.release(slot, START + 1, Verdict.CLEAN, demoted=True) == [Close(slot, DEMOTED)]
    assert (pool.is_searching, idle.suspect, leased.suspect) == (True, True, True)
    assert pool.closed(slot, START + 1) == [Open(0.0)], "it looks for the primary though nobody waits"
    assert pool.release(leased, START + 1, Verdict.CLEAN, demoted=True) == [Close(leased, DEMOTED)]


def test_a_broken_connection_tells_nothing_about_the_primary():
    pool = pool_of(1)
    slot = pool.take(START)
    assert pool.release(slot, START, Verdict.BROKEN, demoted=True) == [Close(slot, BROKEN)]
    assert pool.demoted_since is None


def test_once_a_primary_is_found_the_others_are_asked_before_their_next_lease():
    pool, gone = demoted(4)
    leased, reset = pool.take(START), pool.take(START)
    [idle] = pool.idle
    pool.release(reset, START + 1, Verdict.RESET)
    pool.closed(gone, START + 1)
    new = connection()
    assert pool.opened(new, START + 1, is_primary=True) == []
    assert pool.demoted_since is None
    assert [idle.suspect, leased.suspect, reset.suspect, new.suspect] == [True, True, True, False]
    assert leased.touched
    assert leased.expires_at == START + LIVES
    assert pool.release(leased, START + 1, Verdict.CLEAN) == [Check(leased, is_for_primary=True)]
    assert pool.was_reset(reset, True, START + 1) == [Check(reset, is_for_primary=True)]
    assert pool.checked(leased, True, START + 1, is_for_primary=True) == []
    assert not leased.suspect
    # What is idle and not yet asked goes with it; the new connection and the one that passed stay.
    assert pool.checked(reset, False, START + 1, is_for_primary=True) == [
        Close(idle, BROKEN),
        Close(reset, DEMOTED),
    ]
    assert pool.idle == [new, leased]
    pool.check_invariants()


def test_a_suspect_that_refuses_again_is_given_up_at_once():
    pool, gone = demoted(2)
    leased = pool.take(START)
    pool.closed(gone, START + 1)
    pool.opened(connection(), START + 1, is_primary=True)
    assert pool.release(leased, START + 1.1, Verdict.CLEAN, demoted=True) == [Close(leased, DEMOTED)]
    assert (pool.demoted_since, pool.is_searching) == (None, False), "a primary is known"


def test_where_only_a_write_can_tell_every_older_connection_leaves():
    pool, gone = demoted()
    leased = pool.take(START)
    [idle] = pool.idle
    pool.closed(gone, START + 1)
    new = connection()
    assert pool.opened(new, START + 1, is_primary=None) == [Close(idle, DEMOTED)]
    assert pool.idle == [new]
    assert pool.release(leased, START + 1, Verdict.CLEAN) == [Close(leased, LIFETIME)]


def test_a_server_that_refused_nothing_for_a_minute_is_read_only_on_purpose():
    pool, _ = demoted()
    pool.tick(START + 61)
    assert (pool.demoted_since, pool.is_searching) == (START + 1, True)
    pool.tick(START + 61.1)
    assert (pool.demoted_since, pool.is_searching) == (None, False)
