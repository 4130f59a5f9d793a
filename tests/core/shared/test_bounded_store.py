"""The bounded store: bounds, expiry, eviction."""

import math
from sys import getsizeof

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


def test_a_store_whose_bytes_are_used_up_admits_what_is_asked_for_twice():
    store = BoundedStore(max_bytes=640, max_entries=100)
    put(store, "large", size=629)
    assert store.admits("s", "k"), "less than 63 of 64 parts are used"
    store.charge(1)
    assert [store.admits("s", "k"), store.admits("s", "k")] == [False, True]


def test_a_full_store_remembers_those_that_it_refused_as_long_as_others_are_few():
    store = BoundedStore(max_bytes=10**6, max_entries=64)
    for key in range(64):
        put(store, key)
    assert not store.admits("s", "first")
    assert not any(store.admits("s", f"stranger {key}") for key in range(63 + 63))
    assert store.admits("s", "first"), "it is in the older set"
    assert not store.admits("s", "last")  # the newer set is full now, and the older one is forgotten
    assert not store.admits("s", "first")
    assert store.admits("s", "last")


def test_what_fell_out_a_moment_ago_is_admitted():
    store = BoundedStore(max_bytes=10**6, max_entries=20)
    for key in range(21):
        put(store, key)
    assert store.admits("s", 0)


@pytest.mark.parametrize("lru", [False, True])
def test_everything_that_comes_and_leaves_is_counted(lru):
    evicted = []
    store = BoundedStore(max_bytes=100, max_entries=5, lru=lru)
    store.on_evict = lambda entry: evicted.append((entry.key, entry.value, len(store)))
    for key in range(8):
        put(store, key, ttl=10.0)
    assert (store.insertions, store.evictions, store.expirations) == (8, 3, 0)
    assert evicted == [(key, f"value of {key}", 5) for key in range(3)], "told before it leaves"
    assert store.get("s", 3, 10.0) is None
    assert store.expire(11.0) == 4
    assert (store.insertions, store.evictions, store.expirations) == (8, 3, 5)
    assert (len(store), store.bytes_used) == (0, 0)


@pytest.mark.parametrize("leave", ["remove", "discard", "clear", "expire", "get", "put", "evict"])
def test_an_entry_that_left_keeps_nothing_alive(leave):
    store = BoundedStore(max_bytes=100, max_entries=1)
    entry = put(store, "k", ttl=1.0, thaw=str, meta="tags")
    leaving = {
        "remove": lambda: store.remove("s", "k"),
        "discard": lambda: store.discard(entry),
        "clear": lambda: store.clear(),
        "expire": lambda: store.expire(2.0),
        "get": lambda: store.get("s", "k", 1.0),
        "put": lambda: put(store, "k"),
        "evict": lambda: put(store, "other"),
    }
    leaving[leave]()
    assert (entry.live, entry.value, entry.thaw, entry.meta) == (False, None, None, None)
    assert store.discard(entry) is False, "it has left already"
    store.check_invariants()


def filled(*, main, small):
    """A store with entries of these sizes in its queues: their keys are m0, m1, ... and s0, s1, ..."""
    store = BoundedStore(max_bytes=1000, max_entries=1000)
    for turn in range(2):  # what fell out and comes back goes to the main queue
        for number, size in enumerate(main):
            assert put(store, f"m{number}", size=size).in_main == (turn == 1)
        if turn == 0:
            store.resize(max_bytes=0, max_entries=0)
            store.resize(max_bytes=1000, max_entries=1000)
    for number, size in enumerate(small):
        assert not put(store, f"s{number}", size=size).in_main
    return store


def leaving(store, **bounds):
    """The keys that leave when the bounds become these, in this order."""
    gone = []
    store.on_evict = lambda entry: gone.append(entry.key)
    store.resize(**{"max_bytes": store.max_bytes, "max_entries": store.max_entries, **bounds})
    store.check_invariants()
    return gone


@pytest.mark.parametrize(
    ("main", "small", "bounds", "gone"),
    [
        ([1] * 5, [1] * 3, {"max_entries": 6}, ["s0", "s1"]),  # the small queue has its tenth
        ([1] * 15, [1] * 2, {"max_entries": 15}, ["s0", "m0"]),  # two of 15 are over a tenth, one is not
        ([1] * 10, [1], {"max_entries": 10}, ["s0"]),  # one of 10 is a tenth
        ([1] * 10, [], {"max_entries": 8}, ["m0", "m1"]),
        ([], [1] * 3, {"max_entries": 2}, ["s0"]),
        ([10] * 10, [1] * 9, {"max_bytes": 100}, ["m0"]),  # 9 bytes are less than a tenth of 100
        ([10] * 10, [1] * 10, {"max_bytes": 100}, ["s0", "m0"]),  # 10 bytes are not, and what is left is
        ([1] * 12, [20], {"max_bytes": 31}, ["s0"]),
        # With one byte less the bytes decide: 20 are a tenth of 33, but one entry is none of 14.
        ([1] * 14, [20], {"max_entries": 14, "max_bytes": 34}, ["m0"]),
        ([1] * 14, [20], {"max_entries": 14, "max_bytes": 33}, ["s0"]),
    ],
)
def test_which_queue_an_entry_leaves_by(main, small, bounds, gone):
    assert leaving(filled(main=main, small=small), **bounds) == gone


