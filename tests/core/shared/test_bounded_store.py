"""The bounded store: bounds, expiry, eviction."""

import math

import pytest

from bot.core._shared.bounded_store import BoundedStore


def put(store, key, *, size=1, now=0.0, ttl=None, space="s", **more):
    return store.put(space, key, f"value of {key}", size=size, now=now, ttl=ttl, **more)


def test_both_bounds_hold():
    store = BoundedStore(max_bytes=100, max_entries=5)
    for key in range(20):
        put(store, key, size=10)
        store.check_invariants()
    assert len(store) == 5
    store = BoundedStore(max_bytes=100, max_entries=1000)
    for key in range(20):
        put(store, key, size=30)
        store.check_invariants()
    assert (len(store), store.bytes_used) == (3, 90)


def test_a_value_larger_than_the_store_is_not_stored_and_drops_its_old_one():
    store = BoundedStore(max_bytes=100, max_entries=5)
    put(store, "k", size=10)
    assert put(store, "k", size=101) is None
    assert store.get("s", "k", 0.0) is None
    assert len(store) == 0


def test_what_is_read_again_survives_a_scan():
    store = BoundedStore(max_bytes=10**9, max_entries=100)
    for key in range(50):
        put(store, f"popular {key}")
    for _ in range(2):
        for key in range(50):
            store.get("s", f"popular {key}", 0.0)
    for key in range(10_000):
        put(store, f"scan {key}")
    assert sum(store.get("s", f"popular {key}", 0.0) is not None for key in range(50)) == 50
    store.check_invariants()


def test_what_fell_out_and_comes_back_goes_to_the_main_queue():
    store = BoundedStore(max_bytes=10**9, max_entries=50)
    for key in range(50):
        put(store, key)
        store.get("s", key, 0.0)
    put(store, "once")
    for key in range(100, 110):
        put(store, key)
    assert store.get("s", "once", 0.0) is None
    assert put(store, "once").in_main


def test_expiry_is_exact_on_read_and_needs_no_scan_to_free():
    store = BoundedStore(max_bytes=100, max_entries=100)
    put(store, "a", ttl=10.0)
    assert store.get("s", "a", 9.999) is not None
    assert store.get("s", "a", 10.0) is None
    put(store, "b", ttl=10.0)
    put(store, "c", ttl=20.5)
    assert store.expire(10.5) == 1
    assert store.expire(21.1) == 1
    assert (len(store), store.expirations) == (0, 3)
    store.check_invariants()


def test_an_expired_entry_can_be_kept_for_a_while():
    store = BoundedStore(max_bytes=100, max_entries=100)
    put(store, "a", ttl=10.0, keep=5.0)
    assert store.get("s", "a", 12.0) is None
    assert store.peek("s", "a", 12.0).value == "value of a"
    assert store.peek("s", "a", 15.0) is None
    assert store.expire(16.1) == 1
    store.check_invariants()


def test_rewriting_and_removing_do_not_pile_up():
    store = BoundedStore(max_bytes=10**6, max_entries=100)
    for turn in range(5_000):
        put(store, "same", now=turn, ttl=60)
        put(store, turn)
        store.remove("s", turn)
    assert len(store) == 1
    assert len(store._small) + len(store._main) < 300
    assert len(store._expiring) <= 2
    store.check_invariants()


def test_spaces_are_apart_and_forgotten_when_empty():
    store = BoundedStore(max_bytes=100, max_entries=100)
    pinned = store.space("pinned")
    put(store, "k", space="a")
    put(store, "k", space="b")
    assert store.clear("a") == 1
    assert list(store.spaces) == ["pinned", "b"]
    assert store.space("pinned") is pinned
    store.check_invariants()


def test_who_leaves_is_told():
    gone = []
    store = BoundedStore(
        max_bytes=100, max_entries=2, on_drop=lambda entry: gone.append((entry.key, entry.meta))
    )
    for key in range(3):
        put(store, key, meta=f"meta {key}")
    put(store, 2, meta="newer")
    store.remove("s", 2)
    assert gone == [(0, "meta 0"), (2, "meta 2"), (2, "newer")]


def test_a_smaller_size_evicts_at_once():
    store = BoundedStore(max_bytes=100, max_entries=100)
    for key in range(50):
        put(store, key)
    store.resize(max_bytes=10, max_entries=5)
    assert len(store) == 5
    store.check_invariants()


@pytest.mark.parametrize("bounds", [{"max_bytes": 0, "max_entries": 1}, {"max_bytes": 1, "max_entries": 0}])
def test_bounds_are_positive(bounds):
    with pytest.raises(ValueError, match="expected 1 or more"):
        BoundedStore(**bounds)


def test_an_entry_without_a_time_to_live_stays():
    store = BoundedStore(max_bytes=100, max_entries=100)
    put(store, "k")
    assert store.expire(math.inf) == 0
    assert store.get("s", "k", 1e18) is not None


def test_lru_drops_what_was_read_longest_ago():
    store = BoundedStore(max_bytes=100, max_entries=3, lru=True)
    for key in "abc":
        put(store, key)
    store.get("s", "a", 0.0)
    put(store, "d")
    assert [entry.key for entry in store.entries()] == ["a", "c", "d"]


def test_a_full_store_admits_what_is_asked_for_twice():
    store = BoundedStore(max_bytes=10**6, max_entries=100)
    assert all(store.admits("s", key) for key in range(50)), "there is room"
    for key in range(100):
        put(store, key)
    assert not store.admits("s", "once")
    assert store.admits("s", "once")
    for key in range(10_000):
        store.admits("s", f"stranger {key}")
    assert len(store._door) + len(store._old_door) <= 200
