"""The first tier's bound: what it reports is what it takes, whatever fills it."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core._shared.isolation import freeze
from bot.core.cache_manager.l1 import L1, Meta
from tests.support.memory import check_reported_bytes


def tags(*names):
    return Meta(names, 0.0)


# What each number is stored as: namespace, key, value, notes.
ENTRIES = {
    "numbers": lambda n: ("d", f"user:{n}", n + 1000, None),
    "dicts": lambda n: ("d", f"user:{n}", {"id": n + 1000, "name": f"name {n}"}, None),
    "large values": lambda n: ("d", f"user:{n}", os.urandom(2000), None),
    "tags of their own": lambda n: ("d", f"user:{n}", 1, tags(f"a:{n}", f"b:{n}")),
    "long tags": lambda n: ("d", f"user:{n}", 1, tags(*[f"{part}:{n}" * 50 for part in range(5)])),
    "a long tag that all have": lambda n: ("d", f"user:{n}", 1, tags(f"tag {n % 5}" * 100)),
    "namespaces of their own": lambda n: (f"stranger {n}", "k", 1, None),
    "long namespaces": lambda n: (f"stranger {n}" * 50, "k", 1, None),
    "long keys": lambda n: ("d", f"{n}" + "x" * 1000, 1, None),
    "keys of four bytes a character": lambda n: ("d", f"{n}" + "😀" * 500, 1, None),
    "times of loading": lambda n: ("d", f"user:{n}", n + 1000, Meta((), 0.5 + n)),
}


@pytest.mark.parametrize("kind", ENTRIES)
@pytest.mark.parametrize("max_mb", [1, 100])
def test_reported_and_taken_agree(kind, max_mb):
    entry = ENTRIES[kind]
    l1 = L1(max_bytes=max_mb << 20, max_entries=1_000_000)

    def put(n):
        namespace, key, value, meta = entry(n)
        l1.put(namespace, key, freeze(value), now=n / 100, ttl=300, meta=meta)

    check_reported_bytes(l1.store, put, 2500, max_mb << 20)
    l1.check_invariants()


puts = st.tuples(
    st.sampled_from(["put", "tag", "pattern", "remove", "clear"]),
    st.sampled_from("abc"),
    st.sampled_from(["k1", "k2", "ключ"]),
    st.lists(st.sampled_from(["t1", "t2", "tag " * 50]), max_size=3),
    st.integers(0, 900),
)


@given(st.lists(puts, max_size=40))
def test_the_sum_is_right_whatever_leaves(operations):
    l1 = L1(max_bytes=6000, max_entries=5)
    for now, (what, namespace, key, names, size) in enumerate(operations):
        if what == "put":
            meta = tags(*names) if names else None
            l1.put(namespace, key, freeze(bytes(size)), now=now, ttl=10, meta=meta)
        elif what == "tag":
            l1.drop_tag(names[0] if names else "t1")
        elif what == "pattern":
            l1.drop_pattern(namespace, "k*")
        elif what == "remove":
            l1.store.remove(namespace, key)
        elif size < 90:
            l1.store.clear(namespace)
        l1.check_invariants()
    l1.store.clear()
    assert l1.store.bytes_used == 0
    assert not l1._by_tag


def test_a_value_that_its_tags_make_too_large_is_not_kept():
    l1 = L1(max_bytes=2000, max_entries=10)
    assert not l1.put("n", "k", freeze(1), now=0, ttl=10, meta=tags(*[f"{n}" * 30 for n in range(9)]))
    assert l1.store.bytes_used == 0