def test_what_comes_in_pushes_out_by_bytes_what_it_needs():
    store = filled(main=[10] * 10, small=[1] * 10)
    store.resize(max_bytes=110, max_entries=1000)
    gone = []
    store.on_evict = lambda entry: gone.append(entry.key)
    put(store, "new", size=11, space="s")
    # 10 of 110 bytes are a little less than a tenth: the main queue gives 10 bytes, then another 10.
    assert (gone, store.bytes_used) == (["m0", "m1"], 101)
    put(store, "next", size=9)
    assert (gone, store.bytes_used) == (["m0", "m1"], 110), "it fits to the byte"
    store.check_invariants()


def test_each_read_of_an_entry_of_the_main_queue_is_one_more_turn():
    store = filled(main=[1] * 4, small=[])
    for key, reads in (("m0", 1), ("m1", 3), ("m2", 9)):
        for _ in range(reads):
            store.get("s", key, 0.0)
    assert [entry.frequency for entry in store.entries()] == [1, 3, 3, 0]
    assert leaving(store, max_entries=3) == ["m3"]
    assert [entry.frequency for entry in store.entries()] == [0, 2, 2]
    assert leaving(store, max_entries=1) == ["m0", "m1"]
    assert leaving(store, max_entries=0) == ["m2"]


def test_an_entry_of_the_small_queue_that_was_read_moves_to_the_main_queue_unread():
    store = filled(main=[1] * 2, small=[5, 1])
    entry = store.get("s", "s0", 0.0)
    assert leaving(store, max_entries=3) == ["s1"]
    assert (entry.in_main, entry.frequency) == (True, 0)
    assert leaving(store, max_entries=1) == ["m0", "m1"], "it is the last of the main queue"


def test_the_oldest_ghosts_are_forgotten_first():
    store = BoundedStore(max_bytes=1000, max_entries=1)
    for key in range(18):
        put(store, key)
    # 17 fell out, and 16 are remembered at least.
    assert [put(store, key).in_main for key in (0, 16)] == [False, True]


def test_there_are_as_many_ghosts_as_entries_in_the_main_queue():
    store = filled(main=[1] * 16, small=[])
    for number in range(16, 40):  # the store's main queue is larger than 16 now
        assert put(store, f"m{number}").in_main is False
        store.get("s", f"m{number}", 0.0)
    assert leaving(store, max_entries=39) == ["m0"]
    for number in range(100):
        put(store, number)
    assert len(store._ghosts) == 39 - store._small_count


@pytest.mark.parametrize("reschedule", [False, True])
def test_seconds_in_which_nothing_expires_any_more_do_not_pile_up(reschedule):
    store = BoundedStore(max_bytes=10**6, max_entries=2000)
    for second in range(1000):
        put(store, second, ttl=1000.0 + second)
    for second in range(1000):
        if reschedule:
            store.reschedule(next(iter(store.spaces["s"].values())), 5000.0)
            store.reschedule(store.spaces["s"][second], 5000.0)
        else:
            store.remove("s", second)
        store.check_invariants()
    assert len(store._due) <= 2 * len(store._expiring) + 65


def test_an_entry_that_is_rescheduled_expires_then_and_is_kept_as_long_as_before():
    store = BoundedStore(max_bytes=100, max_entries=100)
    entry = put(store, "a", ttl=10.0, keep=5.0)
    forever = put(store, "b")
    store.reschedule(entry, 20.0)
    store.reschedule(forever, 20.0)
    store.check_invariants()
    assert (entry.expires_at, entry.drop_at, forever.drop_at) == (20.0, 25.0, 20.0)
    assert store.get("s", "a", 19.9) is entry
    assert store.expire(24.0) == 1, "the one that is not kept"
    assert store.peek("s", "a", 24.9) is entry
    store.reschedule(entry, math.inf)
    store.check_invariants()
    assert store.expire(1e9) == 0


