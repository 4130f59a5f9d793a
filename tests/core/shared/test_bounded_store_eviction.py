"""Which entry leaves a full bounded store, and what may come in."""

from sys import getsizeof

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core._shared.bounded_store import BoundedStore
from tests.support.stored import put


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


def test_lru_drops_what_was_read_longest_ago():
    store = BoundedStore(max_bytes=100, max_entries=3, lru=True)
    for key in "abc":
        put(store, key)
    store.get("s", "a", 0.0)
    put(store, "d")
    assert [entry.key for entry in store.entries()] == ["a", "c", "d"]


def one_is_admitted(store, key):
    return store.admits("s", key)


def one_of_many_is_admitted(store, key):
    return store.has_room() or store.admitted("s", [key]) == [0]


ASKED = pytest.mark.parametrize("admits", [one_is_admitted, one_of_many_is_admitted])


@ASKED
def test_a_full_store_admits_what_is_asked_for_twice(admits):
    store = BoundedStore(max_bytes=10**6, max_entries=100)
    assert all(admits(store, key) for key in range(50)), "there is room"
    for key in range(100):
        put(store, key)
    assert not admits(store, "once")
    assert admits(store, "once")
    for key in range(10_000):
        admits(store, f"stranger {key}")
    assert len(store._door) + len(store._old_door) <= 200


@ASKED
def test_a_store_whose_bytes_are_used_up_admits_what_is_asked_for_twice(admits):
    store = BoundedStore(max_bytes=640, max_entries=100)
    put(store, "large", size=629)
    assert admits(store, "k"), "less than 63 of 64 parts are used"
    store.charge(1)
    assert [admits(store, "k"), admits(store, "k")] == [False, True]


@ASKED
def test_a_full_store_remembers_those_that_it_refused_as_long_as_others_are_few(admits):
    store = BoundedStore(max_bytes=10**6, max_entries=64)
    for key in range(64):
        put(store, key)
    assert not admits(store, "first")
    assert not any(admits(store, f"stranger {key}") for key in range(63 + 63))
    assert admits(store, "first"), "it is in the older set"
    assert not admits(store, "last")  # the newer set is full now, and the older one is forgotten
    assert not admits(store, "first")
    assert admits(store, "last")


@ASKED
@pytest.mark.parametrize(("entries", "strangers"), [(100, 150), (10, 100)])
def test_as_many_are_remembered_as_the_store_has_entries_and_64_at_least(entries, strangers, admits):
    store = BoundedStore(max_bytes=10**6, max_entries=entries)
    for key in range(entries):
        put(store, key)
    assert not admits(store, "first")
    assert not any(admits(store, f"stranger {key}") for key in range(strangers))
    assert admits(store, "first")


@ASKED
def test_what_fell_out_a_moment_ago_is_admitted(admits):
    store = BoundedStore(max_bytes=10**6, max_entries=20)
    for key in range(21):
        put(store, key)
    assert admits(store, 0)


def full_store(entries=64):
    store = BoundedStore(max_bytes=10**6, max_entries=entries)
    for key in range(entries + 10):  # some fell out a moment ago
        put(store, key)
    assert not store.has_room()
    return store


@given(st.lists(st.lists(st.integers(55, 90), unique=True, max_size=12), max_size=5))
def test_keys_admitted_together_are_those_admitted_one_by_one(batches):
    together, alone = full_store(), full_store()
    for keys in batches:
        expected = [position for position, key in enumerate(keys) if alone.admits("s", key)]
        assert together.admitted("s", keys) == expected
    assert together._door == alone._door


def test_the_doorkeeper_of_many_forgets_the_older_half():
    store = full_store()
    assert store.admitted("s", ["first"]) == []
    for start in range(1_000, 11_000, 500):
        assert store.admitted("s", range(start, start + 500)) == []
        assert len(store._door) + len(store._old_door) <= 64 + 500
    assert store.admitted("s", ["first", 10_999]) == [1]


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


def test_the_room_for_a_new_space_counts_in_the_choice_of_the_queue():
    store = BoundedStore(max_bytes=2000, max_entries=1000, space_overhead=300)
    put(store, "old", space="s", size=1)
    store.resize(max_bytes=0, max_entries=0)
    store.resize(max_bytes=2000, max_entries=1000)
    assert put(store, "old", space="s", size=1000).in_main
    put(store, "new", space="s", size=200)
    room = 2000 - store.bytes_used - (getsizeof("t") + 300)
    gone = []
    store.on_evict = lambda entry: gone.append(entry.key)
    put(store, "k", space="t", size=room + 1)
    assert gone == ["new"], "bytes are short, and the small queue has its tenth of them"
    store.check_invariants()


@pytest.mark.parametrize("queue", ["main", "small"])
def test_what_was_removed_is_passed_over(queue):
    store = filled(main=[1] * 4, small=[]) if queue == "main" else filled(main=[], small=[1] * 4)
    store.remove("s", f"{queue[0]}0")
    assert leaving(store, max_entries=2) == [f"{queue[0]}1"]
    assert store.evictions == (5 if queue == "main" else 1)


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


def test_clearing_one_space_remembers_who_fell_out():
    store = BoundedStore(max_bytes=100, max_entries=1)
    put(store, "a")
    put(store, "b")
    store.clear("s")
    assert put(store, "a").in_main


def test_what_came_back_once_is_new_after_that():
    store = BoundedStore(max_bytes=100, max_entries=1)
    put(store, "a")
    put(store, "b")
    assert put(store, "a").in_main
    store.remove("s", "a")
    assert not put(store, "a").in_main
