"""The bounded store: bounds, expiry, what it counts."""

import math
from sys import getsizeof

import pytest

from bot.core._shared.bounded_store import BoundedStore
from tests.support.stored import put


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


def test_expiry_is_exact_on_read_and_needs_no_scan_to_free():
    store = BoundedStore(max_bytes=100, max_entries=100)
    put(store, "a", ttl=10.0)
    assert store.get("s", "a", 9.999) is not None
    assert store.get("s", "a", 10.0) is None
    put(store, "b", ttl=10.0)
    put(store, "c", ttl=20.5)
    assert store.expire(10.0) == 1
    assert store.expire(20.5) == 0, "its second is not over"
    assert store.expire(21.0) == 1
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
    put(store, "without notes")
    store.remove("s", "without notes")
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


def test_a_store_can_be_smaller_than_what_its_owner_keeps_beside():
    store = BoundedStore(max_bytes=100, max_entries=100)
    put(store, "k", size=10)
    store.charge(60)
    store.resize(max_bytes=50, max_entries=100)
    assert (store.bytes_used, len(store)) == (60, 0)
    assert put(store, "k", size=1) is None, "there is no room"
    assert (store.bytes_used, len(store)) == (60, 0)
    store.refund(11)
    assert put(store, "k", size=1) is not None
    assert put(store, "l", size=2) is None
    store.check_invariants()


def test_what_the_owner_keeps_beside_takes_the_room_of_a_new_space():
    store = BoundedStore(max_bytes=1000, max_entries=100, space_overhead=200)
    store.charge(600)
    room = 400 - getsizeof("a") - 200
    assert put(store, "k", space="a", size=room + 1) is None
    assert put(store, "k", space="a", size=room) is not None
    store.check_invariants()


def test_what_expired_makes_room_before_anything_else_has_to_leave():
    store = BoundedStore(max_bytes=100, max_entries=2)
    put(store, "stays")
    put(store, "expires", ttl=10.0)
    put(store, "new", now=10.0)
    assert [entry.key for entry in store.entries()] == ["stays", "new"]
    assert (store.evictions, store.expirations) == (0, 1)


def test_a_space_that_is_asked_for_is_never_counted():
    store = BoundedStore(max_bytes=10_000, max_entries=100, space_overhead=200)
    entries = store.space("a")
    assert store.bytes_used == 0
    put(store, "k", space="a", size=3)
    assert store.bytes_used == 3
    store.remove("a", "k")
    assert store.bytes_used == 0
    assert store.space("a") is entries, "it stays though it is empty"


def test_a_space_with_a_long_name_has_room_before_it_is_stored():
    name = "\N{BEAR FACE}" * 200
    store = BoundedStore(max_bytes=2000, max_entries=100, space_overhead=200)
    put(store, "k", space="a", size=1000)
    assert put(store, "l", space=name, size=10) is not None
    assert list(store.spaces) == [name]
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
    assert put(store, "k", space="b", size=51) is None
    assert [entry.space for entry in store.entries()] == ["a"], "what has no room pushes nothing out"
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


@pytest.mark.parametrize("leave", ["remove", "discard", "put", "clear", "expire"])
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
        assert put(store, key, ttl=1.0).in_main == main
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
    elif leave == "expire":
        store.expire(1.0)
    live = [entry for entry in store.entries() if entry.in_main == main]
    queue = store._main if main else store._small
    assert len(live) <= len(queue) <= 2 * len(live) + 64
    store.check_invariants()


def test_the_smallest_store_holds_one_byte():
    store = BoundedStore(max_bytes=1, max_entries=1)
    assert put(store, "k") is not None
    assert put(store, "l") is not None
    assert [entry.key for entry in store.entries()] == ["l"]


def test_what_leaves_while_most_stay_costs_no_rebuilding():
    store = BoundedStore(max_bytes=10**6, max_entries=1000)
    for number in range(50):
        put(store, number, ttl=1000.0 + number)
        store.get("s", number, 0.0)
    store.resize(max_bytes=10**6, max_entries=49)  # those that were read go to the main queue
    store.resize(max_bytes=10**6, max_entries=1000)
    for number in range(50):
        put(store, f"small {number}")
    built = [store._due, store._small, store._main]
    for number in range(20, 23):
        assert store.remove("s", number)
        assert store.remove("s", f"small {number}")
        store.reschedule(store.spaces["s"][number + 20], math.inf)
    assert [id(each) for each in (store._due, store._small, store._main)] == [id(each) for each in built]


def test_an_entry_has_what_was_stored():
    store = BoundedStore(max_bytes=100, max_entries=10)
    entry = store.put("s", "k", "7", size=9, now=5.0, ttl=10.0, thaw=int, meta="notes", keep=2.0)
    assert store.get("s", "k", 5.0) is entry
    assert (entry.space, entry.key, entry.value, entry.size, entry.meta) == ("s", "k", "7", 9, "notes")
    assert entry.thaw(entry.value) == 7
    assert (entry.expires_at, entry.drop_at) == (15.0, 17.0)


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


def test_what_leaves_keeps_nothing_of_the_store_alive():
    store = BoundedStore(max_bytes=10**6, max_entries=100)
    put(store, "stays", ttl=10)
    entry = put(store, "leaves", ttl=10, meta="tag")
    store.remove("s", "leaves")
    assert (entry.value, entry.thaw, entry.meta, entry.bucket) == (None, None, None, None)
    store.check_invariants()