def test_what_the_owner_keeps_beside_counts_and_evicts():
    store = BoundedStore(max_bytes=100, max_entries=100)
    for key in range(10):
        put(store, key, size=9)
    store.charge(10)
    assert (store.bytes_used, len(store)) == (100, 10), "it fits to the byte"
    store.charge(1)
    assert (store.bytes_used, len(store)) == (92, 9)
    store.refund(11)
    assert store.bytes_used == 81
    store.charge(500)
    assert (store.bytes_used, len(store)) == (500, 0)
    store.check_invariants()


def test_a_space_is_counted_with_its_name_until_it_is_empty_or_asked_for():
    store = BoundedStore(max_bytes=10_000, max_entries=100, space_overhead=200)
    beside = getsizeof("a") + 200
    put(store, "k", space="a", size=3)
    put(store, "l", space="a", size=4)
    assert store.bytes_used == beside + 7
    store.space("a")
    assert store.bytes_used == 7
    store.space("a")
    assert store.bytes_used == 7, "once"
    put(store, "k", space="b", size=5)
    assert store.bytes_used == beside + 12
    store.remove("b", "k")
    assert store.bytes_used == 7
    store.check_invariants()


def test_a_value_has_room_if_it_fits_with_its_space_to_the_byte():
    beside = getsizeof("a") + 200
    store = BoundedStore(max_bytes=beside + 50, max_entries=100, space_overhead=200)
    assert put(store, "k", space="a", size=51) is None
    assert put(store, "k", space="a", size=50) is not None
    assert put(store, "l", space="a", size=1) is not None
    assert store.bytes_used == beside + 1, "the first one had to leave, and its space with it"
    store.space("a")
    assert put(store, "k", space="a", size=beside + 50) is not None
    store.check_invariants()


def test_a_time_to_live_that_is_over_stores_nothing():
    store = BoundedStore(max_bytes=100, max_entries=100)
    put(store, "k")
    assert put(store, "k", ttl=0.0) is None
    assert len(store) == 0
    assert put(store, "k", ttl=0.001) is not None


def test_a_rewritten_entry_keeps_its_standing():
    store = filled(main=[1], small=[1])
    store.get("s", "s0", 0.0)
    assert (put(store, "m0").in_main, put(store, "s0").frequency) == (True, 1)


def test_clearing_everything_forgets_who_fell_out():
    store = BoundedStore(max_bytes=100, max_entries=1)
    put(store, "a")
    put(store, "b")
    assert store.clear("other") == 0
    assert store.clear() == 1
    assert not put(store, "a").in_main


@pytest.mark.parametrize("leave", ["remove", "discard", "put", "clear"])
@pytest.mark.parametrize("main", [False, True])
def test_what_left_early_does_not_pile_up_in_the_queues(leave, main):
    store = BoundedStore(max_bytes=10**6, max_entries=2000)
    if main:
        for key in range(1000):
            put(store, key)
        store.resize(max_bytes=0, max_entries=0)
        store.resize(max_bytes=10**6, max_entries=2000)
        store._ghosts.update((hash(("s", key)), None) for key in range(1000))
    for key in range(1000):
        assert put(store, key).in_main == main
    for key in range(1000):
        if leave == "remove":
            assert store.remove("s", key) is True
            assert store.remove("s", key) is False
        elif leave == "discard":
            assert store.discard(store.spaces["s"][key]) is True
        elif leave == "put":
            put(store, key)
            put(store, key)
    if leave == "clear":
        store.clear()
    live = [entry for entry in store.entries() if entry.in_main == main]
    queue = store._main if main else store._small
    assert len(live) <= len(queue) <= 2 * len(live) + 64
    store.check_invariants()


def test_the_smallest_store_holds_one_byte():
    store = BoundedStore(max_bytes=1, max_entries=1)
    assert put(store, "k") is not None
    assert put(store, "l") is not None
    assert [entry.key for entry in store.entries()] == ["l"]


def test_many_seconds_without_entries_leave_at_once():
    store = BoundedStore(max_bytes=10**6, max_entries=2000)
    entries = [put(store, second, ttl=1000.0 + second) for second in range(500)]
    for entry in entries:
        store.reschedule(entry, math.inf)
        store.check_invariants()
    assert len(store._due) <= 65


def test_a_large_small_queue_does_not_keep_dead_entries_in_the_main_queue():
    store = BoundedStore(max_bytes=10**6, max_entries=2000)
    for key in range(400):
        put(store, f"small {key}")
    store._ghosts.update((hash(("s", key)), None) for key in range(300))
    for key in range(300):
        assert put(store, key).in_main
    for key in range(300):
        store.remove("s", key)
    assert len(store._main) <= 64
    store.check_invariants()
